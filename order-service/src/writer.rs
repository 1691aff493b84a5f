//! The combining writer: orders that arrive together share one transaction, and so one commit and one lock on each product.
//!
//! ```text
//! place ─▶ admit ─▶ queue ─▶ gather ─▶ start ─▶ settle: one transaction, in halves if one of its orders breaks it ─▶ answer
//!   503 ◀────┴─────────────────┘ too many, or waited too long
//! ```
//!
//! * [`job`]: an order on its way, and who may still decide about it
//! * [`load`]: how busy the lanes are, and how long a newcomer would wait
//! * [`lane`]: one of a few that take what waits, write it and answer
//! * [`error`]: what a caller gets instead of an outcome
//!
//! What a batch does is [`store::batch`](crate::store::batch); the plain path beside it, one transaction per order, is
//! [`store::orders::place`](crate::store::orders::place).

pub mod job;
pub mod load;
pub mod lane;
pub mod error;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use runtime::shutdown::CancellationToken;
use sqlx::PgPool;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::task::JoinSet;

use crate::config::{WriterConfig, WriterMode};
use crate::domain::Submission;
use crate::metrics::WriterMetrics;
use crate::store::Outcome;
use crate::store::orders::{self, PlaceSettings};
use error::WriterError;
use job::Job;
use lane::{Lane, Work};
use load::Load;

/// Time over which the lanes' business is measured: a few hundred batches, and shorter than a scraper's interval.
const BUSY_WINDOW: Duration = Duration::from_secs(5);

/// Where orders are placed; every handler has one.
#[derive(Clone, Debug)]
pub struct Writer {
    mode: Mode,
}

#[derive(Clone, Debug)]
enum Mode {
    Combining { queue: mpsc::Sender<Job>, load: Arc<Load>, metrics: WriterMetrics, max_wait: Duration },
    PerOrder { pool: PgPool, settings: PlaceSettings, wake: Arc<Notify> },
}

/// What does the writing.
#[derive(Debug)]
pub struct Lanes {
    count: NonZeroU32,
    work: Arc<Work>,
}

impl Writer {
    /// A writer and its lanes, which write once they [run](Lanes::run). Lanes keep a connection of `pool` each.
    #[must_use]
    pub fn new(
        config: &WriterConfig,
        pool: PgPool,
        settings: PlaceSettings,
        wake: Arc<Notify>,
        metrics: WriterMetrics,
    ) -> (Self, Lanes) {
        let (queue, receiver) = mpsc::channel(config.queue_orders());
        let load = Arc::new(Load::new(config.writer_lanes, config.writer_batch));
        let mode = match config.writer_mode {
            WriterMode::Combining => Mode::Combining {
                queue,
                load: load.clone(),
                metrics: metrics.clone(),
                max_wait: config.writer_max_wait,
            },
            WriterMode::PerOrder => {
                Mode::PerOrder { pool: pool.clone(), settings: settings.clone(), wake: wake.clone() }
            }
        };
        let work = Work {
            queue: Mutex::new(receiver),
            pool,
            settings,
            batch: config.batch_orders(),
            linger: config.writer_linger,
            load,
            metrics,
            wake,
            stop: CancellationToken::new(),
        };
        (Self { mode }, Lanes { count: config.writer_lanes, work: Arc::new(work) })
    }

    /// Places the order; the answer comes after the commit.
    ///
    /// # Errors
    /// A [`WriterError`]; nothing changed then, unless it is in doubt.
    pub async fn place(&self, submission: Submission) -> Result<Outcome, WriterError> {
        match &self.mode {
            Mode::PerOrder { pool, settings, wake } => {
                let outcome = orders::place(pool, &submission, settings).await?;
                wake.notify_one();
                Ok(outcome)
            }
            Mode::Combining { queue, load, metrics, max_wait } => {
                let waiting = queue.max_capacity() - queue.capacity();
                let expected = load.expected_wait(waiting);
                if expected > *max_wait {
                    return Err(WriterError::Overloaded { retry_after: expected });
                }
                let (job, mut ticket) = job::ticket(submission);
                queue.try_send(job).map_err(|_| WriterError::Overloaded { retry_after: expected })?;
                metrics.enqueued();
                tokio::select! {
                    answer = ticket.answer() => answer,
                    // Also where no lane comes by, as with a database that hangs.
                    () = tokio::time::sleep(*max_wait) => {
                        if ticket.withdraw() {
                            return Err(WriterError::Overloaded { retry_after: expected });
                        }
                        ticket.answer().await
                    }
                }
            }
        }
    }
}

impl Lanes {
    /// Writes until `stop`, and then what is still in the queue; nothing is taken into it any more.
    pub async fn run(self, stop: CancellationToken) {
        let mut lanes = JoinSet::new();
        for _ in 0..self.count.get() {
            lanes.spawn(Lane::new(self.work.clone()).run());
        }
        let ended = async { while lanes.join_next().await.is_some() {} };
        let measured = async {
            loop {
                tokio::time::sleep(BUSY_WINDOW).await;
                self.work.metrics.busy_ratio(self.work.load.busy_ratio());
            }
        };
        let stopping = async {
            stop.cancelled().await;
            self.work.stop.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = ended => {}
            () = measured => {}
            () = stopping => {}
        }
    }
}
