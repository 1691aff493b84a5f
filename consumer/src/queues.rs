//! What librdkafka fetched ahead, by partition: it stays there until the partition's worker has room for it.
//!
//! The usual way is to take everything from one queue and to pause a partition whose worker is behind. librdkafka then throws
//! away what it fetched of that partition and fetches it anew when it is resumed, so behind a sink that is slower than the
//! broker most of what is fetched is never used.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};

use rdkafka::consumer::BaseConsumer;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::KafkaResult;

use crate::rebalance::GroupContext;
use crate::record::Record;
use crate::worker::Report;

/// The queues of the partitions that this member has.
pub struct Queues {
    topic: String,
    /// Woken when something comes into an empty queue.
    waker: mpsc::Sender<Report>,
    queues: BTreeMap<i32, PartitionQueue<GroupContext>>,
}

impl Queues {
    /// None yet.
    #[must_use]
    pub const fn new(topic: String, waker: mpsc::Sender<Report>) -> Self {
        Self { topic, waker, queues: BTreeMap::new() }
    }

    /// From now on `partition` has a queue of its own. Before it is assigned: what is fetched until then would stand in the
    /// member's queue.
    pub fn split(&mut self, client: &Arc<BaseConsumer<GroupContext>>, partition: i32) {
        // There is none for a topic's name with a zero byte in it, which subscribing refused.
        let Some(mut queue) = client.split_partition_queue(&self.topic, partition) else { return };
        let waker = self.waker.clone();
        queue.set_nonempty_callback(move || wake(&waker));
        self.queues.insert(partition, queue);
    }

    /// The partition is no longer this member's.
    pub fn forget(&mut self, partition: i32) {
        self.queues.remove(&partition);
    }

    /// They keep the client alive, so they go before it.
    pub fn clear(&mut self) {
        self.queues.clear();
    }

    /// What comes next in `partition`, if it is here.
    pub fn next(&self, partition: i32) -> Option<KafkaResult<Record>> {
        let polled = self.queues.get(&partition)?.poll(std::time::Duration::ZERO)?;
        Some(polled.map(|message| Record::copied_from(&message)))
    }
}

/// Ends the poll loop's wait.
pub fn wake(waker: &mpsc::Sender<Report>) {
    // A loop that has ended waits no more.
    let _ = waker.send(Report::Wake);
}
