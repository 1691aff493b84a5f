//! Scaling by age: from what was read of a group's partitions to how many pods it should have, and why.
//!
//! ```text
//!           ┌▶ age, rates, stalls ─┐
//! signals ──┤   (memory)           ├─▶ fit ─▶ decide ─▶ Decision { replicas, verdict, reason }
//!           └▶ sink: did the last step help? ┘
//! ```
//!
//! Pure: nothing here reads a clock, a broker or a cluster. What a decision needs of earlier ticks is a [`Memory`] that is passed in
//! and returned, so that the simulator (`scaling-sim`) drives the very same code through hours in milliseconds.

mod signals;
mod age;
mod rates;
mod stalls;
mod fit;
mod window;
mod memory;
mod sink;
mod decide;
mod verdict;
mod telling;
mod service;
#[cfg(test)]
mod tests;

use crate::crd::StartFrom;

pub use age::Age;
pub use decide::decide;
pub use memory::Memory;
pub use service::{Pod, ServiceMemory, ServiceObservation, ServicePolicy, decide_service};
pub use signals::{Backlog, Committed, Head, Reading, Seconds};
pub use telling::{Telling, Told};
pub use verdict::Verdict;

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Fewest pods; with 0 the group rests when there is nothing to do.
    pub min: u32,
    /// Most pods.
    pub max: u32,
    /// How long a record may wait, in seconds.
    pub target_age: Seconds,
    /// Time in which a backlog should be worked off, in seconds.
    pub catch_up: Seconds,
    /// Where the group starts in a partition without a commit.
    pub start_from: StartFrom,
    /// After how long the broker deletes records, in seconds, if it does.
    pub retention: Option<Seconds>,
}

/// What was seen of a group in one tick.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// When, in seconds.
    pub at: Seconds,
    /// Pods that were asked for.
    pub replicas: u32,
    /// Members of the group that are up.
    pub ready: u32,
    /// Whether the group is dealing out its partitions anew.
    pub rebalancing: bool,
    /// Whether the topic is about to get more partitions.
    pub growing: bool,
    /// The partitions by number; none when they could not be read.
    pub partitions: &'a [Reading],
}

/// How many pods, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Pods to ask for.
    pub replicas: u32,
    /// The reason as one word, for conditions, Events and alerts.
    pub verdict: Verdict,
    /// The reason as a sentence. It carries no figure that changes from tick to tick: a status that is written holds still.
    pub reason: String,
}
