//! KEDA's Kafka scaler: from offsets to the metric that it gives to the autoscaler (`kafka_scaler.go` at 8b4f083).

use operator::crd::StartFrom;
use operator::scaling::{Committed, Reading};

/// The scaler's settings, with its own names; the rest is as by default.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keda {
    pub(crate) lag_threshold: i64,
    pub(crate) activation_lag_threshold: i64,
    pub(crate) offset_reset_policy: StartFrom,
    pub(crate) scale_to_zero_on_invalid_offset: bool,
    pub(crate) limit_to_partitions_with_lag: bool,
    pub(crate) ensure_even_distribution: bool,
}

impl Keda {
    /// The scaler with nothing set but its threshold and the group's own policy.
    pub(crate) const fn new(lag_threshold: i64) -> Self {
        Self {
            lag_threshold,
            activation_lag_threshold: 0,
            offset_reset_policy: StartFrom::Earliest,
            scale_to_zero_on_invalid_offset: false,
            limit_to_partitions_with_lag: false,
            ensure_even_distribution: false,
        }
    }

    /// Lag of one partition; an error is nothing.
    pub(crate) fn lag(&self, reading: &Reading) -> Option<i64> {
        match (reading.committed, self.offset_reset_policy, reading.log_end) {
            (Committed::Unknown, ..) => None,
            (Committed::Nothing, ..) if self.scale_to_zero_on_invalid_offset => Some(0),
            (Committed::Nothing, StartFrom::Latest, _) => Some(1),
            // An end that is missing from the answer counts as no lag.
            (_, _, None) => Some(0),
            // The log's start is not asked for.
            (Committed::Nothing, StartFrom::Earliest, Some(end)) => Some(end),
            (Committed::At(committed), _, Some(end)) => Some(end - committed),
        }
    }

    /// The metric, and whether the scaler is active; nothing on an error.
    pub(crate) fn metric(&self, readings: &[Reading]) -> Option<(i64, bool)> {
        if readings.is_empty() {
            return None;
        }
        let lags: Vec<_> = readings.iter().map(|reading| self.lag(reading)).collect::<Option<_>>()?;
        let total: i64 = lags.iter().sum();
        let partitions = count(lags.len());
        let mut metric = total;
        if self.ensure_even_distribution {
            let fits = |pods: &i64| pods * self.lag_threshold >= total;
            metric = divisors(partitions).into_iter().find(fits).unwrap_or(partitions) * self.lag_threshold;
        }
        let most = if self.limit_to_partitions_with_lag {
            count(lags.iter().filter(|lag| **lag > 0).count())
        } else {
            partitions
        };
        // A division of integers: one more than there are partitions passes.
        if metric / self.lag_threshold > most {
            metric = most * self.lag_threshold;
        }
        Some((metric, total > self.activation_lag_threshold))
    }
}

fn count(items: usize) -> i64 {
    i64::try_from(items).unwrap_or(i64::MAX)
}

/// Every divisor, in ascending order.
pub(crate) fn divisors(number: i64) -> Vec<i64> {
    (1..=number).filter(|divisor| number % divisor == 0).collect()
}
