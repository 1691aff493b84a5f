//! Where a partition is read from that the group has committed nothing of.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::config::StartFrom;
use crate::rebalance::GroupContext;

/// Longest wait for one look-up; a failed one is repeated by the poll loop, which meanwhile stays alive.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// `assigned` with the offsets to start from.
///
/// `Earliest` leaves it to the committed offset, or else to `auto.offset.reset=earliest`. `Latest` looks up the end
/// once and commits it: left to `auto.offset.reset=latest`, a member that ends before its first commit would start
/// later the next time, and whatever was written between would never be delivered.
///
/// # Errors
/// When the broker does not answer.
pub fn starting_at(
    consumer: &BaseConsumer<GroupContext>,
    topic: &str,
    start_from: StartFrom,
    assigned: &TopicPartitionList,
) -> KafkaResult<TopicPartitionList> {
    if start_from == StartFrom::Earliest || assigned.count() == 0 {
        return Ok(assigned.clone());
    }
    let mut start = TopicPartitionList::new();
    let mut first_seen = TopicPartitionList::new();
    for element in consumer.committed_offsets(assigned.clone(), LOOKUP_TIMEOUT)?.elements_for_topic(topic) {
        element.error()?;
        let partition = element.partition();
        match element.offset() {
            committed @ Offset::Offset(_) => start.add_partition_offset(topic, partition, committed)?,
            _ => {
                let (_low, end) = consumer.fetch_watermarks(topic, partition, LOOKUP_TIMEOUT)?;
                start.add_partition_offset(topic, partition, Offset::Offset(end))?;
                first_seen.add_partition_offset(topic, partition, Offset::Offset(end))?;
            }
        }
    }
    if first_seen.count() > 0 {
        consumer.commit(&first_seen, CommitMode::Sync)?;
    }
    Ok(start)
}
