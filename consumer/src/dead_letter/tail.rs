//! Reads the dead-letter topic, so that this member knows which keys are stuck, whoever wrote their letters.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use runtime::kafka::KafkaConnection;

use super::QuietContext;
use super::mark::Kind;
use super::stuck::StuckKeys;
use crate::record::Record;

/// Longest wait for one question to the brokers; the caller asks again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether the topic grew, was made anew or lost its oldest letters.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);
/// Longest wait for an answer then: the poll loop stands still meanwhile.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// A long topic is read in slices of this time, between which the caller shows that it lives.
const SLICE: Duration = Duration::from_secs(2);
/// Wait for a record that is known to be there.
const RECORD_WAIT: Duration = Duration::from_millis(50);
/// Records taken at once while the caller has other things to do.
const FOLLOWED_AT_ONCE: usize = 100;
/// What is fetched ahead, in KiB: letters are few, and this is beside the consumer's own queue.
const QUEUE_KIB: &str = "4096";

/// The stuck keys, as the tail and the workers share them.
#[derive(Clone, Debug, Default)]
pub struct Stuck(Arc<Mutex<StuckKeys>>);

impl Stuck {
    /// The keys, for a moment.
    pub fn keys(&self) -> MutexGuard<'_, StuckKeys> {
        // A panic elsewhere leaves at worst one key more or less, which the next reading of the topic mends.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the reader met.
enum Met {
    /// A record, which is taken.
    Record,
    /// The present end of a partition.
    End(i32),
}

/// A reader of the whole dead-letter topic, which belongs to no group's assignment and commits nothing.
pub struct Tail {
    kafka: KafkaConnection,
    client_id: String,
    group: String,
    topic: String,
    stuck: Stuck,
    reader: BaseConsumer<QuietContext>,
    /// The next offset to be read, by partition.
    positions: BTreeMap<i32, i64>,
    /// When its ends were looked up last.
    looked: Option<Instant>,
}

impl Tail {
    /// A tail that has read nothing yet. It connects in the background.
    ///
    /// # Errors
    /// When librdkafka refuses the settings.
    pub fn new(
        kafka: &KafkaConnection,
        (client_id, group, topic): (&str, &str, &str),
        stuck: Stuck,
    ) -> KafkaResult<Self> {
        Ok(Self {
            reader: reader(kafka, client_id, group)?,
            kafka: kafka.clone(),
            client_id: client_id.to_owned(),
            group: group.to_owned(),
            topic: topic.to_owned(),
            stuck,
            positions: BTreeMap::new(),
            looked: None,
        })
    }

    /// Reads towards the topic's present end; `true` once it is reached. Without the topic nothing is stuck: letters can't be
    /// written either.
    ///
    /// # Errors
    /// When the brokers do not answer. The next call tries with a new client, which may reach them.
    pub fn catch_up(&mut self) -> KafkaResult<bool> {
        let reached = self.read_towards_end();
        if reached.is_err() {
            self.replace()?;
        }
        reached
    }

    /// How many keys are stuck.
    #[must_use]
    pub fn stuck_keys(&self) -> usize {
        self.stuck.keys().len()
    }

    /// Takes what has come since, without waiting; now and then it looks whether the topic is still the one it was.
    ///
    /// # Errors
    /// When librdkafka refuses the settings of a new client, which is made when the brokers do not answer this one.
    pub fn follow(&mut self) -> KafkaResult<()> {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_INTERVAL)
            && self.look(LOOK_TIMEOUT).is_err()
        {
            self.replace()?;
        }
        for _ in 0..FOLLOWED_AT_ONCE {
            if self.read_one(Duration::ZERO).is_none() {
                break;
            }
        }
        Ok(())
    }

    /// A new client in the place of one that may have forgotten all brokers (librdkafka#5301).
    ///
    /// # Errors
    /// When librdkafka refuses the settings.
    pub fn replace(&mut self) -> KafkaResult<()> {
        self.reader = reader(&self.kafka, &self.client_id, &self.group)?;
        self.assign()
    }

