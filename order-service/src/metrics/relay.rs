//! What outbox and relay count.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use runtime::metrics::Metrics;

use crate::store::outbox::{Backlog, SHARDS};

/// Upper bounds of the buckets of publish latency, in seconds: from a good round trip to an outage.
const LATENCY_BUCKETS: [f64; 14] =
    [0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.5, 2.0, 10.0, 60.0];

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ErrorLabels {
    kind: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ShardLabels {
    shard: u8,
}

/// Metrics of outbox and relay.
#[derive(Clone, Debug)]
pub struct RelayMetrics {
    outbox_rows: Gauge,
    outbox_oldest_age: Gauge<f64, AtomicU64>,
    published: Counter,
    latency: Histogram,
    /// Events read, and not yet acknowledged and deleted.
    pub in_flight: Gauge,
    /// Shards that this replica leads.
    pub shards_led: Gauge,
    shard_leader: Family<ShardLabels, Gauge>,
    /// Orders that are parked in the shards that this replica leads.
    pub parked_orders: Gauge,
    /// Announcements by other replicas that they recorded events.
    pub announced: Counter,
    errors: Family<ErrorLabels, Counter>,
    /// Partitions by which this replica maps keys.
    pub partitions: Gauge,
    fenced: Counter<f64, AtomicU64>,
    growth_waits: Family<GrowthLabels, Gauge>,
    growths: Family<OutcomeLabels, Counter>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct GrowthLabels {
    reason: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

impl RelayMetrics {
    /// Metrics that are shown by `metrics`.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let new = Self {
            outbox_rows: Gauge::default(),
            outbox_oldest_age: Gauge::default(),
            published: Counter::default(),
            latency: Histogram::new(LATENCY_BUCKETS),
            in_flight: Gauge::default(),
            shards_led: Gauge::default(),
            shard_leader: Family::default(),
            parked_orders: Gauge::default(),
            announced: Counter::default(),
            errors: Family::default(),
            partitions: Gauge::default(),
            fenced: Counter::default(),
            growth_waits: Family::default(),
            growths: Family::default(),
        };
        new.register_growth(metrics);
        metrics.register(|registry| {
            let rows = "Events not yet published, up to a hundred thousand";
            registry.register("orderflow_outbox_rows", rows, new.outbox_rows.clone());
            let age = "Age of the oldest unpublished event";
            registry.register("orderflow_outbox_oldest_age_seconds", age, new.outbox_oldest_age.clone());
            let published = "Events acknowledged by the broker";
            registry.register("orderflow_relay_published", published, new.published.clone());
            let latency =
                "Time from the recording of an event to its acknowledgement, by the database's clock";
            registry.register("orderflow_relay_publish_latency_seconds", latency, new.latency.clone());
            let in_flight = "Events read, not yet acknowledged and deleted";
            registry.register("orderflow_relay_in_flight", in_flight, new.in_flight.clone());
            let led = "Shards this replica leads";
            registry.register("orderflow_relay_shards_led", led, new.shards_led.clone());
            let leader = "1 where this replica leads the shard, else 0";
            registry.register("orderflow_relay_shard_leader", leader, new.shard_leader.clone());
            let parked = "Orders of which the topic refuses an event, in the shards this replica leads";
            registry.register("orderflow_relay_parked_orders", parked, new.parked_orders.clone());
            let announced = "Announcements of new events by other replicas";
            registry.register("orderflow_relay_announced", announced, new.announced.clone());
            registry.register("orderflow_relay_errors", "Failures of the relay", new.errors.clone());
        });
        new
    }

    fn register_growth(&self, metrics: &Metrics) {
        metrics.register(|registry| {
            let partitions = "Partitions by which this replica maps keys";
            registry.register("orderflow_relay_partitions", partitions, self.partitions.clone());
            let fenced =
                "Time for which publishing rested because the partition count was about to be switched";
            registry.register("orderflow_relay_fenced_seconds", fenced, self.fenced.clone());
            let waits = "1 for what the switch to more partitions waits for, where this replica drives it";
            registry.register("orderflow_relay_growth_waits", waits, self.growth_waits.clone());
            let growths = "Switches of the partition count, and fences that came down without one";
            registry.register("orderflow_relay_growths", growths, self.growths.clone());
        });
    }

    /// Publishing rested for so long.
    pub fn fenced(&self, duration: Duration) {
        self.fenced.inc_by(duration.as_secs_f64());
    }

    /// The switch of the partition count waits for this, and nothing else; `reason` is one of few words.
    pub fn growth_waits(&self, reason: Option<&'static str>) {
        self.growth_waits.clear();
        if let Some(reason) = reason {
            self.growth_waits.get_or_create(&GrowthLabels { reason }).set(1);
        }
    }

    /// A fence came down.
    pub fn growth_ended(&self, switched: bool) {
        let outcome = if switched { "switched" } else { "given-up" };
        self.growths.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// The outbox was looked at.
    pub fn backlog(&self, backlog: Backlog) {
        self.outbox_rows.set(backlog.rows);
        self.outbox_oldest_age.set(backlog.oldest.as_secs_f64());
    }

    /// An event was acknowledged, so long after it was recorded.
    pub fn published(&self, latency: Duration) {
        self.published.inc();
        self.latency.observe(latency.as_secs_f64());
    }

    /// These shards are led, and no others.
    pub fn leads(&self, shards: &[i16]) {
        self.shards_led.set(i64::try_from(shards.len()).unwrap_or(i64::MAX));
        for shard in 0..SHARDS {
            let leads = shards.contains(&i16::from(shard));
            self.shard_leader.get_or_create(&ShardLabels { shard }).set(i64::from(leads));
        }
    }

    /// The relay failed; `kind` is one of few words.
    pub fn failed(&self, kind: &'static str) {
        self.errors.get_or_create(&ErrorLabels { kind }).inc();
    }
}
