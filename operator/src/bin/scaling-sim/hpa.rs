//! The horizontal pod autoscaler over one external metric, as KEDA sets it up: an average value per pod, and the default behaviour.

/// Seconds between two looks of the autoscaler.
pub(crate) const SYNC: usize = 15;
/// Seconds between two looks of KEDA itself, which only wakes and puts to rest.
pub(crate) const POLLING: usize = 30;
/// Seconds without activity after which KEDA puts to rest.
const COOLDOWN: usize = 300;
/// A metric so near to its target changes nothing.
const TOLERANCE: f64 = 0.1;
/// Fewer pods are asked for only when that was recommended for so many seconds.
const DOWN_WINDOW: usize = 300;
/// Within so many seconds there may come so many pods, or as many as there were, whichever is more.
const UP_PERIOD: usize = 15;
const UP_PODS: u32 = 4;

/// The autoscaler's memory, and KEDA's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hpa {
    recommended: Vec<(usize, u32)>,
    added: Vec<(usize, u32)>,
    active: Option<usize>,
}

/// The formula alone: pods for a metric, from so many.
pub(crate) fn formula(metric: i64, threshold: i64, current: u32) -> u32 {
    let ratio = metric as f64 / (threshold as f64 * f64::from(current));
    if current > 0 && (1.0 - ratio).abs() <= TOLERANCE {
        return current;
    }
    u32::try_from(metric.unsigned_abs().div_ceil(threshold.unsigned_abs())).unwrap_or(u32::MAX)
}

impl Hpa {
    /// One look of the autoscaler: `replicas` there are, `metric` is nothing on an error; bounds as the autoscaler has them.
    pub(crate) fn sync(
        &mut self,
        second: usize,
        replicas: u32,
        metric: Option<i64>,
        threshold: i64,
        (min, max): (u32, u32),
    ) -> u32 {
        if replicas == 0 {
            return 0;
        }
        if self.recommended.is_empty() {
            self.recommended.push((second, replicas));
        }
        let Some(metric) = metric else { return replicas };
        let desired = formula(metric, threshold, replicas);
        self.recommended.retain(|(at, _)| second - at < DOWN_WINDOW);
        self.recommended.push((second, desired));
        let highest = self.recommended.iter().map(|(_, pods)| *pods).fold(desired, u32::max);
        let stable = if desired < replicas { highest.min(replicas) } else { desired };
        self.added.retain(|(at, _)| second - at < UP_PERIOD);
        let began = replicas - self.added.iter().map(|(_, pods)| *pods).sum::<u32>().min(replicas);
        let limit = (began + UP_PODS).max(began * 2).max(replicas);
        let decided = stable.min(limit).clamp(min.max(1), max);
        if decided > replicas {
            self.added.push((second, decided - replicas));
        }
        decided
    }

    /// One look of KEDA: wakes from zero, and puts to rest where that is allowed. An error changes nothing.
    pub(crate) fn poll(&mut self, second: usize, replicas: u32, active: Option<bool>, min: u32) -> u32 {
        match active {
            Some(true) => {
                self.active = Some(second);
                replicas.max(min).max(1)
            }
            Some(false) if min == 0 && self.active.is_none_or(|last| second - last >= COOLDOWN) => 0,
            Some(false) => replicas.max(min),
            None => replicas,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_by_four_pods_or_by_as_many_as_there_are() {
        let mut hpa = Hpa::default();
        let mut replicas = 1;
        let mut seen = Vec::new();
        for look in 0..5 {
            replicas = hpa.sync(look * SYNC, replicas, Some(100_000), 1000, (1, 100));
            seen.push(replicas);
        }
        assert_eq!(seen, [5, 10, 20, 40, 80]);
    }

    #[test]
    fn it_shrinks_only_after_five_minutes_to_the_highest_recommendation_of_them() {
        let mut hpa = Hpa::default();
        hpa.sync(0, 10, Some(10_000), 1000, (1, 100));
        hpa.sync(15, 10, Some(6000), 1000, (1, 100));
        let looks = (2..=21).map(|look| (look * SYNC, hpa.sync(look * SYNC, 10, Some(1000), 1000, (1, 100))));
        let looks: Vec<_> = looks.collect();
        assert!(
            looks.iter().all(|(second, replicas)| *replicas
                == if *second < 300 {
                    10
                } else if *second < 315 {
                    6
                } else {
                    1
                }),
            "{looks:?}"
        );
    }

    #[test]
    fn a_metric_near_its_target_or_none_changes_nothing() {
        let mut hpa = Hpa::default();
        assert_eq!(hpa.sync(0, 10, Some(10_999), 1000, (1, 100)), 10);
        assert_eq!(hpa.sync(15, 10, None, 1000, (1, 100)), 10);
        assert_eq!(hpa.sync(30, 0, Some(10_999), 1000, (1, 100)), 0, "at zero it is off");
    }

    #[test]
    fn keda_wakes_from_zero_and_rests_after_its_cooldown() {
        let mut hpa = Hpa::default();
        assert_eq!(hpa.poll(0, 0, Some(true), 0), 1);
        assert_eq!(hpa.poll(270, 3, Some(false), 0), 3);
        assert_eq!(hpa.poll(300, 3, None, 0), 3);
        assert_eq!(hpa.poll(330, 3, Some(false), 0), 0);
        assert_eq!(hpa.poll(330, 3, Some(false), 1), 3);
    }
}
