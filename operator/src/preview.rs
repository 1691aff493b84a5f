//! `operator plan`: what applying a manifest would change. Reads, asks Kafka, and writes nothing anywhere.

mod conflicts;
mod input;
mod text;

use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use kube::{Api, Client, Config, ResourceExt};
use serde::Serialize;

use crate::check::{Objection, check};
use crate::cli::{Output, PlanArgs};
use crate::crd::OrderPipeline;
use crate::kafka::Handles;
use crate::leadership::Leadership;
use crate::observe::{KafkaView, Owned, observe};
use crate::owners::Conflict;
use crate::plan::{Change, GROWS_LATER, Plan, Why, plan};
use crate::run::{Scope, request_client, scopes};
use crate::validate::{Part, Problem, validate};

use conflicts::Neighbours;
pub use input::pipelines;
pub use text::text;

/// Ends of the command, as of `terraform plan -detailed-exitcode`. Not those of `kubectl diff`, where 1 means a
/// difference: whatever fails on the way, `kubectl exec` first of all, ends with 1.
const NOTHING_TO_CHANGE: u8 = 0;
const FAILED: u8 = 1;
const CHANGES: u8 = 2;

/// What applying one manifest would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    /// Namespace of the pipeline.
    pub namespace: String,
    /// Name of the pipeline.
    pub name: String,
    /// The changes, in the order in which they would be made.
    pub changes: Vec<PlannedChange>,
    /// Parts that would wait for something first.
    pub waiting: Vec<PlannedWait>,
    /// Why it would be refused, by the operator or by Kafka.
    pub problems: Vec<PlannedProblem>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedChange {
    /// What is done.
    pub action: Action,
    /// What it is done to: `topic NAME`, or kind and name.
    pub target: String,
    /// The change as `status.plan` has it.
    pub description: String,
}

/// What is done to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// It comes to be.
    Create,
    /// It is there and becomes another.
    Change,
    /// It goes.
    Delete,
}

/// A part that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedWait {
    /// The part.
    pub part: String,
    /// The reason its condition would have.
    pub reason: String,
    /// What it waits for, and what a person can do.
    pub message: String,
}

/// Something that would be refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedProblem {
    /// Path of the field.
    pub field: String,
    /// The reason the condition would have.
    pub reason: String,
    /// What is wrong and how to mend it.
    pub message: String,
}

/// Runs the command.
///
/// # Errors
/// When the input holds no pipeline, or the API server can't be asked.
pub async fn run(args: PlanArgs) -> anyhow::Result<ExitCode> {
    let PlanArgs { file, output, default_image, watch_namespaces, kafka_timeout_seconds } = args;
    let manifests = pipelines(&read(&file)?)?;
    let config = Config::infer().await.context("failed to find the API server")?;
    let client = request_client(config)?;
    // Asks and validates alone: what it is not allowed, it can not do by mistake.
    let kafka = Handles::new(Duration::from_secs(kafka_timeout_seconds), Leadership::standby());
    let previews = previews(&client, &kafka, &scopes(watch_namespaces), manifests, &default_image).await?;
    match output {
        Output::Text => print!("{}", text(&previews)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&previews)?),
        Output::Yaml => print!("{}", serde_yaml::to_string(&previews)?),
    }
    Ok(ExitCode::from(end(&previews)))
}

/// What an operator that watches `scopes` would do if `manifests` were applied now, one after another.
///
/// # Errors
/// When the API server does not answer or refuses.
pub async fn previews(
    client: &Client,
    kafka: &Handles,
    scopes: &[Scope],
    manifests: Vec<OrderPipeline>,
    default_image: &str,
) -> anyhow::Result<Vec<Preview>> {
    let neighbours = Neighbours::list(client, scopes).await?;
    let mut laid = Vec::new();
    for manifest in manifests {
        let (manifest, leaving) = over_live(client, manifest).await?;
        // One that is leaving is as it was listed.
        let newcomer = (!leaving).then(|| neighbours.apply(&manifest));
        laid.push((manifest, newcomer));
    }
    let mut previews = Vec::new();
    for (manifest, newcomer) in laid {
        let conflicts = newcomer.map(|newcomer| neighbours.conflicts(&newcomer));
        previews.push(preview(client, kafka, &manifest, conflicts, default_image).await?);
    }
    Ok(previews)
}

