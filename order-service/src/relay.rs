//! The relay: from the outbox to the topic, in order per order, none lost, whatever crashes.
//!
//! ```text
//! settle the partition count ─▶ ┌ acknowledge ─▶ keep leases ─▶ read heads ─▶ publish ┐ ─▶ wait
//!                               └──────────────────────◀──────────────────────────────┘
//! ```
//!
//! Why no event overtakes another of its order:
//!
//! 1. A shard is always read from its head, skipping only what is in hand, and whoever sees an order's later row sees its
//!    earlier ones (they were written under the order's lock). So an order's rows come into hand in order, none left out.
//! 2. An event goes to the producer only when the one before it of its order is acknowledged ([`in_flight`]). So there are
//!    never two events of an order that the producer, its retries or the broker could make change places.
//! 3. When the producer fails it is dropped, and everything not acknowledged is read and sent again from the head. So a
//!    second leader of a shard, or one that slept through the end of its lease, can only repeat events: whoever shows an
//!    event first has shown, or found acknowledged, every earlier one of its order.
//!
//! How this stays so when the topic gets more partitions is told in [`growth`].
//!
//! An event that the broker refuses for good is found out ([`trial`]) and its order left out of reads ([`park`]), later events
//! and all. There is no cursor: `id > last seen` would skip a row that committed late; reads begin at a [`floor`] below which
//! no row can appear. A row leaves the outbox only after the broker acknowledged it and said at which offset: the producer's
//! word alone is not enough ([`publish::Outcome`]).

pub mod error;
pub mod partitions;
pub mod in_flight;
mod turns;
pub mod floor;
pub mod growth;
pub mod trial;
pub mod acknowledge;
pub mod lease;
pub mod park;
pub mod upkeep;
pub mod read;
pub mod publish;
pub mod task;
pub mod pace;
mod wake;
mod state;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use runtime::health::Health;
use runtime::kafka::KafkaConnection;
use runtime::shutdown::CancellationToken;
use sqlx::PgPool;
use tokio::sync::Notify;

use crate::config::RelayConfig;
use crate::metrics::RelayMetrics;
use crate::store::DatabaseError;
use crate::store::outbox::SHARDS;
use acknowledge::OnlyIf;
use error::RelayError;
use pace::Backoff;
use publish::{Publisher, Sent};
use read::Request;
use state::State;
use upkeep::Upkeep;
use wake::Wake;

/// Longest silence of the relay's loop before the process counts as hung: every step in it is bounded well below.
pub const HEARTBEAT_BOUND: Duration = Duration::from_secs(90);
/// How long a producer must have lived for its failure to count as a new one. A producer that connects well and then fails
/// at once, as on an event that the topic refuses, is followed by ever longer pauses instead of ten new ones a second.
const PRODUCER_PROVEN_AFTER: Duration = Duration::from_secs(30);
/// Name of the heartbeat.
pub const HEARTBEAT: &str = "relay";

/// One replica's relay.
#[derive(Debug)]
pub struct Relay {
    /// The database; the relay has a pool of its own, so that requests can't starve it.
    pub pool: PgPool,
    /// Where Kafka is.
    pub kafka: KafkaConnection,
    /// Settings.
    pub config: Arc<RelayConfig>,
    /// Notified after a commit of this replica.
    pub wake: Arc<Notify>,
    /// Counters.
    pub metrics: RelayMetrics,
    /// Where the loop's heartbeat goes.
    pub health: Health,
}

impl Relay {
    /// Relays until `stop`; then publishes what its shards still hold, for at most `drain`, and lets the shards go.
    pub async fn run(self, stop: CancellationToken, drain: Duration) {
        let mut state = State::new(&self.config);
        let wake = self.wake(&state);
        let deadline = async {
            stop.cancelled().await;
            tokio::time::sleep(drain).await;
        };
        tokio::select! {
            () = self.supervise(&mut state, &stop) => {}
            () = wake.run() => {}
            () = deadline => {
                tracing::warn!(in_flight = state.in_flight.len(), "stopping before the relay could flush; the rest stays in the outbox");
            }
        }
        state.upkeep.stop();
        if let Err(error) = state.leases.release_all(&self.pool).await {
            tracing::warn!(
                error = format!("{:#}", anyhow::Error::new(error)),
                "shards are let go by the end of their lease"
            );
        }
        self.metrics.leads(&[]);
        self.health.retire(HEARTBEAT);
    }

