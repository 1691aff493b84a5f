//! Fit: how many pods hold which load, when the group's assignor spreads partitions over them by count.

/// The fullest pod in the worst case, in records per second: the assignor gives no pod more than its even share of the
/// *number* of partitions, and knows nothing of their load, so that the heaviest may lie together on one pod.
///
/// `loads` are those of the partitions, the heaviest first. Without pods it is as full as can be.
#[must_use]
pub(super) fn fullest(loads: &[f64], pods: u32) -> f64 {
    let share = loads.len().div_ceil(pods.max(1) as usize);
    let full = loads.iter().take(share).sum();
    if pods == 0 && full > 0.0 { f64::INFINITY } else { full }
}

/// The fullest pod under an assignment that is known, in records per second.
#[must_use]
pub(super) fn fullest_of(loads: &[f64], owners: &[u32]) -> f64 {
    let of =
        |pod: &u32| loads.iter().zip(owners).filter(|(_, owner)| *owner == pod).map(|(load, _)| load).sum();
    owners.iter().map(of).fold(0.0, f64::max)
}

/// The fewest pods of which the fullest holds, up to one for each partition. A partition that is more than a pod holds
/// counts as a full pod, since no number of pods helps it.
#[must_use]
pub(super) fn fewest(loads: &[f64], capacity: f64, allowed: f64) -> u32 {
    let mut sorted: Vec<_> = loads.iter().map(|load| load.min(capacity)).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let most = u32::try_from(loads.len()).unwrap_or(u32::MAX);
    (0..most).find(|pods| fullest(&sorted, *pods) <= allowed * (1.0 + ROUNDING)).unwrap_or(most)
}

/// Sums of fractions err in the last digits.
const ROUNDING: f64 = 1e-9;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_heaviest_partitions_may_lie_on_one_pod() {
        let loads = [50.0, 40.0, 10.0, 10.0, 10.0];
        assert_eq!([1, 2, 3, 4, 5].map(|pods| fullest(&loads, pods)), [120.0, 100.0, 90.0, 90.0, 50.0]);
        assert_eq!(fewest(&loads, 100.0, 100.0), 2);
        assert_eq!(fewest(&loads, 60.0, 60.0), 5);
    }

    #[test]
    fn without_load_no_pod_is_needed() {
        assert_eq!(fewest(&[0.0, 0.0], 100.0, 100.0), 0);
        assert_eq!(fewest(&[0.0, 0.1], 100.0, 100.0), 1);
    }

    #[test]
    fn an_assignment_that_is_known_may_be_better_than_the_worst() {
        assert_eq!(fullest_of(&[50.0, 40.0, 10.0, 10.0], &[7, 9, 7, 9]), 60.0);
    }

    proptest! {
        #[test]
        fn more_load_never_needs_fewer_pods(
            loads in prop::collection::vec(0.0..300.0_f64, 1..30),
            more in prop::collection::vec(0.0..300.0_f64, 30),
            capacity in 1.0..200.0_f64,
        ) {
            let grown: Vec<_> = loads.iter().zip(&more).map(|(load, more)| load + more).collect();
            let (before, after) = (fewest(&loads, capacity, capacity), fewest(&grown, capacity, capacity));
            prop_assert!(before <= after && after as usize <= loads.len());
        }

        /// Whatever even-by-count assignment the group comes to, no pod of it is fuller than the worst case.
        #[test]
        fn no_even_assignment_is_worse_than_the_worst(
            loads in prop::collection::vec(0.0..300.0_f64, 1..20).prop_shuffle(),
            pods in 1_u32..20,
        ) {
            let owners: Vec<_> = (0..pods).cycle().take(loads.len()).collect();
            let mut sorted = loads.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            prop_assert!(fullest_of(&loads, &owners) <= fullest(&sorted, pods) + 1e-6);
        }
    }
}
