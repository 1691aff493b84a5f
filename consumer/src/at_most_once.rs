//! At most once: one assigned partition's worker. What is delivered was committed before, and is tried once.

use tokio::sync::oneshot;

use crate::breaker::{Changes, Permit};
use crate::dead_letter::Cause;
use crate::deliver::undecodable;
use crate::record::Record;
use crate::serial::{Serial, Stopped};
use crate::sink::{Decoded, SinkError};
use crate::versions::{Seen, Versions};
use crate::worker::Report;

/// The worker of one lease of an at-most-once group.
pub struct AtMostOnce(pub Serial);

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
        let (mut changes, mut versions) = (self.0.deliverer.breaker.changes(), Versions::default());
        // While the sink is known to be down nothing is committed: what waits is not lost.
        while let Some(first) = self.0.next_record().await
            && let Ok(permit) = self.0.permit(&mut changes).await
        {
            // A trial is of one record, because it may be lost.
            let batch = if permit.is_trial() { vec![first] } else { self.0.fill(first) };
            if self.work(batch, permit, &mut changes, &mut versions).await == Err(Stopped) {
                break;
            }
        }
    }

    async fn work(
        &self,
        batch: Vec<Record>,
        permit: Permit,
        changes: &mut Changes,
        versions: &mut Versions,
    ) -> Result<(), Stopped> {
        self.commit_first(&batch).await?;
        let mut permit = Some(permit);
        for stretch in stretches(batch, self.0.deliverer.sink.batch_limit()) {
            match stretch {
                Stretch::Dead(record, cause) => {
                    // A trial that waits for the dead-letter topic would keep every partition from the sink.
                    permit = None;
                    self.0.bury(&record, &cause).await?;
                    self.0.reporter.done(vec![record.offset]);
                }
                Stretch::Events(events) => {
                    let events = self.without_repeated(events, versions);
                    if events.is_empty() {
                        continue;
                    }
                    let permit = match permit.take() {
                        Some(permit) => permit,
                        None => self.0.permit(changes).await?,
                    };
                    self.offer(events, permit, changes).await?;
                }
            }
        }
        Ok(())
    }

    /// Those of `events` that did not come before, which are from now on taken for delivered: lost or not, they don't come again.
    /// What the relay published twice is nothing to deliver twice.
    fn without_repeated(&self, events: Vec<Decoded>, versions: &mut Versions) -> Vec<Decoded> {
        let Serial { deliverer, reporter, .. } = &self.0;
        let (new, repeated): (Vec<_>, Vec<_>) = events.into_iter().partition(|Decoded { event, .. }| {
            let (order, version) = (event.order_id, event.version);
            let is_new = versions.look(order, version) != Seen::Repeated;
            if is_new {
                deliverer.count_missing(versions, reporter.lease.partition, (order, version));
                versions.record(order, version);
            }
            is_new
        });
        deliverer.metrics.repeated.inc_by(repeated.len() as u64);
        self.0.report_done(&repeated);
        new
    }

    /// Returns once the broker has the commit: a batch whose commit is not certain is not delivered.
    async fn commit_first(&self, batch: &[Record]) -> Result<(), Stopped> {
        let Some(last) = batch.last() else { return Ok(()) };
        let (lease, offset) = (self.0.reporter.lease, last.offset + 1);
        let mut failed = 0;
        loop {
            let (committed, answer) = oneshot::channel();
            self.0.reporter.send(Report::CommitFirst { lease, offset, committed });
            if answer.await == Ok(true) {
                return Ok(());
            }
            self.0.pause(&mut failed).await?;
        }
    }

    /// Once, unless the sink refuses several at once: then each goes alone and only the bad one is affected.
    async fn offer(
        &self,
        events: Vec<Decoded>,
        permit: Permit,
        changes: &mut Changes,
    ) -> Result<(), Stopped> {
        match self.0.deliverer.call(&events, permit).await {
            Ok(()) => {}
            Err(SinkError::Rejected { .. }) if events.len() > 1 => {
                for event in events.chunks(1) {
                    let permit = self.0.permit(changes).await?;
                    if let Err(error) = self.0.deliverer.call(event, permit).await {
                        self.count_lost(event, &error);
                    }
                    self.0.report_done(event);
                }
                return Ok(());
            }
            Err(error) => self.count_lost(&events, &error),
        }
        self.0.report_done(&events);
        Ok(())
    }

    fn count_lost(&self, events: &[Decoded], error: &SinkError) {
        self.0.deliverer.metrics.lost.inc_by(events.len() as u64);
        let (first, last) = (events.first(), events.last());
        tracing::warn!(
            partition = self.0.reporter.lease.partition,
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