/// `manifest` as it would be over what is there, and whether that is being deleted.
async fn over_live(client: &Client, mut manifest: OrderPipeline) -> anyhow::Result<(OrderPipeline, bool)> {
    let name = manifest.name_any();
    let namespace = manifest.namespace().unwrap_or_else(|| client.default_namespace().to_owned());
    let api: Api<OrderPipeline> = Api::namespaced(client.clone(), &namespace);
    let live =
        api.get_opt(&name).await.with_context(|| format!("failed to read pipeline {namespace}/{name}"))?;
    let leaving = live.as_ref().is_some_and(|live| live.metadata.deletion_timestamp.is_some());
    // What is there belongs to the pipeline that is there, whatever the manifest says of itself.
    manifest.metadata.namespace = Some(namespace);
    manifest.metadata.uid = live.as_ref().and_then(ResourceExt::uid);
    manifest.metadata.creation_timestamp = live.as_ref().and_then(ResourceExt::creation_timestamp);
    manifest.status = live.and_then(|live| live.status);
    Ok((manifest, leaving))
}

/// What becomes of one manifest; `conflicts` is what of it is another's, or nothing where the pipeline is leaving.
async fn preview(
    client: &Client,
    kafka: &Handles,
    manifest: &OrderPipeline,
    conflicts: Option<Vec<Conflict>>,
    default_image: &str,
) -> anyhow::Result<Preview> {
    let (namespace, name) = (manifest.namespace().unwrap_or_default(), manifest.name_any());
    let mut preview =
        Preview { namespace, name, changes: Vec::new(), waiting: Vec::new(), problems: Vec::new() };
    let Some(conflicts) = conflicts else {
        let message = "the pipeline is being deleted: apply it again once it is gone";
        preview.problems.push(problem("metadata.name", "Deleting", message));
        return Ok(preview);
    };
    // Nobody watches here: every object is asked for.
    let mut observed = observe(client, kafka, &Owned::default(), manifest, |_, _| None).await?;
    observed.conflicts = conflicts;
    match validate(manifest, &observed, default_image) {
        Err(problems) => preview.problems.extend(problems.into_iter().map(PlannedProblem::from)),
        Ok(validated) => {
            let planned = plan(&validated, &observed);
            let objections = check(kafka, manifest, &observed, &planned).await;
            preview.fill(&planned, objections);
        }
    }
    if let KafkaView::Unavailable { reason, message, .. } = &observed.kafka {
        preview.problems.push(problem("spec.kafka", reason, message));
    }
    Ok(preview)
}

impl Preview {
    fn fill(&mut self, planned: &Plan, objections: Vec<Objection>) {
        self.changes.extend(planned.changes.iter().map(PlannedChange::from));
        // What waits for Kafka is told once, for all topics.
        let waiting = planned
            .waiting
            .iter()
            .filter(|(part, waiting)| !matches!(part, Part::Topic(_)) || waiting.reason == GROWS_LATER);
        self.waiting.extend(waiting.map(|(part, waiting)| PlannedWait {
            part: part.to_string(),
            reason: waiting.reason.to_owned(),
            message: waiting.message.clone(),
        }));
        let refusals = objections.into_iter();
        self.problems.extend(
            refusals.map(|Objection { field, message, .. }| problem(&field, "KafkaRefused", &message)),
        );
    }
}

impl From<&Change> for PlannedChange {
    fn from(change: &Change) -> Self {
        let action = match change {
            Change::CreateTopic { .. } | Change::ApplyObject { why: Why::Missing, .. } => Action::Create,
            Change::DeleteObject { .. } => Action::Delete,
            _ => Action::Change,
        };
        Self { action, target: change.target(), description: change.to_string() }
    }
}

impl From<Problem> for PlannedProblem {
    fn from(Problem { field, message, reason }: Problem) -> Self {
        Self { field, reason: reason.to_string(), message }
    }
}

fn problem(field: &str, reason: &str, message: &str) -> PlannedProblem {
    PlannedProblem { field: field.to_owned(), reason: reason.to_owned(), message: message.to_owned() }
}

/// How the command ends.
fn end(previews: &[Preview]) -> u8 {
    if previews.iter().any(|preview| !preview.problems.is_empty()) {
        FAILED
    } else if previews.iter().any(|preview| !preview.changes.is_empty() || !preview.waiting.is_empty()) {
        CHANGES
    } else {
        NOTHING_TO_CHANGE
    }
}

fn read(file: &str) -> anyhow::Result<String> {
    if file != "-" {
        return std::fs::read_to_string(file).with_context(|| format!("failed to read {file}"));
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("failed to read standard input")?;
    Ok(text)
}

#[cfg(test)]
mod tests;
