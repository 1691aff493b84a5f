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
            done.push(work.done());
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
