//! How long each pipeline waits before it is tried again: doubling with jitter, reset by success.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Wait after the first failure.
const SHORTEST: Duration = Duration::from_secs(1);

/// Longest wait, before jitter: a pipeline is never more than ten minutes behind a Kafka that came back.
const LONGEST: Duration = Duration::from_secs(300);

/// Waits by the uid of the pipeline.
#[derive(Debug, Default)]
pub struct Backoffs {
    by_uid: Mutex<HashMap<String, ExponentialBackoff>>,
}

impl Backoffs {
    /// The next wait after a failure.
    #[must_use]
    pub fn next(&self, uid: &str) -> Duration {
        let mut waits = self.by_uid.lock().unwrap_or_else(PoisonError::into_inner);
        waits.entry(uid.to_owned()).or_insert_with(start).next().unwrap_or(LONGEST)
    }

    /// A success: the next failure waits shortly again.
    pub fn reset(&self, uid: &str) {
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// Pipelines that failed last time.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether no pipeline failed last time.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn start() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(SHORTEST)
        .with_max_delay(LONGEST)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_over_after_success() {
        let backoffs = Backoffs::default();
        let waits: Vec<_> = (0..20).map(|_| backoffs.next("a")).collect();
        assert!(waits[0] >= SHORTEST && waits[0] <= SHORTEST * 2, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= LONGEST * 2), "{waits:?}");
        assert!(waits[19] >= LONGEST, "{waits:?}");
        backoffs.reset("a");
        assert!(backoffs.next("a") <= SHORTEST * 2);
    }

    #[test]
    fn one_pipeline_s_failures_do_not_slow_another() {
        let backoffs = Backoffs::default();
        for _ in 0..10 {
            let _ = backoffs.next("a");
        }
        assert!(backoffs.next("b") <= SHORTEST * 2);
    }
}
