//! Topics that another pipeline names too: they go to it, whatever the deletion policy.

use std::collections::{BTreeMap, BTreeSet};

use kube::Api;

use super::{Error, note};
use crate::context::Context;
use crate::crd::OrderPipeline;
use crate::observe;
use crate::owners::handed_over;
use crate::poller::PipelineRef;
use crate::report::Note;

/// Topics that go to others.
pub(super) struct HandedOver {
    /// To whom, by topic.
    pub(super) heirs: BTreeMap<String, PipelineRef>,
    /// Those topics that their heirs have not written down yet.
    pub(super) unconfirmed: BTreeSet<String>,
}

impl HandedOver {
    /// Who is waited for; `None` when every heir has what it is to have.
    pub(super) fn waits_for(&self) -> Option<String> {
        let waiting = self.heirs.iter().filter(|(topic, _)| self.unconfirmed.contains(*topic));
        let waiting: Vec<_> = waiting.map(|(topic, heir)| format!("{heir} to take topic {topic}")).collect();
        (!waiting.is_empty()).then(|| format!("waits for {}", waiting.join(", ")))
    }

    /// The Events that tell of them when the pipeline goes.
    pub(super) fn notes(&self) -> impl Iterator<Item = Note> {
        self.heirs.iter().map(|(topic, heir)| match self.unconfirmed.contains(topic) {
            false => handed_over(topic, heir),
            true => {
                let message =
                    format!("left topic {topic} to OrderPipeline {heir}, which did not take it in time");
                note(true, "TopicsLeftBehind", message)
            }
        })
    }
}

/// Leaves topics to their heirs. Until an heir has written down what is known of a topic, the pipeline must not go: that the
/// operator created it would be forgotten.
pub(super) async fn hand_over(pipeline: &OrderPipeline, context: &Context) -> Result<HandedOver, Error> {
    let heirs = context.owners.hand_over(pipeline);
    let mut unconfirmed = BTreeSet::new();
    for (topic, heir) in &heirs {
        let api: Api<OrderPipeline> = Api::namespaced(context.client.clone(), &heir.namespace);
        let read = api.get_opt(&heir.name).await;
        let read = read.map_err(|source| Error::Kubernetes {
            action: format!("read pipeline {heir}"),
            source: Box::new(source),
        })?;
        let has = read.and_then(|heir| observe::records(&heir).remove(topic));
        if has.is_none_or(|record| record.id.is_none()) {
            unconfirmed.insert(topic.clone());
        }
    }
    Ok(HandedOver { heirs, unconfirmed })
}
