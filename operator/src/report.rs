//! Step 5, report: one status apply when something changed, and Events for what was done.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use crate::crd::{OrderPipeline, OrderPipelineStatus, TopicStatus};
use crate::names;
use crate::observe::topic_name;
use crate::plan::{Change, Finding, Verdict, Why};

/// Bounds of the events.k8s.io API, which refuses an Event beyond them.
const ACTION_MAX_BYTES: usize = 128;
const NOTE_MAX_BYTES: usize = 1024;

/// Changes shown in `status.plan`; a pipeline of the greatest size has fewer.
const PLAN_MAX: usize = 256;

/// Longest line of `status.plan`: a topic's configuration may be far longer, and the API server keeps all of it in etcd.
const PLAN_LINE_MAX_BYTES: usize = 2048;

/// Why reporting failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or did not answer.
    #[error("failed to write the status")]
    Status(#[source] Box<kube::Error>),
}

/// An Event to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether a person should look.
    pub warning: bool,
    /// CamelCase reason.
    pub reason: &'static str,
    /// What was done; part of what tells two Events apart.
    pub action: String,
    /// For people.
    pub message: String,
}

/// The status for how the pipeline stands now. Times change only with their condition's status.
#[must_use]
pub fn status(
    pipeline: &OrderPipeline,
    verdict: &Verdict,
    records: &BTreeMap<String, TopicStatus>,
    waiting: &[Change],
) -> OrderPipelineStatus {
    let before = pipeline.status.as_ref();
    let main = topic_name(pipeline);
    OrderPipelineStatus {
        observed_generation: pipeline.metadata.generation,
        plan: waiting.iter().take(PLAN_MAX).map(plan_line).collect(),
        topic: records.get(&main).cloned(),
        dead_letter_topics: records.values().filter(|record| record.name != main).cloned().collect(),
        order_service: verdict.order_service.clone(),
        consumer_groups: verdict.consumer_groups.clone(),
        conditions: conditions(
            &verdict.findings,
            before.map(|status| status.conditions.as_slice()).unwrap_or_default(),
            pipeline.metadata.generation,
        ),
    }
}

fn plan_line(change: &Change) -> String {
    let line = change.to_string();
    let shown = cut(&line, PLAN_LINE_MAX_BYTES);
    if shown.len() < line.len() { format!("{shown}…") } else { line }
}

/// The status of a pipeline that is refused or leaving: its conditions change, what was planned is void, all else stays.
#[must_use]
pub fn status_keeping_parts(pipeline: &OrderPipeline, findings: &[Finding]) -> OrderPipelineStatus {
    let mut status = pipeline.status.clone().unwrap_or_default();
    let mut conditions = conditions(findings, &status.conditions, pipeline.metadata.generation);
    let named = |type_: &str| findings.iter().any(|finding| finding.type_ == type_);
    conditions.extend(status.conditions.into_iter().filter(|condition| !named(&condition.type_)));
    status.conditions = conditions;
    status.plan.clear();
    status.observed_generation = pipeline.metadata.generation;
    status
}

/// Writes the status if it differs from what is there, and notes the version that `pipeline` has by that. Returns whether it
/// was written.
///
/// # Errors
/// When the API server does not answer or refuses.
pub async fn write(
    client: &Client,
    pipeline: &mut OrderPipeline,
    status: &OrderPipelineStatus,
) -> Result<bool, Error> {
    if pipeline.status.as_ref().map(in_order) == Some(in_order(status)) {
        return Ok(false);
    }
    let api: Api<OrderPipeline> = Api::namespaced(client.clone(), &pipeline.namespace().unwrap_or_default());
    let body = json!({
        "apiVersion": OrderPipeline::api_version(&()),
        "kind": OrderPipeline::kind(&()),
        "metadata": {"name": pipeline.name_any(), "uid": pipeline.uid()},
        "status": status,
    });
    let params = PatchParams::apply(names::MANAGER).force();
    let written = api.patch_status(&pipeline.name_any(), &params, &Patch::Apply(&body)).await;
    let written = written.map_err(|source| Error::Status(Box::new(source)))?;
    pipeline.metadata.resource_version = written.metadata.resource_version;
    Ok(true)
}

/// The status with its lists sorted: they are maps by key, and the API server keeps an order of its own.
fn in_order(status: &OrderPipelineStatus) -> OrderPipelineStatus {
    let mut status = status.clone();
    status.dead_letter_topics.sort_by(|one, other| one.name.cmp(&other.name));
    status.consumer_groups.sort_by(|one, other| one.name.cmp(&other.name));
    status.conditions.sort_by(|one, other| one.type_.cmp(&other.type_));
    status
}

