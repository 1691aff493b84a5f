//! What `validate` takes and what it refuses, and in which words.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use serde_json::Value;

use super::validate;
use crate::fixtures::{self, IMAGE, example, nothing, pipeline, pipeline_with, record, topic, valid};
use crate::kafka::NewTopic;
use crate::observe::{KafkaView, Observed};
use crate::owners::Owners;

const GROUP: &str = "sink: {http: {url: \"http://sink/\"}}";

fn problems(fields: &str) -> String {
    let pipeline = pipeline_with(fields);
    complaints(&pipeline, &nothing(&pipeline))
}

fn complaints(pipeline: &crate::crd::OrderPipeline, observed: &Observed) -> String {
    match validate(pipeline, observed, IMAGE) {
        Ok(_) => String::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    }
}

fn with_topic(observed: &mut Observed, name: &str, partitions: i32, config: &[(&str, &str)]) {
    let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let new = NewTopic { name: name.to_owned(), partitions, replication_factor: Some(1), config };
    let KafkaView::Topics(topics) = &mut observed.kafka else { panic!("the fixture sees Kafka") };
    topics.insert(name.to_owned(), topic(&new, "id-1"));
}

/// Whether every key of `given` is in `parsed`: a key that is not was misspelt, and lost.
fn keeps(parsed: &Value, given: &Value, path: &str) {
    match given {
        Value::Object(fields) => {
            for (key, given) in fields {
                let parsed = parsed.get(key).unwrap_or_else(|| panic!("{path}.{key} is not a field"));
                keeps(parsed, given, &format!("{path}.{key}"));
            }
        }
        Value::Array(items) => {
            for (index, given) in items.iter().enumerate() {
                keeps(&parsed[index], given, &format!("{path}[{index}]"));
            }
        }
        given => assert_eq!(parsed, given, "{path}"),
    }
}

#[test]
fn every_example_is_valid_and_has_no_misspelt_field() {
    for name in ["orders.yaml", "minimal.yaml"] {
        let parsed = pipeline(&example(name));
        valid(&parsed, &nothing(&parsed));
        let given: Value = serde_yaml::from_str(&example(name)).unwrap();
        keeps(&serde_json::to_value(&parsed).unwrap(), &given, name);
    }
}

#[test]
fn every_problem_is_named_at_once() {
    let autoscaling = "{minReplicas: 1, maxReplicas: 3, targetAgeSeconds: 5, catchUpSeconds: 60}";
    let all = problems(&format!("consumerGroups: [{{name: A, sink: {{}}, autoscaling: {autoscaling}}}]"));
    for part in ["[A].autoscaling", "[A].name", "[A].sink: must have exactly one"] {
        assert!(all.contains(part), "{part} is not in:\n{all}");
    }
}

#[test]
fn a_user_may_not_set_what_the_operator_sets() {
    let service = "database: {secretRef: {name: db}}";
    let all = problems(&format!(
        "orderService: {{{service}, env: [{{name: TOPIC, value: x}}, {{name: LOG, value: debug}}], \
         podLabels: {{app.kubernetes.io/name: x, team: a}}, podAnnotations: {{orderflow.dev/x: y}}}}"
    ));
    assert_eq!(all.lines().count(), 3, "{all}");
    assert!(all.contains("env[TOPIC]: is set by the operator"), "{all}");
    assert!(all.contains("podLabels[app.kubernetes.io/name]: is set by the operator"), "{all}");
}

#[test]
fn two_groups_can_t_share_a_dead_letter_topic() {
    let all = problems(&format!(
        "consumerGroups: [{{name: a, {GROUP}, deadLetter: {{topic: d}}}}, {{name: b, {GROUP}, deadLetter: {{topic: d}}}}]"
    ));
    assert!(all.contains("spec.consumerGroups[b].deadLetter.topic: topic d is named twice"), "{all}");
}

#[test]
fn a_dead_letter_topic_holds_what_just_fits_the_main_one() {
    let pipeline = pipeline_with(&format!(
        "topic: {{config: {{max.message.bytes: \"2000000\"}}}}, consumerGroups: [{{name: a, {GROUP}}}]"
    ));
    let valid = valid(&pipeline, &nothing(&pipeline));
    assert_eq!(valid.topics[1].name, "orders.a.dlt");
    assert_eq!(valid.topics[1].config["max.message.bytes"], (2_000_000 + 64 * 1024).to_string());
}

#[test]
fn an_identical_topic_is_taken_and_a_different_one_is_refused_with_every_difference() {
    let pipeline =
        pipeline_with("topic: {partitions: 3, config: {retention.ms: \"1000\", cleanup.policy: compact}}");
    let mut observed = nothing(&pipeline);
    with_topic(&mut observed, "orders", 3, &[("retention.ms", "1000"), ("cleanup.policy", "compact")]);
    valid(&pipeline, &observed);
    with_topic(&mut observed, "orders", 4, &[("retention.ms", "2000"), ("cleanup.policy", "compact")]);
    let all = complaints(&pipeline, &observed);
    assert!(all.contains("partitions: declared 3, there 4"), "{all}");
    assert!(all.contains("retention.ms: declared 1000, there 2000"), "{all}");
    assert!(!all.contains("cleanup.policy"), "{all}");
}

#[test]
fn a_topic_that_is_ours_is_not_adopted_again() {
    let pipeline = pipeline_with("topic: {adoption: Refuse, config: {retention.ms: \"1000\"}}");
    let mut observed = nothing(&pipeline);
    with_topic(&mut observed, "orders", 3, &[("retention.ms", "2000")]);
    assert!(complaints(&pipeline, &observed).contains("was there before and adoption is Refuse"));
    observed.records.insert("orders".into(), record("orders", Some("id-1"), true, &[]));
    valid(&pipeline, &observed);
    observed.records.insert("orders".into(), record("orders", None, true, &[]));
    valid(&pipeline, &observed);
    observed.records.insert("orders".into(), record("orders", Some("id-0"), true, &[]));
    assert!(complaints(&pipeline, &observed).contains("was deleted and created anew by someone else"));
}

