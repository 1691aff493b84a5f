//! Planning, with the world simulated: what is planned, once done, leaves nothing to plan.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::{Change, Why, assess, plan, refused};
use crate::fixtures::{after, nothing, pipeline, pipeline_with, record, topic, valid};
use crate::kafka::Severity;
use crate::observe::{KafkaView, Observed, SecretState};
use crate::validate::{Part, Problem, Reason};

const GROUPS: &str = "consumerGroups: [{name: a, sink: {http: {url: \"http://sink/\"}}}]";

/// What a random spec is made of.
#[derive(Clone, Debug)]
struct Shape {
    service: Option<i32>,
    groups: BTreeMap<String, i32>,
    config: BTreeMap<String, String>,
    tls: bool,
}

impl Shape {
    fn pipeline(&self) -> crate::crd::OrderPipeline {
        let groups: Vec<_> = self
            .groups
            .iter()
            .map(|(name, replicas)| json!({"name": name, "replicas": replicas, "sink": {"postgres": {"secretRef": {"name": name}}}}))
            .collect();
        let mut spec = json!({
            "kafka": {"bootstrapServers": "kafka:9092"},
            "topic": {"config": self.config},
            "consumerGroups": groups,
        });
        if self.tls {
            spec["kafka"]["tls"] = json!({"caSecretRef": {"name": "ca", "key": "ca.crt"}});
        }
        if let Some(replicas) = self.service {
            spec["orderService"] = json!({"replicas": replicas, "database": {"secretRef": {"name": "db"}}});
        }
        let object = json!({
            "apiVersion": "orderflow.dev/v1alpha1", "kind": "OrderPipeline",
            "metadata": {"name": "orders"}, "spec": spec,
        });
        pipeline(&object.to_string())
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let config = prop::collection::btree_map(
        prop::sample::select(vec!["retention.ms", "segment.ms", "max.message.bytes"]).prop_map(str::to_owned),
        "[1-9][0-9]{3,5}",
        0..3,
    );
    let groups = prop::collection::btree_map("[abc]", 0..3_i32, 0..3);
    (prop::option::of(0..3_i32), groups, config, any::<bool>())
        .prop_map(|(service, groups, config, tls)| Shape { service, groups, config, tls })
}

/// Ways in which others meddle.
fn meddle(observed: &mut Observed, seed: u8) {
    for (index, live) in observed.objects.values_mut().enumerate() {
        match (seed as usize + index) % 5 {
            0 => live.body["spec"]["replicas"] = json!(7),
            1 => live.body["metadata"]["labels"]["orderflow.dev/pipeline"] = json!("stolen"),
            2 => live.body["metadata"]["labels"]["theirs"] = json!("kept"),
            3 => live.body["metadata"]["annotations"] = json!({}),
            _ => {}
        }
    }
    if let KafkaView::Topics(topics) = &mut observed.kafka {
        for topic in topics.values_mut() {
            if seed.is_multiple_of(3) {
                topic.config.insert("retention.ms".into(), "1".into());
            }
        }
        if seed.is_multiple_of(7) {
            topics.pop_first();
        }
    }
    if seed.is_multiple_of(11)
        && let Some(state) = observed.secrets.values_mut().next()
    {
        *state = SecretState::KeyMissing;
    }
}

proptest! {
    #[test]
    fn what_is_planned_leaves_nothing_to_plan(before in shapes(), now in shapes(), seed in any::<u8>()) {
        let old = before.pipeline();
        let observed = nothing(&old);
        let validated = valid(&old, &observed);
        let mut observed = after(&validated, &observed, &plan(&validated, &observed).changes);
        meddle(&mut observed, seed);
        let new = now.pipeline();
        observed.secrets.extend(crate::fixtures::secrets(&new));
        let validated = valid(&new, &observed);
        let first = plan(&validated, &observed);
        let then = after(&validated, &observed, &first.changes);
        let second = plan(&validated, &then);
        prop_assert_eq!(second.changes, vec![]);
        // What was remembered is remembered again: a converged pipeline writes no status either.
        prop_assert_eq!(&after(&validated, &then, &[]).records, &then.records);
    }

    #[test]
    fn no_plan_deletes_a_topic_or_shrinks_one(before in shapes(), now in shapes(), seed in any::<u8>()) {
        let old = before.pipeline();
        let observed = nothing(&old);
        let validated = valid(&old, &observed);
        let mut observed = after(&validated, &observed, &plan(&validated, &observed).changes);
        meddle(&mut observed, seed);
        let new = now.pipeline();
        let validated = valid(&new, &observed);
        let KafkaView::Topics(topics) = &observed.kafka else { panic!("the fixture sees Kafka") };
        for change in plan(&validated, &observed).changes {
            match change {
                Change::CreateTopic { topic, .. } => prop_assert!(!topics.contains_key(&topic.name)),
                Change::GrowTopic { topic, from, to } => {
                    prop_assert!(from < to && topics[&topic].partitions == from);
                }
                _ => {}
            }
        }
    }
}

#[test]
fn topics_come_before_pods() {
    let pipeline = pipeline_with(GROUPS);
    let observed = nothing(&pipeline);
    let changes: Vec<_> =
        plan(&valid(&pipeline, &observed), &observed).changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        changes,
        [
            "create topic orders with 3 partitions",
            "create topic orders.a.dlt with 3 partitions",
            "create Deployment orders-a"
        ]
    );
}

