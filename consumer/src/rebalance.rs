//! What librdkafka tells of the group while it is polled, kept until the poll loop answers it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionList;
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

/// The consumer's context.
///
/// A rebalance is *not* answered inside the callback: draining a partition is the poll loop's work, with the loop's
/// own state, and a step one can read there. The callback only writes it down.
#[derive(Debug, Default)]
pub struct GroupContext {
    changes: Mutex<VecDeque<Change>>,
    closing: AtomicBool,
}

impl GroupContext {
    /// The oldest change that waits.
    pub fn next_change(&self) -> Option<Change> {
        self.lock().pop_front()
    }

    /// Puts a change back that can't be answered yet.
    pub fn put_back(&self, change: Change) {
        self.lock().push_front(change);
    }

    /// How many changes wait.
    pub fn changes(&self) -> usize {
        self.lock().len()
    }

    /// From now on the poll loop answers nothing: every change is accepted at once, so that the consumer can close.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    // The queue is plain: a panic elsewhere can't leave it half-written.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Change>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.lock().push_back(change);
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
