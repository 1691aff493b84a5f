//! The operator's figures, under the names that controller-runtime made common.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Name of the one controller there is.
const CONTROLLER: &str = "orderpipeline";

/// Bounds of controller-runtime's own histogram, thinned out, in seconds.
const SECONDS: [f64; 13] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// How a reconciliation ended, in controller-runtime's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "label values as dashboards know them")]
pub enum Outcome {
    /// Nothing is left to do.
    success,
    /// Something waits; it is looked at again.
    requeue_after,
    /// It failed and is tried again.
    error,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    controller: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    controller: &'static str,
    result: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChangeLabels {
    kind: &'static str,
}

/// The figures.
#[derive(Clone, Debug)]
pub struct Metrics {
    reconciles: Family<ResultLabels, Counter>,
    errors: Family<Labels, Counter>,
    terminal_errors: Family<Labels, Counter>,
    seconds: Family<Labels, Histogram>,
    active: Family<Labels, Gauge>,
    changes: Family<ChangeLabels, Counter>,
    status_writes: Counter,
    events_dropped: Counter,
    backing_off: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            reconciles: Family::default(),
            errors: Family::default(),
            terminal_errors: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            active: Family::default(),
            changes: Family::default(),
            status_writes: Counter::default(),
            events_dropped: Counter::default(),
            backing_off: Gauge::default(),
        }
    }
}

impl Metrics {
    /// The figures, added to `registry`.
    #[must_use]
    pub fn registered(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self {
            reconciles,
            errors,
            terminal_errors,
            seconds,
            active,
            changes,
            status_writes,
            events_dropped,
            backing_off,
        } = metrics.clone();
        registry.register("controller_runtime_reconcile", "Reconciliations by result", reconciles);
        registry.register("controller_runtime_reconcile_errors", "Reconciliations that failed", errors);
        registry.register(
            "controller_runtime_terminal_reconcile_errors",
            "Reconciliations that ended in what a person must mend",
            terminal_errors,
        );
        registry.register("controller_runtime_reconcile_time_seconds", "Time of a reconciliation", seconds);
        registry.register("controller_runtime_active_workers", "Reconciliations under way", active);
        registry.register("orderflow_operator_changes", "Changes made, by kind", changes);
        registry.register("orderflow_operator_status_writes", "Statuses written", status_writes);
        registry.register(
            "orderflow_operator_events_dropped",
            "Events not published, because too many waited",
            events_dropped,
        );
        registry.register("orderflow_operator_backing_off", "Pipelines waiting after a failure", backing_off);
        metrics
    }

    /// A reconciliation began; the guard ends it.
    #[must_use]
    pub fn begin(&self) -> Active {
        let gauge = self.active.get_or_create(&labels()).clone();
        gauge.inc();
        Active(Arc::new(gauge))
    }

    /// A reconciliation ended.
    pub fn ended(&self, result: Outcome, took: Duration) {
        self.reconciles.get_or_create(&ResultLabels { controller: CONTROLLER, result }).inc();
        self.seconds.get_or_create(&labels()).observe(took.as_secs_f64());
        if result == Outcome::error {
            self.errors.get_or_create(&labels()).inc();
        }
    }

    /// A reconciliation found what a person must mend.
    pub fn stalled(&self) {
        self.terminal_errors.get_or_create(&labels()).inc();
    }

    /// A change was made.
    pub fn changed(&self, kind: &'static str) {
        self.changes.get_or_create(&ChangeLabels { kind }).inc();
    }

    /// A status was written.
    pub fn wrote_status(&self) {
        self.status_writes.inc();
    }

    /// Events were dropped.
    pub fn dropped_events(&self, count: usize) {
        self.events_dropped.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// Events that were dropped so far.
    #[must_use]
    pub fn events_dropped(&self) -> u64 {
        self.events_dropped.get()
    }

    /// This many pipelines wait after a failure.
    pub fn backing_off(&self, pipelines: usize) {
        self.backing_off.set(i64::try_from(pipelines).unwrap_or(i64::MAX));
    }
}

/// A reconciliation under way.
#[derive(Debug)]
pub struct Active(Arc<Gauge>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.dec();
    }
}

const fn labels() -> Labels {
    Labels { controller: CONTROLLER }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_names_that_dashboards_expect() {
        let registry = runtime::metrics::Metrics::default();
        let metrics = registry.register(Metrics::registered);
        metrics.ended(Outcome::requeue_after, Duration::from_millis(7));
        metrics.ended(Outcome::error, Duration::from_millis(7));
        let text = registry.render();
        for line in [
            "controller_runtime_reconcile_total{controller=\"orderpipeline\",result=\"requeue_after\"} 1",
            "controller_runtime_reconcile_errors_total{controller=\"orderpipeline\"} 1",
            "controller_runtime_reconcile_time_seconds_count{controller=\"orderpipeline\"} 2",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }
}
