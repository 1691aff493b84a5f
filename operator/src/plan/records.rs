//! What the status remembers of the topics. Pure.

use std::collections::BTreeMap;

use super::{Change, Observed};
use crate::crd::TopicStatus;
use crate::kafka::{self, NewTopic, ObservedTopic};
use crate::observe::KafkaView;
use crate::validate::{ValidatedPipeline, is_known};

/// The records after `done` was applied and `observed` was seen.
///
/// A topic of the spec that is seen is recorded with its id, whether created or taken; topics that left the spec stay
/// recorded, so that a later deletion knows them.
#[must_use]
pub fn remember(
    pipeline: &ValidatedPipeline,
    observed: &Observed,
    done: &[Change],
) -> BTreeMap<String, TopicStatus> {
    let mut records = observed.records.clone();
    let KafkaView::Topics(present) = &observed.kafka else { return records };
    for topic in &pipeline.topics {
        if let Some(present) = present.get(&topic.name) {
            let record = record(topic, present, observed.records.get(&topic.name), done);
            records.insert(topic.name.clone(), record);
        }
    }
    records
}

fn record(
    topic: &NewTopic,
    present: &ObservedTopic,
    before: Option<&TopicStatus>,
    done: &[Change],
) -> TopicStatus {
    let created = done
        .iter()
        .any(|change| matches!(change, Change::CreateTopic { topic: new, .. } if new.name == topic.name));
    // A topic made now, or anew by someone else, has none of what was remembered of its namesake.
    let before = before.filter(|before| !created && is_known(Some(before), present));
    let changed = done.iter().find_map(|change| match change {
        Change::ConfigureTopic { topic: name, set, reset } if *name == topic.name => Some((set, reset)),
        _ => None,
    });
    let declared = topic.config.iter().filter(|(key, value)| {
        let there = present.config.get(*key).is_some_and(|reported| kafka::same(value, reported));
        created || there || changed.is_some_and(|(set, _)| set.contains_key(*key))
    });
    // Keys that left the spec stay owned until they are reset.
    let left = before.iter().flat_map(|before| &before.owned_configs);
    let left = left.filter(|key| !changed.is_some_and(|(_, reset)| reset.contains(*key)));
    TopicStatus {
        name: topic.name.clone(),
        id: Some(present.id.clone()),
        partitions: Some(present.partitions),
        created_by_us: created || before.is_some_and(|before| before.created_by_us),
        owned_configs: declared.map(|(key, _)| key).chain(left).cloned().collect(),
    }
}
