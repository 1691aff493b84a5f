//! What the combining writer counts.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use runtime::metrics::Metrics;

/// Upper bounds of the queue-wait buckets, in seconds: from an idle lane to the longest wait that is worth allowing.
const WAIT_BUCKETS: [f64; 11] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];
/// Upper bounds of the batch-size buckets, in orders.
const SIZE_BUCKETS: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];

/// Metrics of the combining writer.
#[derive(Clone, Debug)]
pub struct WriterMetrics {
    queue_wait: Histogram,
    batch_orders: Histogram,
    busy_ratio: Gauge<f64, AtomicU64>,
    queue_orders: Gauge,
}

impl WriterMetrics {
    /// Metrics that are shown by `metrics`.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let new = Self {
            queue_wait: Histogram::new(WAIT_BUCKETS),
            batch_orders: Histogram::new(SIZE_BUCKETS),
            busy_ratio: Gauge::default(),
            queue_orders: Gauge::default(),
        };
        let Self { queue_wait, batch_orders, busy_ratio, queue_orders } = new.clone();
        metrics.register(|registry| {
            registry.register(
                "orderflow_writer_queue_wait_seconds",
                "Time from an order's arrival to the begin of its batch",
                queue_wait,
            );
            registry.register(
                "orderflow_writer_batch_orders",
                "Orders written in one transaction",
                batch_orders,
            );
            registry.register(
                "orderflow_writer_busy_ratio",
                "Share of the last seconds that the writer's lanes were at work, 0 to 1",
                busy_ratio,
            );
            registry.register("orderflow_writer_queue_orders", "Orders that wait for a lane", queue_orders);
        });
        new
    }

    /// An order waited this long for its batch to begin.
    pub fn waited(&self, wait: Duration) {
        self.queue_wait.observe(wait.as_secs_f64());
    }

    /// A batch of this many orders begins.
    pub fn batch(&self, orders: usize) {
        self.batch_orders.observe(f64::from(u32::try_from(orders).unwrap_or(u32::MAX)));
    }

    /// An order begins to wait.
    pub fn enqueued(&self) {
        self.queue_orders.inc();
    }

    /// This many orders wait no more.
    pub fn dequeued(&self, orders: usize) {
        self.queue_orders.dec_by(i64::try_from(orders).unwrap_or(i64::MAX));
    }

    /// The lanes were at work for this share of the time.
    pub fn busy_ratio(&self, ratio: f64) {
        self.busy_ratio.set(ratio);
    }
}