    /// The present ends of the topic's partitions, each of which is read from where it was, or from its beginning if that is no
    /// place in it: it is new, was made anew, or its letters have expired.
    fn look(&mut self, timeout: Duration) -> KafkaResult<BTreeMap<i32, i64>> {
        self.looked = Some(Instant::now());
        let (mut ends, mut moved) = (BTreeMap::new(), false);
        for partition in self.partitions(timeout)? {
            let (low, high) = self.reader.fetch_watermarks(&self.topic, partition, timeout)?;
            let known = self.positions.get(&partition).copied();
            if known.is_some_and(|known| known > high) {
                self.stuck.keys().forget(partition);
            }
            let expired = self.stuck.keys().expired(partition, low);
            if expired > 0 {
                tracing::error!(
                    topic = self.topic,
                    partition,
                    keys = expired,
                    "dead letters have expired before anybody replayed or discarded them; their events are lost"
                );
            }
            let position = known.filter(|known| (low..=high).contains(known)).unwrap_or(low);
            moved |= known != Some(position);
            self.positions.insert(partition, position);
            ends.insert(partition, high);
        }
        if moved {
            self.assign()?;
        }
        Ok(ends)
    }

    fn read_towards_end(&mut self) -> KafkaResult<bool> {
        let ends = self.look(ANSWER_TIMEOUT)?;
        if self.is_before(&ends) {
            // The client forgets what it met before, which may be an end that is one no more.
            self.assign()?;
        }
        let deadline = Instant::now() + SLICE;
        while self.is_before(&ends) {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            // The last offsets need not have records: a transaction's end is none.
            if let Some(Met::End(partition)) = self.read_one(RECORD_WAIT)
                && let Some(end) = ends.get(&partition)
            {
                let position = self.positions.entry(partition).or_insert(*end);
                *position = (*position).max(*end);
            }
        }
        Ok(true)
    }

    fn is_before(&self, ends: &BTreeMap<i32, i64>) -> bool {
        ends.iter().any(|(partition, end)| self.positions.get(partition) < Some(end))
    }

    /// Without the topic there are none.
    fn partitions(&self, timeout: Duration) -> KafkaResult<Vec<i32>> {
        let metadata = self.reader.fetch_metadata(Some(&self.topic), timeout)?;
        if metadata.brokers().is_empty() {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::AllBrokersDown));
        }
        let Some(topic) = metadata.topics().first() else { return Ok(Vec::new()) };
        match topic.error().map(RDKafkaErrorCode::from) {
            None => Ok(topic.partitions().iter().map(|partition| partition.id()).collect()),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                Ok(Vec::new())
            }
            Some(code) => Err(KafkaError::MetadataFetch(code)),
        }
    }

    fn assign(&self) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for (partition, position) in &self.positions {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(*position))?;
        }
        self.reader.assign(&list)
    }

    /// Takes what comes next, if anything does.
    fn read_one(&mut self, wait: Duration) -> Option<Met> {
        let message = match self.reader.poll(wait)? {
            Ok(message) => message,
            Err(KafkaError::PartitionEOF(partition)) => return Some(Met::End(partition)),
            // Single connections come and go. If none is left, the next look at the ends fails.
            Err(_) => return None,
        };
        let record = Record::copied_from(&message);
        drop(message);
        let kind = Kind::of(&record);
        if let (Some(_), Kind::Mark(mark)) = (&record.key, &kind) {
            tracing::info!(
                ending = mark.ending.name(),
                letters = mark.letters,
                "a key's dead letters are done with"
            );
        }
        self.positions.insert(record.partition, record.offset + 1);
        self.stuck.keys().read(&record, &kind);
        Some(Met::Record)
    }
}

/// A client that can be told what to read, and commits nothing.
///
/// # Errors
/// When librdkafka refuses the settings.
pub(super) fn reader(
    kafka: &KafkaConnection,
    client_id: &str,
    group: &str,
) -> KafkaResult<BaseConsumer<QuietContext>> {
    let mut config = kafka.client_config(&format!("{client_id}-dead-letters"));
    config
        // librdkafka assigns only with a group. This one is never joined.
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        // Only this tells that a log is read to its end where its last offsets have no records.
        .set("enable.partition.eof", "true")
        .set("queued.max.messages.kbytes", QUEUE_KIB);
    config.create_with_context(QuietContext)
}
