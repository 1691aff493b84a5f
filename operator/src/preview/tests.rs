//! What people and programs get to read of a plan, and how the command ends.

use super::{Action, Preview, end, pipelines, problem, text};
use crate::check::Objection;
use crate::crd::OrderPipeline;
use crate::fixtures::{after, example, nothing, pipeline_with, valid};
use crate::kafka::Severity;
use crate::observe::{Observed, SecretState};
use crate::plan::plan;
use crate::validate::Part;

const GROUPS: &str = "topic: {partitions: 2, replicationFactor: 1, config: {retention.ms: \"1000\"}}, \
     consumerGroups: [{name: a, sink: {postgres: {secretRef: {name: db}}}}]";

fn preview_of(pipeline: &OrderPipeline, observed: &Observed, objections: Vec<Objection>) -> Preview {
    let mut preview = Preview {
        namespace: "shop".into(),
        name: "orders".into(),
        changes: vec![],
        waiting: vec![],
        problems: vec![],
    };
    preview.fill(&plan(&valid(pipeline, observed), observed), objections);
    preview
}

/// The pipeline of `GROUPS` is applied; now the manifest has `fields`.
fn changed(fields: &str) -> Preview {
    let old = pipeline_with(GROUPS);
    let observed = nothing(&old);
    let validated = valid(&old, &observed);
    let mut observed = after(&validated, &observed, &plan(&validated, &observed).changes);
    let new = pipeline_with(fields);
    observed.secrets.extend(crate::fixtures::secrets(&new));
    preview_of(&new, &observed, vec![])
}

#[test]
fn a_new_pipeline_is_shown_topics_first_with_what_they_are_made_of() {
    let pipeline = pipeline_with(GROUPS);
    let preview = preview_of(&pipeline, &nothing(&pipeline), vec![]);
    assert_eq!(
        text(std::slice::from_ref(&preview)),
        "OrderPipeline shop/orders\n\
         \x20 + create topic orders with 2 partitions, replication factor 1, retention.ms=1000\n\
         \x20 + create topic orders.a.dlt with 2 partitions, replication factor 1\n\
         \x20 + create Deployment orders-a\n\
         3 changes\n"
    );
    assert_eq!(end(&[preview]), 2);
}

#[test]
fn changes_and_removals_have_signs_of_their_own() {
    let preview = changed("topic: {partitions: 2, replicationFactor: 1, config: {retention.ms: \"2000\"}}");
    assert_eq!(
        text(&[preview]),
        "OrderPipeline shop/orders\n\
         \x20 ~ configure topic orders: set retention.ms=2000\n\
         \x20 - delete Deployment orders-a\n\
         2 changes\n"
    );
}

#[test]
fn a_topic_that_grows_is_a_change_and_comes_last() {
    let grown = GROUPS.replace("partitions: 2", "partitions: 5").replace("1000", "2000");
    let preview = changed(&grown);
    assert!(preview.changes.iter().all(|change| change.action == Action::Change));
    assert_eq!(
        text(&[preview]),
        "OrderPipeline shop/orders\n\
         \x20 ~ configure topic orders: set retention.ms=2000\n\
         \x20 ~ grow topic orders from 2 to 5 partitions\n\
         2 changes\n"
    );
}

#[test]
fn a_pipeline_that_is_as_its_manifest_says_has_nothing_to_change() {
    let preview = changed(GROUPS);
    assert_eq!(text(std::slice::from_ref(&preview)), "OrderPipeline shop/orders\nnothing to change\n");
    assert_eq!(end(&[preview]), 0);
}

#[test]
fn what_waits_is_shown_and_counts_as_a_change_to_come() {
    let pipeline = pipeline_with(GROUPS);
    let mut observed = nothing(&pipeline);
    observed.secrets.values_mut().for_each(|state| *state = SecretState::SecretMissing);
    let mut preview = preview_of(&pipeline, &observed, vec![]);
    let shown = text(std::slice::from_ref(&preview));
    assert!(shown.contains("  ? group a waits: Secret db is missing: create it with key url\n"), "{shown}");
    assert!(shown.ends_with("2 changes, 1 part that waits\n"), "{shown}");
    preview.changes.clear();
    assert_eq!(end(&[preview]), 2);
}

#[test]
fn a_refusal_has_a_line_with_its_field_and_fails_the_command() {
    let pipeline = pipeline_with(GROUPS);
    let objection = Objection {
        part: Part::Topic("orders".into()),
        field: "spec.topic.config".into(),
        severity: Severity::Permanent,
        message: "Kafka would refuse topic orders: no".into(),
    };
    let preview = preview_of(&pipeline, &nothing(&pipeline), vec![objection]);
    let shown = text(std::slice::from_ref(&preview));
    assert!(shown.contains("  ! spec.topic.config: Kafka would refuse topic orders: no\n"), "{shown}");
    assert!(shown.ends_with("3 changes, 1 problem\n"), "{shown}");
    assert_eq!(end(&[changed(GROUPS), preview]), 1);
}

#[test]
fn programs_get_the_same_as_data() {
    let mut preview = changed("topic: {partitions: 2, replicationFactor: 1}");
    assert_eq!(preview.changes[0].action, Action::Change);
    preview.problems.push(problem("spec.kafka", "KafkaUnreachable", "no answer"));
    let data = serde_json::to_value(&preview).unwrap();
    assert_eq!(
        data["changes"][1],
        serde_json::json!({
            "action": "delete", "target": "Deployment orders-a", "description": "delete Deployment orders-a",
        })
    );
    assert_eq!(data["problems"][0]["field"], "spec.kafka");
}

#[test]
fn pipelines_are_found_among_other_documents_and_in_lists() {
    let one = example("minimal.yaml");
    let others = "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\n";
    assert_eq!(pipelines(&format!("{others}---\n{one}\n---\n{one}")).unwrap().len(), 2);
    let item: serde_json::Value = serde_yaml::from_str(&one).unwrap();
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [item]});
    assert_eq!(pipelines(&list.to_string()).unwrap().len(), 1);
}

#[test]
fn input_without_a_pipeline_is_an_error() {
    assert!(pipelines("").is_err() && pipelines("kind: OrderPipeline\napiVersion: other/v1\n").is_err());
    let error = format!(
        "{:#}",
        pipelines("{apiVersion: orderflow.dev/v1alpha1, kind: OrderPipeline, metadata: {name: x}, spec: {}}")
            .unwrap_err()
    );
    assert!(error.contains("failed to parse pipeline \"x\"") && error.contains("kafka"), "{error}");
}
