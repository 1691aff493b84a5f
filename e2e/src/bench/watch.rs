//! Sees each record of a topic as soon as a consumer can, and says when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use super::backends::Arena;
use super::samples::micros;

/// How long one poll waits, and how long nothing may come for the watch to end.
const POLL: Duration = Duration::from_millis(200);
/// Longest wait for the first answer of the broker.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A consumer at work on a thread of its own.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    task: JoinHandle<anyhow::Result<Vec<(Uuid, u64)>>>,
}

impl Watch {
    /// Begins to watch the whole topic; times count from `start`.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub async fn begin(arena: &Arena, start: Instant) -> anyhow::Result<Self> {
        let consumer = arena.consumer()?;
        let mut assignment = TopicPartitionList::new();
        for partition in arena.partitions() {
            assignment.add_partition_offset(&arena.name, partition, Offset::Beginning)?;
        }
        consumer.assign(&assignment)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (topic, stopped) = (arena.name.clone(), Arc::clone(&stop));
        let task = tokio::task::spawn_blocking(move || {
            consumer.fetch_metadata(Some(&topic), REQUEST_TIMEOUT).context("Kafka does not answer")?;
            watch(&consumer, start, &stopped)
        });
        Ok(Self { stop, task })
    }

    /// Stops once nothing more comes, and answers every record's order with when it was seen.
    ///
    /// # Errors
    /// When the consumer failed.
    pub async fn end(self) -> anyhow::Result<Vec<(Uuid, u64)>> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

fn watch(consumer: &BaseConsumer, start: Instant, stop: &AtomicBool) -> anyhow::Result<Vec<(Uuid, u64)>> {
    let mut seen = Vec::new();
    loop {
        let Some(record) = consumer.poll(POLL) else {
            if stop.load(Ordering::Relaxed) {
                return Ok(seen);
            }
            continue;
        };
        let record = record?;
        let at = micros(start.elapsed());
        let key = std::str::from_utf8(record.key().context("a record without a key")?)?;
        seen.push((Uuid::parse_str(key)?, at));
    }
}
