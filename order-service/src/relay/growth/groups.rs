//! What the consumer groups have read of the topic, by what they have committed.

use std::thread;
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, ClientContext};
use runtime::kafka::KafkaConnection;

use super::super::partitions;
use super::Obstacle;

/// Longest wait for one answer of a broker.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest look at all groups: a third of the time that a fence stands by default.
const LOOK_WITHIN: Duration = Duration::from_secs(10);

type Client = BaseConsumer<QuietContext>;

/// Clients that ask and never join: one for the topic, one for each group.
pub(super) struct Groups {
    clients: Option<Clients>,
}

struct Clients {
    topic: Client,
    groups: Vec<(String, Client)>,
}

/// A partition as one group has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Progress {
    /// The oldest offset there is.
    pub(super) low: i64,
    /// The offset of the next record.
    pub(super) high: i64,
    /// What the group has committed.
    pub(super) committed: Option<i64>,
}

impl Progress {
    /// Records that the group has still to read. A group that has committed nothing begins at the oldest; of a partition
    /// without records there is nothing to read, whatever was committed.
    pub(super) fn unread(self) -> i64 {
        let Self { low, high, committed } = self;
        (high - committed.unwrap_or(low).max(low)).max(0)
    }
}

impl Groups {
    /// Clients for `groups`. They connect in the background.
    ///
    /// # Errors
    /// When librdkafka refuses the settings.
    pub(super) fn new(kafka: &KafkaConnection, pod_name: &str, groups: &[String]) -> KafkaResult<Self> {
        let settings = kafka.client_config(&format!("order-service-growth-{pod_name}"));
        let client = |settings: &ClientConfig| settings.create_with_context(QuietContext);
        let groups = groups.iter().map(|group| {
            let mut settings = settings.clone();
            settings.set("group.id", group).set("enable.auto.commit", "false");
            Ok((group.clone(), client(&settings)?))
        });
        let groups = groups.collect::<KafkaResult<Vec<_>>>()?;
        Ok(Self { clients: Some(Clients { topic: client(&settings)?, groups }) })
    }

    /// Partitions that the topic has; `None` while it does not exist. Blocks.
    ///
    /// # Errors
    /// When the brokers do not answer.
    pub(super) fn partitions(&self, topic: &str) -> KafkaResult<Option<i32>> {
        let Some(Clients { topic: client, .. }) = &self.clients else { return Ok(None) };
        partitions::count(client.client(), topic, ANSWER_TIMEOUT)
    }

    /// The first group that has more than `bound` records to read of partitions below `old`, or has not taken note of one
    /// from there to `new`. Blocks.
    ///
    /// # Errors
    /// When the brokers do not answer.
    pub(super) fn obstacle(
        &self,
        topic: &str,
        (old, new): (i32, i32),
        bound: i64,
    ) -> KafkaResult<Option<Obstacle>> {
        let Some(clients) = &self.clients else { return Ok(None) };
        if clients.groups.is_empty() {
            return Ok(None);
        }
        let deadline = Instant::now() + LOOK_WITHIN;
        // The ends first: what is committed later is compared with what was there before.
        let mut ends = Vec::new();
        for partition in 0..old {
            in_time(deadline)?;
            ends.push(clients.topic.fetch_watermarks(topic, partition, ANSWER_TIMEOUT)?);
        }
        for (group, client) in &clients.groups {
            in_time(deadline)?;
            let committed = committed(client, topic, new)?;
            let unread = ends.iter().zip(&committed).map(|((low, high), committed)| {
                Progress { low: *low, high: *high, committed: *committed }.unread()
            });
            let unread: i64 = unread.sum();
            if unread > bound {
                return Ok(Some(Obstacle::Behind { group: group.clone(), unread }));
            }
            let unnoticed = (old..new).zip(committed.iter().skip(ends.len())).find(|(_, at)| at.is_none());
            if let Some((partition, _)) = unnoticed {
                return Ok(Some(Obstacle::Unnoticed { group: group.clone(), partition }));
            }
        }
        Ok(None)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        // Closing clients joins their threads: not on one that serves requests.
        if let Some(clients) = self.clients.take()
            && let Err(error) =
                thread::Builder::new().name("growth-drop".to_owned()).spawn(move || drop(clients))
        {
            tracing::debug!(%error, "closed the clients that looked at groups on this thread");
        }
    }
}

/// What the group of `client` has committed of each partition below `count`.
fn committed(client: &Client, topic: &str, count: i32) -> KafkaResult<Vec<Option<i64>>> {
    let mut wanted = TopicPartitionList::new();
    wanted.add_partition_range(topic, 0, count - 1);
    let found = client.committed_offsets(wanted, ANSWER_TIMEOUT)?;
    (0..count)
        .map(|partition| {
            let Some(element) = found.find_partition(topic, partition) else { return Ok(None) };
            element.error()?;
            Ok(match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            })
        })
        .collect()
}

fn in_time(deadline: Instant) -> KafkaResult<()> {
    let late = KafkaError::OffsetFetch(RDKafkaErrorCode::OperationTimedOut);
    if Instant::now() < deadline { Ok(()) } else { Err(late) }
}

/// Connection troubles are debugging detail: what fails because of them is said where it is handled.
#[derive(Clone, Copy, Debug)]
struct QuietContext;

impl ClientContext for QuietContext {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for QuietContext {}

#[cfg(test)]
mod tests {
    use super::*;

    fn unread(low: i64, high: i64, committed: impl Into<Option<i64>>) -> i64 {
        Progress { low, high, committed: committed.into() }.unread()
    }

    #[test]
    fn a_group_that_committed_nothing_has_everything_to_read() {
        assert_eq!(unread(3, 10, None), 7);
        assert_eq!(unread(10, 10, None), 0, "an empty partition has nothing to read");
    }

    #[test]
    fn what_has_expired_need_not_be_read() {
        assert_eq!(unread(8, 10, 5), 2);
        assert_eq!(unread(10, 10, 5), 0);
    }

    #[test]
    fn a_commit_at_the_end_or_beyond_it_leaves_nothing() {
        assert_eq!(unread(0, 10, 10), 0);
        assert_eq!(unread(0, 10, 12), 0, "the topic was made anew, say");
        assert_eq!(unread(0, 10, 9), 1);
    }
}
