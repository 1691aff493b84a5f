//! How the pipeline stands, as conditions. Pure.
//!
//! `Ready`, `Reconciling` and `Stalled` follow kstatus: `Stalled` is true only for what a person must mend.

use std::collections::BTreeMap;

use super::{Plan, Setback, standstill};
use crate::crd::{ConsumerGroupStatus, OrderPipelineStatus, OrderServiceStatus};
use crate::kafka::Severity;
use crate::names;
use crate::observe::{KafkaView, LiveObject, ObjectKey, ObjectKind, Observed};
use crate::render;
use crate::validate::{Part, Problem, Reason, ValidatedPipeline, Workload};

/// A condition without its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Type of the condition.
    pub type_: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// CamelCase reason.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// How a pipeline stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Conditions, all that apply.
    pub findings: Vec<Finding>,
    /// Pods of the order service.
    pub order_service: Option<OrderServiceStatus>,
    /// Pods of the groups.
    pub consumer_groups: Vec<ConsumerGroupStatus>,
}

impl Verdict {
    /// Whether the named condition is true.
    #[must_use]
    pub fn is_true(&self, type_: &str) -> bool {
        self.findings.iter().any(|finding| finding.type_ == type_ && finding.status == "True")
    }

    /// Whether all pods are those of the spec, and none runs of a group that left it.
    #[must_use]
    pub fn is_rolled_out(&self, pipeline: &ValidatedPipeline) -> bool {
        let lacks = |finding: &Finding| {
            ["OrderServiceReady", "ConsumersReady"].contains(&finding.type_) && finding.status != "True"
        };
        let is_of_spec = |group: &ConsumerGroupStatus| {
            pipeline
                .workloads
                .iter()
                .any(|workload| matches!(&workload.part, Part::Group(name) if *name == group.name))
        };
        !self.findings.iter().any(lacks) && self.consumer_groups.iter().all(is_of_spec)
    }
}

/// How a valid pipeline stands. `plan` is what is left to do after `observed`.
#[must_use]
pub fn assess(
    pipeline: &ValidatedPipeline,
    observed: &Observed,
    plan: &Plan,
    setbacks: &[Setback],
) -> Verdict {
    let mut parts = vec![topic_finding(pipeline, observed, plan, setbacks)];
    let service = pipeline.workloads.iter().find(|workload| workload.part == Part::OrderService);
    parts.extend(service.map(|workload| {
        let Standing { ready, reason, message } = standing(pipeline, workload, observed, plan, setbacks);
        finding("OrderServiceReady", ready, reason, message)
    }));
    let groups: Vec<&Workload> =
        pipeline.workloads.iter().filter(|workload| workload.part != Part::OrderService).collect();
    if !groups.is_empty() {
        parts.push(consumers_finding(pipeline, &groups, observed, plan, setbacks));
    }
    let permanent = setbacks.iter().find(|setback| setback.severity == Severity::Permanent);
    let stalled = permanent.map(|setback| setback.message.clone()).or_else(|| match &observed.kafka {
        KafkaView::Unavailable { severity: Severity::Permanent, message, .. } => Some(message.clone()),
        _ => None,
    });
    let changes = plan.changes.len();
    let mut findings = Vec::from(match pipeline.plan_only {
        true => standstill::overall(&parts, changes, standstill::obstacle(plan, setbacks), stalled),
        false => overall(&parts, pipeline.paused, changes, stalled),
    });
    findings.extend(parts);
    Verdict {
        findings,
        order_service: service.map(|workload| {
            let pods = pods(deployment(pipeline, workload, observed), workload.replicas);
            OrderServiceStatus { replicas: workload.replicas, ready_replicas: pods.ready }
        }),
        consumer_groups: group_statuses(pipeline, &groups, observed),
    }
}

/// How a pipeline stands that was refused: its parts stay as they were last seen.
#[must_use]
pub fn refused(problems: &[Problem], before: Option<&OrderPipelineStatus>) -> Verdict {
    let message = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    // Whoever leads next reads from the reason that the pipeline was refused for what is another's, whatever else is wrong.
    let conflict = problems.iter().find(|problem| Reason::CONFLICTS.contains(&problem.reason));
    let reason = conflict.or(problems.first()).map(|problem| problem.reason.to_string()).unwrap_or_default();
    Verdict {
        findings: vec![
            finding("Ready", false, &reason, message.clone()),
            finding("Reconciling", false, "Stalled", "waits for the spec or the topic to change".to_owned()),
            finding("Stalled", true, &reason, message),
        ],
        order_service: before.and_then(|status| status.order_service.clone()),
        consumer_groups: before.map(|status| status.consumer_groups.clone()).unwrap_or_default(),
    }
}

