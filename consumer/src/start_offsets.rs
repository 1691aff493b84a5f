//! Where partitions are read from, and what beyond that is done already: by what the group has committed.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::config::StartFrom;
use crate::done_map::Runs;
use crate::offsets::Start;
use crate::rebalance::GroupContext;

/// Longest wait for one look-up; a failed one is repeated by the poll loop, which meanwhile stays alive.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Where one partition is read from.
#[derive(Clone, PartialEq, Debug)]
pub struct Place {
    /// Which.
    pub partition: i32,
    /// Where to.
    pub from: Offset,
    /// What of it is done.
    pub start: Start,
}

/// Where to read each of `assigned` from.
///
/// What was committed decides. Of what was not, `Earliest` leaves it to `auto.offset.reset=earliest`; `Latest` looks up the
/// end once and commits it: left to `auto.offset.reset=latest`, a member that ends before its first commit would start
/// later the next time, and whatever was written between would never be delivered.
///
/// # Errors
/// When the broker does not answer.
pub fn starting_at(
    consumer: &BaseConsumer<GroupContext>,
    topic: &str,
    start_from: StartFrom,
    assigned: &TopicPartitionList,
) -> KafkaResult<Vec<Place>> {
    if assigned.count() == 0 {
        return Ok(Vec::new());
    }
    let mut places = Vec::new();
    let mut first_seen = TopicPartitionList::new();
    for element in consumer.committed_offsets(assigned.clone(), LOOKUP_TIMEOUT)?.elements_for_topic(topic) {
        element.error()?;
        let partition = element.partition();
        let (from, start) = match (element.offset(), start_from) {
            (Offset::Offset(offset), _) => {
                let done = Runs::decode(element.metadata(), offset);
                (Offset::Offset(offset), Start { offset: Some(offset), done })
            }
            (_, StartFrom::Earliest) => (Offset::Invalid, Start::default()),
            (_, StartFrom::Latest) => {
                let (_low, end) = consumer.fetch_watermarks(topic, partition, LOOKUP_TIMEOUT)?;
                first_seen.add_partition_offset(topic, partition, Offset::Offset(end))?;
                (Offset::Offset(end), Start::default())
            }
        };
        places.push(Place { partition, from, start });
    }
    if first_seen.count() > 0 {
        consumer.commit(&first_seen, CommitMode::Sync)?;
    }
    Ok(places)
}