#[test]
fn a_topic_with_too_few_partitions_grows_and_dead_letter_topics_stay() {
    let old = pipeline_with(&format!("topic: {{partitions: 3}}, {GROUPS}"));
    let validated = valid(&old, &nothing(&old));
    let observed = after(&validated, &nothing(&old), &plan(&validated, &nothing(&old)).changes);
    let new = pipeline_with(&format!("topic: {{partitions: 6}}, {GROUPS}"));
    let validated = valid(&new, &observed);
    let changes = plan(&validated, &observed).changes;
    let said: Vec<_> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(said, ["grow topic orders from 3 to 6 partitions"]);
    let then = after(&validated, &observed, &changes);
    assert_eq!(plan(&validated, &then).changes, vec![]);
    assert_eq!(then.records["orders"].partitions, Some(6));
}

#[test]
fn a_key_that_left_the_spec_is_reset_and_a_stranger_s_key_is_left_alone() {
    let pipeline = pipeline_with("topic: {config: {cleanup.policy: delete}}");
    let mut observed = nothing(&pipeline);
    let validated = valid(&pipeline, &observed);
    let mut present = topic(&validated.topics[0], "id-1");
    present.config.extend([("retention.ms".into(), "1".into()), ("segment.ms".into(), "1".into())]);
    observed.kafka = KafkaView::Topics(BTreeMap::from([("orders".into(), present)]));
    observed.records.insert("orders".into(), record("orders", Some("id-1"), true, &["retention.ms"]));
    let changes = plan(&validated, &observed).changes;
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].to_string(), "configure topic orders: reset retention.ms");
}

#[test]
fn while_kafka_is_away_known_pods_are_repaired_and_new_ones_wait() {
    let pipeline = pipeline_with(GROUPS);
    let observed = nothing(&pipeline);
    let validated = valid(&pipeline, &observed);
    let mut observed = after(&validated, &observed, &plan(&validated, &observed).changes);
    let message = "no answer".to_owned();
    observed.kafka =
        KafkaView::Unavailable { reason: "KafkaUnreachable", message, severity: Severity::Transient };
    for live in observed.objects.values_mut() {
        live.body["spec"]["replicas"] = json!(7);
    }
    let changes = plan(&validated, &observed).changes;
    assert!(
        matches!(changes.as_slice(), [Change::ApplyObject { why: Why::Drifted { .. }, .. }]),
        "{changes:?}"
    );

    observed.records.clear();
    let left = plan(&validated, &observed);
    assert!(left.changes.is_empty(), "{:?}", left.changes);
    assert_eq!(left.waiting[&Part::Group("a".into())].reason, "WaitingForTopics");
    let verdict = assess(&validated, &observed, &left, &[]);
    let topics = verdict.findings.iter().find(|finding| finding.type_ == "TopicReady").unwrap();
    assert_eq!((topics.status, topics.reason.as_str()), ("Unknown", "KafkaUnreachable"));
    assert!(verdict.is_true("Reconciling") && !verdict.is_true("Stalled") && !verdict.is_true("Ready"));
}

