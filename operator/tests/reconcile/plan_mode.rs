//! `mode: Plan` and `operator plan`: what would change is told, and nothing is changed.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use operator::crd::OrderPipeline;
use operator::kafka::Handles;
use operator::leadership::Leadership;
use operator::observe::ObjectKind;
use operator::preview::{Preview, previews};
use serde_json::{Value, json};

use crate::world::{AMPLE, World, condition, scenario};

const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);

/// A pipeline with everything; `mode` and `config` as given.
fn spec(mode: &str, config: &Value) -> Value {
    json!({
        "mode": mode,
        "topic": {"config": config, "deletionPolicy": "Delete"},
        "orderService": {"replicas": 0, "database": {"secretRef": {"name": "db"}}},
        "consumerGroups": [{"name": "a", "replicas": 0, "sink": {"http": {"url": "http://sink/"}}}],
    })
}

fn planned(pipeline: &OrderPipeline) -> Vec<String> {
    pipeline.status.as_ref().map(|status| status.plan.clone()).unwrap_or_default()
}

/// One pass, whatever came of it, and the pipeline after it.
async fn pass(world: &World) -> OrderPipeline {
    let _ = world.reconcile("orders").await;
    world.get("orders").await
}

async fn nothing_was_made(world: &World) {
    for topic in ["orders", "orders.a.dlt"] {
        assert!(world.described(&world.topic(topic)).await.is_none(), "{topic}");
    }
    for name in ["orders-order-service", "orders-a"] {
        assert!(world.object(ObjectKind::Deployment, name).await.is_none(), "{name}");
    }
    assert!(world.object(ObjectKind::Service, "orders-order-service").await.is_none());
}

/// What `operator plan` says of a manifest; the requests it makes are counted with the operator's own.
async fn preview_of(world: &World, spec: &Value) -> Preview {
    let manifest = serde_json::from_value(world.manifest("orders", spec)).unwrap();
    let image = &world.context.options.default_image;
    let writes = world.writes();
    let kafka = Handles::new(KAFKA_TIMEOUT, Leadership::standby());
    let scopes = [Some(world.namespace.clone())];
    let shown = previews(&world.context.client, &kafka, &scopes, vec![manifest], image).await.unwrap();
    assert_eq!(world.writes(), writes, "a preview writes nothing");
    shown.into_iter().next().unwrap()
}

fn descriptions(preview: &Preview) -> Vec<String> {
    preview.changes.iter().map(|change| change.description.clone()).collect()
}

#[tokio::test]
async fn a_plan_tells_the_changes_in_their_order_and_makes_none() {
    scenario(AMPLE, async |world| {
        world.secret("db", "url", "postgres://nobody@nowhere/none").await;
        world.apply("orders", &spec("Plan", &json!({"retention.ms": "3600000"}))).await;
        let pipeline = pass(&world).await;
        let expected = [
            format!("create topic {} with 2 partitions, retention.ms=3600000", world.topic("orders")),
            format!("create topic {} with 2 partitions", world.topic("orders.a.dlt")),
            "create Service orders-order-service".to_owned(),
            "create Service orders-order-service-admin".to_owned(),
            "create PodDisruptionBudget orders-order-service".to_owned(),
            "create Deployment orders-order-service".to_owned(),
            "create Deployment orders-a".to_owned(),
        ];
        assert_eq!(planned(&pipeline), expected);
        for (type_, status, reason) in [
            ("Ready", "False", "Planned"),
            ("Reconciling", "False", "Planned"),
            ("Stalled", "False", "Progressing"),
            ("TopicReady", "False", "Pending"),
        ] {
            let (is, why, message) = condition(&pipeline, type_);
            assert_eq!((is.as_str(), why.as_str()), (status, reason), "{type_}: {message}");
        }
        assert!(pipeline.finalizers().is_empty(), "what leaves nothing behind needs no finalizer");
        assert_eq!(pipeline.status.clone().unwrap().observed_generation, pipeline.metadata.generation);
        nothing_was_made(&world).await;
        assert!(world.events().await.is_empty());
        world.writes_nothing("orders").await;
    })
    .await;
}

