//! Scaling: what is decided is told and done in one place, and left alone where it is somebody else's or unknown.
//!
//! Pods of these scenarios never run: nobody joins the groups, so a group that has pods counts as one whose pods do not come up.

use std::time::{Duration, Instant};

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::Api;
use kube::api::PostParams;
use operator::observe::ObjectKind;
use operator::scaler::Scaler;
use operator::scaling::Verdict;
use serde_json::{Value, json};

use crate::world::{AMPLE, World, condition, scenario};

const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks; far closer together than the operator's own.
const LOOKS: Duration = Duration::from_millis(500);

/// One group of its own name with these fields.
fn spec(world: &World, fields: &Value) -> Value {
    let sink = json!({"name": group(world), "sink": {"http": {"url": "http://sink/"}}});
    json!({"consumerGroups": [crate::patch::merged(&sink, fields)]})
}

/// Other scenarios have groups too, on the same cluster.
fn group(world: &World) -> String {
    format!("{}-g", world.namespace)
}

fn deployment(world: &World) -> String {
    format!("orders-{}", group(world))
}

fn autoscaling(more: &Value) -> Value {
    let least = json!({"minReplicas": 0, "maxReplicas": 2, "targetAgeSeconds": 5, "catchUpSeconds": 30});
    json!({"replicas": null, "autoscaling": crate::patch::merged(&least, more)})
}

/// A group at rest that is scaled from now on.
async fn at_rest(world: &World, more: &Value) {
    world.apply("orders", &spec(world, &json!({"replicas": 0}))).await;
    world.converge("orders").await;
    world.apply("orders", &spec(world, &autoscaling(more))).await;
    let _ = world.reconcile("orders").await;
}

/// Pods that the group's Deployment asks for, and its verdict.
type Standing = (i64, Option<String>);

async fn standing(world: &World) -> Standing {
    let live = world.object(ObjectKind::Deployment, &deployment(world)).await.unwrap();
    let verdict = world.get("orders").await.status.unwrap().consumer_groups.remove(0).verdict;
    (live["spec"]["replicas"].as_i64().unwrap(), verdict)
}

/// Looks and reconciles what is woken, as the operator does, until what is wanted is so.
async fn until(world: &World, what: &str, wanted: fn(&Standing) -> bool) {
    let mut scaler = Scaler::new().unwrap();
    let (mut looks, deadline) = (tokio::time::interval(LOOKS), Instant::now() + DEADLINE);
    loop {
        looks.tick().await;
        for pipeline in scaler.tick(&world.context).await {
            let _ = world.reconcile(&pipeline.name).await;
        }
        let standing = standing(world).await;
        if wanted(&standing) {
            return;
        }
        assert!(Instant::now() < deadline, "not in time: {what}: {standing:?}");
    }
}

fn is_judged((_, verdict): &Standing) -> bool {
    verdict.is_some()
}

#[tokio::test]
async fn a_verdict_is_told_in_status_condition_and_event_and_then_nothing_is_written() {
    scenario(AMPLE, async |world| {
        at_rest(&world, &json!({})).await;
        let pipeline = world.get("orders").await;
        assert_eq!(condition(&pipeline, "WithinTarget").1, "NotJudgedYet");
        until(&world, "a verdict", is_judged).await;
        let pipeline = world.converge("orders").await;
        assert_eq!(condition(&pipeline, "WithinTarget").0, "True", "{pipeline:#?}");
        assert_eq!(condition(&pipeline, "ScalingActive").0, "True");
        let group = pipeline.status.unwrap().consumer_groups.remove(0);
        assert_eq!(group.verdict.as_deref(), Some("WithinTarget"));
        assert!(group.reason.is_some());
        assert!(world.events().await.contains_key("WithinTarget"));

        let mut scaler = Scaler::new().unwrap();
        for _ in 0..3 {
            assert!(scaler.tick(&world.context).await.is_empty(), "nothing is new to a new process either");
        }
    })
    .await;
}

#[tokio::test]
async fn a_group_at_rest_is_woken_by_records_and_not_before() {
    scenario(AMPLE, async |world| {
        at_rest(&world, &json!({})).await;
        until(&world, "a verdict", is_judged).await;
        assert_eq!(standing(&world).await.0, 0);
        world.produce(&world.topic("orders"), 3).await;
        until(&world, "a pod", |(replicas, _)| *replicas == 1).await;
        let status = world.get("orders").await.status.unwrap();
        assert_eq!(status.consumer_groups[0].desired_replicas, 1);
        let events = world.events().await;
        let name = deployment(&world);
        assert_eq!(events["Scaled"], format!("scale Deployment {name} from 0 to 1 pods"));

        // A new process knows nothing yet, and what there is stays.
        world.context.roster.forget(&operator::poller::PipelineRef {
            namespace: world.namespace.clone(),
            name: "orders".into(),
        });
        let _ = world.reconcile("orders").await;
        assert_eq!(standing(&world).await.0, 1);
    })
    .await;
}

