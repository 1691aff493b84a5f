//! How long the relay waits between rounds: notified for latency, polling for truth.

use std::time::{Duration, Instant};

use runtime::shutdown::CancellationToken;
use tokio::sync::Notify;

use super::Round;
use super::publish::Publisher;

/// Shortest time from one round to the next unless a page was full, and the first poll: at most 500 rounds a second,
/// and what commits within it shares a round.
const POLL_MIN: Duration = Duration::from_millis(2);
/// Longest poll: how late an event may be noticed that another replica's request recorded.
const POLL_MAX: Duration = Duration::from_millis(200);
/// First pause after a failure.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest pause after a failure: how late the relay notices that all is well again.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Pauses between failures, doubling.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(BACKOFF_MIN)
    }
}

impl Backoff {
    /// The pause after one more failure.
    pub(super) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(BACKOFF_MAX);
        pause
    }

    /// All is well.
    pub(super) fn reset(&mut self) {
        self.0 = BACKOFF_MIN;
    }
}

/// What to wait for before the next round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    /// Nothing: a page was full.
    AtOnce,
    /// A commit, a delivery or the poll.
    Poll,
    /// A delivery: there is no room for more.
    Room,
    /// The pause after a failure.
    Pause(Duration),
}

/// The rhythm of the rounds.
#[derive(Debug)]
pub(super) struct Pace {
    began: Instant,
    poll: Duration,
    next: Next,
}

impl Default for Pace {
    fn default() -> Self {
        Self { began: Instant::now(), poll: POLL_MIN, next: Next::AtOnce }
    }
}

impl Pace {
    /// A round begins.
    pub(super) fn begin(&mut self) {
        self.began = Instant::now();
    }

    /// The round ended well.
    pub(super) fn after(&mut self, round: Round) {
        (self.next, self.poll) = match round {
            Round::More => (Next::AtOnce, POLL_MIN),
            Round::Some => (Next::Poll, POLL_MIN),
            Round::None => (Next::Poll, (self.poll * 2).min(POLL_MAX)),
            Round::Full => (Next::Room, POLL_MIN),
        };
    }

    /// The round failed.
    pub(super) fn failed(&mut self, pause: Duration) {
        self.next = Next::Pause(pause);
    }

    /// Waits for the next round.
    pub(super) async fn wait(&self, wake: &Notify, publisher: &Publisher, stop: &CancellationToken) {
        match self.next {
            Next::AtOnce => return,
            Next::Poll => tokio::select! {
                () = wake.notified() => {}
                () = publisher.delivered() => {}
                () = tokio::time::sleep(self.poll) => {}
                () = stop.cancelled(), if !stop.is_cancelled() => {}
            },
            Next::Room => tokio::select! {
                () = publisher.delivered() => {}
                () = tokio::time::sleep(POLL_MAX) => {}
            },
            Next::Pause(pause) => tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled(), if !stop.is_cancelled() => {}
            },
        }
        tokio::time::sleep_until((self.began + POLL_MIN).into()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_slow_down_while_nothing_comes_and_are_quick_again_at_once() {
        let mut pace = Pace::default();
        for _ in 0..10 {
            pace.after(Round::None);
        }
        assert_eq!((pace.next, pace.poll), (Next::Poll, POLL_MAX));
        pace.after(Round::Some);
        assert_eq!((pace.next, pace.poll), (Next::Poll, POLL_MIN));
        pace.after(Round::More);
        assert_eq!(pace.next, Next::AtOnce);
    }

    #[test]
    fn pauses_after_failures_double_up_to_a_bound() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..8).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.next(), BACKOFF_MIN);
    }
}
