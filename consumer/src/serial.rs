//! What the workers have in common that take one thing after another: at most once, and exactly once.

use std::sync::Arc;
use std::time::Instant;

use runtime::shutdown::CancellationToken;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::breaker::{Changes, Pass, Permit};
use crate::dead_letter::Cause;
use crate::deliver::{Blocked, Deliverer};
use crate::record::Record;
use crate::sink::Decoded;
use crate::worker::Reporter;

/// One partition, one thing at a time.
pub struct Serial {
    /// In whose name it works, and whom it tells.
    pub reporter: Reporter,
    /// Its queue. Bounded by the poll loop, which adds nothing while too much of it is not done.
    pub records: UnboundedReceiver<Record>,
    /// How it delivers.
    pub deliverer: Arc<Deliverer>,
    /// Tells it to take no new batch and to wait for nothing.
    pub stop: CancellationToken,
    /// Most records of a batch.
    pub batch_max_records: usize,
}

/// The worker was told to stop; what it has in hand is not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stopped;

impl Serial {
    /// The next record; none when it is to stop, or when the queue is closed.
    pub async fn next_record(&mut self) -> Option<Record> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            first = self.records.recv() => first,
        }
    }

    /// `first` and what waits behind it, up to a batch.
    pub fn fill(&mut self, first: Record) -> Vec<Record> {
        let mut batch = vec![first];
        while batch.len() < self.batch_max_records
            && let Ok(record) = self.records.try_recv()
        {
            batch.push(record);
        }
        batch
    }

    /// Leave to call the sink, once there is one to be called.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn permit(&self, changes: &mut Changes) -> Result<Permit, Stopped> {
        loop {
            let until = match self.deliverer.breaker.pass(Instant::now()) {
                Pass::Go(permit) => return Ok(permit),
                Pass::NotBefore(until) => Some(until),
                Pass::Later => None,
            };
            let time_has_come = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Stopped),
                () = changes.next() => {}
                () = time_has_come => {}
            }
        }
    }

    /// Waits before the next try of what has `failed` so often, and counts one more.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn pause(&self, failed: &mut u32) -> Result<(), Stopped> {
        let wait = self.deliverer.retry.wait(*failed, None);
        *failed = failed.saturating_add(1);
        self.deliverer.metrics.retries.inc();
        // A worker that is told to stop has no use for waiting: whoever gets the partition next tries again at once.
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Stopped),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }

    /// Writes `record` to the dead-letter topic, and stays on it until that is done.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn bury(&self, record: &Record, cause: &Cause) -> Result<(), Stopped> {
        let (mut failed, mut blocked) = (0, None);
        while let Err(error) = self.deliverer.bury(record, cause).await {
            if blocked.is_none() {
                blocked = Some(Blocked::begin(&self.deliverer.metrics, record, cause, error));
            }
            self.pause(&mut failed).await?;
        }
        Ok(())
    }

    /// Tells that `events` are dealt with.
    pub fn report_done(&self, events: &[Decoded]) {
        self.reporter.done(events.iter().map(|decoded| decoded.record.offset).collect());
    }
}
