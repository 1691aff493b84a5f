//! The end of a pipeline: its pods go first, then its topics as the policy says. Never blocks for ever.

mod drain;
mod handover;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PropagationPolicy};
use kube::core::PartialObjectMetaExt;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt};
use serde_json::json;

use self::handover::HandedOver;
use crate::apply::delete_object;
use crate::context::Context;
use crate::crd::{OrderPipeline, TopicStatus};
use crate::kafka;
use crate::names::FINALIZER;
use crate::observe::{self, LiveObject, ObjectKey};
use crate::plan::Finding;
use crate::reconcile::reference;
use crate::report::{self, Note};
use crate::validate;

/// An heir that is to take a topic is looked at again this often; its change wakes the pipeline as well.
const HEIR_POLL: Duration = Duration::from_secs(1);

/// Pods that drain are looked at again this often.
const DRAIN_POLL: Duration = Duration::from_secs(2);

/// An object that can't be read is looked at again this often.
const UNREADABLE_RETRY: Duration = Duration::from_secs(300);

/// Why finalizing failed; it is tried again with backoff, up to the bound.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or did not answer.
    #[error("failed to {action}")]
    Kubernetes {
        /// What was asked for.
        action: String,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// Reading the pipeline's objects failed.
    #[error(transparent)]
    Observe(#[from] observe::Error),
    /// Writing the status failed.
    #[error(transparent)]
    Report(#[from] report::Error),
    /// Topics that are to be deleted are still there.
    #[error("failed to delete the topics: {0}")]
    Topics(String),
}

/// Adds the finalizer, so that a deletion is not missed; returns the pipeline with it.
///
/// # Errors
/// When the API server does not answer or the pipeline changed meanwhile.
pub async fn claim(pipeline: OrderPipeline, context: &Context) -> Result<OrderPipeline, Error> {
    if pipeline.finalizers().iter().any(|name| name == FINALIZER) {
        return Ok(pipeline);
    }
    let mut finalizers = pipeline.finalizers().to_vec();
    finalizers.push(FINALIZER.to_owned());
    // Gone meanwhile: the pass goes on with what it has, and its first write finds that out.
    Ok(set_finalizers(context, &pipeline.metadata, &finalizers).await?.unwrap_or(pipeline))
}

/// Takes down a pipeline that is being deleted.
///
/// # Errors
/// When something must be tried again before the bound.
pub async fn finalize(pipeline: &OrderPipeline, context: &Context) -> Result<Action, Error> {
    if !pipeline.finalizers().iter().any(|name| name == FINALIZER) {
        return Ok(Action::await_change());
    }
    let overdue = is_overdue(&pipeline.metadata, context.options.finalizer_timeout);
    if !overdue
        && let Some(drain::Pending { reason, message, wait }) = drain::pending(pipeline, context).await?
    {
        say_deleting(pipeline, context, reason, message).await?;
        return Ok(Action::requeue(wait));
    }
    let remaining = delete_workloads(pipeline, context, |_| true).await?;
    if !remaining.is_empty() && !overdue {
        let message = format!("waits for {} to drain", remaining.join(", "));
        say_deleting(pipeline, context, "Deleting", message).await?;
        return Ok(Action::requeue(DRAIN_POLL));
    }
    let handed = handover::hand_over(pipeline, context).await?;
    if let Some(message) = handed.waits_for()
        && !overdue
    {
        say_deleting(pipeline, context, "HandingOver", message).await?;
        return Ok(Action::requeue(HEIR_POLL));
    }
    let mut notes: Vec<Note> = handed.notes().collect();
    if !remaining.is_empty() {
        notes.push(note(
            true,
            "ObjectsLeftBehind",
            format!("did not go within the bound: {}", remaining.join(", ")),
        ));
    }
    match release_topics(pipeline, context, &handed).await {
        Ok(more) => notes.extend(more),
        Err(error) if overdue => {
            let names: Vec<_> = doomed(pipeline)
                .map(|topic| topic.name)
                .filter(|name| !handed.heirs.contains_key(name))
                .collect();
            let message =
                format!("left topics {} in Kafka, which could not be reached: {error}", names.join(", "));
            notes.push(note(true, "TopicsLeftBehind", message));
        }
        Err(error) => {
            say_deleting(pipeline, context, "Deleting", error.to_string()).await?;
            return Err(Error::Topics(error.to_string()));
        }
    }
    // Before the release, which may fail: what was done is done, and the next pass does not know of it.
    context.events.publish(pipeline, notes);
    release(context, &pipeline.metadata).await?;
    context.watchlist.forget(&reference(pipeline));
    context.freshness.forget(&pipeline.metadata);
    tracing::info!(namespace = pipeline.namespace(), pipeline = %pipeline.name_any(), "deleted");
    Ok(Action::await_change())
}

/// An object that does not parse: its neighbours go on, and its deletion is not held up.
pub async fn unreadable(object: &InvalidObject, context: &Context) -> Action {
    let metadata = &object.metadata;
    let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
    let leaving = metadata.deletion_timestamp.is_some();
    tracing::error!(namespace, pipeline = name, error = %object.error, leaving, "failed to read a stored pipeline");
    let mut message = format!("can't be read: {}", object.error);
    if leaving {
        message.push_str("; its topics are left as they are");
    }
    let stand_in = metadata.clone().into_response_partial::<OrderPipeline>();
    context.events.publish(&stand_in, vec![note(true, "Unreadable", message)]);
    if leaving && let Err(error) = release(context, metadata).await {
        tracing::warn!(namespace, pipeline = name, error = %error, "failed to release an unreadable pipeline");
    }
    Action::requeue(UNREADABLE_RETRY)
}

/// Deletes what the pipeline owns, of that what `goes`; returns what of it is still there, pods included.
async fn delete_workloads(
    pipeline: &OrderPipeline,
    context: &Context,
    goes: impl Fn(&LiveObject) -> bool,
) -> Result<Vec<String>, Error> {
    let namespace = pipeline.namespace().unwrap_or_default();
    let uid = pipeline.uid();
    let objects = observe::objects(&context.client, &context.owned, &namespace, pipeline).await?;
    let ours = |live: &LiveObject| live.controller == uid;
    let mut remaining = Vec::new();
    for (key, live) in objects.iter().filter(|(_, live)| ours(live) && goes(live)) {
        if !live.deleting {
            delete(context, &namespace, key, live).await?;
        }
        remaining.push(key.to_string());
    }
    Ok(remaining)
}

/// In the foreground: a Deployment then stays until its last pod is gone, and with it everyone who uses the topic.
async fn delete(context: &Context, namespace: &str, key: &ObjectKey, live: &LiveObject) -> Result<(), Error> {
    delete_object(&context.client, namespace, key, &live.uid, PropagationPolicy::Foreground)
        .await
        .map_err(|source| Error::Kubernetes { action: format!("delete {key}"), source: Box::new(source) })
}

/// Deletes the topics that are to go, and says what became of each that is not another's.
async fn release_topics(
    pipeline: &OrderPipeline,
    context: &Context,
    handed: &HandedOver,
) -> Result<Vec<Note>, Failure> {
    let mut recorded = observe::records(pipeline);
    recorded.retain(|name, _| !handed.heirs.contains_key(name));
    if !validate::deletes_topics(pipeline) {
        let names: Vec<_> = recorded.into_keys().collect();
        let kept = note(false, "TopicsRetained", format!("kept topics {}", names.join(", ")));
        return Ok(if names.is_empty() { Vec::new() } else { vec![kept] });
    }
    let mut notes: Vec<Note> = recorded
        .values()
        .filter(|topic| !topic.created_by_us)
        .map(|topic| {
            note(false, "TopicKept", format!("kept topic {}: it was there before the pipeline", topic.name))
        })
        .collect();
    let doomed: Vec<_> = doomed(pipeline).filter(|topic| recorded.contains_key(&topic.name)).collect();
    if doomed.is_empty() {
        return Ok(notes);
    }
    let left = match context.owners.unlisted() {
        // The bound has passed. Others may name the topics.
        Some(unlisted) => vec![format!("the pipelines of {unlisted} could not be listed")],
        // The bound has passed, or somebody wrote after the consumers stopped.
        None if drain::applies(pipeline) => drain::undrained(pipeline, context, &doomed).await?,
        None => Vec::new(),
    };
    if !left.is_empty() {
        let names: Vec<_> = doomed.iter().map(|topic| topic.name.as_str()).collect();
        let message = format!("left topics {} in Kafka: {}", names.join(", "), left.join("; "));
        notes.push(note(true, "TopicsLeftBehind", message));
        return Ok(notes);
    }
    let namespace = pipeline.namespace().unwrap_or_default();
    let connection =
        observe::connection(&context.client, &namespace, pipeline).await.map_err(Failure::Connection)?;
    for topic in doomed {
        let TopicStatus { name, id, .. } = &topic;
        let Some(id) = id else {
            notes.push(note(true, "TopicKept", format!("kept topic {name}: its id was never seen")));
            continue;
        };
        notes.push(if context.kafka.get(&connection)?.delete(name, id).await? {
            note(false, "TopicDeleted", format!("deleted topic {name}"))
        } else {
            note(
                true,
                "TopicKept",
                format!("topic {name} is gone, or is not the one the operator created: left alone"),
            )
        });
    }
    Ok(notes)
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Connection(String),
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
}

/// Topics that a deletion is to delete: ours, by the id we saw.
fn doomed(pipeline: &OrderPipeline) -> impl Iterator<Item = TopicStatus> {
    let deletes = validate::deletes_topics(pipeline);
    observe::records(pipeline).into_values().filter(move |topic| deletes && topic.created_by_us)
}

async fn say_deleting(
    pipeline: &OrderPipeline,
    context: &Context,
    reason: &str,
    message: String,
) -> Result<(), Error> {
    let finding = |type_, is, message| Finding {
        type_,
        status: if is { "True" } else { "False" },
        reason: reason.to_owned(),
        message,
    };
    let findings = [
        finding("Ready", false, message.clone()),
        finding("Reconciling", true, message),
        finding("Stalled", false, "nothing needs a person".to_owned()),
    ];
    let status = report::status_keeping_parts(pipeline, &findings);
    // The next pass reads anew what was written here.
    report::write(&context.client, &mut pipeline.clone(), &status).await?;
    Ok(())
}

async fn release(context: &Context, metadata: &ObjectMeta) -> Result<(), Error> {
    let others: Vec<String> =
        metadata.finalizers.iter().flatten().filter(|name| *name != FINALIZER).cloned().collect();
    set_finalizers(context, metadata, &others).await?;
    Ok(())
}

/// Returns the pipeline with these finalizers; `None` when it is gone, or can't be read. The resourceVersion makes the write fail
/// if anyone changed the object since, so that no finalizer of another is lost.
async fn set_finalizers(
    context: &Context,
    metadata: &ObjectMeta,
    finalizers: &[String],
) -> Result<Option<OrderPipeline>, Error> {
    let resource = kube::api::ApiResource::erase::<OrderPipeline>(&());
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<kube::api::DynamicObject> =
        Api::namespaced_with(context.client.clone(), namespace, &resource);
    let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": metadata.resource_version}});
    let name = metadata.name.as_deref().unwrap_or_default();
    match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(object) => Ok(object.try_parse().ok()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(source) => {
            Err(Error::Kubernetes { action: "set the finalizer".into(), source: Box::new(source) })
        }
    }
}

/// Whether the bound of its deletion has passed.
pub(crate) fn is_overdue(metadata: &ObjectMeta, bound: Duration) -> bool {
    let bound = jiff::SignedDuration::try_from(bound).unwrap_or(jiff::SignedDuration::MAX);
    metadata.deletion_timestamp.as_ref().is_some_and(|since| Timestamp::now().duration_since(since.0) > bound)
}

fn note(warning: bool, reason: &'static str, message: String) -> Note {
    Note { warning, reason, action: message.clone(), message }
}
