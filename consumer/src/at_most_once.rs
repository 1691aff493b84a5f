//! At most once: one assigned partition's worker. What is delivered was committed before, and is tried once.

use std::sync::Arc;
use std::time::Instant;

use runtime::shutdown::CancellationToken;
use tokio::sync::{mpsc::UnboundedReceiver, oneshot};

use crate::breaker::{Changes, Pass, Permit};
use crate::dead_letter::Cause;
use crate::deliver::{Blocked, Deliverer, undecodable};
use crate::record::Record;
use crate::sink::{Decoded, SinkError};
use crate::worker::{Report, Reporter};

/// The worker of one lease of an at-most-once group.
pub struct AtMostOnce {
    /// In whose name it works, and whom it tells.
    pub reporter: Reporter,
    /// Its queue. Bounded by the poll loop, which pauses the partition when too much of it is not done.
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
struct Stopped;

/// A stretch of a batch with one fate.
#[derive(Debug)]
enum Stretch {
    /// Neighbours that are events, for the sink.
    Events(Vec<Decoded>),
    /// A record that is none.
    Dead(Record, Cause),
}

/// `batch` in its order, as stretches of at most `limit` events. Pure.
fn stretches(batch: Vec<Record>, limit: usize) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    for record in batch {
        match record.decode() {
            Ok(event) => match stretches.last_mut() {
                Some(Stretch::Events(events)) if events.len() < limit => {
                    events.push(Decoded { record, event });
                }
                _ => stretches.push(Stretch::Events(vec![Decoded { record, event }])),
            },
            Err(error) => stretches.push(Stretch::Dead(record, undecodable(&error))),
        }
    }
    stretches
}

impl AtMostOnce {
    /// Works until the queue is closed or `stop` is cancelled.
    pub async fn run(mut self) {
        let mut changes = self.deliverer.breaker.changes();
        // While the sink is known to be down nothing is committed: what waits is not lost.
        while let Some(first) = self.next_record().await
            && let Ok(permit) = self.permit(&mut changes).await
        {
            let batch = self.fill(first, &permit);
            if self.work(batch, permit, &mut changes).await == Err(Stopped) {
                break;
            }
        }
    }

    async fn next_record(&mut self) -> Option<Record> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            first = self.records.recv() => first,
        }
    }

    /// `first` and what waits behind it, up to a batch; a trial is of one record, because it may be lost.
    fn fill(&mut self, first: Record, permit: &Permit) -> Vec<Record> {
        let mut batch = vec![first];
        while !permit.is_trial()
            && batch.len() < self.batch_max_records
            && let Ok(record) = self.records.try_recv()
        {
            batch.push(record);
        }
        batch
    }

    async fn work(&self, batch: Vec<Record>, permit: Permit, changes: &mut Changes) -> Result<(), Stopped> {
        self.commit_first(&batch).await?;
        let mut permit = Some(permit);
        for stretch in stretches(batch, self.deliverer.sink.batch_limit()) {
            match stretch {
                Stretch::Dead(record, cause) => self.bury(&record, &cause).await?,
                Stretch::Events(events) => {
                    let permit = match permit.take() {
                        Some(permit) => permit,
                        None => self.permit(changes).await?,
                    };
                    self.offer(events, permit, changes).await?;
                }
            }
        }
        Ok(())
    }

    /// Returns once the broker has the commit: a batch whose commit is not certain is not delivered.
    async fn commit_first(&self, batch: &[Record]) -> Result<(), Stopped> {
        let Some(last) = batch.last() else { return Ok(()) };
        let (lease, offset) = (self.reporter.lease, last.offset + 1);
        let mut failed = 0;
        loop {
            let (committed, answer) = oneshot::channel();
            self.reporter.send(Report::CommitFirst { lease, offset, committed });
            if answer.await == Ok(true) {
                return Ok(());
            }
            self.pause(&mut failed).await?;
        }
    }

    /// Once, unless the sink refuses several at once: then each goes alone and only the bad one is affected.
    async fn offer(
        &self,
        events: Vec<Decoded>,
        permit: Permit,
        changes: &mut Changes,
    ) -> Result<(), Stopped> {
        match self.deliverer.call(&events, permit).await {
            Ok(()) => {}
            Err(SinkError::Rejected { .. }) if events.len() > 1 => {
                for event in events.chunks(1) {
                    let permit = self.permit(changes).await?;
                    if let Err(error) = self.deliverer.call(event, permit).await {
                        self.count_lost(event, &error);
                    }
                    self.report_done(event);
                }
                return Ok(());
            }
            Err(error) => self.count_lost(&events, &error),
        }
        self.report_done(&events);
        Ok(())
    }

    /// Writes `record` to the dead-letter topic, and stays on it until that is done.
    async fn bury(&self, record: &Record, cause: &Cause) -> Result<(), Stopped> {
        let (mut failed, mut blocked) = (0, None);
        while let Err(error) = self.deliverer.bury(record, cause).await {
            if blocked.is_none() {
                blocked = Some(Blocked::begin(&self.deliverer.metrics, record, cause, error));
            }
            self.pause(&mut failed).await?;
        }
        self.reporter.done(vec![record.offset]);
        Ok(())
    }

    /// Leave to call the sink, once there is one to be called.
    async fn permit(&self, changes: &mut Changes) -> Result<Permit, Stopped> {
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

    async fn pause(&self, failed: &mut u32) -> Result<(), Stopped> {
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

    fn report_done(&self, events: &[Decoded]) {
        self.reporter.done(events.iter().map(|decoded| decoded.record.offset).collect());
    }

    fn count_lost(&self, events: &[Decoded], error: &SinkError) {
        self.deliverer.metrics.lost.inc_by(events.len() as u64);
        let (first, last) = (events.first(), events.last());
        tracing::warn!(
            partition = self.reporter.lease.partition,
            first_offset = first.map(|event| event.record.offset),
            last_offset = last.map(|event| event.record.offset),
            records = events.len(), %error,
            "delivery failed; an at-most-once group gives the records up"
        );
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::record::tests::{event, record};

    fn shape(stretches: &[Stretch]) -> Vec<Vec<i64>> {
        let offsets = |events: &[Decoded]| events.iter().map(|decoded| decoded.record.offset).collect();
        stretches
            .iter()
            .map(|stretch| match stretch {
                Stretch::Events(events) => offsets(events),
                Stretch::Dead(record, _) => vec![-record.offset],
            })
            .collect()
    }

    #[test]
    fn a_bad_record_parts_its_neighbours_and_nothing_changes_places() {
        let mut batch: Vec<Record> = (1..=6).map(|offset| record(&event(1), offset)).collect();
        batch[2].value = Some(Bytes::from("hello-1"));
        assert_eq!(shape(&stretches(batch, 100)), [vec![1, 2], vec![-3], vec![4, 5, 6]]);
    }

    #[test]
    fn a_stretch_holds_no_more_than_the_sink_takes() {
        let batch = (1..=5).map(|offset| record(&event(1), offset)).collect();
        assert_eq!(shape(&stretches(batch, 2)), [vec![1, 2], vec![3, 4], vec![5]]);
    }
}
