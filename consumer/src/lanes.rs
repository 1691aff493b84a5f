//! At least once: one assigned partition's worker. Keys side by side, the records of each one after another.
//!
//! A lane is room for one turn: up to a batch of records, of as many keys as it takes, given to the sink together. Lanes are not
//! bound to keys: whichever is free takes what waits longest, so a slow key holds up one lane, and the records of no other key but
//! those that share its turn.

use std::collections::{HashSet, VecDeque};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Instant;

use runtime::shutdown::CancellationToken;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{JoinError, JoinSet};

use crate::breaker::{Changes, Pass, Permit};
use crate::deliver::Deliverer;
use crate::keys::{Key, Keys};
use crate::record::Record;
use crate::turn::{Done, Portion, Work};
use crate::versions::{Seen, Versions};
use crate::worker::Reporter;

/// Records taken from the queue before completions are looked at again.
const ADMITTED_AT_ONCE: usize = 256;

/// The worker of one lease of an at-least-once group.
pub struct Lanes {
    /// In whose name it works, and whom it tells.
    pub reporter: Reporter,
    /// Its queue. Bounded by the poll loop, which adds nothing while too much of it is not done.
    pub records: UnboundedReceiver<Record>,
    /// How it delivers.
    pub deliverer: Arc<Deliverer>,
    /// Tells it to begin nothing new.
    pub stop: CancellationToken,
    /// Turns at once.
    pub lanes: usize,
    /// Most records of a turn.
    pub batch_max_records: usize,
}

/// What there is to do next.
enum Next {
    Stop,
    Settle(Result<Vec<Portion>, JoinError>),
    Admit(Vec<Record>),
    Look,
}

impl Lanes {
    /// Works until the queue is closed or `stop` is cancelled; turns that have begun are ended.
    pub async fn run(mut self) {
        let (mut partition, mut turns) = (Partition::default(), JoinSet::new());
        let mut changes = self.deliverer.breaker.changes();
        loop {
            let look_at = self.begin_turns(&mut partition, &mut turns);
            match self.next(&mut turns, &mut changes, look_at).await {
                Next::Stop => break,
                Next::Settle(turn) => self.settle(&mut partition, turn),
                Next::Admit(records) => partition.admit(records),
                Next::Look => {}
            }
            partition.keys.wake(Instant::now());
        }
        while let Some(turn) = turns.join_next().await {
            self.settle(&mut partition, turn);
        }
    }

    /// Begins turns while there are lanes, work and a sink to be called. Returns when to look again, if nothing happens before.
    fn begin_turns(&self, partition: &mut Partition, turns: &mut JoinSet<Vec<Portion>>) -> Option<Instant> {
        let mut look_at = partition.keys.next_wake();
        while turns.len() < self.lanes && partition.keys.has_work() && !self.stop.is_cancelled() {
            let permit = match self.deliverer.breaker.pass(Instant::now()) {
                Pass::Go(permit) => permit,
                Pass::NotBefore(until) => {
                    look_at = Some(look_at.map_or(until, |look_at| look_at.min(until)));
                    break;
                }
                Pass::Later => break,
            };
            let portions = self.take(partition, &permit);
            if !portions.is_empty() {
                let (deliverer, stop) = (Arc::clone(&self.deliverer), self.stop.clone());
                turns.spawn(async move { deliverer.turn(portions, permit, &stop).await });
            }
        }
        look_at
    }

    /// What waits longest, without what was delivered before.
    fn take(&self, partition: &mut Partition, permit: &Permit) -> Vec<Portion> {
        let most = if permit.is_trial() { 1 } else { self.batch_max_records };
        let mut portions = Vec::new();
        for (key, works) in partition.take(most) {
            let mut portion = Portion::new(key, works, &self.deliverer.stuck);
            self.drop_repeated(&partition.versions, &mut portion);
            if portion.left.is_empty() {
                self.end(partition, portion);
            } else {
                portions.push(portion);
            }
        }
        portions
    }

    fn drop_repeated(&self, versions: &Versions, portion: &mut Portion) {
        let Portion { left, done, .. } = portion;
        let metrics = &self.deliverer.metrics;
        // What waited together may repeat itself: behind an outage the relay's repetitions wait with what they repeat.
        let mut here = HashSet::new();
        left.retain(|work| {
            let Some(event @ (order, version)) = work.done().event else { return true };
            if here.insert(event) && versions.look(order, version) != Seen::Repeated {
                return true;
            }
            metrics.repeated.inc();
            // It teaches no versions: what it repeats may be here, fail in this turn, and must then not be taken for delivered.
            done.push(Done { event: None, ..work.done() });
            false
        });
    }

