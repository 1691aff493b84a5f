//! What librdkafka tells while it is polled: rebalances and answers to commits, kept until the poll loop takes them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

/// A change of the assignment that waits for its answer. The group does not go on before it has one.
#[derive(Debug)]
pub enum Change {
    /// Partitions this member gets.
    Assign(TopicPartitionList),
    /// Partitions this member gives back.
    Revoke(TopicPartitionList),
    /// Partitions that others may have already: nothing of them may be committed.
    Lost(TopicPartitionList),
}

/// The answer to a commit that was not waited for: what the broker has now, or why it has not.
pub type CommitAnswer = KafkaResult<Vec<(i32, i64)>>;

/// The consumer's context.
///
/// A rebalance is *not* answered inside the callback: draining a partition is the poll loop's work, with the loop's
/// own state, and a step one can read there. The callback only writes it down.
#[derive(Debug, Default)]
pub struct GroupContext {
    mailbox: Mutex<Mailbox>,
    closing: AtomicBool,
}

#[derive(Debug, Default)]
struct Mailbox {
    changes: VecDeque<Change>,
    commits: VecDeque<CommitAnswer>,
}

impl GroupContext {
    /// The oldest change that waits.
    pub fn next_change(&self) -> Option<Change> {
        self.lock().changes.pop_front()
    }

    /// Puts a change back that can't be answered yet.
    pub fn put_back(&self, change: Change) {
        self.lock().changes.push_front(change);
    }

    /// Whether a change waits.
    pub fn has_change(&self) -> bool {
        !self.lock().changes.is_empty()
    }

    /// The oldest answer to a commit.
    pub fn next_commit(&self) -> Option<CommitAnswer> {
        self.lock().commits.pop_front()
    }

    /// From now on the poll loop answers nothing: every change is accepted at once, so that the consumer can close.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    // Both queues are plain: a panic elsewhere can't leave them half-written.
    fn lock(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes `list` from what the member has, in the group's protocol.
///
/// # Errors
/// When librdkafka does not expect it.
pub fn unassign(consumer: &BaseConsumer<GroupContext>, list: &TopicPartitionList) -> KafkaResult<()> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
        RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.unassign(),
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let assigned = code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Acquire) {
            // A failure leaves the broker to notice by the session's timeout that this member is gone.
            let _ = if assigned { consumer.unassign() } else { unassign(consumer, list) };
            return;
        }
        let list = list.clone();
        let change = if assigned {
            Change::Assign(list)
        } else if consumer.assignment_lost() {
            Change::Lost(list)
        } else {
            Change::Revoke(list)
        };
        self.lock().changes.push_back(change);
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let answer = result.map(|()| {
            let elements = offsets.elements();
            let taken = elements.iter().filter(|element| element.error().is_ok());
            taken
                .filter_map(|element| match element.offset() {
                    Offset::Offset(offset) => Some((element.partition(), offset)),
                    _ => None,
                })
                .collect()
        });
        self.lock().commits.push_back(answer);
    }
}

impl ClientContext for GroupContext {
    // librdkafka repeats its connection troubles every second. The poll loop logs them once per change of state, from
    // the errors that `poll` returns.
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}
