//! Whether the sink is worth calling. An outage is waited for by all partitions together and spends nobody's attempts.
//!
//! ```text
//!           failures in a row, or "not before then"
//!   closed ─────────────────────────────────────────▶ open
//!     ▲                                               │  its time has come: one call goes through
//!     └──────────── applied ──────── trying ◀─────────┘
//!                                      └─ failed ─▶ open, for longer
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::metrics::ConsumerMetrics;
use crate::retry::{LONGEST_ASKED_WAIT, RetryPolicy};

/// So many failures in a row, over all partitions, are an outage. Fewer are the misfortune of single calls, which are retried
/// alone: a sink that fails one call in ten must not stop the other nine.
const FAILURES_OF_AN_OUTAGE: u32 = 5;

/// Longest pause between two trials, where the sink named no time: an outage costs it a call every few seconds, and what came in
/// the meantime waits no longer than that after its end, or for the failures of one event alone to be told from an outage.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The breaker of one sink.
#[derive(Debug)]
pub struct Breaker {
    retry: RetryPolicy,
    metrics: ConsumerMetrics,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Calls go through. So many in a row have failed.
    Closed { failures: u32 },
    /// None does before then. So often in a row the outage was found to last.
    Open { until: Instant, waits: u32 },
    /// One is under way that will tell.
    Trying { waits: u32 },
}

/// Whether a call may be made.
#[derive(Debug)]
pub enum Pass {
    /// Yes.
    Go(Permit),
    /// Not before then.
    NotBefore(Instant),
    /// Not before the state changes: another call is the trial.
    Later,
}

/// Leave to make one call. Whoever has it says what came of the call; a trial that ends without a word is repeated.
#[derive(Debug)]
pub struct Permit {
    breaker: Arc<Breaker>,
    is_trial: bool,
}

impl Breaker {
    /// A closed one, which once open waits as `retry` does.
    #[must_use]
    pub fn new(retry: RetryPolicy, metrics: ConsumerMetrics) -> Arc<Self> {
        let state = watch::Sender::new(State::Closed { failures: 0 });
        Arc::new(Self { retry, metrics, state })
    }

    /// Asks for leave to call the sink.
    #[must_use]
    pub fn pass(self: &Arc<Self>, now: Instant) -> Pass {
        let mut pass = Pass::Later;
        self.state.send_if_modified(|state| match *state {
            State::Closed { .. } => {
                pass = Pass::Go(Permit { breaker: Arc::clone(self), is_trial: false });
                false
            }
            State::Open { until, .. } if now < until => {
                pass = Pass::NotBefore(until);
                false
            }
            State::Open { waits, .. } => {
                *state = State::Trying { waits };
                pass = Pass::Go(Permit { breaker: Arc::clone(self), is_trial: true });
                true
            }
            State::Trying { .. } => false,
        });
        pass
    }

    /// Whether [`Breaker::pass`] would give leave.
    #[must_use]
    pub fn is_passable(&self, now: Instant) -> bool {
        match *self.state.borrow() {
            State::Closed { .. } => true,
            State::Open { until, .. } => now >= until,
            State::Trying { .. } => false,
        }
    }

    /// Wakes whoever waits for another state.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes(self.state.subscribe())
    }

    fn open(&self, waits: u32, asked: Option<Duration>) -> State {
        self.metrics.sink_down.set(1);
        let own = self.retry.wait(waits, None).min(LONGEST_PAUSE);
        let pause = asked.map_or(own, |asked| own.max(asked.min(LONGEST_ASKED_WAIT)));
        State::Open { until: Instant::now() + pause, waits: waits.saturating_add(1) }
    }
}

/// Tells of changes.
#[derive(Debug)]
pub struct Changes(watch::Receiver<State>);

impl Changes {
    /// Returns at the next change.
    pub async fn next(&mut self) {
        // The sender lives as long as the sink's deliverer, which outlives its workers.
        let _ = self.0.changed().await;
    }
}

impl Permit {
    /// Whether the call tells for all: it should be a small one.
    #[must_use]
    pub const fn is_trial(&self) -> bool {
        self.is_trial
    }

    /// The sink answered. What it said of the events does not matter here.
    pub fn answered(mut self) {
        let is_trial = std::mem::take(&mut self.is_trial);
        let metrics = &self.breaker.metrics;
        self.breaker.state.send_if_modified(|state| {
            let before = *state;
            match before {
                State::Trying { .. } if is_trial => {
                    metrics.sink_down.set(0);
                    tracing::info!("sink available again");
                    *state = State::Closed { failures: 0 };
                }
                State::Closed { .. } => *state = State::Closed { failures: 0 },
                // The answer to a call that was made before the outage.
                State::Trying { .. } | State::Open { .. } => {}
            }
            before != *state
        });
    }