#[test]
fn adopt_takes_a_topic_whatever_its_configuration_but_not_with_more_partitions() {
    let pipeline = pipeline_with("topic: {adoption: Adopt, partitions: 3, config: {retention.ms: \"1000\"}}");
    let mut observed = nothing(&pipeline);
    with_topic(&mut observed, "orders", 3, &[("retention.ms", "2000")]);
    valid(&pipeline, &observed);
    with_topic(&mut observed, "orders", 2, &[]);
    valid(&pipeline, &observed);
    with_topic(&mut observed, "orders", 4, &[]);
    assert!(complaints(&pipeline, &observed).contains("Kafka can't remove any: set 4"));
}

#[test]
fn what_belongs_to_another_is_named_with_its_owner_and_not_judged() {
    let mut pipeline =
        pipeline_with(&format!("topic: {{adoption: Refuse}}, consumerGroups: [{{name: a, {GROUP}}}]"));
    let mut observed = nothing(&pipeline);
    with_topic(&mut observed, "orders", 4, &[]);
    let mut other = pipeline.clone();
    (other.metadata.name, other.metadata.uid) = (Some("others".to_owned()), Some("0".to_owned()));
    other.spec.topic.name = Some("orders".to_owned());
    pipeline.metadata.creation_timestamp = Some(Time(jiff::Timestamp::from_second(1).unwrap()));
    let owners = Owners::default();
    for pipeline in [&pipeline, &other] {
        owners.saw(&None, &Event::Apply(DeserializeGuard(Ok(pipeline.clone()))));
    }
    observed.conflicts = owners.rule(&pipeline).unwrap().conflicts;
    let all = complaints(&pipeline, &observed);
    assert!(
        all.contains("spec.topic: topic orders belongs to OrderPipeline shop/others: name another"),
        "{all}"
    );
    assert!(all.contains("deadLetter.topic: topic orders.a.dlt belongs to"), "{all}");
    assert!(
        all.contains("spec.consumerGroups[a].name: group a belongs to OrderPipeline shop/others"),
        "{all}"
    );
    assert_eq!(all.lines().count(), 3, "{all}");
}

#[test]
fn partitions_are_never_removed_and_added_only_where_that_is_allowed() {
    let pipeline = pipeline_with("topic: {partitions: 3, growthPolicy: Never}");
    let mut observed = nothing(&pipeline);
    observed.records.insert("orders".into(), record("orders", Some("id-1"), true, &[]));
    with_topic(&mut observed, "orders", 2, &[]);
    assert!(complaints(&pipeline, &observed).contains("has 2 partitions and growthPolicy is Never: set 2"));
    for policy in ["OrderSafe", "Immediate"] {
        let pipeline = pipeline_with(&format!("topic: {{partitions: 3, growthPolicy: {policy}}}"));
        valid(&pipeline, &observed);
    }
    with_topic(&mut observed, "orders", 4, &[]);
    assert!(complaints(&pipeline, &observed).contains("Kafka can't remove any: set 4"));
}

#[test]
fn the_order_service_is_told_whom_to_wait_for_when_the_topic_grows() {
    let told = |policy: &str, name: &str| {
        let pipeline = pipeline_with(&format!(
            "topic: {{growthPolicy: {policy}}}, orderService: {{database: {{secretRef: {{name: db}}}}}}, \
             consumerGroups: [{{name: b, {GROUP}}}, {{name: a, {GROUP}}}]"
        ));
        let mut observed = nothing(&pipeline);
        observed.secrets.extend(fixtures::secrets(&pipeline));
        let workload = valid(&pipeline, &observed).workloads.remove(0);
        workload.env.into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
    };
    let is = |value: &str| Some(crate::validate::EnvValue::Literal(value.to_owned()));
    assert_eq!(told("OrderSafe", "CONSUMER_GROUPS"), is("a,b"));
    assert_eq!(told("OrderSafe", "PARTITION_GROWTH"), is("order-safe"));
    assert_eq!(told("Never", "PARTITION_GROWTH"), is("order-safe"));
    assert_eq!(told("Immediate", "PARTITION_GROWTH"), is("immediate"));
}

#[test]
fn a_dead_letter_topic_that_somebody_grew_stops_nothing() {
    let pipeline =
        pipeline_with(&format!("topic: {{partitions: 3}}, consumerGroups: [{{name: a, {GROUP}}}]"));
    let mut observed = nothing(&pipeline);
    observed.records.insert("orders.a.dlt".into(), record("orders.a.dlt", Some("id-1"), true, &[]));
    with_topic(&mut observed, "orders.a.dlt", 6, &[]);
    valid(&pipeline, &observed);
}

#[test]
fn a_name_that_another_s_object_has_is_refused() {
    let pipeline = pipeline_with(&format!("consumerGroups: [{{name: a, {GROUP}}}]"));
    let mut observed = nothing(&pipeline);
    let valid = valid(&pipeline, &observed);
    let intent = crate::render::render(&valid, &valid.workloads[0], &BTreeMap::new()).remove(0);
    observed.objects.insert(intent.key.clone(), fixtures::live(intent.body, "someone-else"));
    let all = complaints(&pipeline, &observed);
    assert!(all.contains("Deployment orders-a exists and belongs to OrderPipeline someone"), "{all}");
}