#[tokio::test]
async fn a_number_that_somebody_changes_is_set_back_to_what_was_decided() {
    scenario(AMPLE, async |world| {
        at_rest(&world, &json!({})).await;
        until(&world, "a verdict", is_judged).await;
        let meddled = json!({"spec": {"replicas": 2}});
        world.meddle(ObjectKind::Deployment, &deployment(&world), &meddled).await;
        world.converge("orders").await;
        assert_eq!(standing(&world).await.0, 0);
    })
    .await;
}

#[tokio::test]
async fn what_a_horizontal_pod_autoscaler_scales_is_left_to_it_even_when_all_else_changes() {
    scenario(AMPLE, async |world| {
        at_rest(&world, &json!({})).await;
        until(&world, "a verdict", is_judged).await;
        let name = deployment(&world);
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}});
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": name});
        let object = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "theirs"},
            "spec": {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 2, "metrics": [cpu]},
        });
        let api: Api<HorizontalPodAutoscaler> = Api::namespaced(world.client.clone(), &world.namespace);
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
        world.converge("orders").await;
        assert_eq!(standing(&world).await.1.as_deref(), Some("ScaledElsewhere"));
        let pipeline = world.get("orders").await;
        assert_eq!(condition(&pipeline, "ScalingActive").0, "False");
        assert!(condition(&pipeline, "ScalingActive").2.contains("HorizontalPodAutoscaler theirs"));

        // Nobody but us has ever set the number: that we let it go must not reset it.
        let mut changed = autoscaling(&json!({}));
        changed["podLabels"] = json!({"team": "a"});
        world.apply("orders", &spec(&world, &changed)).await;
        world.converge("orders").await;
        let live = world.object(ObjectKind::Deployment, &name).await.unwrap();
        assert_eq!(live["spec"]["template"]["metadata"]["labels"]["team"], "a");
        assert_eq!(live["spec"]["replicas"], 0);
        world.meddle(ObjectKind::Deployment, &name, &json!({"spec": {"replicas": 2}})).await;
        let _ = world.reconcile("orders").await;
        assert_eq!(standing(&world).await.0, 2, "theirs");

        api.delete("theirs", &kube::api::DeleteParams::default()).await.unwrap();
        let _ = world.reconcile("orders").await;
        until(&world, "a verdict of ours", is_judged).await;
        assert_ne!(standing(&world).await.1.as_deref(), Some("ScaledElsewhere"));
    })
    .await;
}

#[tokio::test]
async fn what_is_only_observed_gets_a_verdict_and_keeps_its_pods() {
    scenario(AMPLE, async |world| {
        at_rest(&world, &json!({"mode": "Observe"})).await;
        world.produce(&world.topic("orders"), 3).await;
        until(&world, "a verdict", is_judged).await;
        assert_eq!(standing(&world).await.0, 0);
        let pipeline = world.converge("orders").await;
        assert_eq!(condition(&pipeline, "ScalingActive").1, "Observing");
    })
    .await;
}

#[tokio::test]
async fn what_can_t_be_read_is_held_and_told() {
    scenario(AMPLE, async |world| {
        at_rest(&world, &json!({})).await;
        until(&world, "a verdict", is_judged).await;
        world.produce(&world.topic("orders"), 3).await;
        // Without its topic there are no log ends; the pass would make it anew, so only the scaler looks.
        world.delete_topic(&world.topic("orders")).await;
        let mut scaler = Scaler::new().unwrap();
        let pipeline =
            operator::poller::PipelineRef { namespace: world.namespace.clone(), name: "orders".into() };
        let (mut looks, deadline) = (tokio::time::interval(LOOKS), Instant::now() + DEADLINE);
        loop {
            looks.tick().await;
            scaler.tick(&world.context).await;
            let standing = world.context.roster.standings(&pipeline).remove(&deployment(&world)).unwrap();
            assert_eq!(standing.replicas, Some(0), "it is held");
            if standing.told.is_some_and(|told| told.verdict == Verdict::LagUnknown) {
                break;
            }
            assert!(Instant::now() < deadline, "it is not told");
        }
    })
    .await;
}
