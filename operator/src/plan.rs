//! Step 3, plan: the ordered changes that turn what is observed into what was validated. Pure: applying a plan and
//! planning again gives nothing.

mod topics;
mod workloads;
mod same;
mod records;
mod conditions;
mod standstill;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::kafka::{NewTopic, Severity};
use crate::observe::{ObjectKey, Observed};
use crate::render::Intent;
use crate::validate::{Part, ValidatedPipeline};

pub use conditions::{Finding, Verdict, assess, refused};
pub use records::remember;
pub use topics::GROWS_LATER;

/// One thing to change.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Create a topic that is not there.
    CreateTopic {
        /// The topic.
        topic: NewTopic,
        /// Whether there was one that we knew, and now it is gone.
        lost: bool,
    },
    /// Add partitions to a topic that has too few. The order service goes over to them by itself.
    GrowTopic {
        /// Name of the topic.
        topic: String,
        /// How many it has.
        from: i32,
        /// How many it is to have.
        to: i32,
    },
    /// Set and reset configuration keys.
    ConfigureTopic {
        /// Name of the topic.
        topic: String,
        /// Keys to set.
        set: BTreeMap<String, String>,
        /// Keys to return to the broker's default.
        reset: BTreeSet<String>,
    },
    /// Delete an object that the pipeline no longer has.
    DeleteObject {
        /// The object.
        key: ObjectKey,
        /// The very object: one of the same name made since is left alone.
        uid: String,
        /// The part it belonged to.
        part: Part,
    },
    /// Create an object, or give it back the fields that are the operator's.
    ApplyObject {
        /// The part it belongs to.
        part: Part,
        /// The manifest.
        intent: Intent,
        /// Why.
        why: Why,
    },
}

/// Why an object is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is not there.
    Missing,
    /// The intent changed.
    Changed,
    /// Somebody changed what is the operator's.
    Drifted {
        /// The first field that differs.
        field: String,
    },
}

impl Change {
    /// The part of the pipeline that the change serves.
    #[must_use]
    pub fn part(&self) -> Part {
        match self {
            Self::CreateTopic { topic, .. } => Part::Topic(topic.name.clone()),
            Self::GrowTopic { topic, .. } | Self::ConfigureTopic { topic, .. } => Part::Topic(topic.clone()),
            Self::DeleteObject { part, .. } | Self::ApplyObject { part, .. } => part.clone(),
        }
    }
}

impl Change {
    /// What is changed.
    #[must_use]
    pub fn target(&self) -> String {
        match self {
            Self::CreateTopic { topic, .. } => format!("topic {}", topic.name),
            Self::GrowTopic { topic, .. } | Self::ConfigureTopic { topic, .. } => format!("topic {topic}"),
            Self::DeleteObject { key, .. } => key.to_string(),
            Self::ApplyObject { intent, .. } => intent.key.to_string(),
        }
    }

    /// Kind of change, as a metric's label.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::CreateTopic { .. } => "create_topic",
            Self::GrowTopic { .. } => "grow_topic",
            Self::ConfigureTopic { .. } => "configure_topic",
            Self::DeleteObject { .. } => "delete_object",
            Self::ApplyObject { why: Why::Missing, .. } => "create_object",
            Self::ApplyObject { why: Why::Changed, .. } => "update_object",
            Self::ApplyObject { why: Why::Drifted { .. }, .. } => "repair_object",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateTopic { topic, .. } => {
                write!(f, "create topic {} with {} partitions", topic.name, topic.partitions)?;
                if let Some(copies) = topic.replication_factor {
                    write!(f, ", replication factor {copies}")?;
                }
                topic.config.iter().try_for_each(|(key, value)| write!(f, ", {key}={value}"))
            }
            Self::GrowTopic { topic, from, to } => {
                write!(f, "grow topic {topic} from {from} to {to} partitions")
            }
            Self::ConfigureTopic { topic, set, reset } => {
                let set = set.iter().map(|(key, value)| format!("set {key}={value}"));
                let parts: Vec<_> = set.chain(reset.iter().map(|key| format!("reset {key}"))).collect();
                write!(f, "configure topic {topic}: {}", parts.join(", "))
            }
            Self::DeleteObject { key, .. } => write!(f, "delete {key}"),
            Self::ApplyObject { intent, why, .. } => match why {
                Why::Missing => write!(f, "create {}", intent.key),
                Why::Changed => write!(f, "update {}", intent.key),
                Why::Drifted { field } => write!(f, "repair {}: {} was changed", intent.key, &field[1..]),
            },
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Changes, in the order in which to apply them: topics, then what is to go, then what is to come, then what is to grow.
    pub changes: Vec<Change>,
    /// Parts that wait for something, and for what.
    pub waiting: BTreeMap<Part, Waiting>,
}

/// What a part waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// CamelCase reason for the conditions.
    pub reason: &'static str,
    /// What it waits for, and what a person can do.
    pub message: String,
}

/// A change that could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setback {
    /// The part it belongs to.
    pub part: Part,
    /// Whether trying again soon can help.
    pub severity: Severity,
    /// What was refused, in the words of whoever refused.
    pub message: String,
}

/// What has to change.
#[must_use]
pub fn plan(pipeline: &ValidatedPipeline, observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    let topics_ready = topics::plan(pipeline, observed, &mut plan);
    workloads::plan_deletions(pipeline, observed, &mut plan);
    workloads::plan(pipeline, observed, topics_ready, &mut plan);
    topics::plan_growth(pipeline, observed, &mut plan);
    plan
}

#[cfg(test)]
mod tests;
