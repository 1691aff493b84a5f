//! Reads the dead-letter topic once, from its beginning to the end it has when the reading begins. Blocking.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use runtime::kafka::KafkaConnection;

use super::QuietContext;
use super::tail::reader;
use crate::record::Record;

/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Reads the topic as often as it is asked to.
pub struct DeadLetterReader {
    client: BaseConsumer<QuietContext>,
    topic: String,
}

impl DeadLetterReader {
    /// A reader that has read nothing. It connects in the background.
    ///
    /// # Errors
    /// When librdkafka refuses the settings.
    pub fn new(kafka: &KafkaConnection, client_id: &str, group: &str, topic: &str) -> anyhow::Result<Self> {
        let client = reader(kafka, client_id, group).context("failed to set up the Kafka client")?;
        Ok(Self { client, topic: topic.to_owned() })
    }

    /// Gives every record to `visit`, those of a partition in their order.
    ///
    /// # Errors
    /// When the brokers do not answer, the topic does not exist, or `visit` fails.
    pub fn read(&self, mut visit: impl FnMut(Record) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let topic = &self.topic;
        let metadata =
            self.client.fetch_metadata(Some(topic), ANSWER_TIMEOUT).context("failed to reach Kafka")?;
        let found = metadata.topics().first().filter(|found| found.error().is_none());
        let partitions: Vec<i32> = found
            .map(|found| found.partitions().iter().map(|partition| partition.id()).collect())
            .unwrap_or_default();
        if partitions.is_empty() {
            bail!("failed to read topic {topic:?}: it does not exist");
        }
        for partition in partitions {
            self.read_partition(partition, &mut visit)
                .with_context(|| format!("failed to read partition {partition} of topic {topic:?}"))?;
        }
        Ok(())
    }

    fn read_partition(
        &self,
        partition: i32,
        visit: &mut impl FnMut(Record) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (low, high) = self.client.fetch_watermarks(&self.topic, partition, ANSWER_TIMEOUT)?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, Offset::Offset(low))?;
        self.client.assign(&list)?;
        let (mut next, mut heard) = (low, Instant::now());
        while next < high {
            match self.client.poll(ANSWER_TIMEOUT) {
                // What was fetched for the partition before may still be on its way.
                Some(Ok(message)) if rdkafka::Message::partition(&message) != partition => {}
                Some(Err(KafkaError::PartitionEOF(ended))) if ended != partition => {}
                // The last offsets need not have records: a transaction's end is none.
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Ok(message)) => {
                    let record = Record::copied_from(&message);
                    drop(message);
                    next = record.offset + 1;
                    heard = Instant::now();
                    visit(record)?;
                }
                // Single connections come and go; silence is what counts.
                Some(Err(error)) if heard.elapsed() >= ANSWER_TIMEOUT => return Err(error.into()),
                None if heard.elapsed() >= ANSWER_TIMEOUT => bail!("no record within {ANSWER_TIMEOUT:?}"),
                Some(Err(_)) | None => {}
            }
        }
        Ok(())
    }
}
