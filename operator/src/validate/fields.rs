//! Rules on single fields.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Problem, Reason, workloads};
use crate::crd::{ConsumerGroupSpec, EnvSetting, OrderPipeline, OrderServiceSpec, Resources, ServiceType};
use crate::names;

/// Longest name of an object that is also a label value.
const LABEL_MAX: usize = 63;

/// Environment variables that a pod of ours may set but its user may not, because the operator does.
struct PodFields<'a> {
    field: String,
    resources: &'a Resources,
    env: &'a [EnvSetting],
    reserved: BTreeSet<String>,
    labels: &'a BTreeMap<String, String>,
    annotations: &'a BTreeMap<String, String>,
}

pub(super) fn problems(pipeline: &OrderPipeline) -> Vec<Problem> {
    let spec = &pipeline.spec;
    let mut problems = Vec::new();
    let name = pipeline.metadata.name.as_deref().unwrap_or_default();
    if !is_dns_label(name)
        || !name.starts_with(|c: char| c.is_ascii_lowercase())
        || name.len() > crate::crd::NAME_MAX
    {
        problems.push(invalid(
            "metadata.name",
            format!(
                "must be at most {} lower-case letters, digits and '-', starting with a letter: it names Services",
                crate::crd::NAME_MAX
            ),
        ));
    }
    if !spec.kafka.bootstrap_servers.split(',').all(is_host_and_port) {
        problems.push(invalid("spec.kafka.bootstrapServers", "must be host:port[,host:port…]"));
    }
    let mut seen = BTreeSet::new();
    for group in &spec.consumer_groups {
        problems.extend(group_problems(name, group));
        if !seen.insert(&group.name) {
            problems.push(invalid(
                format!("spec.consumerGroups[{}].name", group.name),
                "is given twice: rename one",
            ));
        }
    }
    if let Some(service) = &spec.order_service {
        problems.extend(service_problems(pipeline, service));
    }
    for group in &spec.consumer_groups {
        problems.extend(pod_problems(&PodFields {
            field: format!("spec.consumerGroups[{}]", group.name),
            resources: &group.resources,
            env: &group.env,
            reserved: workloads::consumer_env(pipeline, group).into_iter().map(|(name, _)| name).collect(),
            labels: &group.pod_labels,
            annotations: &group.pod_annotations,
        }));
    }
    problems
}

fn group_problems(pipeline: &str, group: &ConsumerGroupSpec) -> Vec<Problem> {
    let field = format!("spec.consumerGroups[{}]", group.name);
    let mut problems = Vec::new();
    if !is_dns_label(&group.name) {
        problems.push(invalid(
            format!("{field}.name"),
            "must be lower-case letters, digits and '-', starting and ending with a letter or digit: it names a Deployment",
        ));
    }
    if group.name == "order-service" {
        problems.push(invalid(
            format!("{field}.name"),
            "is taken by the order service's own Deployment: choose another",
        ));
    }
    if names::group(pipeline, &group.name).len() > LABEL_MAX {
        problems.push(invalid(
            format!("{field}.name"),
            format!(
                "makes a Deployment's name of more than {LABEL_MAX} characters with metadata.name: shorten it"
            ),
        ));
    }
    if group.sink.postgres.is_some() == group.sink.http.is_some() {
        problems.push(invalid(format!("{field}.sink"), "must have exactly one of postgres and http"));
    }
    if group.replicas.is_some() && group.autoscaling.is_some() {
        problems.push(invalid(format!("{field}.replicas"), "can't stand beside autoscaling: remove one"));
    }
    if let Some(autoscaling) = &group.autoscaling {
        problems.extend(bounds_problem(&field, autoscaling.min_replicas, autoscaling.max_replicas));
    }
    let retry = &group.retry;
    if i64::from(retry.initial_backoff_millis) > i64::from(retry.max_backoff_seconds) * 1_000 {
        problems.push(invalid(
            format!("{field}.retry.maxBackoffSeconds"),
            "is shorter than initialBackoffMillis: raise it, or lower that",
        ));
    }
    if group.command.is_some() && group.image.is_none() {
        problems.push(invalid(format!("{field}.command"), "goes with an image of your own: set image too"));
    }
    problems
}

fn bounds_problem(field: &str, min: i32, max: i32) -> Option<Problem> {
    let field = format!("{field}.autoscaling.maxReplicas");
    (max < min).then(|| invalid(field, "is less than minReplicas: raise it, or lower that"))
}

