//! Consumer groups as brokers show them: what there is to read, how far they have read it, and who reads what.

use std::collections::BTreeMap;

use super::error::Error;

/// A partition of a topic.
pub type Place = (String, i32);

/// The ends of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogEnd {
    /// Where the oldest record is, or will be.
    First,
    /// After the newest record.
    Last,
}

/// Whether a group's members have their partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// They have.
    Stable,
    /// They are being dealt out.
    Rebalancing,
    /// There are no members.
    Empty,
    /// The broker does not say.
    Unknown,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Id, which no other member has.
    pub id: String,
    /// Its client id, which our own consumers set to the name of their pod.
    pub client: String,
    /// Partitions that it has been given.
    pub reads: Vec<Place>,
}

/// A group's state and members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// State.
    pub state: GroupState,
    /// Members.
    pub members: Vec<Member>,
}

/// One group to look at, and in which topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupQuery {
    /// Id of the group.
    pub group: String,
    /// The topic that it reads.
    pub topic: String,
    /// Partitions of the topic.
    pub partitions: i32,
}

/// What was read of one partition, each by itself: what could not be read is an error and not zero.
#[derive(Clone, Debug)]
pub struct PartitionLook {
    /// First offset that the broker keeps.
    pub first: Result<i64, Error>,
    /// Offset after the last record.
    pub last: Result<i64, Error>,
    /// What the group has committed, if anything.
    pub committed: Result<Option<i64>, Error>,
}

/// What was read of one group.
#[derive(Clone, Debug)]
pub struct GroupLook {
    /// State and members.
    pub membership: Result<Membership, Error>,
    /// The partitions of its topic, by number.
    pub partitions: Vec<PartitionLook>,
}

/// What was read of several groups of one cluster.
pub type GroupLooks = BTreeMap<GroupQuery, GroupLook>;
