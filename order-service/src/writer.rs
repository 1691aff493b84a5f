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

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use runtime::shutdown::CancellationToken;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
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
#[derive(Debug)]
pub struct Writer {
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    Combining { queue: mpsc::Sender<Job>, load: Arc<Load>, metrics: WriterMetrics, max_wait: Duration },
    PerOrder { pool: PgPool, settings: PlaceSettings, wake: Arc<Notify> },
}

/// How the writer reaches the database.
#[derive(Clone, Debug)]
pub struct Connections {
    /// For orders that have a transaction each.
    pub pool: PgPool,
    /// For the lanes, which have a connection each.
    pub options: PgConnectOptions,
    /// Longest wait for one of those.
    pub timeout: Duration,
}

/// What does the writing.
#[derive(Debug)]
pub struct Lanes {
    count: u32,
    work: Arc<Work>,
}

impl Writer {
    /// A writer and its lanes, which write once they [run](Lanes::run).
    #[must_use]
    pub fn new(
        config: &WriterConfig,
        connections: Connections,
        settings: PlaceSettings,
        wake: Arc<Notify>,
        metrics: WriterMetrics,
    ) -> (Self, Lanes) {
        let Connections { pool, options, timeout } = connections;
        let (queue, receiver) = mpsc::channel(config.queue_orders());
        let load = Arc::new(Load::new(config.writer_lanes, config.writer_batch));
        let (mode, count) = match config.writer_mode {
            WriterMode::Combining => {
                let (load, metrics, max_wait) = (load.clone(), metrics.clone(), config.writer_max_wait);
                (Mode::Combining { queue, load, metrics, max_wait }, config.writer_lanes.get())
            }
            WriterMode::PerOrder => {
                (Mode::PerOrder { pool, settings: settings.clone(), wake: wake.clone() }, 0)
            }
        };
        let work = Work {
            queue: Mutex::new(receiver),
            // A product that somebody keeps locked must not hold up the orders for all the others.
            options: options.options([("lock_timeout", config.writer_lock_timeout.as_millis())]),
            connect_timeout: timeout,
            settings,
            batch: config.batch_orders(),
            linger: config.writer_linger,
            load,
            metrics,
            wake,
            stop: CancellationToken::new(),
        };
        (Self { mode }, Lanes { count, work: Arc::new(work) })
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
                let expected = load.expected_wait(queue.max_capacity() - queue.capacity());
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
    /// Writes until `stop`, and then what is still in the queue; nothing is taken into it any more. Dropping the future ends
    /// the lanes where they stand.
    ///
    /// The lanes have a thread of their own. Among thousands of connections that are ready, as in an overload, each of a
    /// batch's round trips to the database would wait for its turn behind all of them, and the fewer orders were written
    /// the more would be turned away; the kernel shares the processors out between threads, however many tasks one has.
    ///
    /// # Errors
    /// When there can be no such thread, or it broke off.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let lanes = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let lanes = lanes.context("failed to start the writer")?;
        let dropped = CancellationToken::new();
        let _drops = dropped.clone().drop_guard();
        let (ending, ended) = oneshot::channel();
        let work = async move {
            tokio::select! {
                written = self.write(stop) => written,
                () = dropped.cancelled_owned() => Ok(()),
            }
        };
        std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || {
                let _ = ending.send(lanes.block_on(work));
            })
            .context("failed to start the writer")?;
        ended.await.context("the writer broke off")?
    }

    async fn write(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut lanes = JoinSet::new();
        for _ in 0..self.count {
            lanes.spawn(Lane::new(self.work.clone()).run());
        }
        let written = async {
            // A lane that panics does so by a defect outside of any batch: the others must not go on alone, unnoticed. It ends
            // well before `stop` where nobody is left to send it orders.
            let ended = tokio::select! {
                () = stop.cancelled() => Ok(()),
                Some(Err(_panic)) = lanes.join_next() => Err(anyhow!("a lane of the writer broke off")),
            };
            self.work.stop.cancel();
            while lanes.join_next().await.is_some() {}
            ended
        };
        let measured = async {
            loop {
                tokio::time::sleep(BUSY_WINDOW).await;
                self.work.metrics.busy_ratio(self.work.load.busy_ratio());
            }
        };
        tokio::select! {
            ended = written => ended,
            () = measured => Ok(()),
        }
    }
}