fn service_problems(pipeline: &OrderPipeline, service: &OrderServiceSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    if service.replicas.is_some() && service.autoscaling.is_some() {
        problems.push(invalid("spec.orderService.replicas", "can't stand beside autoscaling: remove one"));
    }
    if let Some(autoscaling) = &service.autoscaling {
        let (min, max) = (autoscaling.min_replicas, autoscaling.max_replicas);
        problems.extend(bounds_problem("spec.orderService", min, max));
    }
    if service.service.node_port.is_some() && service.service.type_ == ServiceType::ClusterIP {
        problems.push(invalid("spec.orderService.service.nodePort", "needs type NodePort or LoadBalancer"));
    }
    for key in service.service.annotations.keys().filter(|key| key.starts_with(names::RESERVED_PREFIX)) {
        problems.push(invalid(
            format!("spec.orderService.service.annotations[{key}]"),
            "is set by the operator: remove it",
        ));
    }
    problems.extend(pod_problems(&PodFields {
        field: "spec.orderService".into(),
        resources: &service.resources,
        env: &service.env,
        reserved: workloads::service_env(pipeline, service).into_iter().map(|(name, _)| name).collect(),
        labels: &service.pod_labels,
        annotations: &service.pod_annotations,
    }));
    problems
}

fn pod_problems(pod: &PodFields<'_>) -> Vec<Problem> {
    let PodFields { field, resources, env, reserved, labels, annotations } = pod;
    let mut problems = Vec::new();
    for (list, quantities) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        for (name, value) in quantities {
            if quantity(&quantity_text(value)).is_none() {
                problems.push(invalid(
                    format!("{field}.resources.{list}.{name}"),
                    format!("{:?} is no quantity: write it like 500m, 2 or 256Mi", quantity_text(value)),
                ));
            }
        }
    }
    let mut seen = BTreeSet::new();
    for setting in *env {
        let path = format!("{field}.env[{}]", setting.name);
        if reserved.contains(&setting.name) || setting.name == runtime::kafka::env::TLS_CA_FILE {
            problems.push(invalid(&path, "is set by the operator from the spec: remove it"));
        }
        if setting.value.is_some() == setting.secret_ref.is_some() {
            problems.push(invalid(&path, "must have exactly one of value and secretRef"));
        }
        if !seen.insert(&setting.name) {
            problems.push(invalid(&path, "is given twice: remove one"));
        }
    }
    for (map, keys) in [("podLabels", labels), ("podAnnotations", annotations)] {
        for key in keys.keys() {
            if key.starts_with(names::RESERVED_PREFIX) || names::RESERVED_LABELS.contains(&key.as_str()) {
                problems.push(invalid(format!("{field}.{map}[{key}]"), "is set by the operator: remove it"));
            }
        }
    }
    problems
}

fn invalid(field: impl Into<String>, message: impl Into<String>) -> Problem {
    Problem::new(Reason::InvalidSpec, field, message)
}

fn is_dns_label(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty()
        && text.len() <= LABEL_MAX
        && text.chars().all(inside)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// A quantity's text, whichever way it was written.
pub(crate) fn quantity_text(value: &IntOrString) -> String {
    match value {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => text.clone(),
    }
}

/// A Kubernetes quantity in thousandths; `None` when it is none. Finer than that Kubernetes rounds up as well.
pub(crate) fn quantity(text: &str) -> Option<i128> {
    const SUFFIXES: [(&str, i128); 12] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("Ei", 1 << 60),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
        ("E", 1_000_000_000_000_000_000),
    ];
    if let Some(thousandths) = text.strip_suffix('m') {
        return thousandths.parse::<u32>().ok().map(i128::from);
    }
    let found = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)));
    let (number, factor) = found.unwrap_or((text, 1));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if whole.is_empty() || whole.len() > 15 || !digits(whole) || fraction.len() > 3 || !digits(fraction) {
        return None;
    }
    let thousandths = format!("{whole}{fraction:0<3}").parse::<i128>().ok()?;
    thousandths.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_written_differently_are_equal() {
        for (one, other) in [("1000m", "1"), ("0.5", "500m"), ("1024Mi", "1Gi"), ("1.5k", "1500")] {
            assert_eq!(quantity(one), quantity(other), "{one} and {other}");
            assert!(quantity(one).is_some(), "{one}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "lots", "-1", "1 Gi", "1.2345", "Mi", "1mm"] {
            assert_eq!(quantity(text), None, "{text:?}");
        }
    }
}
