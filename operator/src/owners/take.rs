//! What a pass does about ownership before all else: it takes what was left to its pipeline, and lets go what another took.

use crate::context::Context;
use crate::crd::{Mode, OrderPipeline};
use crate::observe;
use crate::poller::PipelineRef;
use crate::reconcile::Error;
use crate::report::{self, Note};

use super::Conflict;

/// Rules on what `pipeline` may have, and writes down which topics it took over or let go; returns what belongs to others. Under
/// a plan nothing is written down.
///
/// # Errors
/// When the watches do not know the pipeline, or when writing fails: without the record nothing of another's is taken.
pub async fn take(pipeline: &mut OrderPipeline, context: &Context) -> Result<Vec<Conflict>, Error> {
    let Some(ruling) = context.owners.rule(pipeline) else {
        return Err(Error::Transient("waits until the watch shows the pipeline".to_owned()));
    };
    let plans = pipeline.spec.mode == Mode::Plan;
    if plans || (ruling.inherited.is_empty() && ruling.taken.is_empty()) {
        return Ok(ruling.conflicts);
    }
    let mut records = observe::records(pipeline);
    let mut notes = Vec::new();
    for (topic, heir) in ruling.taken {
        records.remove(&topic);
        notes.push(handed_over(&topic, &heir));
    }
    for (topic, (from, record)) in ruling.inherited {
        notes.push(taken_over(&topic, &from));
        records.insert(topic, record);
    }
    report::write_records(&context.client, pipeline, &records).await?;
    context.events.publish(pipeline, notes);
    Ok(ruling.conflicts)
}

/// The Event of a topic that another has now.
#[must_use]
pub(crate) fn handed_over(topic: &str, heir: &PipelineRef) -> Note {
    let message = format!("topic {topic} is kept: OrderPipeline {heir} has it now");
    Note { warning: false, reason: "TopicHandedOver", action: format!("hand over topic {topic}"), message }
}

fn taken_over(topic: &str, from: &PipelineRef) -> Note {
    let message = format!("topic {topic} was taken over from OrderPipeline {from}");
    Note { warning: false, reason: "TopicTakenOver", action: format!("take over topic {topic}"), message }
}
