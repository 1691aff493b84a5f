//! What scaling sees and decides, by workload.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::scaling::Verdict;

/// Bounds of the time that a look at everything takes, in seconds: a quiet broker answers within milliseconds, one that is away takes
/// the time-out.
const LOOK_SECONDS: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// Whose figures they are: a group's, or the order service's, which is called `order-service`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WorkloadLabels {
    /// Namespace of the pipeline.
    pub namespace: String,
    /// The pipeline.
    pub pipeline: String,
    /// The group.
    pub group: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabels {
    namespace: String,
    pipeline: String,
    group: String,
    verdict: &'static str,
}

/// What one tick saw and decided of a workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// How long the oldest has been waiting, in seconds; nothing when that is unknown.
    pub age: Option<f64>,
    /// How long it may.
    pub target: f64,
    /// Records still to be read.
    pub records: Option<u64>,
    /// Records that were deleted before they were read.
    pub lost: u64,
    /// Pods that were asked for.
    pub replicas: u32,
    /// Pods that there should be.
    pub wanted: u32,
    /// Records per second that one pod was measured to read.
    pub capacity: Option<f64>,
    /// The verdict of this very tick; the one that is told holds still.
    pub verdict: Verdict,
}

type Figure<N> = Family<WorkloadLabels, N>;
type Decimal = Gauge<f64, AtomicU64>;

/// The figures.
#[derive(Clone, Debug)]
pub struct ScalingMetrics {
    age: Figure<Decimal>,
    target: Figure<Decimal>,
    records: Figure<Gauge>,
    lost: Figure<Gauge>,
    replicas: Figure<Gauge>,
    wanted: Figure<Gauge>,
    capacity: Figure<Decimal>,
    verdict: Family<VerdictLabels, Gauge>,
    looks: Histogram,
}

impl Default for ScalingMetrics {
    fn default() -> Self {
        Self {
            age: Family::default(),
            target: Family::default(),
            records: Family::default(),
            lost: Family::default(),
            replicas: Family::default(),
            wanted: Family::default(),
            capacity: Family::default(),
            verdict: Family::default(),
            looks: Histogram::new(LOOK_SECONDS),
        }
    }
}

impl ScalingMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let Self { age, target, records, lost, replicas, wanted, capacity, verdict, looks } = self.clone();
        let waits = "How long the oldest record or order has been waiting; absent while that is unknown";
        registry.register("orderflow_scaling_age_seconds", waits, age);
        registry.register("orderflow_scaling_target_seconds", "How long it may wait", target);
        let left = "Records that the group has still to read";
        registry.register("orderflow_scaling_backlog_records", left, records);
        let gone = "Records that retention deleted before the group read them, since its place";
        registry.register("orderflow_scaling_lost_records", gone, lost);
        registry.register("orderflow_scaling_replicas", "Pods that were asked for", replicas);
        registry.register("orderflow_scaling_wanted_replicas", "Pods that there should be", wanted);
        let reads = "Records per second that one pod was measured to read; absent until one was busy";
        registry.register("orderflow_scaling_pod_capacity", reads, capacity);
        registry.register("orderflow_scaling_verdict", "1 for the verdict of the last look", verdict);
        let takes = "Time of a look at everything that is scaled";
        registry.register("orderflow_scaling_look_seconds", takes, looks);
    }

    /// A tick judged a workload.
    pub fn judged(&self, of: &WorkloadLabels, judged: &Judged) {
        set(&self.age, of, judged.age);
        set(&self.target, of, Some(judged.target));
        set(&self.capacity, of, judged.capacity);
        count(&self.records, of, judged.records);
        count(&self.lost, of, judged.records.map(|_| judged.lost));
        count(&self.replicas, of, Some(u64::from(judged.replicas)));
        count(&self.wanted, of, Some(u64::from(judged.wanted)));
        for verdict in Verdict::ALL {
            let labels = verdict_labels(of, verdict);
            if verdict == judged.verdict {
                self.verdict.get_or_create(&labels).set(1);
            } else {
                self.verdict.remove(&labels);
            }
        }
    }

    /// The workload is scaled no more.
    pub fn forget(&self, of: &WorkloadLabels) {
        self.age.remove(of);
        self.target.remove(of);
        self.capacity.remove(of);
        for family in [&self.records, &self.lost, &self.replicas, &self.wanted] {
            family.remove(of);
        }
        for verdict in Verdict::ALL {
            self.verdict.remove(&verdict_labels(of, verdict));
        }
    }

    /// A look at everything took so long.
    pub fn looked(&self, took: Duration) {
        self.looks.observe(took.as_secs_f64());
    }
}

fn set(family: &Figure<Decimal>, of: &WorkloadLabels, value: Option<f64>) {
    match value {
        Some(value) => {
            family.get_or_create(of).set(value);
        }
        None => {
            family.remove(of);
        }
    }
}

fn count(family: &Figure<Gauge>, of: &WorkloadLabels, value: Option<u64>) {
    match value {
        Some(value) => {
            family.get_or_create(of).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        None => {
            family.remove(of);
        }
    }
}

fn verdict_labels(of: &WorkloadLabels, verdict: Verdict) -> VerdictLabels {
    let WorkloadLabels { namespace, pipeline, group } = of.clone();
    VerdictLabels { namespace, pipeline, group, verdict: verdict.name() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_verdict_is_shown_and_what_is_unknown_or_gone_is_not() {
        let registry = runtime::metrics::Metrics::default();
        let metrics = ScalingMetrics::default();
        registry.register(|registry| metrics.register(registry));
        let of = WorkloadLabels { namespace: "shop".into(), pipeline: "orders".into(), group: "a".into() };
        let mut judged = Judged {
            age: Some(2.5),
            target: 5.0,
            records: Some(7),
            lost: 0,
            replicas: 1,
            wanted: 2,
            capacity: None,
            verdict: Verdict::CatchingUp,
        };
        metrics.judged(&of, &judged);
        judged.verdict = Verdict::LagUnknown;
        let labels = "namespace=\"shop\",pipeline=\"orders\",group=\"a\"";
        assert!(registry.render().contains(&format!("orderflow_scaling_age_seconds{{{labels}}} 2.5")));
        metrics.judged(&of, &Judged { age: None, records: None, ..judged });
        let text = registry.render();
        assert!(
            text.contains(&format!("orderflow_scaling_verdict{{{labels},verdict=\"LagUnknown\"}} 1")),
            "{text}"
        );
        assert!(!text.contains("CatchingUp") && !text.contains("age_seconds{"), "{text}");
        metrics.forget(&of);
        assert!(!registry.render().contains("shop"));
    }
}
