//! Records and offsets, as a pipeline's programs would leave them.

use kafka::backlog;
use operator::kafka;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use crate::world::{KAFKA_TIMEOUT, World, connection};

/// They all go here.
const PARTITION: i32 = 0;

impl World {
    /// Writes `count` records.
    pub(crate) async fn produce(&self, topic: &str, count: usize) {
        let topic = topic.to_owned();
        let produce = move || {
            let producer: BaseProducer = connection().client_config("reconcile-test").create().unwrap();
            for n in 0..count {
                let value = n.to_string();
                let record = BaseRecord::to(&topic).partition(PARTITION).key("k").payload(&value);
                producer.send(record).map_err(|(error, _)| error).unwrap();
            }
            producer.flush(KAFKA_TIMEOUT).unwrap();
        };
        tokio::task::spawn_blocking(produce).await.unwrap();
    }

    /// Records that a topic holds.
    pub(crate) async fn held(&self, topic: &str) -> i64 {
        let partitions = self.described(topic).await.unwrap().partitions;
        backlog(&connection(), KAFKA_TIMEOUT, topic, partitions, None).await.unwrap()
    }

    /// Commits what a group has consumed.
    pub(crate) async fn commit(&self, group: &str, topic: &str, offset: i64) {
        let (group, topic) = (group.to_owned(), topic.to_owned());
        let commit = move || {
            let mut config = connection().client_config("reconcile-test");
            let consumer: BaseConsumer = config.set("group.id", group).create().unwrap();
            let mut offsets = TopicPartitionList::new();
            offsets.add_partition_offset(&topic, PARTITION, Offset::Offset(offset)).unwrap();
            consumer.commit(&offsets, CommitMode::Sync).unwrap();
        };
        tokio::task::spawn_blocking(commit).await.unwrap();
    }

    /// Removes a topic's records, as its retention would.
    pub(crate) async fn empty(&self, topic: &str) {
        let admin: AdminClient<DefaultClientContext> =
            connection().client_config("reconcile-test").create().unwrap();
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, PARTITION, Offset::End).unwrap();
        admin.delete_records(&offsets, &AdminOptions::new()).await.unwrap();
    }
}