#[test]
fn a_missing_secret_holds_back_its_own_pods_only() {
    let pipeline = pipeline_with(
        "orderService: {database: {secretRef: {name: db}}}, \
         consumerGroups: [{name: a, sink: {http: {url: \"http://sink/\"}}}]",
    );
    let mut observed = nothing(&pipeline);
    for state in observed.secrets.values_mut() {
        *state = SecretState::SecretMissing;
    }
    let validated = valid(&pipeline, &observed);
    let left = plan(&validated, &observed);
    assert_eq!(left.waiting[&Part::OrderService].message, "Secret db is missing: create it with key url");
    let parts: Vec<_> = left.changes.iter().map(Change::part).collect();
    assert!(parts.contains(&Part::Group("a".into())) && !parts.contains(&Part::OrderService), "{parts:?}");
}

#[test]
fn a_changed_secret_restarts_its_pods() {
    let pipeline = pipeline_with("orderService: {database: {secretRef: {name: db}}}");
    let observed = nothing(&pipeline);
    let validated = valid(&pipeline, &observed);
    let mut observed = after(&validated, &observed, &plan(&validated, &observed).changes);
    for state in observed.secrets.values_mut() {
        *state = SecretState::Present { hash: "01".into() };
    }
    let changes = plan(&validated, &observed).changes;
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].to_string(), "update Deployment orders-order-service");
}

#[test]
fn a_group_that_left_the_spec_loses_its_deployment_and_keeps_its_dead_letters() {
    let pipeline = pipeline_with(GROUPS);
    let observed = nothing(&pipeline);
    let validated = valid(&pipeline, &observed);
    let observed = after(&validated, &observed, &plan(&validated, &observed).changes);
    let pipeline = pipeline_with("consumerGroups: []");
    let validated = valid(&pipeline, &observed);
    let changes = plan(&validated, &observed).changes;
    assert_eq!(changes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["delete Deployment orders-a"]);
    let then = after(&validated, &observed, &changes);
    assert!(then.records.contains_key("orders.a.dlt"));
}