    /// The sink is not available; `error` says why, and `asked` when it wants to be called again.
    pub fn failed(mut self, error: &dyn std::fmt::Display, asked: Option<Duration>) {
        let is_trial = std::mem::take(&mut self.is_trial);
        let breaker = &self.breaker;
        breaker.state.send_if_modified(|state| {
            let before = *state;
            match before {
                State::Trying { waits } if is_trial => {
                    *state = breaker.open(waits, asked);
                }
                State::Closed { failures } if asked.is_some() || failures + 1 >= FAILURES_OF_AN_OUTAGE => {
                    tracing::warn!(%error, "sink unavailable; waiting for it");
                    *state = breaker.open(0, asked);
                }
                State::Closed { failures } => *state = State::Closed { failures: failures + 1 },
                State::Trying { .. } | State::Open { .. } => {}
            }
            before != *state
        });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_trial {
            let (breaker, now) = (&self.breaker, Instant::now());
            breaker.state.send_if_modified(|state| match *state {
                State::Trying { waits } => {
                    *state = State::Open { until: now, waits };
                    true
                }
                State::Closed { .. } | State::Open { .. } => false,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    fn breaker() -> Arc<Breaker> {
        let retry = RetryPolicy {
            max_attempts: 3,
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(8),
        };
        Breaker::new(retry, ConsumerMetrics::registered(&mut Registry::default()))
    }

    fn permit(breaker: &Arc<Breaker>, now: Instant) -> Permit {
        match breaker.pass(now) {
            Pass::Go(permit) => permit,
            other => panic!("{other:?}"),
        }
    }

    fn until(breaker: &Arc<Breaker>) -> Instant {
        match breaker.pass(Instant::now()) {
            Pass::NotBefore(until) => until,
            other => panic!("{other:?}"),
        }
    }

    fn fail(breaker: &Arc<Breaker>) {
        for _ in 0..FAILURES_OF_AN_OUTAGE {
            permit(breaker, Instant::now()).failed(&"500", None);
        }
    }

    #[test]
    fn single_failures_stop_nobody() {
        let breaker = breaker();
        for _ in 0..FAILURES_OF_AN_OUTAGE {
            for _ in 1..FAILURES_OF_AN_OUTAGE {
                permit(&breaker, Instant::now()).failed(&"500", None);
            }
            permit(&breaker, Instant::now()).answered();
        }
    }

    #[test]
    fn an_outage_stops_all_and_one_call_tells_when_it_is_over() {
        let breaker = breaker();
        fail(&breaker);
        let later = until(&breaker);
        assert!(!breaker.is_passable(Instant::now()) && breaker.is_passable(later));
        let trial = permit(&breaker, later);
        assert!(trial.is_trial());
        assert!(matches!(breaker.pass(later), Pass::Later), "one call is enough");
        assert!(!breaker.is_passable(later));
        trial.answered();
        assert!(!permit(&breaker, later).is_trial());
    }

    #[test]
    fn a_trial_that_fails_waits_longer() {
        let breaker = breaker();
        fail(&breaker);
        let mut waits = Vec::new();
        for _ in 0..4 {
            let until = until(&breaker);
            waits.push(until - Instant::now());
            permit(&breaker, until).failed(&"500", None);
        }
        assert!(waits[0] <= Duration::from_secs(2), "{waits:?}");
        assert!(waits[3] > Duration::from_secs(4) && waits[3] <= LONGEST_PAUSE, "{waits:?}");
    }

    #[test]
    fn a_sink_that_names_a_time_is_called_then() {
        let breaker = breaker();
        permit(&breaker, Instant::now()).failed(&"429", Some(Duration::from_secs(60)));
        assert!(until(&breaker) - Instant::now() > Duration::from_secs(58));
    }

    #[test]
    fn a_trial_that_ends_without_a_word_is_repeated() {
        let breaker = breaker();
        fail(&breaker);
        let later = until(&breaker);
        drop(permit(&breaker, later));
        assert!(permit(&breaker, Instant::now()).is_trial());
    }

    #[test]
    fn what_was_called_before_the_outage_does_not_end_it() {
        let breaker = breaker();
        let early = permit(&breaker, Instant::now());
        fail(&breaker);
        early.answered();
        until(&breaker);
    }
}
