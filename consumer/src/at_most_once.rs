//! At most once: one assigned partition's worker. What is delivered was committed before, and is tried once.
//!
//! While a member is frozen its partitions go to another, which delivers what comes next. So the sink is called only while the
//! commit is young. After that it is made again: the group takes it only from who is still a member.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::breaker::{Changes, Permit};
use crate::dead_letter::Cause;
use crate::deliver::undecodable;
use crate::member::SESSION_TIMEOUT;
use crate::record::Record;
use crate::serial::{Serial, Stopped};
use crate::sink::{Decoded, SinkError};
use crate::versions::{Seen, Versions};
use crate::worker::Report;

/// For so long after it asked for a commit that the group took, a member has its partitions, whether it runs or not: the group
/// waits for a sign of life for the session's timeout. The other half is for the call to reach the sink.
const SURE_FOR: Duration = Duration::from_secs(SESSION_TIMEOUT.as_secs() / 2);

/// The worker of one lease of an at-most-once group.
pub struct AtMostOnce {
    serial: Serial,
    /// [`SURE_FOR`].
    sure_for: Duration,
}

/// What was committed before it is delivered.
#[derive(Clone, Copy, Debug)]
struct Committed {
    /// One past the last record of the batch.
    offset: i64,
    /// When it was asked for. An answer may be older than it looks to who was frozen before it read it.
    asked: Instant,
}

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
    /// A worker.
    #[must_use]
    pub const fn new(serial: Serial) -> Self {
        Self { serial, sure_for: SURE_FOR }
    }

    /// Works until the queue is closed or `stop` is cancelled.
    pub async fn run(mut self) {
        let (mut changes, mut versions) = (self.serial.deliverer.breaker.changes(), Versions::default());
        // While the sink is known to be down nothing is committed: what waits is not lost.
        while let Some(first) = self.serial.next_record().await
            && let Ok(permit) = self.serial.permit(&mut changes).await
        {
            // A trial is of one record, because it may be lost.
            let batch = if permit.is_trial() { vec![first] } else { self.serial.fill(first) };
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
        let Some(last) = batch.last() else { return Ok(()) };
        let mut committed = self.commit_first(last.offset + 1).await?;
        let mut permit = Some(permit);
        for stretch in stretches(batch, self.serial.deliverer.sink.batch_limit()) {
            match stretch {
                Stretch::Dead(record, cause) => {
                    // A trial that waits for the dead-letter topic would keep every partition from the sink.
                    permit = None;
                    self.serial.bury(&record, &cause).await?;
                    self.serial.reporter.done(vec![record.offset]);
                }
                Stretch::Events(events) => {
                    let events = self.without_repeated(events, versions);
                    if events.is_empty() {
                        continue;
                    }
                    let permit = match permit.take() {
                        Some(permit) => permit,
                        None => self.serial.permit(changes).await?,
                    };
                    self.offer(events, permit, &mut committed, changes).await?;
                }
            }
        }
        Ok(())
    }

    /// Those of `events` that did not come before, which are from now on taken for delivered: lost or not, they don't come again.
    /// What the relay published twice is nothing to deliver twice.
    fn without_repeated(&self, events: Vec<Decoded>, versions: &mut Versions) -> Vec<Decoded> {
        let Serial { deliverer, reporter, .. } = &self.serial;
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
        self.serial.report_done(&repeated);
        new
    }

    /// Returns once the broker has the commit: a batch whose commit is not certain is not delivered.
    async fn commit_first(&self, offset: i64) -> Result<Committed, Stopped> {
        let lease = self.serial.reporter.lease;
        let mut failed = 0;
        loop {
            let asked = Instant::now();
            let (committed, answer) = oneshot::channel();
            self.serial.reporter.send(Report::CommitFirst { lease, offset, committed });
            if answer.await == Ok(true) {
                return Ok(Committed { offset, asked });
            }
            self.serial.pause(&mut failed).await?;
        }
    }

    /// Calls the sink once, if need be after another commit. Who has lost the partition gets none, and is told to stop: what it
    /// has in hand is lost then, and counted where the partition is given up.
    async fn call(
        &self,
        events: &[Decoded],
        permit: Permit,
        committed: &mut Committed,
    ) -> Result<Result<(), SinkError>, Stopped> {
        while committed.asked.elapsed() >= self.sure_for {
            *committed = self.commit_first(committed.offset).await?;
        }
        Ok(self.serial.deliverer.call(events, permit).await)
    }

    /// Once, unless the sink refuses several at once: then each goes alone and only the bad one is affected.
    async fn offer(
        &self,
        events: Vec<Decoded>,
        permit: Permit,
        committed: &mut Committed,
        changes: &mut Changes,
    ) -> Result<(), Stopped> {
        match self.call(&events, permit, committed).await? {
            Ok(()) => {}
            Err(SinkError::Rejected { .. }) if events.len() > 1 => {
                for event in events.chunks(1) {
                    let permit = self.serial.permit(changes).await?;
                    if let Err(error) = self.call(event, permit, committed).await? {
                        self.count_lost(event, &error);
                    }
                    self.serial.report_done(event);
                }
                return Ok(());
            }
            Err(error) => self.count_lost(&events, &error),
        }
        self.serial.report_done(&events);
        Ok(())
    }

    fn count_lost(&self, events: &[Decoded], error: &SinkError) {
        self.serial.deliverer.metrics.lost.inc_by(events.len() as u64);
        let (first, last) = (events.first(), events.last());
        tracing::warn!(
            partition = self.serial.reporter.lease.partition,
            first_offset = first.map(|event| event.record.offset),
            last_offset = last.map(|event| event.record.offset),
            records = events.len(), %error,
            "delivery failed; an at-most-once group gives the records up"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use bytes::Bytes;
    use runtime::shutdown::CancellationToken;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::deliver::tests::{Scripted, deliverer};
    use crate::record::tests::{event, record};
    use crate::worker::{Lease, Reporter};

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A worker that has three records, from offset 10 on, and whose commits are answered by hand.
    struct Scene {
        calls: UnboundedReceiver<Vec<i64>>,
        reports: mpsc::Receiver<Report>,
        stop: CancellationToken,
        worker: JoinHandle<()>,
    }

    impl Scene {
        fn where_sure_for(sure_for: Duration) -> Self {
            let (sink, calls) = Scripted::answering([Ok(())]);
            let (sender, reports) = mpsc::channel();
            let reporter = Reporter { lease: Lease { partition: 0, number: 1 }, reports: sender };
            let (queue, records) = unbounded_channel();
            (10..13).for_each(|offset| queue.send(record(&event(1), offset)).expect("it is open"));
            let (deliverer, stop) = (Arc::new(deliverer(sink)), CancellationToken::new());
            let serial = Serial { reporter, records, deliverer, stop: stop.clone(), batch_max_records: 10 };
            let worker = tokio::spawn(AtMostOnce { serial, sure_for }.run());
            Self { calls, reports, stop, worker }
        }

        /// Whoever waits for the next commit, and up to where.
        async fn asked(&self) -> (i64, oneshot::Sender<bool>) {
            let begin = Instant::now();
            loop {
                if let Ok(Report::CommitFirst { offset, committed, .. }) = self.reports.try_recv() {
                    return (offset, committed);
                }
                assert!(begin.elapsed() < PATIENCE, "nobody asks for a commit");
                tokio::task::yield_now().await;
            }
        }

        /// Calls of the sink until the worker's end.
        async fn end(mut self) -> Vec<Vec<i64>> {
            self.stop.cancel();
            tokio::time::timeout(PATIENCE, self.worker).await.expect("in time").expect("no panic");
            std::iter::from_fn(|| self.calls.try_recv().ok()).collect()
        }
    }

    #[tokio::test]
    async fn a_batch_is_delivered_once_it_is_committed() {
        let mut scene = Scene::where_sure_for(PATIENCE * 60);
        let (offset, committed) = scene.asked().await;
        assert_eq!((offset, scene.calls.is_empty()), (13, true));
        committed.send(true).expect("it waits");
        let called = tokio::time::timeout(PATIENCE, scene.calls.recv()).await.expect("in time");
        assert_eq!(called, Some(vec![10, 11, 12]));
        assert!(scene.end().await.is_empty(), "it is called once");
    }

    #[tokio::test]
    async fn a_batch_that_was_committed_too_long_ago_is_not_delivered_unless_the_group_takes_that_again() {
        let scene = Scene::where_sure_for(Duration::ZERO);
        let (_, committed) = scene.asked().await;
        committed.send(true).expect("it waits");
        let (offset, again) = scene.asked().await;
        assert_eq!(offset, 13, "the same once more");
        scene.stop.cancel();
        again.send(false).expect("it waits");
        assert!(scene.end().await.is_empty(), "the sink was not called");
    }

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