#[test]
fn a_pipeline_is_ready_when_its_rollouts_are() {
    let pipeline = pipeline_with(GROUPS);
    let observed = nothing(&pipeline);
    let validated = valid(&pipeline, &observed);
    let mut observed = after(&validated, &observed, &plan(&validated, &observed).changes);
    let left = plan(&validated, &observed);
    assert!(!assess(&validated, &observed, &left, &[]).is_true("Ready"));
    for live in observed.objects.values_mut() {
        live.body["status"] =
            json!({"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1});
    }
    let verdict = assess(&validated, &observed, &left, &[]);
    assert!(verdict.is_true("Ready") && !verdict.is_true("Reconciling") && !verdict.is_true("Stalled"));
    assert_eq!(verdict.consumer_groups[0].ready_replicas, 1);
}

/// Groups that the status has: how many pods they are to have.
fn groups(spec: &str, observed: &Observed) -> Vec<(String, i32)> {
    let pipeline = valid(&pipeline_with(spec), observed);
    let verdict = assess(&pipeline, observed, &plan(&pipeline, observed), &[]);
    verdict.consumer_groups.into_iter().map(|group| (group.name, group.desired_replicas)).collect()
}

#[test]
fn a_group_is_in_the_status_as_long_as_its_pods_run_and_under_a_plan_only_then() {
    let pipeline = pipeline_with(GROUPS);
    let observed = nothing(&pipeline);
    let validated = valid(&pipeline, &observed);
    let running = after(&validated, &observed, &plan(&validated, &observed).changes);
    let planned = format!("mode: Plan, {GROUPS}");
    assert_eq!(groups(GROUPS, &observed), [("a".to_owned(), 1)]);
    assert_eq!(groups(&planned, &observed), [], "it was never run");
    assert_eq!(groups(&planned, &running), [("a".to_owned(), 1)]);
    for gone in ["mode: Plan", "paused: true", "mode: Apply"] {
        assert_eq!(groups(gone, &running), [("a".to_owned(), 0)], "{gone}");
    }
}

#[test]
fn a_pipeline_is_rolled_out_once_all_pods_are_those_of_its_spec() {
    let pipeline = pipeline_with(GROUPS);
    let observed = nothing(&pipeline);
    let validated = valid(&pipeline, &observed);
    let mut running = after(&validated, &observed, &plan(&validated, &observed).changes);
    let rolled_out = |spec: &str, observed: &Observed| {
        let validated = valid(&pipeline_with(spec), observed);
        assess(&validated, observed, &plan(&validated, observed), &[]).is_rolled_out(&validated)
    };
    assert!(!rolled_out(GROUPS, &running), "nobody has seen its pods");
    let pods = json!({"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1});
    for live in running.objects.values_mut() {
        live.body["status"] = pods.clone();
    }
    assert!(rolled_out(GROUPS, &running));
    assert!(!rolled_out("paused: false", &running), "pods of a group that left the spec");
    for live in running.objects.values_mut() {
        live.body["status"]["replicas"] = json!(2);
    }
    assert!(!rolled_out(GROUPS, &running), "one of the old pods is still there");
}

#[test]
fn a_topic_grows_once_no_pod_of_the_order_service_is_of_an_earlier_spec() {
    const SHOP: &str = "orderService: {database: {secretRef: {name: db}}}";
    let pipeline = pipeline_with(SHOP);
    let observed = nothing(&pipeline);
    let validated = valid(&pipeline, &observed);
    let mut running = after(&validated, &observed, &plan(&validated, &observed).changes);
    let grown = |spec: &str, observed: &Observed| {
        let pipeline = pipeline_with(&format!("{SHOP}, topic: {{partitions: 6}}{spec}"));
        let validated = valid(&pipeline, observed);
        let plan = plan(&validated, observed);
        let grows = plan.changes.last().is_some_and(|change| matches!(change, Change::GrowTopic { .. }));
        assert_ne!(grows, plan.waiting.contains_key(&Part::Topic("orders".to_owned())), "or it says so");
        grows
    };
    assert!(!grown("", &running), "nobody has seen its pods");
    for live in running.objects.values_mut() {
        live.body["status"] = json!({"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1});
    }
    assert!(grown("", &running));
    assert!(!grown(&format!(", {GROUPS}"), &running), "its pods do not know of a group to wait for");
    running.objects.clear();
    assert!(grown("", &running), "there is none");
}

#[test]
fn the_reason_of_a_refusal_is_the_conflict_whatever_else_is_wrong() {
    let problem = |reason| Problem { field: "spec".into(), message: "no".into(), reason };
    let reason = |reasons: &[Reason]| {
        let problems: Vec<Problem> = reasons.iter().copied().map(problem).collect();
        refused(&problems, None).findings[0].reason.clone()
    };
    assert_eq!(reason(&[Reason::InvalidSpec, Reason::GroupConflict]), "GroupConflict");
    assert_eq!(reason(&[Reason::TopicRefused, Reason::InvalidSpec]), "TopicRefused");
}
