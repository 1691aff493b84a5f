//! Which topics to create or to grow, and which configuration keys to set or reset.

use std::collections::{BTreeMap, BTreeSet};

use super::{Change, Plan, Waiting, conditions};
use crate::crd::TopicStatus;
use crate::kafka::{self, NewTopic, ObservedTopic};
use crate::observe::{KafkaView, Observed};
use crate::validate::{Part, ValidatedPipeline, is_known};

/// Reason of a topic that grows once the order service runs as declared.
pub const GROWS_LATER: &str = "WaitingForOrderService";

/// Plans the topics. Returns whether, once the plan so far is applied, all of them are there.
pub(super) fn plan(pipeline: &ValidatedPipeline, observed: &Observed, plan: &mut Plan) -> bool {
    match &observed.kafka {
        KafkaView::Topics(present) => {
            for topic in &pipeline.topics {
                let record = observed.records.get(&topic.name);
                plan.changes.extend(change(topic, present.get(&topic.name), record));
            }
            true
        }
        KafkaView::Unavailable { reason, message, .. } => {
            let known = |topic: &NewTopic| {
                observed.records.get(&topic.name).is_some_and(|record| record.id.is_some())
            };
            for topic in &pipeline.topics {
                let waiting = Waiting { reason, message: message.clone() };
                plan.waiting.insert(Part::Topic(topic.name.clone()), waiting);
            }
            // What was seen before is taken to be there still: pods are repaired while Kafka is away.
            pipeline.topics.iter().all(known)
        }
    }
}

/// Plans the growth of the main topic; dead letters need no certain number. Whether it is wanted at all was validated.
///
/// Last of all, and only while each pod of the order service is one of the spec as it is: it goes over to more partitions by the
/// policy it was started with, waiting for the groups it was told of.
pub(super) fn plan_growth(pipeline: &ValidatedPipeline, observed: &Observed, plan: &mut Plan) {
    let KafkaView::Topics(present) = &observed.kafka else { return };
    let Some(topic) = pipeline.topics.first() else { return };
    let Some(from) = present.get(&topic.name).map(|is| is.partitions).filter(|from| *from < topic.partitions)
    else {
        return;
    };
    if conditions::is_order_service_of_now(pipeline, observed, plan) {
        plan.changes.push(Change::GrowTopic { topic: topic.name.clone(), from, to: topic.partitions });
    } else {
        let message = format!(
            "grows from {from} to {} partitions once the order service runs as declared",
            topic.partitions
        );
        let waiting = Waiting { reason: GROWS_LATER, message };
        plan.waiting.insert(Part::Topic(topic.name.clone()), waiting);
    }
}

fn change(topic: &NewTopic, present: Option<&ObservedTopic>, record: Option<&TopicStatus>) -> Option<Change> {
    let Some(present) = present else {
        let lost = record.is_some_and(|record| record.id.is_some());
        return Some(Change::CreateTopic { topic: topic.clone(), lost });
    };
    let set: BTreeMap<String, String> = topic
        .config
        .iter()
        .filter(|(key, value)| !present.config.get(*key).is_some_and(|reported| kafka::same(value, reported)))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    // A topic that was made anew since has none of the keys we set.
    let record = record.filter(|record| is_known(Some(record), present));
    let owned = record.iter().flat_map(|record| &record.owned_configs);
    let reset: BTreeSet<String> = owned.filter(|key| !topic.config.contains_key(*key)).cloned().collect();
    let nothing = set.is_empty() && reset.is_empty();
    (!nothing).then(|| Change::ConfigureTopic { topic: topic.name.clone(), set, reset })
}