fn overall(parts: &[Finding], paused: bool, changes: usize, stalled: Option<String>) -> [Finding; 3] {
    let lacking = parts.iter().find(|part| part.status != "True");
    let ready = match lacking {
        _ if paused && changes > 0 => {
            finding("Ready", false, "Paused", format!("paused: {changes} changes wait, see status.plan"))
        }
        None => finding("Ready", true, "Ready", "every part is as declared and ready".to_owned()),
        Some(part) => finding("Ready", false, &part.reason, part.message.clone()),
    };
    let is_ready = ready.status == "True";
    let reconciling = if stalled.is_some() {
        finding("Reconciling", false, "Stalled", "waits for a person".to_owned())
    } else if paused {
        finding("Reconciling", false, "Paused", "changes nothing while spec.paused is true".to_owned())
    } else if is_ready {
        finding("Reconciling", false, "Ready", "nothing is left to do".to_owned())
    } else {
        finding("Reconciling", true, &ready.reason, ready.message.clone())
    };
    [ready, reconciling, stalled_finding(stalled)]
}

pub(super) fn stalled_finding(stalled: Option<String>) -> Finding {
    match stalled {
        Some(message) => finding("Stalled", true, "Refused", message),
        None => finding("Stalled", false, "Progressing", "nothing needs a person".to_owned()),
    }
}

/// Whether no pod of the order service is of an earlier spec: it has none, or all are as they are to be.
pub(super) fn is_order_service_of_now(
    pipeline: &ValidatedPipeline,
    observed: &Observed,
    plan: &Plan,
) -> bool {
    let Some(service) = pipeline.workloads.iter().find(|workload| workload.part == Part::OrderService) else {
        return true;
    };
    let Some(live) = deployment(pipeline, service, observed) else { return true };
    let changes = plan.changes.iter().any(|change| change.part() == Part::OrderService);
    !changes
        && !plan.waiting.contains_key(&Part::OrderService)
        && pods(Some(live), service.replicas).rolled_out
}

fn topic_finding(
    pipeline: &ValidatedPipeline,
    observed: &Observed,
    plan: &Plan,
    setbacks: &[Setback],
) -> Finding {
    let is_topic = |part: &Part| matches!(part, Part::Topic(_));
    if let Some(setback) = setbacks.iter().find(|setback| is_topic(&setback.part)) {
        let reason = if setback.severity == Severity::Permanent { "KafkaRefused" } else { "KafkaFailed" };
        return finding("TopicReady", false, reason, setback.message.clone());
    }
    if let KafkaView::Unavailable { reason, message, .. } = &observed.kafka {
        return Finding { status: "Unknown", ..finding("TopicReady", false, *reason, message.clone()) };
    }
    if let Some(change) = plan.changes.iter().find(|change| is_topic(&change.part())) {
        return finding("TopicReady", false, "Pending", change.to_string());
    }
    if let Some((_, waiting)) = plan.waiting.iter().find(|(part, _)| is_topic(part)) {
        return finding("TopicReady", false, waiting.reason, waiting.message.clone());
    }
    let dead_letters = pipeline.topics.len() - 1;
    let main = pipeline.topics.first().map(|topic| topic.name.as_str()).unwrap_or_default();
    finding(
        "TopicReady",
        true,
        "AsDeclared",
        format!("topic {main} and {dead_letters} dead-letter topics are as declared"),
    )
}

fn consumers_finding(
    pipeline: &ValidatedPipeline,
    groups: &[&Workload],
    observed: &Observed,
    plan: &Plan,
    setbacks: &[Setback],
) -> Finding {
    let standings = groups.iter().map(|group| (group, standing(pipeline, group, observed, plan, setbacks)));
    let lacking: Vec<_> = standings.filter(|(_, standing)| !standing.ready).collect();
    let Some((_, first)) = lacking.first() else {
        return finding("ConsumersReady", true, "PodsReady", format!("{} groups are ready", groups.len()));
    };
    let messages: Vec<_> =
        lacking.iter().map(|(group, standing)| format!("{}: {}", group.part, standing.message)).collect();
    finding("ConsumersReady", false, first.reason, messages.join("; "))
}

