//! How long to wait between attempts. Pure but for the jitter.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

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
    /// The wait after a failure that `before` others preceded: doubling, capped, with up to its own length of jitter on top, so
    /// that members that failed together do not come back together. `asked` is what the other side asked for
    /// (`Retry-After`), and is honoured within [`LONGEST_ASKED_WAIT`].
    #[must_use]
    pub fn wait(&self, before: u32, asked: Option<Duration>) -> Duration {
        let builder = ExponentialBuilder::default()
            .with_min_delay(self.initial_backoff)
            .with_max_delay(self.max_backoff.max(self.initial_backoff))
            .with_jitter()
            .without_max_times();
        let nth = usize::try_from(before.min(MOST_DOUBLINGS)).unwrap_or_default();
        let own = builder.build().nth(nth).unwrap_or(self.max_backoff);
        asked.map_or(own, |asked| own.max(asked.min(LONGEST_ASKED_WAIT)))
    }
}

/// So many doublings of a millisecond are longer than any backoff that can be set.
const MOST_DOUBLINGS: u32 = 30;
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
            for before in 0..100 {
                let wait = policy.wait(before, None);
                prop_assert!(wait >= policy.initial_backoff && wait <= longest * 2, "{wait:?}");
            }
        }
    }

    #[test]
    fn waits_grow() {
        let (first, fifth) = (policy(100, 30).wait(0, None), policy(100, 30).wait(4, None));
        assert!(
            first < Duration::from_millis(201) && fifth >= Duration::from_millis(1_600),
            "{first:?} {fifth:?}"
        );
    }

    #[test]
    fn what_the_sink_asks_for_is_honoured_within_a_bound() {
        let policy = policy(100, 30);
        assert_eq!(policy.wait(0, Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(policy.wait(0, Some(Duration::from_secs(86_400))), LONGEST_ASKED_WAIT);
    }
}
