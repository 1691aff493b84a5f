//! One reconciliation: observe, validate, plan, apply, report.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::{Api, Resource, ResourceExt};
use rand::Rng;
use runtime::kafka::KafkaConnection;

use crate::apply::{Applied, apply};
use crate::check::check;
use crate::context::Context;
use crate::crd::{Mode, OrderPipeline};
use crate::finalize::{self, finalize};
use crate::kafka::{ObservedTopic, Severity};
use crate::leadership::NotLeading;
use crate::metrics::Outcome;
use crate::observe::{self, KafkaView, Observed, SECRET_MISSING, observe};
use crate::owners;
use crate::plan::{self, Change, Plan, Setback, Verdict, plan};
use crate::poller::PipelineRef;
use crate::report::{self, Note};
use crate::validate::{Problem, ValidatedPipeline, validate};

/// A pass that takes longer hangs on something; every single request in it is bounded far below.
const PASS_TIMEOUT: Duration = Duration::from_secs(180);

/// A converged pipeline is looked at again this often, up to half as much later: watches and the poller see changes
/// before that; this is for what they may have missed.
const RESYNC: Duration = Duration::from_secs(300);

/// What only a person can mend is tried again this often, in case the person mended it elsewhere.
const SLOW_RETRY: Duration = Duration::from_secs(120);

/// The lists of several namespaces come in within this; without one of them nothing is known of who owns what.
const LISTED_WAIT: Duration = Duration::from_secs(10);

/// Secrets are not watched (that would need the right to list them all); one that is missing is looked for this often.
const SECRET_RETRY: Duration = Duration::from_secs(10);

/// What is left to do and wakes nobody when it can be done is looked at again this soon.
const SOON: Duration = Duration::from_secs(2);

/// A pipeline that is leaving is tried again at least this often, so that the bound of its deletion is kept.
const LEAVING_RETRY: Duration = Duration::from_secs(30);

