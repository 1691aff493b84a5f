//! Kafka as the operator sees it: one cached handle per cluster, and the few requests it makes.

mod ffi;
mod error;
mod values;
mod shared;
mod admin;
mod handles;
mod drain;
mod groups;
mod heads;

use std::collections::BTreeMap;

pub use admin::Admin;
pub use drain::backlog;
pub use error::{Error, Severity};
pub use groups::{GroupLook, GroupLooks, GroupQuery, GroupState, Member, Membership, PartitionLook, Place};
pub use handles::Handles;
pub use heads::{FirstRecord, first_records};
pub use values::same;

/// A topic as the broker describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObservedTopic {
    /// Kafka's id of this very topic: a topic of the same name created later has another.
    pub id: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Copies of the least replicated partition.
    pub replication_factor: i32,
    /// Every configuration key with its value in force.
    pub config: BTreeMap<String, String>,
}

/// A topic to create.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewTopic {
    /// Name.
    pub name: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Copies of each partition; the broker's default when `None`.
    pub replication_factor: Option<i32>,
    /// Configuration to set.
    pub config: BTreeMap<String, String>,
}
