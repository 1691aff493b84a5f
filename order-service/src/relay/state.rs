//! What outlives a producer: leases, what is in hand, what is known of refusals, and the statements under way.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::acknowledge::Deleted;
use super::floor::Floors;
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
        }
    }

    /// The producer is gone, and with it whatever the broker has not answered for.
    pub(super) fn restart(&mut self, error: Option<&RelayError>) {
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
        let shards = self.in_flight.shards();
        self.in_flight.drop_shards(&shards);
        self.in_flight.outdate_reads();
        // Whoever was to be tried is no longer in hand.
        self.trial = Trial::default();
        self.caught_up = false;
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
