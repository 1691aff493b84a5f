//! An open-loop load generator: orders are posted when they are due, however slow the answers are, and latency counts from
//! when a call was due, so that a stall is not hidden by calls that were never made (coordinated omission).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api::{OrderApi, Outcome};
use crate::catalogue;

/// Calls under way at once; beyond it a due call is not made, so that memory stays bounded: [`Load::total`] less the calls
/// that came back says how many.
const MAX_OUTSTANDING: usize = 2_000;
/// Users that one run's orders are spread over.
const USERS: u64 = 50;

/// How much to post, and in whose name.
#[derive(Clone, Debug)]
pub struct Load {
    /// Prefix of this run's user ids, by which its orders are found again.
    pub run: String,
    /// Orders posted per second.
    pub per_second: u32,
    /// How long.
    pub duration: Duration,
    /// Of 100 accepted orders, how many are confirmed at once (a second event).
    pub confirm_percent: u64,
    /// Of 100 accepted orders, how many are cancelled at once (a second event).
    pub cancel_percent: u64,
}

/// One call and how it ended.
#[derive(Clone, Debug)]
pub struct Call {
    /// When the call was due.
    pub due: SystemTime,
    /// From when it was due until its answer.
    pub latency: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// Counts while a load runs.
#[derive(Default, Debug)]
pub struct Progress {
    /// Calls made.
    pub posted: AtomicU64,
    /// Calls answered with 201.
    pub accepted: AtomicU64,
}

impl Load {
    /// Calls this load makes.
    #[must_use]
    pub fn total(&self) -> u64 {
        u64::from(self.per_second) * self.duration.as_secs()
    }

    /// Posts the load; returns every call once all are answered.
    pub async fn run(&self, api: &OrderApi, progress: Arc<Progress>) -> Vec<Call> {
        let start = Instant::now();
        let clock = SystemTime::now();
        let permits = Arc::new(Semaphore::new(MAX_OUTSTANDING));
        let mut calls = JoinSet::new();
        for index in 0..self.total() {
            let offset = Duration::from_secs(1).mul_f64(index_f64(index) / f64::from(self.per_second));
            tokio::time::sleep_until(start + offset).await;
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                continue;
            };
            let (api, load, progress) = (api.clone(), self.clone(), Arc::clone(&progress));
            progress.posted.fetch_add(1, Ordering::Relaxed);
            calls.spawn(async move {
                let outcome = load.call(&api, index).await;
                let latency = start.elapsed().saturating_sub(offset);
                drop(permit);
                if matches!(outcome, Outcome::Accepted(_)) {
                    progress.accepted.fetch_add(1, Ordering::Relaxed);
                }
                Call { due: clock + offset, latency, outcome }
            });
        }
        calls.join_all().await
    }

    async fn call(&self, api: &OrderApi, index: u64) -> Outcome {
        let user = format!("{}-u{}", self.run, index % USERS);
        let product = catalogue::product(usize::try_from(index).unwrap_or_default());
        let coupon = index.is_multiple_of(10).then_some(catalogue::COUPON);
        let outcome = api.create(&user, &product, coupon).await;
        if let Outcome::Accepted(order) = outcome {
            let share = index % 100;
            if share < self.confirm_percent {
                api.change(order, "confirm").await;
            } else if share < self.confirm_percent + self.cancel_percent {
                api.change(order, "cancel").await;
            }
        }
        outcome
    }
}

/// Counts here stay far below 2⁵², where an `f64` begins to skip integers.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn index_f64(index: u64) -> f64 {
    index as f64
}
