//! `DeleteIfDrained`: consumers run on until nothing is left to consume.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{DRAIN_POLL, Error, Failure, delete_workloads, doomed, say_deleting};
use crate::context::Context;
use crate::crd::{DeletionPolicy, OrderPipeline, TopicStatus};
use crate::kafka;
use crate::names;
use crate::observe::{self, LiveObject};
use crate::validate;

/// Groups that drain are looked at again this often; each look asks Kafka once per partition and group.
const BACKLOG_POLL: Duration = Duration::from_secs(5);

/// What a deletion waits for.
pub(super) struct Pending {
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) wait: Duration,
}

/// Whether topics are deleted only once they are drained.
pub(super) fn applies(pipeline: &OrderPipeline) -> bool {
    validate::deletes_topics(pipeline)
        && pipeline.spec.topic.deletion_policy == DeletionPolicy::DeleteIfDrained
}

/// Stops the order service, and says what is left to do before the consumers may stop; `None` when nothing is.
pub(super) async fn pending(pipeline: &OrderPipeline, context: &Context) -> Result<Option<Pending>, Error> {
    if !applies(pipeline) {
        return Ok(None);
    }
    let heirs = context.owners.heirs(pipeline);
    let doomed: Vec<TopicStatus> =
        doomed(pipeline).filter(|topic| !heirs.contains_key(&topic.name)).collect();
    if doomed.is_empty() {
        return Ok(None);
    }
    // Whoever publishes goes first: its relay empties the outbox as far as it can, and after that the end stands still.
    let serves = |live: &LiveObject| live.body["metadata"]["labels"][names::GROUP_LABEL].as_str().is_none();
    let services = delete_workloads(pipeline, context, serves).await?;
    if !services.is_empty() {
        let message = format!("waits for {} to drain", services.join(", "));
        return Ok(Some(Pending { reason: "Deleting", message, wait: DRAIN_POLL }));
    }
    match undrained(pipeline, context, &doomed).await {
        Ok(left) if left.is_empty() => Ok(None),
        Ok(left) => {
            let message = format!("waits until everything is consumed: {}", left.join("; "));
            Ok(Some(Pending { reason: "NotDrained", message, wait: BACKLOG_POLL }))
        }
        Err(error) => {
            say_deleting(pipeline, context, "NotDrained", format!("can't tell what is left: {error}"))
                .await?;
            Err(Error::Topics(error.to_string()))
        }
    }
}

/// What of `topics` nobody has consumed yet, in words.
pub(super) async fn undrained(
    pipeline: &OrderPipeline,
    context: &Context,
    topics: &[TopicStatus],
) -> Result<Vec<String>, Failure> {
    let namespace = pipeline.metadata.namespace.clone().unwrap_or_default();
    let connection =
        observe::connection(&context.client, &namespace, pipeline).await.map_err(Failure::Connection)?;
    let names: BTreeSet<String> = topics.iter().map(|topic| topic.name.clone()).collect();
    let present = context.kafka.get(&connection)?.describe(&names).await?;
    let main = observe::topic_name(pipeline);
    let timeout = context.options.kafka_timeout;
    let mut left = Vec::new();
    for topic in topics {
        // One that is gone, or another by now, is not deleted anyway.
        let same = present.get(&topic.name).filter(|present| topic.id.as_ref() == Some(&present.id));
        let Some(present) = same else { continue };
        let backlog =
            async |group| kafka::backlog(&connection, timeout, &topic.name, present.partitions, group).await;
        let groups = &pipeline.spec.consumer_groups;
        // What nobody is there to consume is kept.
        if topic.name != main || groups.is_empty() {
            let records = backlog(None).await?;
            left.extend((records > 0).then(|| format!("topic {} holds {records} records", topic.name)));
            continue;
        }
        for group in groups {
            let records = backlog(Some(group.name.as_str())).await?;
            left.extend((records > 0).then(|| format!("group {} has {records} records to go", group.name)));
        }
    }
    Ok(left)
}
