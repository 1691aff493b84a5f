//! Where partitions are read from, and what beyond that is done already: by what the group has committed.

mod claims;

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::config::{Delivery, StartFrom, Subscription};
use crate::done_map::Runs;
use crate::offsets::Start;
use crate::rebalance::GroupContext;
use crate::sink::{Claimed, SinkError};

pub use claims::Claimant;

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
    /// What is promised of its records.
    pub guarantee: Guarantee,
}

/// What a worker promises, and what it needs for that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guarantee {
    /// Nothing is delivered twice.
    AtMostOnce,
    /// Nothing is lost.
    AtLeastOnce,
    /// Neither, by the right to move the place that the sink keeps.
    ExactlyOnce {
        /// That right.
        claimed: Claimed,
        /// The log was made anew since the claim, so the place is one in another log.
        is_log_new: bool,
    },
}

/// Why it is not known where to start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The broker does not answer.
    #[error("failed to look up the group's offsets")]
    Kafka(#[from] KafkaError),
    /// The sink does not say which place it keeps.
    #[error("failed to claim partition {partition} at the sink")]
    Claim {
        /// Which.
        partition: i32,
        /// What the sink says.
        source: SinkError,
    },
    /// The sink is known to be down, and not asked before its time.
    #[error("failed to claim partition {partition}: the sink is down")]
    SinkDown {
        /// Which.
        partition: i32,
    },
    /// Somebody else claimed the partition in the meantime.
    #[error("failed to claim partition {partition}: somebody else did")]
    Overtaken {
        /// Which.
        partition: i32,
    },
}

/// What the group has committed of one partition.
struct Committed {
    partition: i32,
    offset: Option<i64>,
    metadata: String,
}

/// Where to read each of `assigned` from.
///
/// What was committed decides. Of what was not, `Earliest` leaves it to `auto.offset.reset=earliest`; `Latest` looks up the
/// end once and commits it: left to `auto.offset.reset=latest`, a member that ends before its first commit would start
/// later the next time, and whatever was written between would never be delivered.
///
/// The place in a partition without records is committed in either case: it tells the relay, which has the topic grow only
/// then, that the group has taken note of the partition. So nothing is in it before the group has a place there.
///
/// An exactly-once group asks its sink instead, unless what was committed is somebody else's word: of the group under another
/// guarantee, or of a person who has reset the offsets. Then the sink is told. A group that was exactly once asks it, too, once.
///
/// # Errors
/// [`StartError`]; nothing has changed that asking again would not change alike.
pub fn starting_at(
    consumer: &BaseConsumer<GroupContext>,
    Subscription { topic, start_from, delivery, .. }: &Subscription,
    claimant: &Claimant,
    assigned: &TopicPartitionList,
) -> Result<Vec<Place>, StartError> {
    if assigned.count() == 0 {
        return Ok(Vec::new());
    }
    let log = Log { consumer, topic, start_from: *start_from };
    let committed = log.committed(assigned)?;
    match delivery {
        Delivery::AtMostOnce => {
            Ok(log.starting_at(log.taken_back(committed, claimant)?, Guarantee::AtMostOnce)?)
        }
        Delivery::AtLeastOnce => {
            Ok(log.starting_at(log.taken_back(committed, claimant)?, Guarantee::AtLeastOnce)?)
        }
        Delivery::ExactlyOnce => log.claimed(committed, claimant),
    }
}

struct Log<'a> {
    consumer: &'a BaseConsumer<GroupContext>,
    topic: &'a str,
    start_from: StartFrom,
}

impl Log<'_> {
    fn committed(&self, assigned: &TopicPartitionList) -> KafkaResult<Vec<Committed>> {
        let list = self.consumer.committed_offsets(assigned.clone(), LOOKUP_TIMEOUT)?;
        let elements = list.elements_for_topic(self.topic);
        let committed = elements.into_iter().map(|element| {
            element.error()?;
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            Ok(Committed { partition: element.partition(), offset, metadata: element.metadata().to_owned() })
        });
        committed.collect()
    }

    fn starting_at(&self, committed: Vec<Committed>, guarantee: Guarantee) -> KafkaResult<Vec<Place>> {
        let mut places = Vec::new();
        let mut first_seen = TopicPartitionList::new();
        for Committed { partition, offset, metadata } in committed {
            let (from, start) = match (offset, self.start_from) {
                (Some(offset), _) => {
                    let done = Runs::decode(&metadata, offset);
                    (Offset::Offset(offset), Start { offset: Some(offset), done })
                }
                (None, StartFrom::Latest) => {
                    let (_, end) = self.ends(partition)?;
                    first_seen.add_partition_offset(self.topic, partition, Offset::Offset(end))?;
                    (Offset::Offset(end), Start::default())
                }
                (None, StartFrom::Earliest) => match self.ends(partition) {
                    Ok((low, end)) if low == end => {
                        first_seen.add_partition_offset(self.topic, partition, Offset::Offset(end))?;
                        (Offset::Offset(end), Start::default())
                    }
                    // It begins at the oldest record in any case; a partition without a leader holds up no other.
                    _ => (Offset::Invalid, Start::default()),
                },
            };
            places.push(Place { partition, from, start, guarantee });
        }
        if first_seen.count() > 0 {
            self.consumer.commit(&first_seen, CommitMode::Sync)?;
        }
        Ok(places)
    }

    /// Where a group begins that has no place yet.
    fn begin(&self, partition: i32) -> KafkaResult<i64> {
        let (low, end) = self.ends(partition)?;
        Ok(match self.start_from {
            StartFrom::Earliest => low,
            StartFrom::Latest => end,
        })
    }

    /// The first offset that the log has, and the one behind its last.
    fn ends(&self, partition: i32) -> KafkaResult<(i64, i64)> {
        self.consumer.fetch_watermarks(self.topic, partition, LOOKUP_TIMEOUT)
    }
}