    /// One producer after another, until one of them ended because of `stop`.
    async fn supervise(&self, state: &mut State, stop: &CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            let began = Instant::now();
            let mut publisher = None;
            let ended = self.relay(state, &mut publisher, stop).await;
            if let Some(publisher) = publisher {
                // The last reports: what is acknowledged need not be sent again. A failure is the next producer's to see.
                let State { in_flight, trial, .. } = state;
                let _ = acknowledge::acknowledge(&publisher, in_flight, trial, &self.metrics);
            }
            state.restart(ended.as_ref().err());
            let Err(error) = ended else { return };
            if !state.leases.are_known() {
                // Others may lead by now, and must be told of what is recorded here.
                state.leads_all.store(false, Ordering::Relaxed);
                self.metrics.leads(&[]);
            }
            self.report(error);
            if began.elapsed() >= PRODUCER_PROVEN_AFTER {
                backoff.reset();
            }
            self.health.beat(HEARTBEAT, HEARTBEAT_BOUND);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    }

    /// Relays with one producer, until it fails or everything is flushed after `stop`.
    async fn relay(
        &self,
        state: &mut State,
        slot: &mut Option<Publisher>,
        stop: &CancellationToken,
    ) -> Result<(), RelayError> {
        let delivered = state.signals.delivered.clone();
        let publisher =
            slot.insert(Publisher::connect(&self.kafka, &self.config, state.batch_bytes, delivered)?);
        state.unsettled = true;
        loop {
            self.health.beat(HEARTBEAT, HEARTBEAT_BOUND);
            if state.may_settle() {
                let settled = partitions::settle(self, publisher, state.partitions, stop).await?;
                let Some(partitions) = settled else { return Ok(()) };
                state.map_among(partitions);
                self.metrics.partitions.set(i64::from(partitions));
            }
            match self.round(state, publisher, stop.is_cancelled()).await {
                Ok(()) => {}
                Err(RelayError::Database(error)) => {
                    self.report(RelayError::Database(error));
                    state.distrust();
                }
                Err(error) => return Err(error),
            }
            if state.is_done() {
                return Ok(());
            }
            let may = state.may(&self.config);
            let State { pace, signals, .. } = state;
            pace.wait(may, signals, stop).await;
        }
    }

