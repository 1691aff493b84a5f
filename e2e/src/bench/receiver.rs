//! The data platform of the consumers' benchmarks: takes its time over each event, and writes down when it came.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::samples::{Latency, micros};

/// How often the count is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A step through a range of pauses that visits all of it: the golden ratio of 32 bits.
const STRIDE: u64 = 0x9e37_79b9;

/// How long it takes over an event.
#[derive(Clone, Debug)]
pub enum Pause {
    /// As long over each.
    Fixed(Duration),
    /// Anything up to this, spread evenly.
    UpTo(Duration),
    /// Longer over those of one order.
    OneSlow {
        /// The order.
        order: String,
        /// How long over its events.
        slow: Duration,
        /// And over all others.
        others: Duration,
    },
}

/// A running platform.
#[derive(Debug)]
pub struct Receiver {
    /// Where it takes events.
    pub url: String,
    state: Arc<Notes>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Notes {
    pause: Pause,
    arrived: AtomicU64,
    applied: Mutex<Applied>,
}

#[derive(Debug, Default)]
struct Applied {
    first: Option<Instant>,
    last: Option<Instant>,
    count: u64,
    /// Microseconds from the event's time to its application, but for a slow order's.
    ages: Vec<u64>,
}

impl Receiver {
    /// Starts one.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(pause: Pause) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let url = format!("http://{}/events", listener.local_addr()?);
        let state = Arc::new(Notes { pause, arrived: AtomicU64::new(0), applied: Mutex::default() });
        let router = Router::new().route("/events", post(receive)).with_state(Arc::clone(&state));
        let server = tokio::spawn(async move {
            // It ends with the benchmark.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { url, state, server })
    }

    /// Waits until it has applied so many, and answers how many per second those were, from the first to the last of them.
    ///
    /// # Errors
    /// When that takes longer than `deadline`.
    pub async fn rate_of(&self, events: u64, deadline: Duration) -> anyhow::Result<f64> {
        let begun = Instant::now();
        loop {
            let (count, seconds) = self.state.progress();
            if count >= events {
                return Ok((count - 1) as f64 / seconds.max(f64::EPSILON));
            }
            if begun.elapsed() > deadline {
                bail!("{count} of {events} events were applied within {deadline:?}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How many of them were not of a slow order.
    #[must_use]
    pub fn ages_count(&self) -> usize {
        self.state.lock().ages.len()
    }

    /// From the events' time to their application.
    #[must_use]
    pub fn ages(&self) -> Latency {
        Latency::of_micros(self.state.lock().ages.iter().copied())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Notes {
    // Plain figures: a panic elsewhere can't leave them half-written.
    fn lock(&self) -> std::sync::MutexGuard<'_, Applied> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> (u64, f64) {
        let applied = self.lock();
        let seconds =
            applied.first.zip(applied.last).map_or(0.0, |(first, last)| (last - first).as_secs_f64());
        (applied.count, seconds)
    }

    fn pause(&self, order: &str) -> Duration {
        match &self.pause {
            Pause::Fixed(pause) => *pause,
            Pause::UpTo(most) => {
                let number = self.arrived.fetch_add(1, Ordering::Relaxed).wrapping_mul(STRIDE);
                Duration::from_micros(number % (micros(*most) + 1))
            }
            Pause::OneSlow { order: slow_one, slow, others } => {
                if order == slow_one {
                    *slow
                } else {
                    *others
                }
            }
        }
    }

    fn is_slow(&self, order: &str) -> bool {
        matches!(&self.pause, Pause::OneSlow { order: slow, .. } if slow == order)
    }
}

async fn receive(State(notes): State<Arc<Notes>>, headers: HeaderMap) -> StatusCode {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (order, time) = (text("ce-subject").to_owned(), text("ce-time").parse::<Timestamp>());
    let pause = notes.pause(&order);
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
    let age = time.map(|time| Duration::try_from(Timestamp::now().duration_since(time)).unwrap_or_default());
    let mut applied = notes.lock();
    let now = Instant::now();
    applied.first.get_or_insert(now);
    applied.last = Some(now);
    applied.count += 1;
    if let Ok(age) = age
        && !notes.is_slow(&order)
    {
        applied.ages.push(micros(age));
    }
    StatusCode::NO_CONTENT
}
