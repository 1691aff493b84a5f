//! What outlives a producer: leases, what is in hand, what is known of refusals, and the statements under way.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::acknowledge::Deleted;
use super::floor::Floors;
use super::growth::{Driver, Mapping, Rhythm, Step};
use super::in_flight::InFlight;
use super::lease::Leases;
use super::pace::{May, Pace, Signals};
use super::park::Parked;
use super::read::{Heads, Request};
use super::task::Task;
use super::trial::Trial;
use super::upkeep::Upkeep;
use super::{RelayError, publish};
use crate::config::RelayConfig;
use crate::store::DatabaseError;

type Answer<T> = Result<T, DatabaseError>;

/// The relay's own knowledge. Losing it, as in a crash, costs nothing but repetition.
pub(super) struct State {
    pub(super) leases: Leases,
    pub(super) in_flight: InFlight,
    pub(super) floors: Floors,
    pub(super) trial: Trial,
    pub(super) parked: Parked,
    pub(super) batch_bytes: u32,
    pub(super) upkeep: Task<Answer<Upkeep>>,
    pub(super) read: Task<(Request, Answer<Heads>)>,
    pub(super) delete: Task<Deleted>,
    pub(super) pace: Pace,
    pub(super) signals: Signals,
    /// Every shard is led here, as those who announce events must know.
    pub(super) leads_all: Arc<AtomicBool>,
    /// Everything recorded before the service was told to stop is in hand.
    pub(super) caught_up: bool,
    /// By which count keys are mapped, as it was last read with the leases.
    pub(super) mapping: Option<Mapping>,
    /// The count for which the producer knows all partitions.
    pub(super) partitions: i32,
    /// The recorded count is another one: the producer is to be made ready for it.
    pub(super) unsettled: bool,
    /// When the fence was seen to be up.
    pub(super) fenced_since: Option<Instant>,
    /// Counts producers that ended with events under way, this process's start being the first; and what is noted of it.
    pub(super) doubts: u64,
    pub(super) doubts_noted: u64,
    pub(super) growth: Task<(Driver, Result<Step, RelayError>)>,
    pub(super) driver: Option<Driver>,
    pub(super) rhythm: Rhythm,
}

impl State {
    pub(super) fn new(config: &RelayConfig) -> Self {
        Self {
            leases: Leases::new(config.pod_name.clone(), config.relay_lease),
            in_flight: InFlight::default(),
            floors: Floors::new(Instant::now()),
            trial: Trial::default(),
            parked: Parked::default(),
            batch_bytes: publish::BATCH_BYTES,
            upkeep: Task::default(),
            read: Task::default(),
            delete: Task::default(),
            pace: Pace::default(),
            signals: Signals::default(),
            leads_all: Arc::default(),
            caught_up: false,
            mapping: None,
            partitions: 0,
            unsettled: false,
            fenced_since: None,
            doubts: 1,
            doubts_noted: 0,
            growth: Task::default(),
            driver: None,
            rhythm: Rhythm::new(Instant::now()),
        }
    }

    /// True when events may be handed over: this replica surely leads its shards still, and the count by which it maps is the
    /// recorded one, which nobody is about to switch.
    pub(super) fn may_publish(&self) -> bool {
        let maps_right = self
            .mapping
            .is_some_and(|known| known.growing_to.is_none() && known.partitions == self.partitions);
        maps_right && self.leases.are_known()
    }

    /// The fence behind which nothing is under way here, nor will be.
    pub(super) fn drained(&self) -> Option<i64> {
        let is_sure = self.doubts == self.doubts_noted;
        self.mapping?.fence().filter(|_| is_sure && !self.in_flight.is_under_way())
    }

    /// The producer knows all of so many partitions, and keys are mapped by them from now on. Nothing is with it. What waits for
    /// it was dealt to partitions by the count before, if that was another one: it is to be read again.
    pub(super) fn map_among(&mut self, partitions: i32) {
        self.unsettled = false;
        if partitions != self.partitions {
            self.let_go();
        }
        self.in_flight.send_among(partitions);
        self.partitions = partitions;
    }

    /// What was not handed over yet is to be read again.
    fn let_go(&mut self) {
        let shards = self.in_flight.shards();
        self.in_flight.drop_shards(&shards);
        self.caught_up = false;
        self.pace.announce();
    }

