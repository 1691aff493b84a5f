//! Growth of the topic: the count by which keys are mapped is switched once nothing of the old mapping is left to be read.
//!
//! ```text
//! even ─ topic has more ─▶ waiting ─ nothing in the way ─▶ fenced ─ all have acknowledged, all groups are at the end ─▶ switched
//!                             ▲                              │
//!                             └──── broken, or out of time ──┘ (the old count again; tried again later)
//! ```
//!
//! The leader of shard 0 drives it, and every member takes part: behind the fence none hands an event over, and it
//! acknowledges the fence once what it had handed over is acknowledged and deleted. Orders go on into the outbox.
//!
//! Why no event overtakes another of its order at the switch, whatever clocks say:
//!
//! 4. The count is switched in one statement, and only while every shard has a leader who has acknowledged this very fence.
//!    Nobody but a shard's leader deletes from it ([`super::acknowledge`]), and what has been deleted was in the topic before its
//!    leader acknowledged the fence, and so below the ends of the partitions, which were looked up after that and which every
//!    group has committed. So what had left the outbox has been delivered; and what had not is all in the outbox still, from
//!    where each order goes on by the new count.
//! 5. Whoever does not know of the fence, as one that was frozen before it went up, has nothing in hand that was recorded
//!    later: what is read brings the name of the fence with it, and is not taken by who knows another ([`super::read`]). What
//!    it still sends by the old count is in order by itself, what comes before it in its order has been delivered, and it
//!    takes nothing out of the outbox.
//! 6. Nor is that anything new, as a rule. Whoever leads a shard after somebody whose word is missing (it crashed, froze beyond
//!    its lease, or dropped its producer) notes up to which row the outbox reached ([`super::lease`]); the fence goes up only
//!    when all of these were published again by the old count, and the switch is void if a shard was taken since. So a
//!    sleeper that wakes repeats what stands before it in the same partition, where consumers tell.
//! 7. A member that starts learns the count together with its first leases, and so no later than the fence or the switch. A
//!    binary that does not know of fences never acknowledges one: none goes up while such a member is known, which is for
//!    an hour after a crash of it. Nor does one while a member lives that was told of other groups or of another policy: in a rollout,
//!    no one goes by what the spec said before.
//! 8. A failover of the database may lose its last transactions. A fence is void on another server than that on which it went
//!    up, and no two fences have the same name, so nobody's word for one that is forgotten counts for another. With a switch
//!    everything after it is lost, deletions above all; and who still maps by the new count deletes nothing from a database
//!    that records the old one. So all that was published by the new count is published again, in order, by the old one.
//!
//! What remains: a binary of before this module that starts in the very moment of the switch (it has read the old count, and
//! nobody knows of it yet) keeps the old one; and an at-most-once group commits before it delivers, so at the switch its last
//! events may still be on their way.

pub(super) mod fence;
mod clients;
mod driver;
mod member;

use std::fmt;
use std::time::{Duration, Instant};

pub(super) use driver::Driver;

/// Time from one look at the topic to the next: growth is a rare event, and nobody waits for it.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The same while the fence is up: orders wait.
const FENCED_LOOK_EVERY: Duration = Duration::from_millis(50);
/// The same after a look behind the fence that failed: every client is made anew for it.
const FAILED_LOOK_EVERY: Duration = Duration::from_secs(1);
/// First pause after a fence that came down without a switch.
const RETRY_MIN: Duration = Duration::from_secs(10);
/// Longest such pause: each attempt holds events up for a while.
const RETRY_MAX: Duration = Duration::from_secs(300);

/// By which count keys are mapped, as the database has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// The count.
    pub partitions: i32,
    /// Another number after each fence that went up or came down; no two fences ever have the same.
    pub epoch: i64,
    /// What the count is to be, while a fence is up.
    pub growing_to: Option<i32>,
}

impl Mapping {
    /// The fence that is up.
    #[must_use]
    pub fn fence(&self) -> Option<i64> {
        self.growing_to.map(|_| self.epoch)
    }
}

/// What is in the way of a switch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// Nobody has said which groups there are.
    GroupsUnknown,
    /// A replica runs, or did until an hour ago, that knows of no fence.
    OldReplica(String),
    /// A replica runs by other rules of growth: a rollout is under way.
    OtherTerms(String),
    /// What a leader had sent before it was replaced is not published again.
    Doubtful,
    /// A group has more to read than it can in a moment, or something and does not get on; behind the fence, anything at all.
    Behind {
        /// The group.
        group: String,
        /// Records.
        unread: i64,
    },
    /// A group has committed nothing of a new partition: it may not know of it.
    Unnoticed {
        /// The group.
        group: String,
        /// The partition.
        partition: i32,
    },
    /// So many have not acknowledged the fence.
    InFlight(i64),
}

impl Obstacle {
    /// A word for the metric.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::GroupsUnknown => "groups-unknown",
            Self::OldReplica(_) => "old-replica",
            Self::OtherTerms(_) => "rollout",
            Self::Doubtful => "doubtful",
            Self::Behind { .. } => "group-behind",
            Self::Unnoticed { .. } => "group-unaware",
            Self::InFlight(_) => "in-flight",
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GroupsUnknown => {
                f.write_str("CONSUMER_GROUPS does not say which groups are to be waited for")
            }
            Self::OldReplica(owner) => write!(f, "replica {owner} is of a version that can't take part"),
            Self::OtherTerms(owner) => {
                write!(f, "replica {owner} has other values of CONSUMER_GROUPS or PARTITION_GROWTH")
            }
            Self::Doubtful => f.write_str("what a replaced leader had sent is being published again"),
            Self::Behind { group, unread } => write!(f, "group {group} has {unread} records to read"),
            Self::Unnoticed { group, partition } => {
                write!(f, "group {group} has committed nothing of the new partition {partition} yet")
            }
            Self::InFlight(missing) => write!(f, "{missing} acknowledgements of the fence are missing"),
        }
    }
}

