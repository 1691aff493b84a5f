//! Alerts and dashboard ask for figures that the programs have, and every alert has its runbook and its tests.

#![expect(clippy::unwrap_used, reason = "a test that can't read the chart has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use consumer::metrics::{ConsumerMetrics, count};
use operator::leadership::Leadership;
use operator::metrics::Outcome;
use order_service::metrics::{ApiMetrics, OrderAction, RelayMetrics, WriterMetrics};
use runtime::metrics::Metrics;
use serde_json::{Value, json};

const ALERTS: &str = "charts/order-pipeline-operator/files/alerts.yaml";
const ALERTS_TEST: &str = "e2e/monitoring/alerts_test.yaml";
const DASHBOARD: &str = "charts/order-pipeline-operator/files/dashboard.json";
const RUNBOOK: &str = "docs/alerts.md";
/// How the name of every figure of ours begins.
const PREFIXES: [&str; 3] = ["orderflow_", "controller_runtime_", "leader_election_"];
/// Labels that a target has by itself, or by the chart's PodMonitor.
const TARGET_LABELS: [&str; 5] = ["namespace", "pod", "job", "pipeline", "group"];
/// Grafana 10 writes 38 and reads what is older; what is older than 36 names its data source otherwise.
const OLDEST_DASHBOARD_SCHEMA: u64 = 36;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)).unwrap()
}

fn yaml(path: &str) -> Value {
    serde_yaml::from_str(&read(path)).unwrap()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}"))
}

fn fail_if_any(rule: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}

/// The programs' own figures as a scraper reads them. A figure with labels is not shown before it was touched.
fn exposition() -> String {
    let metrics = Metrics::default();
    let api = ApiMetrics::register(&metrics);
    api.request(&Method::POST, "/orders".to_owned(), StatusCode::CREATED, Duration::ZERO);
    api.order(OrderAction::Create, "accepted");
    WriterMetrics::register(&metrics).enqueued();
    let relay = RelayMetrics::register(&metrics);
    relay.leads(&[0]);
    relay.failed("broker");
    relay.growth_waits(Some("group-behind"));
    relay.growth_ended(true);
    let consumer = metrics.register(ConsumerMetrics::registered);
    count(&consumer.dead_lettered, "reason", "Schema");
    count(&consumer.sink_errors, "kind", "timeout");
    count(&consumer.dead_letter_errors, "kind", "broker");
    let operator = metrics.register(operator::metrics::Metrics::registered);
    operator.ended(Outcome::error, Duration::ZERO);
    operator.stalled();
    operator.changed("Deployment");
    drop(operator.begin());
    metrics.register(|registry| Leadership::standby().register("orderflow-operator", registry));
    metrics.render()
}

/// Name of each series, and the labels it has.
fn figures() -> BTreeMap<String, BTreeSet<String>> {
    let mut figures: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in exposition().lines().filter(|line| !line.starts_with('#')) {
        for (name, labels) in uses(line) {
            figures.entry(name).or_default().extend(labels);
        }
    }
    figures
}

/// The figures of ours that a query names, each with the labels it selects by.
fn uses(query: &str) -> Vec<(String, BTreeSet<String>)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(start) = rest.find(is_part) {
        rest = &rest[start..];
        let (word, after) = rest.split_at(rest.find(|c| !is_part(c)).unwrap_or(rest.len()));
        rest = after;
        if PREFIXES.iter().any(|prefix| word.starts_with(prefix)) {
            let selector =
                after.strip_prefix('{').and_then(|inner| inner.split('}').next()).unwrap_or_default();
            let labels =
                selector.split(',').map(|one| one.trim().chars().take_while(|c| is_part(*c)).collect());
            found.push((word.to_owned(), labels.filter(|label: &String| !label.is_empty()).collect()));
        }
    }
    found
}

fn alerts() -> Vec<Value> {
    let file = yaml(ALERTS);
    let alerts: Vec<Value> =
        list(&file, "groups").iter().flat_map(|group| list(group, "rules")).cloned().collect();
    assert!(!alerts.is_empty(), "no alerts in {ALERTS}");
    alerts
}

/// Every panel, also those within a folded row.
fn panels(dashboard: &Value) -> Vec<&Value> {
    list(dashboard, "panels")
        .iter()
        .flat_map(|panel| std::iter::once(panel).chain(list(panel, "panels")))
        .collect()
}

#[test]
fn every_figure_that_is_asked_for_is_one_that_the_programs_have() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let mut queries: Vec<(String, String)> = Vec::new();
    for alert in alerts() {
        queries.push((text(&alert, "alert").to_owned(), text(&alert, "expr").to_owned()));
    }
    for panel in panels(&dashboard) {
        for target in list(panel, "targets") {
            queries.push((format!("panel {}", panel["title"]), text(target, "expr").to_owned()));
        }
    }
    for variable in list(&dashboard["templating"], "list").iter().filter(|one| one["type"] == "query") {
        queries.push((format!("variable {}", variable["name"]), text(variable, "definition").to_owned()));
    }
    for series in list(&yaml(ALERTS_TEST), "tests").iter().flat_map(|test| list(test, "input_series")) {
        queries.push((ALERTS_TEST.to_owned(), text(series, "series").to_owned()));
    }
    let figures = figures();
    let mut breaches = Vec::new();
    for (place, query) in queries {
        let used = uses(&query);
        if used.is_empty() {
            breaches.push(format!("{place}: no figure in {query}"));
        }
        for (name, labels) in used {
            let Some(has) = figures.get(&name) else {
                breaches.push(format!("{place}: {name}"));
                continue;
            };
            let missing = labels
                .iter()
                .filter(|label| !TARGET_LABELS.contains(&label.as_str()) && !has.contains(*label));
            breaches.extend(missing.map(|label| format!("{place}: {name} has no label {label}")));
        }
    }
    fail_if_any("no program has these figures", &breaches);
}

