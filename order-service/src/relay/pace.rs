//! When the relay reads, deletes and looks after its leases: notified for latency, polling for truth.

use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::shutdown::CancellationToken;
use tokio::sync::Notify;

/// Shortest time from one read to the next unless a page was full, and the first poll: at most a thousand reads a second,
/// and what commits within it shares a read.
const POLL_MIN: Duration = Duration::from_millis(1);
/// Longest poll: how late an event may be noticed that nobody announced.
const POLL_MAX: Duration = Duration::from_millis(200);
/// Shortest time between two looks at acknowledgements behind a backlog: there nobody waits for the single one, and what comes
/// together is read and deleted together.
const LOOK_MIN: Duration = Duration::from_millis(1);
/// How long an acknowledged row waits for others to be deleted with it.
const DELETE_AFTER: Duration = Duration::from_millis(20);
/// Acknowledged rows that are deleted without waiting for more: from there on a larger statement gains little.
const DELETE_AT_ONCE: usize = 500;
/// Time from one look at leases, parked orders and settled ids to the next. Deleted rows younger than two looks are walked
/// over by every read.
const UPKEEP_EVERY: Duration = Duration::from_millis(250);
/// The same while publishing rests behind a fence, whose end nobody announces.
const FENCED_UPKEEP_EVERY: Duration = Duration::from_millis(50);
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

/// What a read found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// A shard's page was full: there is more.
    More,
    /// Some rows, and no more of them now.
    Some,
    /// No rows.
    None,
}

/// The rhythm of the relay.
#[derive(Debug)]
pub(super) struct Pace {
    read_began: Instant,
    read_at: Instant,
    poll: Duration,
    /// An event was announced since the last read began.
    announced: bool,
    delete_at: Option<Instant>,
    upkeep_at: Instant,
    paused_until: Option<Instant>,
    backoff: Backoff,
}

impl Default for Pace {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            read_began: now,
            read_at: now,
            poll: POLL_MIN,
            announced: false,
            delete_at: None,
            upkeep_at: now,
            paused_until: None,
            backoff: Backoff::default(),
        }
    }
}

impl Pace {
    /// An event was recorded, or may be read now: a read is due.
    pub(super) fn announce(&mut self) {
        self.announced = true;
        self.read_at = self.read_at.min(self.read_began + POLL_MIN);
    }

    /// True when a read is due.
    pub(super) fn reads(&self, now: Instant) -> bool {
        self.read_at <= now && !self.is_paused(now)
    }

    /// A read begins.
    pub(super) fn read_begins(&mut self, now: Instant) {
        (self.read_began, self.announced) = (now, false);
    }

    /// The read ended well.
    pub(super) fn read_ended(&mut self, found: Found) {
        self.poll = match found {
            Found::More | Found::Some => POLL_MIN,
            Found::None => (self.poll * 2).min(POLL_MAX),
        };
        self.read_at = match found {
            Found::More => self.read_began,
            _ if self.announced => self.read_began + POLL_MIN,
            Found::Some | Found::None => self.read_began + self.poll,
        };
        self.worked();
    }

    /// True when `acknowledged` rows are to be deleted now; `pressing` when someone waits for it.
    pub(super) fn deletes(&mut self, now: Instant, acknowledged: usize, pressing: bool) -> bool {
        if acknowledged == 0 {
            self.delete_at = None;
            return false;
        }
        let due = *self.delete_at.get_or_insert(now + DELETE_AFTER);
        let deletes = (pressing || acknowledged >= DELETE_AT_ONCE || due <= now) && !self.is_paused(now);
        if deletes {
            // What is acknowledged from now on waits for company anew.
            self.delete_at = None;
        }
        deletes
    }

    /// True when leases and parked orders are to be looked after.
    pub(super) fn keeps(&self, now: Instant) -> bool {
        self.upkeep_at <= now && !self.is_paused(now)
    }

    /// Something is not as it was when they were looked after: they are to be again, at once.
    pub(super) fn keeps_early(&mut self, now: Instant) {
        self.upkeep_at = self.upkeep_at.min(now);
    }

    /// They were.
    pub(super) fn kept(&mut self, now: Instant, fenced: bool) {
        self.upkeep_at = now + if fenced { FENCED_UPKEEP_EVERY } else { UPKEEP_EVERY };
        self.worked();
    }

    /// A statement did what it should.
    pub(super) fn worked(&mut self) {
        self.paused_until = None;
        self.backoff.reset();
    }

    /// A statement failed: none begins for a while.
    pub(super) fn failed(&mut self, now: Instant) {
        if !self.is_paused(now) {
            self.paused_until = Some(now + self.backoff.next());
        }
    }

