//! How busy the lanes are, and how long a newcomer would wait.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Weight of the latest batch in the mean: a database that turned slow, or fast again, is known after a handful.
const LATEST_WEIGHT: f64 = 0.2;

/// The lanes' load.
#[derive(Debug)]
pub struct Load {
    lanes: f64,
    /// Orders that all lanes together take in one round.
    round_orders: f64,
    mean_batch_nanos: AtomicU64,
    busy: Mutex<Busy>,
    /// Told whenever a batch ends.
    ended: Notify,
}

/// Time that lanes spent at work: the number of lanes at work, summed over time.
#[derive(Debug)]
struct Busy {
    running: u32,
    counted_until: Instant,
    lane_time: Duration,
    window_began: Instant,
}

/// A batch at work; it ends with this value.
#[derive(Debug)]
pub struct Running<'a> {
    load: &'a Load,
    began: Instant,
}

impl Load {
    /// The load of idle lanes.
    #[must_use]
    pub fn new(lanes: NonZeroU32, batch: NonZeroU32) -> Self {
        let now = Instant::now();
        let busy = Busy { running: 0, counted_until: now, lane_time: Duration::ZERO, window_began: now };
        Self {
            lanes: f64::from(lanes.get()),
            round_orders: f64::from(lanes.get()) * f64::from(batch.get()),
            mean_batch_nanos: AtomicU64::new(0),
            busy: Mutex::new(busy),
            ended: Notify::new(),
        }
    }

    /// A lane begins a batch.
    pub fn begin(&self) -> Running<'_> {
        let began = Instant::now();
        self.change(began, |busy| busy.running += 1);
        Running { load: self, began }
    }

    /// Waits until no lane is at work.
    pub async fn idle(&self) {
        loop {
            let ended = self.ended.notified();
            if self.change(Instant::now(), |busy| busy.running) == 0 {
                return;
            }
            ended.await;
        }
    }

    /// How long an order would wait behind `waiting` others: at the rate at which full batches would complete, each taking
    /// as long as the latest did. A batch that was not full takes less, so the first wave of an overload is underestimated
    /// for a few batches; the queue's bound holds meanwhile.
    #[must_use]
    pub fn expected_wait(&self, waiting: usize) -> Duration {
        let mean = Duration::from_nanos(self.mean_batch_nanos.load(Ordering::Relaxed));
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        mean.mul_f64(f64::from(waiting) / self.round_orders)
    }

    /// The share of the lanes' time since the last call that they were at work, 0 to 1.
    #[must_use]
    pub fn busy_ratio(&self) -> f64 {
        let now = Instant::now();
        self.change(now, |busy| {
            let window = now.saturating_duration_since(busy.window_began).as_secs_f64() * self.lanes;
            let worked = std::mem::take(&mut busy.lane_time).as_secs_f64();
            busy.window_began = now;
            if window > 0.0 { (worked / window).min(1.0) } else { 0.0 }
        })
    }

    fn end(&self, began: Instant) {
        let now = Instant::now();
        let took = now.saturating_duration_since(began);
        self.change(now, |busy| {
            busy.running -= 1;
            let mean = Duration::from_nanos(self.mean_batch_nanos.load(Ordering::Relaxed));
            let mean = if mean.is_zero() {
                took
            } else {
                took.mul_f64(LATEST_WEIGHT) + mean.mul_f64(1.0 - LATEST_WEIGHT)
            };
            self.mean_batch_nanos
                .store(u64::try_from(mean.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        });
    }

    fn change<T>(&self, now: Instant, change: impl FnOnce(&mut Busy) -> T) -> T {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(busy.counted_until);
        let worked = passed * busy.running;
        busy.lane_time += worked;
        busy.counted_until = busy.counted_until.max(now);
        change(&mut busy)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.load.end(self.began);
        self.load.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        Load::new(NonZeroU32::new(2).unwrap(), NonZeroU32::new(100).unwrap())
    }

    #[test]
    fn nothing_is_known_before_the_first_batch_and_nobody_is_turned_away() {
        assert_eq!(load().expected_wait(1_000_000), Duration::ZERO);
    }

    #[test]
    fn an_order_waits_for_the_rounds_before_its_own() {
        let load = load();
        load.mean_batch_nanos.store(10_000_000, Ordering::Relaxed);
        assert_eq!(load.expected_wait(0), Duration::ZERO);
        assert_eq!(load.expected_wait(200), Duration::from_millis(10));
        assert_eq!(load.expected_wait(2_000), Duration::from_millis(100));
    }

    #[test]
    fn a_slow_batch_is_forgotten_after_a_few_fast_ones() {
        let load = load();
        load.mean_batch_nanos.store(2_000_000_000, Ordering::Relaxed);
        for _ in 0..40 {
            drop(load.begin());
        }
        assert!(load.expected_wait(200) < Duration::from_millis(10), "{:?}", load.expected_wait(200));
    }

    #[tokio::test]
    async fn who_waits_for_idle_lanes_waits_for_the_last_of_them() {
        let load = load();
        load.idle().await;
        let (first, last) = (load.begin(), load.begin());
        let mut idle = std::pin::pin!(load.idle());
        assert!(futures::poll!(&mut idle).is_pending());
        drop(first);
        assert!(futures::poll!(&mut idle).is_pending(), "one is at work still");
        drop(last);
        idle.await;
    }

    #[test]
    fn a_lane_that_works_is_busy_before_its_batch_ends() {
        let load = load();
        let running = load.begin();
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(2) {}
        let ratio = load.busy_ratio();
        assert!(ratio > 0.0 && ratio <= 0.5, "one of two lanes: {ratio}");
        drop(running);
        let _ = load.busy_ratio();
        assert!(load.busy_ratio() < f64::EPSILON);
    }
}