#[tokio::test]
async fn a_plan_is_made_so_as_it_was_told_once_it_may_be() {
    scenario(AMPLE, async |world| {
        world.secret("db", "url", "postgres://nobody@nowhere/none").await;
        let config = json!({"retention.ms": "3600000"});
        world.apply("orders", &spec("Plan", &config)).await;
        let told: BTreeSet<String> = planned(&pass(&world).await).into_iter().collect();
        world.apply("orders", &spec("Apply", &config)).await;
        let pipeline = world.converge("orders").await;
        assert!(planned(&pipeline).is_empty());
        let events: Api<Event> = Api::namespaced(world.client.clone(), &world.namespace);
        let events = events.list(&ListParams::default()).await.unwrap().items;
        let made = events.into_iter().filter(|event| {
            event.reason.as_deref().is_some_and(|reason| reason.ends_with("Created"))
                && event.reporting_controller.as_deref() == Some("orderflow-operator")
        });
        assert_eq!(made.filter_map(|event| event.note).collect::<BTreeSet<_>>(), told);
    })
    .await;
}

#[tokio::test]
async fn what_kafka_would_refuse_is_told_in_its_words_and_nothing_is_begun() {
    scenario(AMPLE, async |world| {
        world.secret("db", "url", "postgres://nobody@nowhere/none").await;
        world.apply("orders", &spec("Plan", &json!({"no.such.key": "1"}))).await;
        let pipeline = pass(&world).await;
        for type_ in ["Ready", "TopicReady", "Stalled"] {
            let (_, reason, message) = condition(&pipeline, type_);
            assert!(reason.ends_with("Refused"), "{type_}: {reason}");
            assert!(message.starts_with("spec.topic.config: Kafka would refuse"), "{message}");
            assert!(message.contains("no.such.key"), "{message}");
        }
        nothing_was_made(&world).await;
        world.writes_nothing("orders").await;

        world.apply("orders", &spec("Apply", &json!({}))).await;
        world.converge("orders").await;
        let before = world.topics("orders").await;
        world.apply("orders", &spec("Plan", &json!({"retention.ms": "a while"}))).await;
        let (_, _, message) = condition(&pass(&world).await, "Stalled");
        assert!(message.starts_with("spec.topic.config: ") && message.contains("retention.ms"), "{message}");
        assert_eq!(world.topics("orders").await, before, "a change that is asked about is not made");
        world.writes_nothing("orders").await;
    })
    .await;
}

