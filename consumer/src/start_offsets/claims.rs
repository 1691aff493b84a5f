//! Places that the sink keeps: taken over by an exactly-once group, and taken back from one that is exactly once no more.

use std::sync::Arc;
use std::time::Instant;

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use runtime::health::Health;
use tokio::runtime::Handle;

use super::{Committed, Guarantee, LOOKUP_TIMEOUT, Log, Place, StartError};
use crate::breaker::{Pass, Permit};
use crate::deliver::Deliverer;
use crate::done_map::{Runs, is_kept_by_sink, kept_by_sink};
use crate::offsets::Start;
use crate::poll_loop::{HEARTBEAT, HEARTBEAT_BOUND};
use crate::sink::{Applied, Claimed};

/// Whom a group asks for the places that its sink keeps. It blocks, so it is not for the runtime's own threads.
#[derive(Clone)]
pub struct Claimant {
    /// The runtime on which the sink is asked.
    pub runtime: Handle,
    /// By whom.
    pub deliverer: Arc<Deliverer>,
    /// Where the poll loop, which waits meanwhile, shows that it lives.
    pub health: Health,
}

impl Claimant {
    /// Whether the sink may be asked now: not while it is known to be down.
    #[must_use]
    pub fn may_ask(&self) -> bool {
        self.deliverer.breaker.is_passable(Instant::now())
    }

    fn permit(&self, partition: i32) -> Result<Permit, StartError> {
        self.health.beat(HEARTBEAT, HEARTBEAT_BOUND);
        match self.deliverer.breaker.pass(Instant::now()) {
            Pass::Go(permit) => Ok(permit),
            Pass::NotBefore(_) | Pass::Later => Err(StartError::SinkDown { partition }),
        }
    }

    fn claim(&self, partition: i32, begin: i64) -> Result<Claimed, StartError> {
        let permit = self.permit(partition)?;
        let claimed = self.runtime.block_on(self.deliverer.claim(partition, begin, permit, LOOKUP_TIMEOUT));
        claimed.map_err(|source| StartError::Claim { partition, source })
    }

    /// Moves the place to `goal`, as a batch of no events would: if it was done before, or comes late, it does nothing.
    fn move_to(&self, claimed: &mut Claimed, goal: i64) -> Result<(), StartError> {
        let partition = claimed.partition;
        let permit = self.permit(partition)?;
        let moved = self.runtime.block_on(async {
            tokio::time::timeout(LOOKUP_TIMEOUT, self.deliverer.apply(claimed, &[], goal, permit)).await
        });
        match moved {
            Ok(Ok(Applied::Moved)) => {}
            Ok(Ok(Applied::Found(place))) if place == goal => {}
            Ok(Ok(Applied::Found(_) | Applied::Fenced)) => return Err(StartError::Overtaken { partition }),
            Ok(Err(source)) => return Err(StartError::Claim { partition, source }),
            // The permit ended without a word; the sink's own patience is longer.
            Err(_elapsed) => return Err(StartError::SinkDown { partition }),
        }
        claimed.place = goal;
        Ok(())
    }
}

impl Log<'_> {
    /// Takes the partitions over for an exactly-once group.
    pub(super) fn claimed(
        &self,
        committed: Vec<Committed>,
        claimant: &Claimant,
    ) -> Result<Vec<Place>, StartError> {
        let mut places = Vec::new();
        let mut news = TopicPartitionList::new();
        for committed in committed {
            let partition = committed.partition;
            let is_kept = is_kept_by_sink(&committed.metadata);
            let mut claimed = self.claim(&committed, claimant)?;
            let done = committed.done_from(claimed.place);
            // What is done is not read: no record would move the place over it.
            let beyond = done.first_open(claimed.place);
            if beyond != claimed.place {
                claimant.move_to(&mut claimed, beyond)?;
            }
            // What it says is also what others see as the group's lag.
            if !is_kept || committed.offset != Some(claimed.place) {
                self.add(&mut news, (partition, claimed.place), &kept_by_sink(&done.encode(claimed.place)))?;
            }
            let start = Start { offset: Some(claimed.place), done };
            let from = Offset::Offset(claimed.place);
            let guarantee = Guarantee::ExactlyOnce { claimed, is_log_new: false };
            places.push(Place { partition, from, start, guarantee });
        }
        // Before anything is applied: from here on the sink's place counts, whenever this member ends.
        self.commit(&news)?;
        Ok(places)
    }

    fn claim(&self, committed: &Committed, claimant: &Claimant) -> Result<Claimed, StartError> {
        let partition = committed.partition;
        match committed.offset {
            // A sink that has lost its place has lost the rows as well: it gets again what the log still has.
            Some(_) if is_kept_by_sink(&committed.metadata) => {
                claimant.claim(partition, self.ends(partition)?.0)
            }
            // Somebody else's word.
            Some(offset) => {
                let mut claimed = claimant.claim(partition, offset)?;
                if claimed.place != offset {
                    claimant.move_to(&mut claimed, offset)?;
                }
                Ok(claimed)
            }
            // Brokers forget what an idle group has committed. The sink does not.
            None => {
                let begin = self.begin(partition)?;
                let mut claimed = claimant.claim(partition, begin)?;
                // It can't have applied what the log never had: the place is one in another log.
                if claimed.place > self.ends(partition)?.1 {
                    claimant.move_to(&mut claimed, begin)?;
                }
                Ok(claimed)
            }
        }
    }

    /// For a group that is exactly once no more: its last claim is ended, so that no member of then applies anything behind its
    /// back, and the place becomes what is committed. Kafka's commit trails the sink's place.
    pub(super) fn taken_back(
        &self,
        mut committed: Vec<Committed>,
        claimant: &Claimant,
    ) -> Result<Vec<Committed>, StartError> {
        let mut news = TopicPartitionList::new();
        let mut keeps_places = true;
        for committed in committed.iter_mut().filter(|one| is_kept_by_sink(&one.metadata)) {
            let (partition, Some(offset)) = (committed.partition, committed.offset) else { continue };
            let asked = if keeps_places { Some(claimant.claim(partition, offset)) } else { None };
            let place = match asked {
                Some(Err(StartError::Claim { source, .. })) if source.is_of_a_sink_without_places() => {
                    keeps_places = false;
                    tracing::warn!(
                        partition, error = %source,
                        "this sink kept no places when the group was exactly once; going on where its commits say"
                    );
                    offset
                }
                Some(claimed) => claimed?.place,
                None => offset,
            };
            let metadata = committed.done_from(place).encode(place);
            self.add(&mut news, (partition, place), &metadata)?;
            *committed = Committed { partition, offset: Some(place), metadata };
        }
        self.commit(&news)?;
        Ok(committed)
    }

    fn add(
        &self,
        list: &mut TopicPartitionList,
        (partition, place): (i32, i64),
        metadata: &str,
    ) -> KafkaResult<()> {
        let mut element = list.add_partition(self.topic, partition);
        element.set_offset(Offset::Offset(place))?;
        if !metadata.is_empty() {
            element.set_metadata(metadata);
        }
        Ok(())
    }

    fn commit(&self, list: &TopicPartitionList) -> KafkaResult<()> {
        if list.count() == 0 { Ok(()) } else { self.consumer.commit(list, CommitMode::Sync) }
    }
}

impl Committed {
    /// What is done beyond `place`, which is the sink's.
    fn done_from(&self, place: i64) -> Runs {
        match self.offset {
            Some(offset) if offset <= place => Runs::decode(&self.metadata, offset),
            // The sink is older than the commit, out of a backup say: what was done since is not.
            Some(_) | None => Runs::default(),
        }
    }
}