/// Writes the records alone, all else as it was, into the status of `pipeline` as well.
///
/// # Errors
/// When the API server does not answer or refuses.
pub async fn write_records(
    client: &Client,
    pipeline: &mut OrderPipeline,
    records: &BTreeMap<String, TopicStatus>,
) -> Result<(), Error> {
    let main = topic_name(pipeline);
    let mut status = pipeline.status.clone().unwrap_or_default();
    status.topic = records.get(&main).cloned();
    status.dead_letter_topics = records.values().filter(|record| record.name != main).cloned().collect();
    write(client, pipeline, &status).await?;
    pipeline.status = Some(status);
    Ok(())
}

/// Publishes `notes`. An Event that is lost is only logged: it never holds up the work.
pub async fn publish(recorder: &Recorder, regarding: &ObjectReference, notes: &[Note]) {
    for note in notes {
        let event = Event {
            type_: if note.warning { EventType::Warning } else { EventType::Normal },
            reason: note.reason.to_owned(),
            note: Some(cut(&note.message, NOTE_MAX_BYTES).to_owned()),
            action: cut(&note.action, ACTION_MAX_BYTES).to_owned(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, regarding).await {
            tracing::warn!(error = %error, reason = note.reason, "failed to publish an Event");
        }
    }
}

/// `text`, cut at a character's end.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// The Event that tells of a change that was made.
#[must_use]
pub fn note(change: &Change) -> Note {
    let (warning, reason) = match change {
        Change::CreateTopic { lost: true, .. } => (true, "LostTopicRecreated"),
        Change::CreateTopic { lost: false, .. } => (false, "TopicCreated"),
        Change::GrowTopic { .. } => (false, "TopicGrown"),
        Change::ConfigureTopic { set, .. } if set.is_empty() => (false, "TopicConfigReset"),
        Change::ConfigureTopic { .. } => (false, "TopicConfigChanged"),
        Change::DeleteObject { .. } => (false, "ObjectDeleted"),
        Change::ApplyObject { why: Why::Missing, .. } => (false, "ObjectCreated"),
        Change::ApplyObject { why: Why::Changed, .. } => (false, "ObjectUpdated"),
        Change::ApplyObject { why: Why::Drifted { .. }, .. } => (true, "ObjectRepaired"),
    };
    let message = change.to_string();
    Note { warning, reason, action: message.clone(), message }
}

/// Events for what the records newly say of topics that were not created but found.
#[must_use]
pub fn adoption_notes(
    before: &BTreeMap<String, TopicStatus>,
    after: &BTreeMap<String, TopicStatus>,
    done: &[Change],
) -> Vec<Note> {
    let created = |name: &str| {
        done.iter().any(|change| matches!(change, Change::CreateTopic { topic, .. } if topic.name == name))
    };
    let configured = |name: &str| {
        done.iter().any(|change| matches!(change, Change::ConfigureTopic { topic, .. } if topic == name))
    };
    let grown = |name: &str| {
        done.iter().any(|change| matches!(change, Change::GrowTopic { topic, .. } if topic == name))
    };
    let mut notes = Vec::new();
    for (name, record) in after {
        let how = match (grown(name), configured(name)) {
            (true, true) => "taken, grown and configured as declared",
            (true, false) => "taken and grown as declared",
            (false, true) => "taken and configured as declared",
            (false, false) => "taken as it is",
        };
        let known = before.get(name);
        let (warning, reason, message) = match known.and_then(|known| known.id.as_ref()) {
            _ if created(name) => continue,
            Some(id) if record.id.as_ref() != Some(id) => (
                true,
                "TopicReplaced",
                format!("topic {name} was deleted and created anew by someone else: {how}"),
            ),
            None if known.is_none() => {
                (false, "TopicAdopted", format!("topic {name} was there before: {how}"))
            }
            _ => continue,
        };
        notes.push(Note { warning, reason, action: format!("take topic {name}"), message });
    }
    notes
}

fn conditions(findings: &[Finding], before: &[Condition], generation: Option<i64>) -> Vec<Condition> {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
    findings
        .iter()
        .map(|finding| {
            let same = before.iter().find(|old| old.type_ == finding.type_ && old.status == finding.status);
            Condition {
                type_: finding.type_.to_owned(),
                status: finding.status.to_owned(),
                reason: finding.reason.clone(),
                message: finding.message.clone(),
                observed_generation: generation,
                last_transition_time: same.map_or(Time(now), |old| old.last_transition_time.clone()),
            }
        })
        .collect()
}