struct Standing {
    ready: bool,
    reason: &'static str,
    message: String,
}

fn standing(
    pipeline: &ValidatedPipeline,
    workload: &Workload,
    observed: &Observed,
    plan: &Plan,
    setbacks: &[Setback],
) -> Standing {
    let not_ready = |reason, message| Standing { ready: false, reason, message };
    if let Some(setback) = setbacks.iter().find(|setback| setback.part == workload.part) {
        return not_ready("ApplyFailed", setback.message.clone());
    }
    if let Some(waiting) = plan.waiting.get(&workload.part) {
        return not_ready(waiting.reason, waiting.message.clone());
    }
    if let Some(change) = plan.changes.iter().find(|change| change.part() == workload.part) {
        return not_ready("Pending", change.to_string());
    }
    let pods = pods(deployment(pipeline, workload, observed), workload.replicas);
    let message = format!("{} of {} pods are ready", pods.ready, workload.replicas);
    if pods.rolled_out && pods.ready >= workload.replicas {
        Standing { ready: true, reason: "PodsReady", message }
    } else if pods.stuck {
        not_ready("RolloutStuck", format!("{message}, and the rollout makes no progress: look at its pods"))
    } else {
        not_ready("RolloutInProgress", message)
    }
}

struct Pods {
    all: i32,
    ready: i32,
    rolled_out: bool,
    stuck: bool,
}

fn deployment<'a>(
    pipeline: &ValidatedPipeline,
    workload: &Workload,
    observed: &'a Observed,
) -> Option<&'a LiveObject> {
    let key = ObjectKey { kind: ObjectKind::Deployment, name: render::name(&pipeline.name, &workload.part) };
    observed.objects.get(&key)
}

/// Pods of a Deployment that is to have so many `replicas`.
fn pods(live: Option<&LiveObject>, replicas: i32) -> Pods {
    let Some(live) = live else {
        return Pods { all: 0, ready: 0, rolled_out: false, stuck: false };
    };
    let status = &live.body["status"];
    let count = |field: &str| status[field].as_i64().and_then(|count| i32::try_from(count).ok()).unwrap_or(0);
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let seen = status["observedGeneration"].as_i64() == live.body["metadata"]["generation"].as_i64();
    Pods {
        all: count("replicas"),
        ready: count("readyReplicas"),
        rolled_out: seen && count("updatedReplicas") >= replicas && count("replicas") <= replicas,
        stuck: seen && conditions.iter().any(|condition| condition["reason"] == "ProgressDeadlineExceeded"),
    }
}

/// The groups of the spec, and those that left it and have a Deployment still: whoever leads next is to know that they are not
/// free. Whoever only plans has no group but those with a Deployment.
fn group_statuses(
    pipeline: &ValidatedPipeline,
    groups: &[&Workload],
    observed: &Observed,
) -> Vec<ConsumerGroupStatus> {
    let ours = observed.objects.iter().filter(|(key, live)| {
        key.kind == ObjectKind::Deployment && live.controller.as_deref() == Some(pipeline.uid.as_str())
    });
    let mut running: BTreeMap<&str, &LiveObject> = ours
        .filter_map(|(_, live)| Some((live.body["metadata"]["labels"][names::GROUP_LABEL].as_str()?, live)))
        .collect();
    let mut statuses = Vec::new();
    for workload in groups {
        let Part::Group(name) = &workload.part else { continue };
        let live = running.remove(name.as_str());
        if live.is_some() || !pipeline.plan_only {
            statuses.push(group_status(name, live, workload.replicas));
        }
    }
    statuses.extend(running.into_iter().map(|(name, live)| group_status(name, Some(live), 0)));
    statuses
}

fn group_status(name: &str, live: Option<&LiveObject>, desired_replicas: i32) -> ConsumerGroupStatus {
    let pods = pods(live, desired_replicas);
    ConsumerGroupStatus {
        name: name.to_owned(),
        replicas: pods.all,
        ready_replicas: pods.ready,
        desired_replicas,
        verdict: None,
        reason: None,
    }
}

pub(super) fn finding(type_: &'static str, is: bool, reason: impl Into<String>, message: String) -> Finding {
    Finding { type_, status: if is { "True" } else { "False" }, reason: reason.into(), message }
}
