//! What outlives a producer: leases, what is in hand, what is known of refusals, and the statements under way.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::acknowledge::Deleted;
use super::floor::Floors;
use super::growth::{Driver, Mapping, Rhythm, Step};
use super::in_flight::InFlight;
use super::lease::Leases;
use super::pace::{Found, May, Pace, Signals};
use super::park::Parked;
use super::read::{Heads, Request};
use super::task::Task;
use super::trial::Trial;
use super::upkeep::Upkeep;
use super::{RelayError, publish};
use crate::config::RelayConfig;
use crate::store::DatabaseError;

type Answer<T> = Result<T, DatabaseError>;

/// A fence that stands for so much longer than its time, by the clock of a replica, is taken down by that: usually the database's
/// clock has ended it long before.
const FENCE_OVERDUE: Duration = Duration::from_secs(5);

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
    /// The count by which keys are mapped here; the producer knows all these partitions.
    pub(super) partitions: Option<i32>,
    /// The recorded count may be another one, or none: the producer is to be made ready for it.
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
            leases: Leases::new(config.pod_name.clone(), config.growth_terms(), config.relay_lease),
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
            partitions: None,
            unsettled: false,
            fenced_since: None,
            doubts: 1,
            doubts_noted: 0,
            growth: Task::default(),
            driver: None,
            rhythm: Rhythm::new(Instant::now()),
        }
    }

    /// By which count events may be handed over: this replica surely leads its shards still, the producer is ready, and the count
    /// by which it maps is the recorded one, which nobody is about to switch. `None` when none may.
    pub(super) fn publishes_among(&self) -> Option<i32> {
        let known = self.mapping.filter(|known| known.growing_to.is_none())?;
        let maps_right = self.partitions == Some(known.partitions) && !self.unsettled;
        (maps_right && self.leases.are_known()).then_some(known.partitions)
    }

    /// The fence that this replica is to take down, and why: it stops, or by its own clock the fence stands for longer than it
    /// may. The database's clock decides as a rule, but a clock can be set back.
    pub(super) fn fence_to_end(&self, config: &RelayConfig, stopping: bool) -> Option<(i64, &'static str)> {
        let epoch = self.mapping.and_then(|mapping| mapping.fence())?;
        let longest = config.growth_drain_timeout + FENCE_OVERDUE;
        match stopping {
            true => Some((epoch, "a replica stops and publishes what it has")),
            false if self.fenced_since.is_some_and(|since| since.elapsed() > longest) => {
                Some((epoch, "it stood for longer than it may"))
            }
            false => None,
        }
    }

    /// True when what is known here of the count is of this `epoch`.
    pub(super) fn knows(&self, epoch: Option<i64>) -> bool {
        epoch.is_some() && self.mapping.map(|known| known.epoch) == epoch
    }

    /// Takes what was read in hand.
    pub(super) fn take_heads(&mut self, request: Request, heads: Heads) {
        let is_of_now = heads.rows.is_empty() || self.knows(heads.epoch);
        let Self { in_flight, floors, pace, caught_up, .. } = self;
        if !is_of_now {
            // What was read behind a fence that is not known here, or beyond it, must not go out by the count from before.
            pace.keeps_early(Instant::now());
            pace.read_ended(Found::None);
            return;
        }
        let found = heads.found();
        let admitted = in_flight.admit(&request.skip, heads.rows);
        if admitted {
            let crowded = [request.skip.crowded, in_flight.crowded_shards()].concat();
            for shard in request.shards.iter().filter(|shard| !crowded.contains(shard)) {
                floors.raise(&request.start, *shard, heads.full.get(shard).copied());
            }
        }
        pace.read_ended(if admitted { found } else { Found::More });
        *caught_up |= request.last && admitted && found != Found::More;
    }

    /// True when the producer may be made ready for the recorded count: rows are dealt to partitions by one count at a time, so
    /// what is with the producer is answered for first, and what is being deleted is deleted or not.
    pub(super) fn may_settle(&self) -> bool {
        self.unsettled && !self.in_flight.awaits_broker() && !self.delete.is_running()
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
        if self.partitions == Some(partitions) {
            return;
        }
        self.let_go();
        if self.partitions.is_some_and(|before| before > partitions) {
            // The database has forgotten a switch. What was sent by that is to be sent again, before anything later by the old count.
            let rows = self.in_flight.take_acknowledged();
            self.in_flight.deleted(&rows);
        }
        self.in_flight.send_among(partitions);
        self.partitions = Some(partitions);
    }

    /// What was not handed over yet is to be read again.
    fn let_go(&mut self) {
        let shards = self.in_flight.shards();
        self.in_flight.drop_shards(&shards);
        self.in_flight.outdate_reads();
        // Whoever was to be tried is no longer in hand.
        self.trial = Trial::default();
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
    use std::collections::BTreeMap;

    use rdkafka::message::OwnedHeaders;
    use sqlx::types::Uuid;

    use super::super::in_flight::RowId;
    use super::super::read::OutboxRow;
    use super::*;
    use crate::config::PartitionGrowth;

    fn config() -> RelayConfig {
        RelayConfig {
            topic: "orders".to_owned(),
            pod_name: "a".to_owned(),
            relay_lease: Duration::from_secs(10),
            relay_batch: 1000,
            relay_max_in_flight: 4000,
            relay_stall: Duration::from_secs(45),
            consumer_groups: None,
            partition_growth: PartitionGrowth::OrderSafe,
            growth_drain_timeout: Duration::from_secs(30),
        }
    }

    fn state() -> State {
        State::new(&config())
    }

    fn row(id: i64) -> OutboxRow {
        OutboxRow {
            row: RowId { shard: 0, id },
            order_id: Uuid::from_u128(7),
            recorded: Instant::now(),
            headers: OwnedHeaders::new(),
            payload: Vec::new(),
        }
    }

    fn admit(state: &mut State, id: i64) {
        let skip = state.in_flight.skip(|_| 0);
        assert!(state.in_flight.admit(&skip, vec![row(id)]));
    }

    fn mapping(partitions: i32, growing_to: Option<i32>) -> Option<Mapping> {
        Some(Mapping { partitions, epoch: 5, growing_to })
    }

    #[test]
    fn a_fence_is_taken_down_by_who_stops_and_by_who_has_seen_it_for_too_long() {
        let mut state = state();
        let config = config();
        state.mapping = mapping(3, None);
        assert!(state.fence_to_end(&config, true).is_none(), "there is none");
        state.mapping = mapping(3, Some(6));
        let longest = config.growth_drain_timeout + FENCE_OVERDUE;
        for (seen_for, stopping, ends) in [
            (Duration::ZERO, false, false),
            (Duration::ZERO, true, true),
            (config.growth_drain_timeout, false, false),
            (longest + Duration::from_secs(1), false, true),
        ] {
            state.fenced_since = Instant::now().checked_sub(seen_for);
            assert_eq!(state.fence_to_end(&config, stopping).is_some(), ends, "{seen_for:?} {stopping}");
        }
    }

    #[test]
    fn what_was_read_behind_a_fence_that_is_not_known_here_is_not_taken_in_hand() {
        let mut state = state();
        state.map_among(3);
        state.mapping = mapping(3, None);
        for (epoch, is_taken) in [(None, false), (Some(6), false), (Some(5), true)] {
            let request = Request {
                shards: vec![0],
                start: state.floors.start(&[0], state.in_flight.generation(), Instant::now()),
                skip: state.in_flight.skip(|_| 0),
                limit: 1,
                last: true,
                topic: "orders".to_owned(),
            };
            state.take_heads(request, Heads { rows: vec![row(1)], full: BTreeMap::new(), epoch });
            assert_eq!(
                (state.in_flight.len(), state.caught_up),
                (usize::from(is_taken), is_taken),
                "{epoch:?}"
            );
        }
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
    fn what_was_sent_by_a_count_that_the_database_has_forgotten_is_sent_again() {
        let mut state = state();
        state.map_among(6);
        admit(&mut state, 1);
        state.in_flight.open();
        assert!(state.in_flight.next_due().is_some() && state.in_flight.delivered(1).is_some());
        let under_way = state.in_flight.skip(|_| 0);
        state.map_among(3);
        assert!(state.in_flight.is_empty() && state.in_flight.acknowledged() == 0);
        assert!(!state.in_flight.admit(&under_way, Vec::new()), "a read under way has left it out");
        admit(&mut state, 1);
        state.in_flight.open();
        assert!(state.in_flight.next_due().is_some());
    }

    #[test]
    fn a_count_that_was_settled_again_loses_nobody_s_turn() {
        let mut state = state();
        state.map_among(3);
        admit(&mut state, 1);
        state.unsettled = true;
        assert!(state.may_settle());
        state.map_among(3);
        state.in_flight.open();
        assert!(!state.may_settle() && state.in_flight.next_due().is_some());
    }

    #[test]
    fn nothing_is_handed_over_behind_a_fence_or_by_another_count_than_the_recorded_one() {
        let mut state = state();
        state.map_among(3);
        assert_eq!(state.publishes_among(), None, "what is recorded is not known");
        state.mapping = mapping(3, None);
        assert_eq!(state.publishes_among(), None, "the leases are not known");
        state.leases = Leases::known_for(Duration::from_secs(10));
        assert_eq!(state.publishes_among(), Some(3));
        state.unsettled = true;
        assert_eq!(state.publishes_among(), None, "the producer is a new one");
        state.unsettled = false;
        for other in [mapping(3, Some(6)), mapping(6, None), None] {
            state.mapping = other;
            assert_eq!(state.publishes_among(), None, "{other:?}");
        }
    }

    #[test]
    fn a_fence_is_acknowledged_only_once_what_was_handed_over_has_left_the_outbox() {
        let mut state = state();
        state.map_among(3);
        state.doubts_noted = state.doubts;
        admit(&mut state, 1);
        state.in_flight.open();
        assert!(state.in_flight.next_due().is_some());
        state.mapping = mapping(3, Some(6));
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
