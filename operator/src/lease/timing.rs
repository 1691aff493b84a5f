//! How long a lease lasts, and how often it is renewed.

use std::time::Duration;

/// The three times of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A standby takes the lease when it has seen no renewal for this long.
    pub(crate) duration: Duration,
    /// The leader stops when no renewal got through for this long. What lies between this and `duration` is left for
    /// requests that are under way.
    pub(crate) renew_deadline: Duration,
    /// Between two renewals, and before a failed one is tried again.
    pub(crate) retry: Duration,
}

/// Times that make no safe election.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsafe {
    /// The leader would still write when another already leads.
    #[error(
        "the lease's duration ({duration:?}) must be longer than its renew deadline ({renew_deadline:?})"
    )]
    Overlap {
        /// As given.
        duration: Duration,
        /// As given.
        renew_deadline: Duration,
    },
    /// One renewal that fails would end the leadership.
    #[error("the renew deadline ({renew_deadline:?}) must be at least twice the retry period ({retry:?})")]
    Hasty {
        /// As given.
        renew_deadline: Duration,
        /// As given.
        retry: Duration,
    },
    /// The API server would be asked without a pause.
    #[error("the retry period must be longer than nothing")]
    NoPause,
}

impl Timing {
    /// The three times, if they keep their relation.
    ///
    /// # Errors
    /// When they do not.
    pub fn new(duration: Duration, renew_deadline: Duration, retry: Duration) -> Result<Self, Unsafe> {
        if retry.is_zero() {
            return Err(Unsafe::NoPause);
        }
        if duration <= renew_deadline {
            return Err(Unsafe::Overlap { duration, renew_deadline });
        }
        if renew_deadline < retry * 2 {
            return Err(Unsafe::Hasty { renew_deadline, retry });
        }
        Ok(Self { duration, renew_deadline, retry })
    }

    /// Longest wait for the API server's answer to one request: a silent one leaves time for another try.
    pub(crate) fn request(&self) -> Duration {
        self.renew_deadline / 2
    }

    /// How often a standby looks. Twice as often as the leader renews, so that little is added to `duration`: its time
    /// begins to count with the first look after a renewal.
    pub(crate) fn look(&self) -> Duration {
        self.retry / 2
    }

    /// The duration as the lease says it, in whole seconds, never shorter than it is.
    pub(crate) fn lease_seconds(&self) -> i32 {
        i32::try_from(self.duration.as_millis().div_ceil(1000)).unwrap_or(i32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(duration: u64, renew_deadline: u64, retry: u64) -> Result<Timing, Unsafe> {
        let millis = Duration::from_millis;
        Timing::new(millis(duration), millis(renew_deadline), millis(retry))
    }

    #[test]
    fn a_leader_must_stop_before_another_may_begin() {
        assert!(timing(15_000, 10_000, 2_000).is_ok());
        assert!(matches!(timing(10_000, 10_000, 2_000), Err(Unsafe::Overlap { .. })));
    }

    #[test]
    fn one_failed_renewal_must_not_end_the_leadership() {
        assert!(matches!(timing(15_000, 3_000, 2_000), Err(Unsafe::Hasty { .. })));
        assert_eq!(timing(15_000, 10_000, 0), Err(Unsafe::NoPause));
    }

    #[test]
    fn the_lease_never_promises_less_time_than_the_leader_takes() {
        assert_eq!(timing(2_500, 2_000, 500).unwrap().lease_seconds(), 3);
        assert_eq!(timing(15_000, 10_000, 2_000).unwrap().lease_seconds(), 15);
    }
}
