//! Comparing: every trace through ours and through KEDA with several thresholds.

use crate::run::{POLICY, Scaler, Score, run};
use crate::trace::{CAPACITY, Trace, all};
use crate::world::Rebalance;

/// What a careful user sets: the lag at which a busy pod is as far behind as a record may wait.
#[expect(clippy::cast_possible_truncation, reason = "some thousands")]
pub(crate) const CAREFUL: i64 = (POLICY.target_age * CAPACITY) as i64;
/// Thresholds of the sweep: KEDA's default, a fifth of a second of a pod's work, and from there to twice the careful one.
pub(crate) const SWEEP: [i64; 7] = [10, 80, 200, 400, 1000, CAREFUL, 2 * CAREFUL];

/// A trace with all its runs.
pub(crate) struct Comparison {
    pub(crate) trace: Trace,
    pub(crate) ours: Score,
    /// By threshold.
    pub(crate) keda: Vec<(i64, Score)>,
}

impl Comparison {
    /// KEDA as a careful user sets it up.
    pub(crate) fn careful(&self) -> &Score {
        &self.keda.iter().find(|(threshold, _)| *threshold == CAREFUL).expect("every comparison has it").1
    }

    /// Thresholds with which KEDA is at least as good in both and better in one.
    pub(crate) fn better_thresholds(&self) -> Vec<i64> {
        let better = |score: &Score| {
            let (over, pods) =
                (score.over.cmp(&self.ours.over), score.pod_seconds.cmp(&self.ours.pod_seconds));
            over.is_le() && pods.is_le() && (over.is_lt() || pods.is_lt())
        };
        self.keda.iter().filter(|(_, score)| better(score)).map(|(threshold, _)| *threshold).collect()
    }
}

/// Every trace, with these thresholds.
pub(crate) fn compare(rebalance: Rebalance, thresholds: &[i64]) -> Vec<Comparison> {
    let one = |trace: Trace| {
        let ours = run(&trace, rebalance, Scaler::ours());
        let keda = |threshold: &i64| (*threshold, run(&trace, rebalance, Scaler::keda(*threshold)));
        let keda = thresholds.iter().map(keda).collect();
        Comparison { trace, ours, keda }
    };
    all().into_iter().map(one).collect()
}
