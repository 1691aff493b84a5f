//! Why the relay had to stop for a moment.

use std::time::Duration;

use rdkafka::error::KafkaError;

use crate::store::DatabaseError;

/// A failure of the relay. Each is retried; none loses an event.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The database failed; the producer goes on with what it has.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// No producer can be made of the settings.
    #[error("failed to create the producer")]
    Connect(#[source] KafkaError),
    /// The topic's metadata can't be had.
    #[error("failed to read the metadata of the topic")]
    Metadata(#[source] KafkaError),
    /// The topic has fewer partitions than its keys were mapped by: someone made it anew, or the record is wrong.
    #[error(
        "topic {topic} has {actual} partitions, recorded are {recorded}; give it back its partitions, or correct topic_partitions once every group has read all of it"
    )]
    Shrunk {
        /// The topic.
        topic: String,
        /// Partitions it has.
        actual: i32,
        /// Partitions by which keys are mapped.
        recorded: i32,
    },
    /// What the topic or its groups have can't be looked up; publishing goes on.
    #[error("failed to look whether the topic has grown")]
    Growth(#[source] KafkaError),
    /// The producer does not take an event.
    #[error("failed to hand outbox row {id} to the producer")]
    Produce {
        /// The row.
        id: i64,
        /// What librdkafka says.
        #[source]
        source: KafkaError,
    },
    /// The broker does not take an event.
    #[error("failed to deliver outbox row {id}")]
    Deliver {
        /// The row.
        id: i64,
        /// What librdkafka says.
        #[source]
        source: KafkaError,
    },
    /// The broker takes events alone, but not in a batch of the size we send.
    #[error("the topic refuses batches, but none of their events: smaller batches are sent")]
    BatchTooLarge,
    /// The producer takes an event for delivered that the broker may not have.
    #[error("the broker did not confirm outbox row {id}, which the producer takes for delivered")]
    Unconfirmed {
        /// The row.
        id: i64,
    },
    /// The producer failed for good.
    #[error("the producer failed for good: {0}")]
    Fatal(String),
    /// The broker answered for nothing of a partition for long.
    #[error("failed to get an acknowledgement from partition {partition} for {waited:?}")]
    Stalled {
        /// The partition.
        partition: i32,
        /// How long events waited there.
        waited: Duration,
    },
}

impl RelayError {
    /// A word for the metric.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Database(_) => "database",
            Self::Connect(_) => "connect",
            Self::Metadata(_) => "metadata",
            Self::Shrunk { .. } => "topic-shrunk",
            Self::Growth(_) => "growth",
            Self::Produce { .. } => "produce",
            Self::Deliver { .. } => "deliver",
            Self::BatchTooLarge => "batch-too-large",
            Self::Unconfirmed { .. } => "unconfirmed",
            Self::Fatal(_) => "producer-fatal",
            Self::Stalled { .. } => "stalled",
        }
    }
}
