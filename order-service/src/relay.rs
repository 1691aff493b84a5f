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
//! An event that the broker refuses for good is found out ([`trial`]) and its order left out of reads ([`park`]), later events
//! and all. There is no cursor: `id > last seen` would skip a row that committed late. A row leaves the outbox only after the broker
//! acknowledged it and said at which offset: the producer's word alone is not enough ([`publish::Outcome`]).

pub mod error;
pub mod in_flight;
pub mod trial;
pub mod park;
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
use park::Parked;
use publish::Publisher;
use trial::Trial;

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

/// What outlives a producer: leases, rows that are acknowledged but not yet deleted, and what is known of refusals.
struct State {
    leases: Leases,
    in_flight: InFlight,
    trial: Trial,
    parked: Parked,
    batch_bytes: u32,
}

impl State {
    fn new(RelayConfig { pod_name, relay_lease, .. }: &RelayConfig) -> Self {
        Self {
            leases: Leases::new(pod_name.clone(), *relay_lease),
            in_flight: InFlight::default(),
            trial: Trial::default(),
            parked: Parked::default(),
            batch_bytes: publish::BATCH_BYTES,
        }
    }

    /// The producer is gone, and with it whatever the broker has not answered for.
    fn restart(&mut self, error: Option<&RelayError>) {
        self.in_flight.restart();
        self.trial.restart();
        if matches!(error, Some(RelayError::BatchTooLarge)) {
            self.batch_bytes = publish::smaller_batch(self.batch_bytes);
        }
    }
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
        let mut state = State::new(&self.config);
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
                // The last reports: what is acknowledged need not be sent again. A failure is the next producer's to see.
                let State { in_flight, trial, .. } = state;
                let _ = acknowledge::acknowledge(&publisher, in_flight, trial, &self.metrics);
            }
            state.restart(ended.as_ref().err());
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
        let publisher = slot.insert(Publisher::connect(&self.kafka, &self.config, state.batch_bytes)?);
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
            if caught_up && state.in_flight.is_empty() && !state.trial.is_on() {
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
        let State { leases, in_flight, trial, parked, .. } = state;
        acknowledge::acknowledge(publisher, in_flight, trial, &self.metrics)?;
        publisher.check(in_flight)?;
        acknowledge::delete(&self.pool, in_flight).await?;
        leases.keep(&self.pool, |shard| in_flight.holds(shard)).await?;
        in_flight.keep_shards(|shard| leases.leads(shard));
        parked.keep(&self.pool, leases.held()).await?;
        self.observe(state);

        if state.trial.is_on() {
            return self.try_refused(state, publisher, partitions).await;
        }
        let State { leases, in_flight, trial, parked, .. } = state;
        let room = usize::try_from(self.config.relay_max_in_flight)
            .unwrap_or(usize::MAX)
            .saturating_sub(in_flight.len());
        let found = if room == 0 {
            Round::Full
        } else if caught_up {
            Round::None
        } else {
            let mut shards = leases.readable();
            shards.retain(|shard| !parked.stops(*shard));
            let mut skip = in_flight.skip();
            skip.orders.extend(parked.orders());
            let heads =
                read::heads(&self.pool, &shards, &skip, room.min(self.config.relay_batch as usize)).await?;
            let found = match (heads.rows.is_empty(), heads.more) {
                (true, _) => Round::None,
                (false, true) => Round::More,
                (false, false) => Round::Some,
            };
            in_flight.admit(&skip, heads.rows);
            found
        };
        let sent = publisher.publish(partitions, in_flight, trial)?;
        Ok(if sent.queue_full { Round::Full } else { found })
    }

    /// Goes on telling refused events apart, once what is with the producer has come back.
    async fn try_refused(
        &self,
        State { trial, in_flight, parked, .. }: &mut State,
        publisher: &Publisher,
        partitions: i32,
    ) -> Result<Round, RelayError> {
        if !in_flight.awaits_broker() {
            park::step(&self.pool, publisher, partitions, (trial, in_flight, parked)).await?;
        }
        Ok(if in_flight.awaits_broker() { Round::Full } else { Round::More })
    }

    fn observe(&self, State { leases, in_flight, parked, .. }: &State) {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.shards_led.set(leases.led());
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