#[tokio::test]
async fn drift_under_a_plan_is_told_and_left() {
    scenario(AMPLE, async |world| {
        world.secret("db", "url", "postgres://nobody@nowhere/none").await;
        world.apply("orders", &spec("Apply", &json!({}))).await;
        world.converge("orders").await;
        world.apply("orders", &spec("Plan", &json!({}))).await;
        let pipeline = world.converge("orders").await;
        assert!(planned(&pipeline).is_empty());
        assert!(!pipeline.finalizers().is_empty(), "what was made once is still to be looked for");

        // Not its replicas: pods that can't start take their time to go.
        let drift = json!({"spec": {"revisionHistoryLimit": 1}});
        world.meddle(ObjectKind::Deployment, "orders-a", &drift).await;
        let pipeline = pass(&world).await;
        let told = "repair Deployment orders-a: spec.revisionHistoryLimit was changed";
        assert_eq!(planned(&pipeline), [told]);
        assert_eq!(condition(&pipeline, "Ready").1, "Planned");
        let deployment = world.object(ObjectKind::Deployment, "orders-a").await.unwrap();
        assert_eq!(deployment["spec"]["revisionHistoryLimit"], 1);

        // Deleted under a plan, its topics outlive it whatever the policy.
        world.delete("orders").await;
        assert!(world.described(&world.topic("orders")).await.is_some());
        assert!(world.object(ObjectKind::Deployment, "orders-a").await.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_topic_that_was_there_before_is_not_taken_under_a_plan_nor_deleted_with_it() {
    scenario(AMPLE, async |world| {
        let name = world.topic("orders");
        world.foreign_topic(&name, 2, &[]).await;
        let before = world.described(&name).await;
        world.apply("orders", &json!({"mode": "Plan", "topic": {"deletionPolicy": "Delete"}})).await;
        let pipeline = pass(&world).await;
        assert_eq!(condition(&pipeline, "Ready").0, "True");
        assert!(pipeline.status.unwrap().topic.is_none(), "it is a stranger's until it is taken");
        world.writes_nothing("orders").await;
        world.delete("orders").await;
        assert_eq!(world.described(&name).await, before);
        assert!(world.events().await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_plan_waits_for_kafka_and_is_void_when_its_spec_is_refused() {
    scenario(AMPLE, async |world| {
        let away = json!({"mode": "Plan", "kafka": {"bootstrapServers": "127.0.0.1:1"}});
        world.apply("orders", &away).await;
        let pipeline = pass(&world).await;
        assert_eq!(condition(&pipeline, "Reconciling").1, "KafkaUnreachable");
        assert_eq!(condition(&pipeline, "Stalled").0, "False");
        world.writes_nothing("orders").await;

        world.apply("orders", &json!({"mode": "Plan"})).await;
        assert_eq!(planned(&pass(&world).await).len(), 1);
        world.foreign_topic(&world.topic("orders"), 3, &[]).await;
        let pipeline = pass(&world).await;
        assert_eq!(condition(&pipeline, "Stalled").1, "TopicRefused");
        assert!(planned(&pipeline).is_empty(), "what was planned can't be done any more");
        world.writes_nothing("orders").await;
    })
    .await;
}

#[tokio::test]
async fn a_preview_is_what_applying_the_manifest_would_plan() {
    scenario(AMPLE, async |world| {
        world.secret("db", "url", "postgres://nobody@nowhere/none").await;
        let new = spec("Apply", &json!({"retention.ms": "3600000"}));
        let shown = preview_of(&world, &new).await;
        assert_eq!((shown.problems.len(), shown.waiting.len()), (0, 0), "{shown:?}");
        nothing_was_made(&world).await;
        assert!(world.pipelines().get_opt("orders").await.unwrap().is_none());
        world.apply("orders", &spec("Plan", &json!({"retention.ms": "3600000"}))).await;
        assert_eq!(planned(&pass(&world).await), descriptions(&shown));

        world.apply("orders", &new).await;
        world.converge("orders").await;
        assert_eq!(descriptions(&preview_of(&world, &new).await), [""; 0]);
        let mut changed = spec("Apply", &json!({}));
        changed["consumerGroups"] = json!([]);
        let lines = [
            format!("configure topic {}: reset retention.ms", world.topic("orders")),
            "delete Deployment orders-a".to_owned(),
            // It waits for the pipeline's groups before it goes over to more partitions.
            "update Deployment orders-order-service".to_owned(),
        ];
        assert_eq!(descriptions(&preview_of(&world, &changed).await), lines);
        world.writes_nothing("orders").await;

        let refused = preview_of(&world, &spec("Apply", &json!({"no.such.key": "1"}))).await;
        assert_eq!(refused.problems[0].field, "spec.topic.config");
        assert!(refused.problems[0].message.contains("no.such.key"), "{refused:?}");
        let invalid = preview_of(&world, &json!({"consumerGroups": [{"name": "a", "sink": {}}]})).await;
        assert_eq!(invalid.problems[0].field, "spec.consumerGroups[a].sink");
    })
    .await;
}

#[tokio::test]
async fn a_plan_to_grow_a_topic_is_checked_by_kafka_and_adds_no_partition() {
    scenario(AMPLE, async |world| {
        world.apply("orders", &json!({})).await;
        world.converge("orders").await;
        let name = world.topic("orders");
        let line = format!("grow topic {name} from 2 to 4 partitions");
        let shown = preview_of(&world, &json!({"topic": {"partitions": 4}})).await;
        assert!(shown.problems.is_empty(), "{shown:?}");
        assert_eq!(descriptions(&shown), [line.as_str()]);
        world.apply("orders", &json!({"mode": "Plan", "topic": {"partitions": 4}})).await;
        assert_eq!(planned(&pass(&world).await), [line]);
        assert_eq!(world.described(&name).await.unwrap().partitions, 2);

        world.apply("orders", &json!({"topic": {"partitions": 4}})).await;
        world.converge("orders").await;
        assert_eq!(world.described(&name).await.unwrap().partitions, 4);
    })
    .await;
}