    /// When the next of what may begin is due. What runs already must not be among it: its end is announced.
    fn due(&self, may: May, now: Instant) -> Instant {
        let due = [
            may.read.then_some(self.read_at),
            may.delete.then_some(self.delete_at).flatten(),
            may.keep.then_some(self.upkeep_at),
            Some(now + POLL_MAX),
        ];
        due.into_iter().flatten().min().unwrap_or(now).max(self.paused_until.unwrap_or(now))
    }

    /// Waits until something is to be done.
    pub(super) async fn wait(&mut self, may: May, signals: &Signals, stop: &CancellationToken) {
        let now = Instant::now();
        let delivered = async {
            signals.delivered.notified().await;
            if may.look_late {
                tokio::time::sleep_until((now + LOOK_MIN).into()).await;
            }
        };
        tokio::select! {
            () = signals.recorded.notified() => self.announce(),
            () = signals.answered.notified() => {}
            () = delivered => {}
            () = tokio::time::sleep_until(self.due(may, now).into()) => {}
            () = stop.cancelled(), if !stop.is_cancelled() => self.announce(),
        }
    }

    fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }
}

/// What may begin when it is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct May {
    /// A read.
    pub(super) read: bool,
    /// A delete.
    pub(super) delete: bool,
    /// A look at leases, parked orders and settled ids.
    pub(super) keep: bool,
    /// Acknowledgements may wait for company.
    pub(super) look_late: bool,
}

/// What may end a wait.
#[derive(Clone, Default, Debug)]
pub(super) struct Signals {
    /// An event was recorded.
    pub(super) recorded: Arc<Notify>,
    /// A statement was answered.
    pub(super) answered: Arc<Notify>,
    /// The producer answered for all that a partition was sent, or, behind a backlog, for something.
    pub(super) delivered: Arc<Notify>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_slow_down_while_nothing_comes_and_are_quick_again_at_once() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for _ in 0..10 {
            pace.read_begins(now);
            pace.read_ended(Found::None);
        }
        assert!(!pace.reads(now) && pace.reads(now + POLL_MAX));
        pace.announce();
        assert!(pace.reads(now + POLL_MIN), "announced");
        pace.read_begins(now);
        pace.read_ended(Found::Some);
        assert!(!pace.reads(now) && pace.reads(now + POLL_MIN));
        pace.read_begins(now);
        pace.read_ended(Found::More);
        assert!(pace.reads(now), "at once while pages are full");
    }

    #[test]
    fn what_is_announced_during_a_read_is_read_by_the_next_one() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for _ in 0..10 {
            pace.read_begins(now);
            pace.read_ended(Found::None);
        }
        pace.read_begins(now);
        pace.announce();
        pace.read_ended(Found::None);
        assert!(pace.reads(now + POLL_MIN));
    }

    #[test]
    fn rows_are_deleted_together_unless_many_or_pressing() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert!(!pace.deletes(now, 0, true));
        assert!(!pace.deletes(now, 1, false) && pace.deletes(now + DELETE_AFTER, 1, false));
        assert!(!pace.deletes(now + DELETE_AFTER, 1, false), "the next ones wait for company too");
        assert!(pace.deletes(now, DELETE_AT_ONCE, false) && pace.deletes(now, 1, true));
        assert!(!pace.deletes(now, 0, false) && !pace.deletes(now + DELETE_AFTER, 1, false), "waits anew");
    }

    #[test]
    fn after_a_failure_nothing_begins_for_a_while() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert!(pace.reads(now + POLL_MIN) && pace.keeps(now + POLL_MIN));
        pace.failed(now);
        assert!(!pace.reads(now) && !pace.keeps(now) && !pace.deletes(now, DELETE_AT_ONCE, true));
        assert!(pace.reads(now + BACKOFF_MIN));
    }

    #[test]
    fn leases_are_looked_after_more_often_behind_a_fence_and_at_once_when_something_is_not_as_it_was() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.kept(now, false);
        assert!(!pace.keeps(now + FENCED_UPKEEP_EVERY) && pace.keeps(now + UPKEEP_EVERY));
        pace.keeps_early(now);
        assert!(pace.keeps(now));
        pace.kept(now, true);
        assert!(!pace.keeps(now) && pace.keeps(now + FENCED_UPKEEP_EVERY));
    }

    #[test]
    fn nobody_is_woken_for_what_runs_already() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert!(!pace.deletes(now, 1, false), "waits for company");
        let may = May { read: false, delete: false, keep: false, look_late: false };
        assert_eq!(pace.due(may, now), now + POLL_MAX);
        assert_eq!(pace.due(May { delete: true, ..may }, now), now + DELETE_AFTER);
        assert!(pace.due(May { keep: true, ..may }, now) <= now);
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
