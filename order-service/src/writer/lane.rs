//! A lane: takes what waits, writes it in one transaction, answers each caller after the commit, and again.

use std::collections::{BTreeSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use runtime::shutdown::CancellationToken;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::{sleep, timeout};

use super::error::WriterError;
use super::job::Job;
use super::load::Load;
use crate::domain::{CouponCode, NewOrder, ProductId, Submission};
use crate::metrics::WriterMetrics;
use crate::store::batch::{self, Answer, BatchError};
use crate::store::error::BEGIN;
use crate::store::orders::PlaceSettings;
use crate::store::{DatabaseError, KeyConflict, PlaceError, coupons, database, stock};

/// Longest goodbye to the server at the end: a round trip takes far less, and it is a fifth of what a stop leaves the writer by
/// default. A server that vanished without a word might not even take it.
const GOODBYE_WITHIN: Duration = Duration::from_millis(500);

/// How long an order waits for the lane at work before another one begins with less than a full batch. Far above what a batch takes
/// on a database that is well: the lane at work then waits for a lock, or for a disk.
const PATIENCE: Duration = Duration::from_millis(20);

/// What the lanes share.
#[derive(Debug)]
pub struct Work {
    /// Orders that wait. A lane holds the queue while it gathers, so that it gets all the company there is.
    pub queue: Mutex<mpsc::Receiver<Job>>,
    /// How a lane connects.
    pub options: PgConnectOptions,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// By what orders are placed.
    pub settings: PlaceSettings,
    /// Most orders of one transaction.
    pub batch: usize,
    /// How long a lane waits for company.
    pub linger: Duration,
    /// How busy the lanes are.
    pub load: Arc<Load>,
    /// Counters.
    pub metrics: WriterMetrics,
    /// Wakes the relay after a commit.
    pub wake: Arc<Notify>,
    /// Closes the queue.
    pub stop: CancellationToken,
}

/// One lane.
#[derive(Debug)]
pub struct Lane {
    work: Arc<Work>,
    /// Kept from batch to batch. A pool would ask it for a sign of life whenever it is taken and given back.
    connection: Option<PgConnection>,
}

impl Lane {
    /// A lane that has no connection yet.
    #[must_use]
    pub fn new(work: Arc<Work>) -> Self {
        Self { work, connection: None }
    }

    /// Works until the queue is closed and empty.
    pub async fn run(mut self) {
        let work = self.work.clone();
        loop {
            let gathered = work.gather().await;
            if gathered.is_empty() {
                break;
            }
            let jobs = work.start(gathered);
            if jobs.is_empty() {
                continue;
            }
            let _running = work.load.begin();
            // Who waited for a batch that panicked learns it from the dropped reply; the connection is dropped with it.
            if AssertUnwindSafe(self.settle(jobs)).catch_unwind().await.is_err() {
                tracing::error!("a batch panicked; its callers are answered with an error");
            }
        }
        if let Some(connection) = self.connection {
            // The server notices the end of a connection in any case.
            let _ = timeout(GOODBYE_WITHIN, connection.close()).await;
        }
    }

    /// Writes the orders and answers their callers: all in one transaction, or in ever smaller parts if it fails over one of
    /// them, so that one order never fails its neighbours.
    async fn settle(&mut self, jobs: Vec<Job>) {
        let mut parts = VecDeque::from([jobs]);
        while let Some(mut jobs) = parts.pop_front() {
            // Attempts that fail one after the other may outlast their callers, who were told that the time is over.
            jobs.retain(Job::is_awaited);
            if jobs.is_empty() {
                continue;
            }
            match self.attempt(&jobs).await {
                Ok(answers) => {
                    self.work.wake.notify_one();
                    jobs.into_iter()
                        .zip(answers)
                        .for_each(|(job, answer)| job.tell(answer.map_err(WriterError::from)));
                }
                Err(BatchError::Database(error)) if error.is_in_doubt() => tell_all(jobs, error),
                Err(BatchError::Database(error)) if error.is_lock_timeout() && jobs.len() == 1 => {
                    tell_all(jobs, error);
                }
                Err(BatchError::Database(error)) if error.is_lock_timeout() => {
                    let (blocked, free) = self.part(jobs).await;
                    match (blocked.is_empty(), free.is_empty()) {
                        // Locked was something else, or no longer.
                        (true, _) => parts.extend(halves(free)),
                        (false, true) => tell_all(blocked, error),
                        (false, false) => {
                            tell_all(blocked, error);
                            parts.push_front(free);
                        }
                    }
                }
                // It won't be there for the other parts either.
                Err(BatchError::Database(error)) if error.is_unavailable() => {
                    tell_all(jobs.into_iter().chain(parts.drain(..).flatten()).collect(), error);
                }
                Err(error) if jobs.len() == 1 => match error {
                    BatchError::Database(error) => tell_all(jobs, error),
                    BatchError::KeyRaced => jobs.into_iter().for_each(|job| {
                        job.tell(Err(PlaceError::from(KeyConflict::InProgress).into()));
                    }),
                },
                Err(_one_of_them) => halves(jobs).into_iter().rev().for_each(|half| parts.push_front(half)),
            }
        }
    }

    /// Parts the orders that name a product or a coupon that somebody has locked from the others; nobody is blocked when that can't
    /// be told.
    async fn part(&mut self, jobs: Vec<Job>) -> (Vec<Job>, Vec<Job>) {
        let products = |job: &Job| job.submission.new.lines.keys().cloned().collect::<Vec<_>>();
        let named: BTreeSet<ProductId> = jobs.iter().flat_map(products).collect();
        let codes: BTreeSet<CouponCode> =
            jobs.iter().filter_map(|job| job.submission.new.coupon_code.clone()).collect();
        let Some(connection) = &mut self.connection else { return (Vec::new(), jobs) };
        let products = stock::locked(connection, &named).await.unwrap_or_default();
        let coupons = coupons::locked(connection, &codes).await.unwrap_or_default();
        jobs.into_iter().partition(|job| {
            let NewOrder { lines, coupon_code, .. } = &job.submission.new;
            lines.keys().any(|product| products.contains(product))
                || coupon_code.as_ref().is_some_and(|code| coupons.contains(code))
        })
    }

    /// One transaction, on a new connection if the one that was kept turns out to be dead before anything was done on it.
    async fn attempt(&mut self, jobs: &[Job]) -> Result<Vec<Answer>, BatchError> {
        let submissions: Vec<&Submission> = jobs.iter().map(|job| &job.submission).collect();
        let kept = self.connection.is_some();
        match self.attempt_once(&submissions).await {
            Err(BatchError::Database(error)) if kept && error.step == BEGIN && error.is_unavailable() => {
                self.attempt_once(&submissions).await
            }
            ended => ended,
        }
    }

    async fn attempt_once(&mut self, submissions: &[&Submission]) -> Result<Vec<Answer>, BatchError> {
        let mut connection = match self.connection.take() {
            Some(kept) => kept,
            None => self.work.connect().await.map_err(DatabaseError::during("connect the writer"))?,
        };
        let ended = batch::place(&mut connection, submissions, &self.work.settings).await;
        let is_lost = matches!(
            &ended,
            Err(BatchError::Database(error)) if error.is_unavailable() && !error.is_lock_timeout()
        );
        // It is broken then, or leads to a server that can't serve it any more, such as a primary that became a standby.
        if !is_lost {
            self.connection = Some(connection);
        }
        ended
    }
}

impl Work {
    async fn connect(&self) -> sqlx::Result<PgConnection> {
        let connected = async {
            let mut connection = self.options.connect().await?;
            database::prepare(&mut connection).await?;
            Ok(connection)
        };
        timeout(self.connect_timeout, connected).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    /// Waits for an order and takes all that wait with it, up to a full batch; none once the queue is closed.
    ///
    /// Beside a lane at work only a full batch begins, or one that would wait for long: two that are half full
    /// are two commits and twice the statements, and where the database shares the processors that is time for neither.
    async fn gather(&self) -> Vec<Job> {
        let mut jobs = Vec::with_capacity(self.batch);
        let mut queue = self.queue.lock().await;
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {
                queue.close();
                queue.recv_many(&mut jobs, self.batch).await;
                return jobs;
            }
            _ = queue.recv_many(&mut jobs, self.batch) => {}
        }
        if !self.linger.is_zero() {
            let _full_or_out_of_patience = timeout(self.linger, self.fill(&mut queue, &mut jobs)).await;
        }
        tokio::select! {
            biased;
            () = self.fill(&mut queue, &mut jobs) => {}
            () = self.load.idle() => {}
            () = sleep(PATIENCE) => {}
        }
        jobs
    }

    /// Takes orders as they come until the batch is full, or the queue closed.
    async fn fill(&self, queue: &mut mpsc::Receiver<Job>, jobs: &mut Vec<Job>) {
        while jobs.len() < self.batch {
            let free = self.batch - jobs.len();
            if queue.recv_many(jobs, free).await == 0 {
                return;
            }
        }
    }

    /// Starts those that somebody still waits for.
    fn start(&self, mut jobs: Vec<Job>) -> Vec<Job> {
        self.metrics.dequeued(jobs.len());
        jobs.retain(Job::start);
        for job in &jobs {
            self.metrics.waited(job.enqueued.elapsed());
        }
        if !jobs.is_empty() {
            self.metrics.batch(jobs.len());
        }
        jobs
    }
}

fn halves(mut jobs: Vec<Job>) -> [Vec<Job>; 2] {
    let later = jobs.split_off(jobs.len() / 2);
    [jobs, later]
}

/// Logs the failure once, and tells everyone.
fn tell_all(jobs: Vec<Job>, error: DatabaseError) {
    let (orders, passing) = (jobs.len(), error.is_unavailable());
    let error = Arc::new(error);
    let text = format!("{:#}", anyhow::Error::new(error.clone()));
    // An absent database passes by itself; a failure of ours does not.
    if passing {
        tracing::warn!(orders, error = text, "orders were not placed");
    } else {
        tracing::error!(orders, error = text, "orders were not placed");
    }
    for job in jobs {
        job.tell(Err(WriterError::Batch(error.clone())));
    }
}