    /// One round: completions before new work, statements beside it.
    async fn round(
        &self,
        state: &mut State,
        publisher: &Publisher,
        stopping: bool,
    ) -> Result<(), RelayError> {
        let State { in_flight, trial, .. } = state;
        acknowledge::acknowledge(publisher, in_flight, trial, &self.metrics)?;
        publisher.check()?;
        self.take_answers(state)?;
        self.observe(state);
        self.keep_leases(state, stopping);
        self.grow(state, stopping);
        self.delete(state, stopping);
        if state.trial.is_on() {
            return self.try_refused(state, publisher).await;
        }
        self.read(state, stopping);
        state.in_flight.open();
        // Asked before each handful: once the leases may be over others may lead, and would send what is in hand too; and once the
        // count is another one it would go elsewhere.
        while let Some(partitions) = state.publishes_among() {
            if publisher.publish(partitions, &mut state.in_flight, &mut state.trial)? != Sent::Some {
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Takes in what the statements have answered.
    fn take_answers(&self, state: &mut State) -> Result<(), DatabaseError> {
        if let Some(answer) = state.upkeep.answer() {
            self.take_upkeep(state, answer?);
        }
        let State { leases, in_flight, floors, pace, delete, .. } = state;
        if let Some((rows, answer)) = delete.answer() {
            match answer {
                Ok(there) => {
                    in_flight.deleted(&rows);
                    if there < rows.len() as u64 {
                        // What is at their ids now was left out of reads as if it were them, by one that is under way as well.
                        in_flight.outdate_reads();
                        floors.lower();
                        // Another may lead, or map keys otherwise: who went on would send the same again and again.
                        leases.renew_early();
                        pace.keeps_early(Instant::now());
                    }
                }
                Err(error) => {
                    in_flight.not_deleted(rows);
                    return Err(error);
                }
            }
            pace.worked();
        }
        if let Some((request, answer)) = state.read.answer() {
            state.take_heads(request, answer?);
        }
        if state.in_flight.take_uncrowded() {
            state.pace.announce();
        }
        Ok(())
    }

    fn take_upkeep(&self, state: &mut State, kept: Upkeep) {
        let State { leases, leads_all, in_flight, floors, parked, pace, doubts_noted, .. } = state;
        in_flight.drop_shards(&kept.leases.lost_since(leases));
        *leases = kept.leases;
        let led = leases.held();
        leads_all.store(led.len() == usize::from(SHARDS), Ordering::Relaxed);
        self.metrics.leads(&led);
        if parked.replace(kept.parked, kept.as_of) {
            floors.lower();
        }
        if let Some(sample) = kept.sample {
            floors.see(sample);
        }
        *doubts_noted = kept.doubt.unwrap_or(*doubts_noted);
        pace.kept(Instant::now(), kept.mapping.is_some_and(|mapping| mapping.growing_to.is_some()));
        self.see_mapping(state, kept.mapping);
    }

    /// Renews leases, looks by which count keys are mapped and who is parked, when that is due.
    fn keep_leases(&self, state: &mut State, stopping: bool) {
        if state.upkeep.is_running() || !state.pace.keeps(Instant::now()) {
            return;
        }
        let request = upkeep::Request {
            leases: state.leases.clone(),
            busy: state.in_flight.shards(),
            as_of: state.parked.added(),
            topic: self.config.topic.clone(),
            doubt: (state.doubts != state.doubts_noted).then_some(state.doubts),
            drained: state.drained(),
            take_down: state.fence_to_end(&self.config, stopping),
        };
        state.upkeep.start(&state.signals.answered, upkeep::upkeep(self.pool.clone(), request));
    }

    /// Deletes what is acknowledged, when there is enough of it or it waits long enough.
    fn delete(&self, state: &mut State, stopping: bool) {
        let pressing = stopping || state.room(&self.config) == 0 || state.fenced_since.is_some();
        let State { in_flight, delete, signals, pace, partitions, .. } = state;
        if let Some(partitions) = *partitions
            && !delete.is_running()
            && pace.deletes(Instant::now(), in_flight.acknowledged(), pressing)
        {
            let rows = in_flight.take_acknowledged();
            let (owner, topic) = (self.config.pod_name.clone(), self.config.topic.clone());
            let only_if = OnlyIf { owner, topic, partitions };
            delete.start(&signals.answered, acknowledge::delete(self.pool.clone(), rows, only_if));
        }
    }

    /// Reads on, when that is due and there is room.
    fn read(&self, state: &mut State, stopping: bool) {
        let (room, now) = (state.room(&self.config), Instant::now());
        let State { leases, in_flight, floors, parked, read, signals, pace, caught_up, .. } = state;
        if room == 0 || *caught_up || read.is_running() || !pace.reads(now) {
            return;
        }
        let known = leases.are_known();
        let mut shards = leases.readable();
        shards.retain(|shard| !parked.stops(*shard));
        let start = floors.start(&shards, in_flight.generation(), now);
        let mut skip = in_flight.skip(|shard| start.floor(&shards, shard));
        skip.orders.extend(parked.orders());
        pace.read_begins(now);
        // Before the leases are known there is nothing to read, which does not mean that nothing is left.
        let topic = self.config.topic.clone();
        let request = Request { shards, start, skip, limit: room, last: stopping && known, topic };
        read.start(&signals.answered, read::heads(self.pool.clone(), request));
    }

    /// Goes on telling refused events apart, once what is with the producer has come back.
    async fn try_refused(&self, state: &mut State, publisher: &Publisher) -> Result<(), RelayError> {
        if let Some(partitions) = state.publishes_among()
            && !state.in_flight.awaits_broker()
        {
            let State { leases, trial, in_flight, parked, pace, .. } = state;
            park::step(&self.pool, publisher, partitions, leases, (trial, in_flight, parked)).await?;
            pace.announce();
        }
        Ok(())
    }

    fn wake(&self, State { signals, leads_all, .. }: &State) -> Wake {
        Wake {
            pool: self.pool.clone(),
            owner: self.config.pod_name.clone(),
            committed: self.wake.clone(),
            recorded: signals.recorded.clone(),
            leads_all: leads_all.clone(),
            metrics: self.metrics.clone(),
        }
    }

    fn observe(&self, State { in_flight, parked, .. }: &State) {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.in_flight.set(count(in_flight.len()));
        self.metrics.parked_orders.set(count(parked.len()));
    }

    fn report(&self, error: RelayError) {
        self.metrics.failed(error.kind());
        tracing::warn!(
            kind = error.kind(),
            topic = self.config.topic,
            error = format!("{:#}", anyhow::Error::new(error)),
            "the relay failed; it goes on from the heads of its shards"
        );
    }
}
