//! The relay: from the outbox to the topic, in order per order, none lost, whatever crashes.
//!
//! ```text
//! settle the partition count ─▶ ┌ acknowledge ─▶ keep leases ─▶ read heads ─▶ publish ┐ ─▶ wait
//!                               └──────────────────────◀──────────────────────────────┘
//! ```
//!
//! Why no event overtakes another of its order: a shard is always read from its head, skipping only what is in flight,
//! and whoever sees an order's later row sees its earlier ones (they were written under the order's lock); the producer
//! is idempotent, never gives up on an event by itself and, if it fails all the same, is dropped and everything that was
//! not acknowledged is sent again from the head. So a second leader of a shard, or one that slept through the end of its
//! lease, can only repeat events, never reorder their first appearance. There is no cursor: `id > last seen` would skip a
//! row that committed late.

pub mod error;
pub mod in_flight;
pub mod partitions;
pub mod acknowledge;
pub mod lease;
pub mod read;
pub mod publish;
pub mod pace;

use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::health::Health;
use runtime::kafka::KafkaConnection;
use runtime::shutdown::CancellationToken;
use sqlx::PgPool;
use tokio::sync::Notify;

use crate::config::RelayConfig;
use crate::metrics::RelayMetrics;
use error::RelayError;
use in_flight::InFlight;
use lease::Leases;
use pace::{Backoff, Pace};
use publish::Publisher;

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
    pub config: RelayConfig,
    /// Notified after a commit of this replica.
    pub wake: Arc<Notify>,
    /// Counters.
    pub metrics: RelayMetrics,
    /// Where the loop's heartbeat goes.
    pub health: Health,
}

/// What outlives a producer: leases, and rows that are acknowledged but not yet deleted.
struct State {
    leases: Leases,
    in_flight: InFlight,
}

/// What a round found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Round {
    /// A shard's page was full: there is more.
    More,
    /// Some rows, and no more of them now.
    Some,
    /// No rows.
    None,
    /// As many events as allowed are in flight.
    Full,
}

impl Relay {
    /// Relays until `stop`; then publishes what its shards still hold, for at most `drain`, and lets the shards go.
    pub async fn run(self, stop: CancellationToken, drain: Duration) {
        let RelayConfig { pod_name, relay_lease, .. } = &self.config;
        let mut state =
            State { leases: Leases::new(pod_name.clone(), *relay_lease), in_flight: InFlight::default() };
        let deadline = async {
            stop.cancelled().await;
            tokio::time::sleep(drain).await;
        };
        tokio::select! {
            () = self.supervise(&mut state, &stop) => {}
            () = deadline => {
                tracing::warn!(in_flight = state.in_flight.len(), "stopping before the relay could flush; the rest stays in the outbox");
            }
        }
        if let Err(error) = state.leases.release_all(&self.pool).await {
            tracing::warn!(
                error = format!("{:#}", anyhow::Error::new(error)),
                "shards are let go by the end of their lease"
            );
        }
        self.metrics.shards_led.set(0);
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
                state.in_flight.restart(publisher.take_deliveries());
            }
            let Err(error) = ended else { return };
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
        let publisher = slot.insert(Publisher::connect(&self.kafka, &self.config)?);
        let Some(partitions) = partitions::settle(self, publisher, stop).await? else { return Ok(()) };
        let (mut pace, mut backoff) = (Pace::default(), Backoff::default());
        let mut caught_up = false;
        loop {
            self.health.beat(HEARTBEAT, HEARTBEAT_BOUND);
            pace.begin();
            // Asked before the round: what committed before the stop is then visible to its read.
            let stopping = stop.is_cancelled();
            match self.round(state, publisher, partitions, caught_up).await {
                Ok(round) => {
                    backoff.reset();
                    pace.after(round);
                    caught_up |= stopping && matches!(round, Round::Some | Round::None);
                }
                Err(RelayError::Database(error)) => {
                    self.report(RelayError::Database(error));
                    pace.failed(backoff.next());
                }
                Err(error) => return Err(error),
            }
            if caught_up && state.in_flight.is_empty() {
                return Ok(());
            }
            pace.wait(&self.wake, publisher, stop).await;
        }
    }

    /// One round, completions before new work.
    async fn round(
        &self,
        state: &mut State,
        publisher: &Publisher,
        partitions: i32,
        caught_up: bool,
    ) -> Result<Round, RelayError> {
        let State { leases, in_flight } = state;
        acknowledge::acknowledge(&self.pool, publisher, in_flight, &self.metrics).await?;
        publisher.check(in_flight)?;
        leases.keep(&self.pool, |shard| in_flight.holds(shard)).await?;
        self.metrics.shards_led.set(leases.led());
        self.metrics.in_flight.set(i64::try_from(in_flight.len()).unwrap_or(i64::MAX));

        let room = usize::try_from(self.config.relay_max_in_flight)
            .unwrap_or(usize::MAX)
            .saturating_sub(in_flight.len());
        if room == 0 {
            return Ok(Round::Full);
        }
        if caught_up {
            return Ok(Round::None);
        }
        let heads = read::heads(
            &self.pool,
            &leases.readable(),
            in_flight,
            room.min(self.config.relay_batch as usize),
        )
        .await?;
        let found = match (heads.rows.is_empty(), heads.more) {
            (true, _) => Round::None,
            (false, true) => Round::More,
            (false, false) => Round::Some,
        };
        let sent = publisher.publish(heads.rows, partitions, in_flight)?;
        Ok(if sent.queue_full { Round::Full } else { found })
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