/// What one look came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// The topic has as many partitions as keys are mapped by.
    Even,
    /// Something is in the way.
    Waits(Obstacle),
    /// The fence is up, and something is still to be waited for.
    Fenced(Obstacle),
    /// The database has moved on: look at it again.
    Stale,
    /// The fence went up.
    PutUp(i32),
    /// The fence was taken down: a shard changed hands, or another server serves the database.
    Broken,
    /// The count is switched to this.
    Switched(i32),
}

/// When the next look is due. Pure.
#[derive(Debug)]
pub(super) struct Rhythm {
    due: Instant,
    /// Pause after the next fence that comes down without a switch.
    retry: Duration,
    /// Where a fence was seen: its epoch, and the count before it.
    seen: Option<(i64, i32)>,
    said: Option<&'static str>,
}

impl Rhythm {
    /// A look is due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now, retry: RETRY_MIN, seen: None, said: None }
    }

    /// Takes in how the database stands: a fence that came down in vain is followed by a pause, each longer than the last.
    pub(super) fn see(&mut self, mapping: Mapping, now: Instant) {
        match (self.seen, mapping.fence()) {
            (Some((epoch, _)), Some(fence)) if epoch == fence => {}
            (Some((_, before)), None) => {
                self.seen = None;
                if mapping.partitions == before {
                    self.due = now + self.retry;
                    self.retry = (self.retry * 2).min(RETRY_MAX);
                } else {
                    self.retry = RETRY_MIN;
                    self.due = now + LOOK_EVERY;
                }
            }
            (_, Some(fence)) => {
                self.seen = Some((fence, mapping.partitions));
                self.due = now;
            }
            (None, None) => {}
        }
    }

    /// True when a look is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due <= now
    }

    /// A look is over.
    pub(super) fn looked(&mut self, step: Option<&Step>, now: Instant) {
        let pause = match step {
            Some(Step::Fenced(_) | Step::PutUp(_) | Step::Stale) => FENCED_LOOK_EVERY,
            Some(Step::Even | Step::Waits(_) | Step::Broken | Step::Switched(_)) => LOOK_EVERY,
            None if self.seen.is_some() => FAILED_LOOK_EVERY,
            None => LOOK_EVERY,
        };
        self.due = self.due.max(now + pause);
    }

    /// True when the reason is another one than before: each is said once.
    pub(super) fn is_news(&mut self, kind: Option<&'static str>) -> bool {
        std::mem::replace(&mut self.said, kind) != kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(partitions: i32, epoch: i64, growing_to: Option<i32>) -> Mapping {
        Mapping { partitions, epoch, growing_to }
    }

    #[test]
    fn a_fence_is_looked_at_often_and_everything_else_is_not() {
        let now = Instant::now();
        let mut rhythm = Rhythm::new(now);
        assert!(rhythm.is_due(now));
        rhythm.looked(Some(&Step::Even), now);
        assert!(!rhythm.is_due(now + FENCED_LOOK_EVERY) && rhythm.is_due(now + LOOK_EVERY));
        rhythm.see(mapping(3, 1, Some(6)), now);
        assert!(rhythm.is_due(now));
        rhythm.looked(Some(&Step::Fenced(Obstacle::InFlight(1))), now);
        assert!(!rhythm.is_due(now) && rhythm.is_due(now + FENCED_LOOK_EVERY));
    }

    #[test]
    fn each_fence_that_came_down_in_vain_is_followed_by_a_longer_pause() {
        let mut now = Instant::now();
        let mut rhythm = Rhythm::new(now);
        for pause in [10, 20, 40, 80, 160, 300, 300] {
            rhythm.see(mapping(3, 1, Some(6)), now);
            rhythm.see(mapping(3, 2, None), now);
            let pause = Duration::from_secs(pause);
            assert!(!rhythm.is_due(now + pause - Duration::from_millis(1)) && rhythm.is_due(now + pause));
            now += pause;
        }
        rhythm.see(mapping(3, 3, Some(6)), now);
        rhythm.see(mapping(6, 4, None), now);
        rhythm.see(mapping(6, 5, Some(9)), now);
        rhythm.see(mapping(6, 6, None), now);
        assert!(rhythm.is_due(now + RETRY_MIN), "after a switch it begins anew");
    }

    #[test]
    fn a_pause_is_not_cut_short_by_a_look_that_ends_late() {
        let now = Instant::now();
        let mut rhythm = Rhythm::new(now);
        rhythm.see(mapping(3, 1, Some(6)), now);
        rhythm.see(mapping(3, 2, None), now);
        rhythm.looked(Some(&Step::Stale), now);
        assert!(!rhythm.is_due(now + LOOK_EVERY) && rhythm.is_due(now + RETRY_MIN));
    }

    #[test]
    fn a_reason_is_said_once() {
        let mut rhythm = Rhythm::new(Instant::now());
        assert!(rhythm.is_news(Some("group-behind")) && !rhythm.is_news(Some("group-behind")));
        assert!(rhythm.is_news(None) && !rhythm.is_news(None));
    }
}