/// Why a reconciliation failed; it is tried again with backoff.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or did not answer.
    #[error("failed to {action} the pipeline")]
    Pipeline {
        /// What was asked for.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// Observing failed.
    #[error(transparent)]
    Observe(#[from] observe::Error),
    /// Reporting failed.
    #[error(transparent)]
    Report(#[from] report::Error),
    /// Finalizing failed.
    #[error(transparent)]
    Finalize(#[from] finalize::Error),
    /// Kafka is away, or a change failed in a way that may pass.
    #[error("{0}")]
    Transient(String),
    /// The pass took too long.
    #[error("failed to end within {PASS_TIMEOUT:?}")]
    Timeout,
    /// The process does not lead any more: whoever does goes on from here.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
}

/// Reconciles one pipeline.
///
/// # Errors
/// When it failed in a way that may pass; [`retry`] says when to try again.
pub async fn reconcile(
    object: Arc<DeserializeGuard<OrderPipeline>>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let started = Instant::now();
    let active = context.metrics.begin();
    let result = match &object.0 {
        Ok(pipeline) => {
            tokio::time::timeout(PASS_TIMEOUT, pass(pipeline, &context)).await.unwrap_or(Err(Error::Timeout))
        }
        Err(unreadable) => Ok(finalize::unreadable(unreadable, &context).await),
    };
    // Whatever else it says, it says because its writes were refused.
    let result = result.or_else(|error| context.leadership.check().map_err(Error::from).and(Err(error)));
    drop(active);
    let outcome = match &result {
        Ok(action) if *action == Action::await_change() => Outcome::success,
        Ok(_) | Err(Error::NotLeading(_)) => Outcome::requeue_after,
        Err(_) => Outcome::error,
    };
    context.metrics.ended(outcome, started.elapsed());
    if result.is_ok() {
        context.backoffs.reset(&object.uid().unwrap_or_default());
    }
    context.metrics.backing_off(context.backoffs.len());
    result
}

/// Logs a failure and says when to try again.
#[must_use]
pub fn retry(object: &DeserializeGuard<OrderPipeline>, error: &Error, context: &Context) -> Action {
    let wait = context.backoffs.next(&object.uid().unwrap_or_default());
    let leaving = object.meta().deletion_timestamp.is_some();
    let wait = if leaving { wait.min(LEAVING_RETRY) } else { wait };
    let (namespace, pipeline) = (object.namespace().unwrap_or_default(), object.name_any());
    if matches!(error, Error::NotLeading(_)) {
        tracing::debug!(%namespace, %pipeline, "left to the process that leads");
        return Action::requeue(wait);
    }
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::warn!(%namespace, %pipeline, error = %error, source, ?wait, "reconciliation failed");
    Action::requeue(wait)
}

/// One pass over the five steps.
async fn pass(shown: &OrderPipeline, context: &Context) -> Result<Action, Error> {
    let listed = tokio::time::timeout(LISTED_WAIT, context.owners.listed()).await.is_ok();
    let Some(pipeline) = newest(shown, context).await? else { return Ok(Action::await_change()) };
    let leaving = pipeline.metadata.deletion_timestamp.is_some();
    // A deletion never waits for ever; without the others it leaves the topics behind.
    if let Some(unlisted) = context.owners.unlisted().filter(|_| !listed)
        && !(leaving && finalize::is_overdue(&pipeline.metadata, context.options.finalizer_timeout))
    {
        return Err(Error::Transient(format!("waits until the pipelines of {unlisted} are listed")));
    }
    if leaving {
        return Ok(finalize(&pipeline, context).await?);
    }
    // What only is planned leaves nothing behind that a deletion would have to look for.
    let mut pipeline = match pipeline.spec.mode {
        Mode::Plan => pipeline,
        Mode::Apply => finalize::claim(pipeline, context).await?,
    };

    let conflicts = owners::take(&mut pipeline, context).await?;
    let mut observed = look(&pipeline, context).await?;
    observed.conflicts = conflicts;
    let validated = match validate(&pipeline, &observed, &context.options.default_image) {
        Ok(validated) => validated,
        Err(problems) => return refuse(&mut pipeline, &problems, context).await,
    };
    let planned = plan(&validated, &observed);
    if validated.plan_only {
        return show(&mut pipeline, &validated, &observed, &planned, context).await;
    }
    let applied = match validated.paused {
        true => Applied { records: observed.records.clone(), ..Applied::default() },
        false => apply(&context.client, &context.kafka, &mut pipeline, &observed, &planned).await?,
    };
    let (observed, left) = look_again(&pipeline, &validated, observed, planned, &applied, context).await?;
    let verdict = report(&mut pipeline, &validated, &observed, &left, &applied, context).await?;
    if validated.paused {
        context.owners.withdraw(&pipeline);
    } else {
        let made = left.changes.is_empty() && applied.setbacks.is_empty();
        context.owners.settle(&pipeline, made && verdict.is_rolled_out(&validated));
    }
    next(&validated, &observed, &left, &applied)
}

/// What is there. Of a pipeline that is as it should be the poller's last look at Kafka will do, so that a thousand of them ask
/// no more of Kafka than one; if by that something were to change, Kafka is asked first.
async fn look(pipeline: &OrderPipeline, context: &Context) -> Result<Observed, Error> {
    if !is_settled(pipeline) {
        return look_closely(pipeline, context).await;
    }
    let pipeline_ref = reference(pipeline);
    let recent = |connection: &_, topics: &_| context.watchlist.recent(&pipeline_ref, connection, topics);
    let observed = observe(&context.client, &context.kafka, &context.owned, pipeline, recent).await?;
    let validated = validate(pipeline, &observed, &context.options.default_image);
    match validated.is_ok_and(|validated| plan(&validated, &observed).changes.is_empty()) {
        true => Ok(observed),
        false => look_closely(pipeline, context).await,
    }
}

/// What is there, by Kafka's own word of now.
async fn look_closely(pipeline: &OrderPipeline, context: &Context) -> Result<Observed, Error> {
    look_at(pipeline, context, |_, _| None).await
}

/// What is there; Kafka is asked for what `known` does not tell.
async fn look_at(
    pipeline: &OrderPipeline,
    context: &Context,
    known: impl Fn(&KafkaConnection, &BTreeSet<String>) -> Option<BTreeMap<String, ObservedTopic>>,
) -> Result<Observed, Error> {
    let observed = observe(&context.client, &context.kafka, &context.owned, pipeline, known).await?;
    watch(pipeline, &observed, context);
    Ok(observed)
}

/// Whether the last pass over this very spec found it ready.
fn is_settled(pipeline: &OrderPipeline) -> bool {
    pipeline.status.as_ref().is_some_and(|status| {
        let is_ready = |condition: &Condition| condition.type_ == "Ready" && condition.status == "True";
        status.observed_generation == pipeline.metadata.generation && status.conditions.iter().any(is_ready)
    })
}

/// Writes down what would change, and what Kafka says to it. Topics that are there are not taken either: what is recorded
/// of them stays as it was.
async fn show(
    pipeline: &mut OrderPipeline,
    validated: &ValidatedPipeline,
    observed: &Observed,
    planned: &Plan,
    context: &Context,
) -> Result<Action, Error> {
    let objections = check(&context.kafka, pipeline, observed, planned).await;
    let setbacks: Vec<Setback> = objections.into_iter().map(Setback::from).collect();
    let verdict = plan::assess(validated, observed, planned, &setbacks);
    let status = report::status(pipeline, &verdict, &observed.records, &planned.changes);
    if report::write(&context.client, pipeline, &status).await? {
        context.metrics.wrote_status();
    }
    pipeline.status = Some(status);
    context.freshness.end(pipeline);
    context.owners.withdraw(pipeline);
    next(validated, observed, planned, &Applied { setbacks, ..Applied::default() })
}

/// What is there and what is left after the changes: the report describes what is, not what was hoped for.
async fn look_again(
    pipeline: &OrderPipeline,
    validated: &ValidatedPipeline,
    before: Observed,
    planned: Plan,
    applied: &Applied,
    context: &Context,
) -> Result<(Observed, Plan), Error> {
    let mut observed = match applied.topics_after(&before.kafka) {
        _ if applied.done.is_empty() => before,
        // Kafka was asked after each change: to ask it once more would tell the same.
        Some(topics) => {
            let there = before.connection.as_ref();
            look_at(pipeline, context, |here, _| (there == Some(here)).then(|| topics.clone())).await?
        }
        None => look_closely(pipeline, context).await?,
    };
    observed.records.clone_from(&applied.records);
    observed.records = plan::remember(validated, &observed, &applied.done);
    let left = if applied.done.is_empty() { planned } else { plan(validated, &observed) };
    Ok((observed, left))
}

/// Says how the pipeline stands, in the status of `pipeline` as well.
async fn report(
    pipeline: &mut OrderPipeline,
    validated: &ValidatedPipeline,
    observed: &Observed,
    left: &Plan,
    applied: &Applied,
    context: &Context,
) -> Result<Verdict, Error> {
    let verdict = plan::assess(validated, observed, left, &applied.setbacks);
    let waiting: &[Change] = if validated.paused { &left.changes } else { &[] };
    let status = report::status(pipeline, &verdict, &observed.records, waiting);
    let mut notes: Vec<Note> = applied.done.iter().map(report::note).collect();
    notes.extend(report::adoption_notes(&observe::records(pipeline), &observed.records, &applied.done));
    for change in &applied.done {
        context.metrics.changed(change.kind());
        tracing::info!(namespace = pipeline.namespace(), pipeline = %validated.name, %change, "changed");
    }
    if report::write(&context.client, pipeline, &status).await? {
        context.metrics.wrote_status();
        notes.extend(applied.setbacks.iter().map(setback_note));
    }
    context.freshness.end(pipeline);
    context.events.publish(pipeline, notes);
    pipeline.status = Some(status);
    Ok(verdict)
}

fn setback_note(setback: &Setback) -> Note {
    Note {
        warning: true,
        reason: "ChangeFailed",
        action: format!("change {}", setback.part),
        message: setback.message.clone(),
    }
}

async fn refuse(
    pipeline: &mut OrderPipeline,
    problems: &[Problem],
    context: &Context,
) -> Result<Action, Error> {
    context.metrics.stalled();
    context.owners.withdraw(pipeline);
    let verdict = plan::refused(problems, pipeline.status.as_ref());
    let status = report::status_keeping_parts(pipeline, &verdict.findings);
    if report::write(&context.client, pipeline, &status).await? {
        context.metrics.wrote_status();
        let message = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        tracing::warn!(namespace = pipeline.namespace(), pipeline = %pipeline.name_any(), message, "refused");
        let note = Note { warning: true, reason: "Refused", action: "Validate".to_owned(), message };
        context.events.publish(pipeline, vec![note]);
    }
    context.freshness.end(pipeline);
    Ok(Action::requeue(SLOW_RETRY))
}

/// When to look again.
fn next(
    validated: &ValidatedPipeline,
    observed: &Observed,
    left: &Plan,
    applied: &Applied,
) -> Result<Action, Error> {
    let setbacks = &applied.setbacks;
    let transient = setbacks.iter().find(|setback| setback.severity == Severity::Transient);
    if let Some(setback) = transient {
        return Err(Error::Transient(setback.message.clone()));
    }
    if !setbacks.is_empty() {
        return Ok(Action::requeue(SLOW_RETRY));
    }
    match &observed.kafka {
        KafkaView::Unavailable { reason, .. } if *reason == SECRET_MISSING => {
            return Ok(Action::requeue(SECRET_RETRY));
        }
        KafkaView::Unavailable { severity: Severity::Permanent, .. } => {
            return Ok(Action::requeue(SLOW_RETRY));
        }
        KafkaView::Unavailable { message, .. } => return Err(Error::Transient(message.clone())),
        KafkaView::Topics(_) => {}
    }
    if !left.waiting.is_empty() {
        return Ok(Action::requeue(SECRET_RETRY));
    }
    // Somebody undoes at once what was done (an admission webhook, say): a quarrel is not won by haste.
    let undone =
        left.changes.iter().find(|left| applied.done.iter().any(|done| done.target() == left.target()));
    if let Some(change) = undone {
        return Err(Error::Transient(format!("failed to make a change last: {change}")));
    }
    if !left.changes.is_empty() && validated.may_change() {
        return Ok(Action::requeue(SOON));
    }
    Ok(Action::requeue(RESYNC + RESYNC.mul_f64(rand::rng().random_range(0.0..0.5))))
}

fn watch(pipeline: &OrderPipeline, observed: &Observed, context: &Context) {
    let topics = observe::topic_names(pipeline).into_iter().chain(observed.records.keys().cloned()).collect();
    context.watchlist.saw(reference(pipeline), topics, observed);
}

/// Namespace and name of a pipeline.
pub(crate) fn reference(pipeline: &OrderPipeline) -> PipelineRef {
    PipelineRef { namespace: pipeline.namespace().unwrap_or_default(), name: pipeline.name_any() }
}

/// The pipeline as the watch shows it, or as the API server has it where that may be newer: the watch may lag behind our own
/// last status, and a topic id that is not seen would make our topic a stranger's.
async fn newest(shown: &OrderPipeline, context: &Context) -> Result<Option<OrderPipeline>, Error> {
    match context.freshness.begin(shown) {
        true => Ok(Some(shown.clone())),
        false => read(shown, context).await,
    }
}

async fn read(stale: &OrderPipeline, context: &Context) -> Result<Option<OrderPipeline>, Error> {
    let api: Api<OrderPipeline> =
        Api::namespaced(context.client.clone(), &stale.namespace().unwrap_or_default());
    let found = api
        .get_opt(&stale.name_any())
        .await
        .map_err(|source| Error::Pipeline { action: "read", source: Box::new(source) })?;
    if found.is_none() {
        context.watchlist.forget(&reference(stale));
    }
    Ok(found)
}