    fn settle(&self, partition: &mut Partition, turn: Result<Vec<Portion>, JoinError>) {
        match turn {
            Ok(portions) => portions.into_iter().for_each(|portion| self.end(partition, portion)),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // Nobody aborts a turn but by dropping all of them.
                Err(_cancelled) => {}
            },
        }
    }

    /// Keeps what is left of `portion` and reports what is done.
    fn end(&self, partition: &mut Partition, portion: Portion) {
        let Portion { key, left, done, pause, .. } = portion;
        for done in &done {
            self.learn(partition, done);
        }
        self.reporter.done(done.iter().map(|done| done.offset).collect());
        partition.keys.settle(key, left.into_iter(), pause.map(|pause| Instant::now() + pause));
    }

    fn learn(&self, Partition { versions, .. }: &mut Partition, done: &Done) {
        match done.event {
            Some((order, version)) if done.delivered => {
                self.deliverer.count_missing(versions, self.reporter.lease.partition, (order, version));
                versions.record(order, version);
            }
            Some((order, _)) => versions.forget(order),
            None => {}
        }
    }

    /// Completions come before new records: they make room and move the watermark.
    async fn next(
        &mut self,
        turns: &mut JoinSet<Vec<Portion>>,
        changes: &mut Changes,
        look_at: Option<Instant>,
    ) -> Next {
        let mut records = Vec::new();
        let time_has_come = async {
            match look_at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Next::Stop,
            Some(turn) = turns.join_next() => Next::Settle(turn),
            () = time_has_come => Next::Look,
            () = changes.next() => Next::Look,
            taken = self.records.recv_many(&mut records, ADMITTED_AT_ONCE) => match taken {
                0 => Next::Stop,
                _ => Next::Admit(records),
            },
        }
    }
}

/// What is known of the partition.
#[derive(Default)]
struct Partition {
    keys: Keys<Work>,
    versions: Versions,
}

impl Partition {
    fn admit(&mut self, records: Vec<Record>) {
        for record in records {
            let key = record.key.clone().map_or(Key::None(record.offset), Key::Of);
            self.keys.admit(key, Work::of(record));
        }
    }

    /// Up to `most` records that may be worked on, by key.
    fn take(&mut self, most: usize) -> Vec<(Key, VecDeque<Work>)> {
        let mut taken: Vec<(Key, VecDeque<Work>)> = Vec::new();
        for (key, work) in self.keys.take(most) {
            match taken.last_mut() {
                Some((last, works)) if *last == key => works.push_back(work),
                _ => taken.push((key, VecDeque::from([work]))),
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::deliver::tests::{Scripted, deliverer};
    use crate::record::tests::{at_version, event, record};
    use crate::sink::SinkError;
    use crate::worker::{Lease, Report};

    /// Beyond every pause after a failure.
    const LATER: Duration = Duration::from_secs(60);

    /// A worker whose turns are taken by hand.
    struct Scene {
        lanes: Lanes,
        partition: Partition,
        calls: UnboundedReceiver<Vec<i64>>,
        reports: mpsc::Receiver<Report>,
    }

    impl Scene {
        fn with(answers: impl IntoIterator<Item = Result<(), SinkError>>) -> Self {
            let (sink, calls) = Scripted::answering(answers);
            let (sender, reports) = mpsc::channel();
            let reporter = Reporter { lease: Lease { partition: 0, number: 1 }, reports: sender };
            let (_nobody_sends, records) = unbounded_channel();
            let (deliverer, stop) = (Arc::new(deliverer(sink)), CancellationToken::new());
            let lanes = Lanes { reporter, records, deliverer, stop, lanes: 1, batch_max_records: 10 };
            Self { lanes, partition: Partition::default(), calls, reports }
        }

        /// A turn of all that waits, whenever its time comes.
        async fn turn(&mut self) {
            let Self { lanes, partition, .. } = self;
            partition.keys.wake(Instant::now() + LATER);
            let Pass::Go(permit) = lanes.deliverer.breaker.pass(Instant::now()) else {
                panic!("the sink counts as down")
            };
            let portions = lanes.take(partition, &permit);
            let ended = lanes.deliverer.turn(portions, permit, &lanes.stop).await;
            lanes.settle(partition, Ok(ended));
        }

        /// The offsets of each call since the last look.
        fn calls(&mut self) -> Vec<Vec<i64>> {
            std::iter::from_fn(|| self.calls.try_recv().ok()).collect()
        }

        /// What is reported done since the last look.
        fn done(&self) -> Vec<i64> {
            let done = self.reports.try_iter().filter_map(|report| match report {
                Report::Done { offsets, .. } => Some(offsets),
                _ => None,
            });
            done.flatten().collect()
        }
    }

    #[tokio::test]
    async fn an_event_that_failed_is_tried_again_though_its_repetition_waited_with_it() {
        for failure in [SinkError::unavailable("Timeout", "no answer"), SinkError::rejected("Data", "no")] {
            let mut scene = Scene::with([Err(failure), Ok(())]);
            let event = event(1);
            scene.partition.admit(vec![record(&event, 10), record(&event, 11)]);
            scene.turn().await;
            assert_eq!((scene.calls(), scene.done()), (vec![vec![10]], vec![11]));
            scene.turn().await;
            assert_eq!((scene.calls(), scene.done()), (vec![vec![10]], vec![10]));
        }
    }

    #[tokio::test]
    async fn a_repetition_makes_none_of_the_versions_before_it_a_missing_one() {
        let mut scene = Scene::with([Ok(())]);
        let first = event(1);
        scene.partition.versions.record(first.order_id, 1);
        let (second, third) = (at_version(&first, 2), at_version(&first, 3));
        scene.partition.admit(vec![record(&second, 11), record(&third, 12), record(&third, 13)]);
        scene.turn().await;
        assert_eq!(scene.calls(), [vec![11, 12]]);
        let metrics = &scene.lanes.deliverer.metrics;
        assert_eq!((metrics.repeated.get(), metrics.missing.get()), (1, 0));
    }
}
