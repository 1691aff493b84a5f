//! What the service counts, one module per part.

pub mod api;
pub mod writer;

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use runtime::metrics::Metrics;

use crate::store::outbox::Backlog;
pub use api::{ApiMetrics, OrderAction};
pub use writer::WriterMetrics;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ErrorLabels {
    kind: &'static str,
}

/// Metrics of outbox and relay.
#[derive(Clone, Default, Debug)]
pub struct RelayMetrics {
    outbox_rows: Gauge,
    outbox_oldest_age: Gauge<f64, AtomicU64>,
    /// Events that the broker acknowledged.
    pub published: Counter,
    /// Events sent and not yet acknowledged and deleted.
    pub in_flight: Gauge,
    /// Shards that this replica leads.
    pub shards_led: Gauge,
    /// Orders that are parked in the shards that this replica leads.
    pub parked_orders: Gauge,
    errors: Family<ErrorLabels, Counter>,
}

impl RelayMetrics {
    /// Metrics that are shown by `metrics`.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let new = Self::default();
        let Self { outbox_rows, outbox_oldest_age, published, in_flight, shards_led, parked_orders, errors } =
            new.clone();
        metrics.register(|registry| {
            registry.register(
                "orderflow_outbox_rows",
                "Events not yet published, up to a hundred thousand",
                outbox_rows,
            );
            registry.register(
                "orderflow_outbox_oldest_age_seconds",
                "Age of the oldest unpublished event",
                outbox_oldest_age,
            );
            registry.register("orderflow_relay_published", "Events acknowledged by the broker", published);
            registry.register(
                "orderflow_relay_in_flight",
                "Events sent, not yet acknowledged and deleted",
                in_flight,
            );
            registry.register("orderflow_relay_shards_led", "Shards this replica leads", shards_led);
            registry.register(
                "orderflow_relay_parked_orders",
                "Orders of which the topic refuses an event, in the shards this replica leads",
                parked_orders,
            );
            registry.register("orderflow_relay_errors", "Failures of the relay", errors);
        });
        new
    }

    /// The outbox was looked at.
    pub fn backlog(&self, backlog: Backlog) {
        self.outbox_rows.set(backlog.rows);
        self.outbox_oldest_age.set(backlog.oldest.as_secs_f64());
    }

    /// The relay failed; `kind` is one of few words.
    pub fn failed(&self, kind: &'static str) {
        self.errors.get_or_create(&ErrorLabels { kind }).inc();
    }
}
