//! The first record that is still to be read of a partition: when it was appended, or that there is none.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Message, Offset, TopicPartitionList};
use runtime::kafka::KafkaConnection;

use super::error::Error;

/// How Kafka's logs and quotas name the operator.
const CLIENT_ID: &str = "orderflow-operator";

/// librdkafka assigns only with a group. This one is never joined, and nothing is committed.
const GROUP: &str = "orderflow-operator";

/// One record of each partition is wanted, and brokers send at least a batch, whatever its size.
const FETCH_BYTES: &str = "16384";
const QUEUE_KIB: &str = "1024";

/// What is found at the first offset that a group has still to read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FirstRecord {
    /// A record, with the time that it bears, in milliseconds of the Unix epoch.
    Appended(i64),
    /// None up to the log's end: markers of transactions, or offsets that were compacted away.
    None,
}

/// Looks at the records of `topic` from these offsets on, by partition. A partition that does not answer in time is left out.
///
/// # Errors
/// When librdkafka refuses the settings, or the brokers.
pub async fn first_records(
    connection: &KafkaConnection,
    timeout: Duration,
    topic: &str,
    from: BTreeMap<i32, i64>,
) -> Result<BTreeMap<i32, FirstRecord>, Error> {
    let (connection, topic) = (connection.clone(), topic.to_owned());
    let read = move || read(&connection, timeout, &topic, &from);
    tokio::task::spawn_blocking(read)
        .await
        .unwrap_or_else(|_| Err(Error::Aborted { action: "look at records".to_owned() }))
}

fn read(
    connection: &KafkaConnection,
    timeout: Duration,
    topic: &str,
    from: &BTreeMap<i32, i64>,
) -> Result<BTreeMap<i32, FirstRecord>, Error> {
    let failed = |source| Error::client(format!("look at records of topic {topic}"), source);
    let mut config = connection.client_config(CLIENT_ID);
    config
        .set("group.id", GROUP)
        .set("enable.auto.commit", "false")
        // The log may have moved on since its begin was read.
        .set("auto.offset.reset", "earliest")
        .set("enable.partition.eof", "true")
        .set("fetch.message.max.bytes", FETCH_BYTES)
        .set("queued.max.messages.kbytes", QUEUE_KIB);
    let consumer: BaseConsumer = config.create().map_err(failed)?;
    let mut list = TopicPartitionList::new();
    for (partition, offset) in from {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset)).map_err(failed)?;
    }
    consumer.assign(&list).map_err(failed)?;
    let (mut found, deadline) = (BTreeMap::new(), Instant::now() + timeout);
    while found.len() < from.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match consumer.poll(left) {
            // The first that comes is the first there is: a log gives its records in their order.
            Some(Ok(message)) => {
                let at = message.timestamp().to_millis();
                let at = at.map_or(FirstRecord::None, FirstRecord::Appended);
                found.entry(message.partition()).or_insert(at);
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                found.entry(partition).or_insert(FirstRecord::None);
            }
            // Single connections come and go; the deadline counts.
            Some(Err(_)) | None => {}
        }
    }
    Ok(found)
}
