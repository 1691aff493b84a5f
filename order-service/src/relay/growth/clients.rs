//! What the topic has, and what the consumer groups have read of it, by what they have committed.

use std::ops::Deref;
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
/// No further group is asked after this: a third of the time that a fence stands by default.
const LOOK_WITHIN: Duration = Duration::from_secs(10);

type Client = BaseConsumer<QuietContext>;

/// A client for the topic.
pub(super) struct Topic {
    name: String,
    client: Apart<Client>,
}

/// Clients for groups, which ask and never join.
pub(super) struct Groups(Apart<Vec<(String, Client)>>);

/// How a group stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Standings {
    /// Its name.
    pub(super) group: String,
    /// Records that it has still to read of the old partitions.
    pub(super) unread: i64,
    /// Sum of what it has committed of them: grows as it reads.
    pub(super) committed: i64,
    /// A new partition of which it has committed nothing.
    pub(super) unnoticed: Option<i32>,
}

/// What is dropped on a thread of its own: closing clients joins their threads, which is not for one that serves requests.
struct Apart<T: Send + 'static>(Option<T>);

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
    /// Records that the group has still to read. A group that has committed nothing begins at the oldest, as does one whose commit
    /// is beyond the end: that is of a topic that was made anew since.
    pub(super) fn unread(self) -> i64 {
        let Self { low, high, committed } = self;
        high - committed.filter(|committed| *committed <= high).unwrap_or(low).max(low)
    }
}

impl Topic {
    /// A client for the topic of this name. It connects in the background.
    ///
    /// # Errors
    /// When librdkafka refuses the settings.
    pub(super) fn new(kafka: &KafkaConnection, pod_name: &str, name: &str) -> KafkaResult<Self> {
        let mut settings = settings(kafka, pod_name);
        // What stands behind somebody's open transaction is there all the same, and has yet to be read.
        settings.set("isolation.level", "read_uncommitted");
        Ok(Self { name: name.to_owned(), client: Apart(Some(settings.create_with_context(QuietContext)?)) })
    }

    /// Partitions that the topic has; `None` while it does not exist. Blocks.
    ///
    /// # Errors
    /// When the brokers do not answer.
    pub(super) fn partitions(&self) -> KafkaResult<Option<i32>> {
        partitions::count(self.client.client(), &self.name, ANSWER_TIMEOUT)
    }

    /// The oldest offset of each partition below `count`, and that of its next record. Blocks.
    fn ends(&self, count: i32, deadline: Instant) -> KafkaResult<Vec<(i64, i64)>> {
        let end = |partition| {
            in_time(deadline)?;
            self.client.fetch_watermarks(&self.name, partition, ANSWER_TIMEOUT)
        };
        (0..count).map(end).collect()
    }
}

impl Groups {
    /// Clients for the groups of these names. They connect in the background.
    ///
    /// # Errors
    /// When librdkafka refuses the settings.
    pub(super) fn new(
        kafka: &KafkaConnection,
        pod_name: &str,
        names: impl Iterator<Item = String>,
    ) -> KafkaResult<Self> {
        let client = |name: String| {
            let mut settings = settings(kafka, pod_name);
            settings.set("group.id", &name).set("enable.auto.commit", "false");
            Ok((name, settings.create_with_context(QuietContext)?))
        };
        Ok(Self(Apart(Some(names.map(client).collect::<KafkaResult<_>>()?))))
    }

    /// How each group stands, as to what it has to read of `topic` in partitions below `old`, and whether it has taken note of those
    /// from there to `new`. Blocks.
    ///
    /// # Errors
    /// When the brokers do not answer.
    pub(super) fn standings(&self, topic: &Topic, (old, new): (i32, i32)) -> KafkaResult<Vec<Standings>> {
        if self.0.is_empty() {
            return Ok(Vec::new());
        }
        let deadline = Instant::now() + LOOK_WITHIN;
        // The ends first: what is committed later is compared with what was there before.
        let ends = topic.ends(old, deadline)?;
        let standing = |(group, client): &(String, Client)| {
            in_time(deadline)?;
            let committed = committed(client, &topic.name, new)?;
            let progress = ends.iter().zip(&committed).map(|((low, high), committed)| Progress {
                low: *low,
                high: *high,
                committed: *committed,
            });
            Ok(Standings {
                group: group.clone(),
                unread: progress.map(Progress::unread).sum(),
                committed: committed.iter().take(ends.len()).flatten().sum(),
                unnoticed: (old..new)
                    .zip(committed.iter().skip(ends.len()))
                    .find(|(_, at)| at.is_none())
                    .map(|(at, _)| at),
            })
        };
        self.0.iter().map(standing).collect()
    }
}

/// The first group that has more than `bound` records to read, or has not taken note of a new partition.
pub(super) fn obstacle(groups: &[Standings], bound: i64) -> Option<Obstacle> {
    groups.iter().find_map(|Standings { group, unread, unnoticed, .. }| {
        let behind = (*unread > bound).then(|| Obstacle::Behind { group: group.clone(), unread: *unread });
        behind.or_else(|| unnoticed.map(|partition| Obstacle::Unnoticed { group: group.clone(), partition }))
    })
}

/// The first group that has something to read and has read nothing since `before`: for one whose sink is away, say, publishing
/// would rest in vain, again and again.
pub(super) fn at_rest(before: &[Standings], now: &[Standings]) -> Option<Obstacle> {
    let read =
        |is: &Standings| before.iter().any(|was| was.group == is.group && was.committed < is.committed);
    let resting = now.iter().find(|is| is.unread > 0 && !read(is))?;
    Some(Obstacle::Behind { group: resting.group.clone(), unread: resting.unread })
}

impl<T: Send + 'static> Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is taken only by drop")
    }
}

impl<T: Send + 'static> Drop for Apart<T> {
    fn drop(&mut self) {
        let inner = self.0.take();
        let dropping = thread::Builder::new().name("growth-drop".to_owned());
        if let Err(error) = dropping.spawn(move || drop(inner)) {
            tracing::debug!(%error, "closed clients on this thread");
        }
    }
}

fn settings(kafka: &KafkaConnection, pod_name: &str) -> ClientConfig {
    kafka.client_config(&format!("order-service-growth-{pod_name}"))
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
    fn a_commit_at_the_end_leaves_nothing_and_one_beyond_it_is_of_another_topic() {
        assert_eq!(unread(0, 10, 10), 0);
        assert_eq!(unread(0, 10, 9), 1);
        assert_eq!(unread(0, 10, 12), 10, "the topic was made anew");
    }

    fn standing(unread: i64, committed: i64) -> Vec<Standings> {
        vec![Standings { group: "a".to_owned(), unread, committed, unnoticed: None }]
    }

    #[test]
    fn a_group_that_has_something_to_read_must_have_read_something_since_the_last_look() {
        assert!(at_rest(&[], &standing(0, 7)).is_none(), "it is at the end");
        assert!(at_rest(&[], &standing(5, 7)).is_some(), "nobody knows yet");
        assert!(at_rest(&standing(5, 7), &standing(5, 7)).is_some(), "its sink is away, say");
        assert!(at_rest(&standing(5, 7), &standing(9, 8)).is_none());
    }

    #[test]
    fn a_group_may_have_only_so_much_to_read_and_must_know_of_every_partition() {
        assert!(obstacle(&standing(5, 7), 5).is_none() && obstacle(&standing(6, 7), 5).is_some());
        let unaware = Standings { unnoticed: Some(3), ..standing(0, 7).remove(0) };
        assert_eq!(obstacle(&[unaware], 5).map(|obstacle| obstacle.kind()), Some("group-unaware"));
    }
}