    /// The producer is gone, and with it whatever the broker has not answered for.
    pub(super) fn restart(&mut self, error: Option<&RelayError>) {
        self.doubts += u64::from(self.in_flight.awaits_broker());
        self.in_flight.restart();
        self.trial.restart();
        self.caught_up = false;
        self.pace.announce();
        if matches!(error, Some(RelayError::BatchTooLarge)) {
            self.batch_bytes = publish::smaller_batch(self.batch_bytes);
        }
    }

    /// The database failed. Another may answer from now on, one that never had the latest rows: what was not handed over yet is to be
    /// read again.
    pub(super) fn distrust(&mut self) {
        self.floors.reset();
        self.let_go();
        self.pace.failed(Instant::now());
    }

    /// Rows that may still be taken in hand; zero while there is not room enough for a read to be worth it.
    pub(super) fn room(&self, config: &RelayConfig) -> usize {
        let (most, page) = (config.relay_max_in_flight as usize, config.relay_batch as usize);
        let room = most.saturating_sub(self.in_flight.len()).min(page);
        if room < page.min(most).div_ceil(2) { 0 } else { room }
    }

    /// What may begin when it is due.
    pub(super) fn may(&self, config: &RelayConfig) -> May {
        May {
            read: !self.read.is_running() && !self.trial.is_on() && !self.caught_up && self.room(config) > 0,
            delete: !self.delete.is_running() && self.in_flight.acknowledged() > 0,
            keep: !self.upkeep.is_running(),
            look_late: self.in_flight.is_behind(),
        }
    }

    /// True when nothing is left to do for a service that was told to stop.
    pub(super) fn is_done(&self) -> bool {
        self.caught_up && self.in_flight.is_empty() && !self.trial.is_on()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rdkafka::message::OwnedHeaders;
    use sqlx::types::Uuid;

    use super::super::in_flight::RowId;
    use super::super::read::OutboxRow;
    use super::*;
    use crate::config::PartitionGrowth;

    fn state() -> State {
        State::new(&RelayConfig {
            topic: "orders".to_owned(),
            pod_name: "a".to_owned(),
            relay_lease: Duration::from_secs(10),
            relay_batch: 1000,
            relay_max_in_flight: 4000,
            relay_stall: Duration::from_secs(45),
            consumer_groups: None,
            partition_growth: PartitionGrowth::OrderSafe,
            growth_drain_timeout: Duration::from_secs(30),
        })
    }

    fn admit(state: &mut State, id: i64) {
        let row = OutboxRow {
            row: RowId { shard: 0, id },
            order_id: Uuid::from_u128(7),
            recorded: Instant::now(),
            headers: OwnedHeaders::new(),
            payload: Vec::new(),
        };
        let skip = state.in_flight.skip(|_| 0);
        assert!(state.in_flight.admit(&skip, vec![row]));
    }

    #[test]
    fn what_waits_for_the_producer_is_read_again_when_keys_are_mapped_by_another_count() {
        let mut state = state();
        state.map_among(3);
        admit(&mut state, 1);
        state.caught_up = true;
        state.map_among(6);
        assert!(state.in_flight.is_empty() && !state.caught_up);
        admit(&mut state, 1);
        state.in_flight.open();
        assert!(state.in_flight.next_due().is_some(), "it goes by the new count");
    }

    #[test]
    fn a_fence_is_acknowledged_only_once_what_was_handed_over_has_left_the_outbox() {
        let mut state = state();
        state.map_among(3);
        state.doubts_noted = state.doubts;
        admit(&mut state, 1);
        state.in_flight.open();
        assert!(state.in_flight.next_due().is_some());
        state.mapping = Some(Mapping { partitions: 3, epoch: 5, growing_to: Some(6) });
        assert_eq!(state.drained(), None, "with the producer");
        assert!(state.in_flight.delivered(1).is_some());
        assert_eq!(state.drained(), None, "to be deleted");
        let rows = state.in_flight.take_acknowledged();
        state.in_flight.deleted(&rows);
        assert_eq!(state.drained(), Some(5));
        state.doubts += 1;
        assert_eq!(state.drained(), None, "what a producer before had may still come");
    }
}
