//! A full dump of a topic.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use order_events::OrderEvent;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message, OwnedMessage};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use runtime::kafka::KafkaConnection;

/// Longest that a whole dump may take.
const DUMP_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest wait for metadata and watermarks.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Every record of `topic` from the log's start to its end as it is now, by partition and offset.
///
/// # Errors
/// When Kafka can't be reached or the dump takes over two minutes.
pub async fn dump(bootstrap: &str, topic: &str) -> anyhow::Result<Vec<OwnedMessage>> {
    let connection = KafkaConnection { bootstrap_servers: bootstrap.to_owned(), tls: None, sasl: None };
    let topic = topic.to_owned();
    tokio::task::spawn_blocking(move || dump_blocking(&connection, &topic)).await?
}

fn dump_blocking(connection: &KafkaConnection, topic: &str) -> anyhow::Result<Vec<OwnedMessage>> {
    let mut config = connection.client_config("e2e-dump");
    config
        .set("group.id", "e2e-dump")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = config.create()?;
    let metadata =
        consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT).context("failed to read the topic")?;
    let partitions = metadata.topics().first().map_or(0, |found| found.partitions().len());
    if partitions == 0 {
        bail!("topic {topic} does not exist");
    }
    let mut assignment = TopicPartitionList::new();
    let mut left = 0;
    for partition in 0..i32::try_from(partitions)? {
        let (start, end) = consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT)?;
        left += end - start;
        assignment.add_partition_offset(topic, partition, Offset::Offset(start))?;
    }
    consumer.assign(&assignment)?;
    let mut records = Vec::new();
    let begin = Instant::now();
    while left > 0 {
        if begin.elapsed() > DUMP_TIMEOUT {
            bail!("dump of {topic} took over {DUMP_TIMEOUT:?}; {left} records are missing");
        }
        if let Some(message) = consumer.poll(Duration::from_millis(200)) {
            records.push(message?.detach());
            left -= 1;
        }
    }
    records.sort_by_key(|record| (record.partition(), record.offset()));
    Ok(records)
}

/// The header of that name as text.
#[must_use]
pub fn header(record: &OwnedMessage, name: &str) -> Option<String> {
    let headers = record.headers()?;
    let found = headers.iter().find(|header| header.key == name)?;
    Some(String::from_utf8_lossy(found.value?).into_owned())
}

/// The order event in the record, or nothing when it holds none.
#[must_use]
pub fn order_event(record: &OwnedMessage) -> Option<OrderEvent> {
    let header = |name: &str| record.headers()?.iter().find(|header| header.key == name)?.value;
    order_events::decode(record.key(), header, record.payload()).ok()
}
