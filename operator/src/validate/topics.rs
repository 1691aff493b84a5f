//! The topics a pipeline is to have, and whether those that are there may be taken.

use std::collections::{BTreeMap, BTreeSet};

use super::{Problem, Reason, conflicts};
use crate::crd::{AdoptionPolicy, GrowthPolicy, OrderPipeline, TopicStatus};
use crate::kafka::{self, NewTopic, ObservedTopic};
use crate::names;
use crate::observe::{KafkaView, Observed, topic_name};

/// Kafka's bound on the length of a topic's name.
const TOPIC_NAME_MAX: usize = 249;

const MAX_MESSAGE_BYTES: &str = "max.message.bytes";

/// What a dead-letter record is larger than the original by: the headers that say why and where from.
const DEAD_LETTER_HEADROOM_BYTES: u64 = 64 * 1024;

/// The topics to have, the main one first.
pub(super) fn intents(pipeline: &OrderPipeline) -> Vec<NewTopic> {
    let main = &pipeline.spec.topic;
    let name = topic_name(pipeline);
    let dead_letters = pipeline.spec.consumer_groups.iter().map(|group| NewTopic {
        name: dead_letter_name(&name, group),
        partitions: main.partitions,
        replication_factor: main.replication_factor,
        config: dead_letter_config(&main.config, &group.dead_letter.config),
    });
    let own = NewTopic {
        name: name.clone(),
        partitions: main.partitions,
        replication_factor: main.replication_factor,
        config: main.config.clone(),
    };
    [own].into_iter().chain(dead_letters).collect()
}

pub(crate) fn dead_letter_name(topic: &str, group: &crate::crd::ConsumerGroupSpec) -> String {
    group.dead_letter.topic.clone().unwrap_or_else(|| names::dead_letter_topic(topic, &group.name))
}

/// A record that just fits the main topic must fit the dead-letter topic with its further headers, or it would block
/// its partition for ever.
fn dead_letter_config(
    main: &BTreeMap<String, String>,
    own: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut config = own.clone();
    if let Some(bytes) = main.get(MAX_MESSAGE_BYTES).and_then(|bytes| bytes.parse::<u64>().ok()) {
        let enough = bytes.saturating_add(DEAD_LETTER_HEADROOM_BYTES).to_string();
        config.entry(MAX_MESSAGE_BYTES.to_owned()).or_insert(enough);
    }
    config
}

pub(super) fn problems(pipeline: &OrderPipeline, topics: &[NewTopic], observed: &Observed) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, topic) in topics.iter().enumerate() {
        let field = field(pipeline, index);
        if !is_legal(&topic.name) {
            problems.push(Problem::new(
                Reason::InvalidSpec,
                &field,
                format!(
                    "{:?} is no topic name: use at most {TOPIC_NAME_MAX} letters, digits, '.', '_' and '-'",
                    topic.name
                ),
            ));
        }
        if !seen.insert(&topic.name) {
            let message = format!("topic {} is named twice in this pipeline: give each its own", topic.name);
            problems.push(Problem::new(Reason::InvalidSpec, &field, message));
        }
        if !conflicts::is_another_s(&topic.name, observed)
            && let KafkaView::Topics(present) = &observed.kafka
            && let Some(present) = present.get(&topic.name)
        {
            let record = observed.records.get(&topic.name);
            problems.extend(present_problems(pipeline, &field, topic, present, record));
        }
    }
    problems
}

/// Whether this very topic is one we created or took before.
#[must_use]
pub(crate) fn is_known(record: Option<&TopicStatus>, present: &ObservedTopic) -> bool {
    // A record without an id is an intention: we were about to create it, and nobody else was seen to.
    record.is_some_and(|record| record.id.as_ref().is_none_or(|id| *id == present.id))
}

fn present_problems(
    pipeline: &OrderPipeline,
    field: &str,
    topic: &NewTopic,
    present: &ObservedTopic,
    record: Option<&TopicStatus>,
) -> Vec<Problem> {
    if is_known(record, present) {
        return mismatches(pipeline, topic, present);
    }
    let name = &topic.name;
    let was =
        if record.is_some() { "was deleted and created anew by someone else" } else { "was there before" };
    match pipeline.spec.topic.adoption {
        AdoptionPolicy::Refuse => vec![Problem::new(
            Reason::TopicRefused,
            field,
            format!(
                "topic {name} {was} and adoption is Refuse: name another topic, or set adoption: AdoptIfIdentical"
            ),
        )],
        AdoptionPolicy::Adopt => mismatches(pipeline, topic, present),
        AdoptionPolicy::AdoptIfIdentical => {
            let differences = differences(topic, present);
            if differences.is_empty() {
                return Vec::new();
            }
            let message = format!(
                "topic {name} {was} and differs ({}): declare it as it is, change it in Kafka, or set adoption: Adopt",
                differences.join(", ")
            );
            vec![Problem::new(Reason::TopicRefused, field, message)]
        }
    }
}

/// Differences of a topic of ours that this version can't remove.
fn mismatches(pipeline: &OrderPipeline, topic: &NewTopic, present: &ObservedTopic) -> Vec<Problem> {
    let mut problems = Vec::new();
    let name = &topic.name;
    let has = present.partitions;
    let growth = pipeline.spec.topic.growth_policy;
    // Dead letters need no certain number: the spec has none for them, and any will do.
    let partitions = if *name != topic_name(pipeline) {
        None
    } else if has > topic.partitions {
        Some(format!("topic {name} has {has} partitions, and Kafka can't remove any: set {has}"))
    } else if has < topic.partitions && growth == GrowthPolicy::Never {
        Some(format!("topic {name} has {has} partitions and growthPolicy is Never: set {has}"))
    } else {
        None
    };
    if let Some(message) = partitions {
        problems.push(Problem::new(Reason::TopicMismatch, "spec.topic.partitions", message));
    }
    if let Some(wanted) = topic.replication_factor
        && wanted != present.replication_factor
    {
        let has = present.replication_factor;
        let message = format!(
            "topic {name} has replication factor {has}; changing it is not supported: set {has}, or leave it out"
        );
        problems.push(Problem::new(Reason::TopicMismatch, "spec.topic.replicationFactor", message));
    }
    problems
}

/// Every way in which a topic that was there before is not as declared.
fn differences(topic: &NewTopic, present: &ObservedTopic) -> Vec<String> {
    let mut differences = Vec::new();
    if topic.partitions != present.partitions {
        differences.push(format!("partitions: declared {}, there {}", topic.partitions, present.partitions));
    }
    if let Some(wanted) = topic.replication_factor
        && wanted != present.replication_factor
    {
        differences
            .push(format!("replicationFactor: declared {wanted}, there {}", present.replication_factor));
    }
    for (key, wanted) in &topic.config {
        let there = present.config.get(key);
        if !there.is_some_and(|there| kafka::same(wanted, there)) {
            let there = there.map_or("nothing", String::as_str);
            differences.push(format!("{key}: declared {wanted}, there {there}"));
        }
    }
    differences
}

pub(super) fn field(pipeline: &OrderPipeline, index: usize) -> String {
    match index.checked_sub(1).and_then(|group| pipeline.spec.consumer_groups.get(group)) {
        None => "spec.topic".to_owned(),
        Some(group) => format!("spec.consumerGroups[{}].deadLetter.topic", group.name),
    }
}

fn is_legal(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.len() <= TOPIC_NAME_MAX && name.chars().all(legal) && name != "." && name != ".."
}
