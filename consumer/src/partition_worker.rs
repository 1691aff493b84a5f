//! One assigned partition's worker: takes what is ready as a batch, has it delivered, reports what is done.

use std::sync::Arc;
use std::sync::mpsc;

use runtime::shutdown::CancellationToken;
use tokio::sync::{mpsc::UnboundedReceiver, oneshot};

use crate::config::Delivery;
use crate::deliver::{Deliverer, Stopped};
use crate::record::Record;

/// One assignment of one partition to this member. A later assignment of the same partition has another number, so
/// that what an old worker still reports is not taken for the new one's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// The partition.
    pub partition: i32,
    /// Rises with every assignment.
    pub number: u64,
}

/// What a worker tells the poll loop.
#[derive(Debug)]
pub enum Report {
    /// The records at these offsets are dealt with.
    Done {
        /// Who says so.
        lease: Lease,
        /// Which.
        offsets: Vec<i64>,
    },
    /// At most once: commit `offset` before anything below it is delivered.
    CommitFirst {
        /// Who asks.
        lease: Lease,
        /// One past the last record of the batch.
        offset: i64,
        /// Whether the broker has the commit.
        committed: oneshot::Sender<bool>,
    },
    /// The worker is gone.
    Ended {
        /// Who.
        lease: Lease,
        /// Whether it ended by a panic.
        panicked: bool,
    },
}

/// The worker of one lease.
pub struct PartitionWorker {
    /// What it works for.
    pub lease: Lease,
    /// Its queue. Bounded by the poll loop, which pauses the partition when too much of it is not done.
    pub records: UnboundedReceiver<Record>,
    /// Where it reports.
    pub reports: mpsc::Sender<Report>,
    /// How it delivers.
    pub deliverer: Arc<Deliverer>,
    /// Tells it to take no new batch and to wait for nothing.
    pub stop: CancellationToken,
    /// Most records of a batch.
    pub batch_max_records: usize,
}

impl PartitionWorker {
    /// Works until the queue is closed or `stop` is cancelled.
    pub async fn run(mut self) {
        let _ended = EndReport { lease: self.lease, reports: self.reports.clone() };
        while let Some(batch) = self.next_batch().await {
            if self.work(batch).await == Err(Stopped) {
                break;
            }
        }
    }

    async fn next_batch(&mut self) -> Option<Vec<Record>> {
        let mut batch = Vec::new();
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            taken = self.records.recv_many(&mut batch, self.batch_max_records) => (taken > 0).then_some(batch),
        }
    }

    async fn work(&self, batch: Vec<Record>) -> Result<(), Stopped> {
        if self.deliverer.delivery == Delivery::AtMostOnce {
            self.commit_first(&batch).await?;
        }
        let done = |offsets| self.report(Report::Done { lease: self.lease, offsets });
        self.deliverer.deliver(batch, &self.stop, done).await
    }

    /// Returns once the broker has the commit: a batch whose commit is not certain is not delivered.
    async fn commit_first(&self, batch: &[Record]) -> Result<(), Stopped> {
        let Some(last) = batch.last() else { return Ok(()) };
        let mut waits = self.deliverer.retry.waits();
        loop {
            let (committed, answer) = oneshot::channel();
            self.report(Report::CommitFirst { lease: self.lease, offset: last.offset + 1, committed });
            if answer.await == Ok(true) {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Stopped),
                () = tokio::time::sleep(waits.next(None)) => {}
            }
        }
    }

    fn report(&self, report: Report) {
        // The poll loop outlives its workers but for the end of the process, when nobody needs the report.
        let _ = self.reports.send(report);
    }
}

/// Reports the end however it comes: by return, abort or panic.
struct EndReport {
    lease: Lease,
    reports: mpsc::Sender<Report>,
}

impl Drop for EndReport {
    fn drop(&mut self) {
        let _ = self.reports.send(Report::Ended { lease: self.lease, panicked: std::thread::panicking() });
    }
}
