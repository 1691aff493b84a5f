//! The operator's chart as helm renders it: what watches the pipelines is there where it is asked for, and whole.

#![expect(clippy::unwrap_used, reason = "a test that can't run helm has failed")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::Deserialize;
use serde_json::{Value, json};

const ALL: [&str; 4] = [
    "serviceMonitor.enabled=true",
    "podMonitor.enabled=true",
    "prometheusRule.enabled=true",
    "dashboard.enabled=true",
];

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("charts/order-pipeline-operator")
}

fn helm(values: &[&str]) -> Output {
    let sets = values.iter().flat_map(|value| ["--set", value]);
    Command::new("helm").args(["template", "orderflow"]).arg(chart()).args(sets).output().unwrap()
}

fn rendered(values: &[&str]) -> Vec<Value> {
    let output = helm(values);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap()).collect()
}

fn find<'a>(objects: &'a [Value], kind: &str) -> Option<&'a Value> {
    objects.iter().find(|object| object["kind"] == kind)
}

fn rules(objects: &[Value]) -> Value {
    find(objects, "PrometheusRule").unwrap()["spec"]["groups"].clone()
}

fn alerts() -> Value {
    let text = std::fs::read_to_string(chart().join("files/alerts.yaml")).unwrap();
    serde_yaml::from_str::<Value>(&text).unwrap()["groups"].clone()
}

#[test]
fn nothing_that_needs_the_prometheus_operator_is_rendered_unasked() {
    let objects = rendered(&[]);
    assert!(find(&objects, "Deployment").is_some());
    for kind in ["ServiceMonitor", "PodMonitor", "PrometheusRule", "ConfigMap"] {
        assert_eq!(find(&objects, kind), None);
    }
}

#[test]
fn the_rule_has_the_very_alerts_of_the_file_that_is_tested() {
    let objects = rendered(&ALL);
    assert_eq!(rules(&objects), alerts());
}

#[test]
fn the_dashboard_comes_through_the_template_unchanged() {
    let objects = rendered(&ALL);
    let map = find(&objects, "ConfigMap").unwrap();
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let file = std::fs::read_to_string(chart().join("files/dashboard.json")).unwrap();
    let given: Value = serde_json::from_str(map["data"]["orderflow.json"].as_str().unwrap()).unwrap();
    assert_eq!(given, serde_json::from_str::<Value>(&file).unwrap());
}

#[test]
fn pods_of_pipelines_are_scraped_with_the_labels_that_alerts_tell_them_by() {
    let objects = rendered(&ALL);
    let spec = &find(&objects, "PodMonitor").unwrap()["spec"];
    let pods = operator::names::labels("orders", "consumer", Some("data"));
    for (label, value) in spec["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(pods.get(label).map(String::as_str), value.as_str(), "{label}");
    }
    let meta = |label: &str| format!("__meta_kubernetes_pod_label_{}", label.replace(['.', '/', '-'], "_"));
    let expected = json!([
        {"sourceLabels": [meta(operator::names::PIPELINE_LABEL)], "targetLabel": "pipeline"},
        {"sourceLabels": [meta(operator::names::GROUP_LABEL)], "targetLabel": "group"},
    ]);
    assert_eq!(spec["podMetricsEndpoints"][0]["relabelings"], expected);
}

#[test]
fn an_alert_may_be_left_out_but_not_misspelt() {
    let objects = rendered(&["prometheusRule.enabled=true", "prometheusRule.exclude={OrderflowOutboxOld}"]);
    assert!(!rules(&objects).to_string().contains("OrderflowOutboxOld"));
    assert!(rules(&objects).to_string().contains("OrderflowSinkDown"));
    let output = helm(&["prometheusRule.enabled=true", "prometheusRule.exclude={OrderflowOutboxOd}"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && message.contains("there is no alert OrderflowOutboxOd"), "{message}");
}

#[test]
fn the_runbook_is_a_link_where_its_place_is_known() {
    let base = "prometheusRule.runbookBase=https://git.example.com/orderflow/blob/main/";
    let objects =
        rendered(&["prometheusRule.enabled=true", base, "prometheusRule.labels.release=prometheus"]);
    let rule = find(&objects, "PrometheusRule").unwrap();
    assert_eq!(rule["metadata"]["labels"]["release"], "prometheus");
    assert_eq!(
        rules(&objects)[0]["rules"][0]["annotations"]["runbook_url"],
        "https://git.example.com/orderflow/blob/main/docs/alerts.md#orderflowoutboxold"
    );
}
