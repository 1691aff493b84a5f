//! What stands in the topic.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

use crate::harness::DEADLINE;

/// A record of the topic.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Record {
    pub(crate) partition: i32,
    pub(crate) key: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) payload: Vec<u8>,
}

impl Record {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap()
    }

    pub(crate) fn version(&self) -> i64 {
        self.json()["version"].as_i64().unwrap()
    }
}

/// The versions of each order in the order in which they stand in the topic.
pub(crate) fn versions_by_order(records: &[Record]) -> BTreeMap<String, Vec<i64>> {
    let mut versions: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for record in records {
        versions.entry(record.key.clone()).or_default().push(record.version());
    }
    versions
}

/// Every record that the topic holds now, partition by partition.
pub(crate) fn read_all(mut config: ClientConfig, topic: &str) -> Vec<Record> {
    config.set("group.id", "it-reader").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), DEADLINE).unwrap();
    let partitions: Vec<i32> =
        metadata.topics()[0].partitions().iter().map(|partition| partition.id()).collect();
    let mut records = Vec::new();
    for partition in partitions {
        let (low, high) = consumer.fetch_watermarks(topic, partition, DEADLINE).unwrap();
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        consumer.assign(&assignment).unwrap();
        let started = Instant::now();
        let mut next = low;
        while next < high {
            assert!(started.elapsed() < DEADLINE, "partition {partition} stands at {next} of {high}");
            let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
            let message = message.unwrap();
            next = message.offset() + 1;
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let headers = message.headers().map(|headers| {
                headers.iter().map(|header| (header.key.to_owned(), text(header.value.unwrap()))).collect()
            });
            records.push(Record {
                partition,
                key: text(message.key().unwrap()),
                headers: headers.unwrap_or_default(),
                payload: message.payload().unwrap().to_vec(),
            });
        }
    }
    records
}
