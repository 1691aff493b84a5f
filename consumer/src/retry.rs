//! How long to wait between attempts. Pure but for the jitter.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// How a group retries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryPolicy {
    /// Attempts at a record that the sink refuses, before it is dead-lettered; at least 1.
    pub max_attempts: u32,
    /// Wait after the first failure.
    pub initial_backoff: Duration,
    /// Longest wait between two attempts, before jitter.
    pub max_backoff: Duration,
}

impl RetryPolicy {
    /// A fresh row of waits: doubling, capped, each with up to its own length of jitter on top, so that members that
    /// failed together do not come back together.
    #[must_use]
    pub fn waits(&self) -> Waits {
        let builder = ExponentialBuilder::default()
            .with_min_delay(self.initial_backoff)
            .with_max_delay(self.max_backoff.max(self.initial_backoff))
            .with_jitter()
            .without_max_times();
        Waits { backoff: builder.build(), longest: self.max_backoff }
    }
}

/// Waits between the attempts at one piece of work.
#[derive(Debug)]
pub struct Waits {
    backoff: ExponentialBackoff,
    longest: Duration,
}

impl Waits {
    /// The next wait. `asked` is what the other side asked for (`Retry-After`), and is honoured within
    /// [`LONGEST_ASKED_WAIT`].
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let own = self.backoff.next().unwrap_or(self.longest);
        asked.map_or(own, |asked| own.max(asked.min(LONGEST_ASKED_WAIT)))
    }
}

/// A sink that asks for more than this is asked again after it: an hour typed as milliseconds must not stop a group.
pub const LONGEST_ASKED_WAIT: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(initial_millis: u64, max_secs: u64) -> RetryPolicy {
        RetryPolicy {
            max_attempts: 8,
            initial_backoff: Duration::from_millis(initial_millis),
            max_backoff: Duration::from_secs(max_secs),
        }
    }

    proptest! {
        #[test]
        fn every_wait_is_between_the_first_and_twice_the_longest(initial in 1_u64..5_000, max in 1_u64..60) {
            let policy = policy(initial, max);
            let longest = policy.max_backoff.max(policy.initial_backoff);
            let mut waits = policy.waits();
            for _ in 0..100 {
                let wait = waits.next(None);
                prop_assert!(wait >= policy.initial_backoff && wait <= longest * 2, "{wait:?}");
            }
        }
    }

    #[test]
    fn waits_grow() {
        let mut waits = policy(100, 30).waits();
        let first = waits.next(None);
        let fifth = (0..4).map(|_| waits.next(None)).last().expect("four waits");
        assert!(
            first < Duration::from_millis(201) && fifth >= Duration::from_millis(1_600),
            "{first:?} {fifth:?}"
        );
    }

    #[test]
    fn what_the_sink_asks_for_is_honoured_within_a_bound() {
        let mut waits = policy(100, 30).waits();
        assert_eq!(waits.next(Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(waits.next(Some(Duration::from_secs(86_400))), LONGEST_ASKED_WAIT);
    }
}