#[test]
fn every_figure_in_a_document_is_one_that_the_programs_have() {
    let figures = figures();
    let mut breaches = Vec::new();
    for document in ["docs/operations.md", RUNBOOK] {
        let unknown = uses(&read(document))
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| !figures.contains_key(name) && !figures.contains_key(&format!("{name}_bucket")));
        breaches.extend(unknown.map(|name| format!("{document}: {name}")));
    }
    fail_if_any("no program has these figures", &breaches);
}

#[test]
fn every_alert_has_a_section_in_the_runbook_and_every_section_an_alert() {
    let runbook = read(RUNBOOK);
    let sections: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let alerts = alerts();
    let names: BTreeSet<&str> = alerts.iter().map(|alert| text(alert, "alert")).collect();
    assert_eq!(names, sections);
    let astray: Vec<_> = alerts
        .iter()
        .filter(|alert| {
            text(&alert["annotations"], "runbook")
                != format!("{RUNBOOK}#{}", text(alert, "alert").to_lowercase())
        })
        .map(ToString::to_string)
        .collect();
    fail_if_any("these alerts lead to another section than their own", &astray);
}

#[test]
fn every_alert_says_how_bad_it_is_and_of_whom_by_labels_that_it_has() {
    let mut breaches = Vec::new();
    for alert in alerts() {
        let name = text(&alert, "alert");
        if !["critical", "warning"].contains(&text(&alert["labels"], "severity")) {
            breaches.push(format!("{name}: severity {}", alert["labels"]["severity"]));
        }
        let (expr, annotations) = (text(&alert, "expr"), &alert["annotations"]);
        for said in [text(annotations, "summary"), text(annotations, "description")] {
            for label in said.split("$labels.").skip(1).filter_map(|rest| rest.split([' ', '}']).next()) {
                if !expr.contains(label) {
                    breaches.push(format!("{name}: {label}"));
                }
            }
        }
    }
    fail_if_any("these alerts say what they do not know", &breaches);
}

#[test]
fn every_alert_is_shown_to_fire_and_to_rest_when_all_is_well() {
    let tests = yaml(ALERTS_TEST);
    let (healthy, ailing): (Vec<_>, Vec<_>) =
        list(&tests, "tests").iter().partition(|test| text(test, "name").ends_with("alerts nobody"));
    let fired: String = ailing
        .iter()
        .flat_map(|test| list(test, "promql_expr_test"))
        .flat_map(|look| list(look, "exp_samples"))
        .map(|sample| text(sample, "labels"))
        .collect();
    let well: BTreeSet<String> = healthy
        .iter()
        .flat_map(|test| list(test, "input_series"))
        .flat_map(|series| uses(text(series, "series")))
        .map(|(name, _)| name)
        .collect();
    let mut breaches = Vec::new();
    for alert in alerts() {
        let name = text(&alert, "alert");
        if !fired.contains(&format!("alertname=\"{name}\"")) {
            breaches.push(format!("{name} is not shown to fire"));
        }
        let unseen = uses(text(&alert, "expr")).into_iter().filter(|(figure, _)| !well.contains(figure));
        breaches.extend(unseen.map(|(figure, _)| format!("{name}: no healthy pipeline has {figure}")));
    }
    fail_if_any(ALERTS_TEST, &breaches);
}

#[test]
fn the_dashboard_can_be_imported_anywhere() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    // An id is the importing Grafana's to give; the uid keeps links alive.
    assert!(dashboard["id"].is_null() && !text(&dashboard, "uid").is_empty());
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= OLDEST_DASHBOARD_SCHEMA);
    let variables: Vec<&str> =
        list(&dashboard["templating"], "list").iter().map(|variable| text(variable, "name")).collect();
    assert_eq!(variables, ["datasource", "namespace", "pipeline", "group"]);
    let mut ids = BTreeSet::new();
    let mut breaches = Vec::new();
    for panel in panels(&dashboard) {
        let title = text(panel, "title");
        if !ids.insert(panel["id"].as_u64().unwrap()) {
            breaches.push(format!("{title}: its id is another's too"));
        }
        if panel["type"] == "row" {
            continue;
        }
        if list(panel, "targets").is_empty() || text(panel, "description").is_empty() {
            breaches.push(format!("{title}: asks for nothing, or does not say what it shows"));
        }
        let sources =
            std::iter::once(panel).chain(list(panel, "targets")).map(|one| &one["datasource"]["uid"]);
        if sources.into_iter().any(|source| source != "${datasource}") {
            breaches.push(format!("{title}: a data source of its own"));
        }
    }
    fail_if_any("these panels are not as they should be", &breaches);
}

/// Prometheus reads rules, so each query is made one.
#[test]
fn every_query_of_the_dashboard_is_one_that_prometheus_reads() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let rules: Vec<Value> = panels(&dashboard)
        .iter()
        .flat_map(|panel| list(panel, "targets"))
        .map(|target| text(target, "expr").replace("$__rate_interval", "5m").replace("$__range", "1h"))
        .enumerate()
        .map(|(number, query)| json!({"record": format!("query_{number}"), "expr": query}))
        .collect();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard.rules.json");
    std::fs::write(&file, json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string()).unwrap();
    let checked = Command::new("promtool").args(["check", "rules"]).arg(&file).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
