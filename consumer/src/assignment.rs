//! The partitions this member has: their workers' queues, what of them is done, and whether they have room.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};

use runtime::shutdown::CancellationToken;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use crate::at_most_once::AtMostOnce;
use crate::deliver::Deliverer;
use crate::exactly_once::ExactlyOnce;
use crate::lanes::Lanes;
use crate::offsets::{Admission, Commit, OffsetTracker, Start};
use crate::record::Record;
use crate::serial::Serial;
use crate::start_offsets::Guarantee;
use crate::worker::{Lease, Report, Reporter};

/// A worker gets no more when this many of its records are not done: enough for several batches, so that it never waits
/// for the poll loop.
const FULL_AT_RECORDS: usize = 4_000;
/// The same of one whose records are done in any order: so many leave at most as many runs of done ones between them, and a commit
/// has room for these.
const FULL_AT_RECORDS_OF_LANES: usize = 1_400;
/// … or this many bytes of them: 4 MiB holds four of the largest events. A record takes about as much again once it is decoded, and
/// the versions of a busy partition's orders 4 MiB more.
const FULL_AT_BYTES: usize = 4 * 1024 * 1024;

/// Makes workers.
pub struct WorkerSpawner {
    /// The runtime that workers run on.
    pub runtime: Handle,
    /// What they deliver with.
    pub deliverer: Arc<Deliverer>,
    /// Where they report.
    pub reports: mpsc::Sender<Report>,
    /// Turns at once, of one partition.
    pub lanes: usize,
    /// Most records of a batch.
    pub batch_max_records: usize,
}

/// The partitions this member has.
pub struct Assignment {
    spawner: WorkerSpawner,
    partitions: BTreeMap<i32, Assigned>,
    leases: u64,
}

struct Assigned {
    lease: Lease,
    guarantee: Guarantee,
    tracker: OffsetTracker,
    queue: UnboundedSender<Record>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    ended: bool,
}

/// What became of a record.
#[derive(Debug)]
pub enum Dispatched {
    /// Its worker has it.
    Taken,
    /// It was done before: nobody needs it.
    Done,
    /// This member does not have the partition: its owner reads the record.
    NotOurs,
    /// Offsets rise, this one does not: the worker does not have the record.
    Rewound(Box<Record>),
}

impl WorkerSpawner {
    /// Starts the worker that keeps the group's guarantee.
    fn spawn(
        &self,
        lease: Lease,
        records: UnboundedReceiver<Record>,
        stop: CancellationToken,
        guarantee: Guarantee,
        start: &Start,
    ) -> JoinHandle<()> {
        let reporter = Reporter { lease, reports: self.reports.clone() };
        let deliverer = Arc::clone(&self.deliverer);
        let (lanes, batch_max_records) = (self.lanes, self.batch_max_records);
        match guarantee {
            Guarantee::AtMostOnce => {
                let serial = Serial { reporter, records, deliverer, stop, batch_max_records };
                self.runtime.spawn(AtMostOnce::new(serial).run())
            }
            Guarantee::AtLeastOnce => {
                let worker = Lanes { reporter, records, deliverer, stop, lanes, batch_max_records };
                self.runtime.spawn(worker.run())
            }
            Guarantee::ExactlyOnce { claimed, is_log_new } => {
                let serial = Serial { reporter, records, deliverer, stop, batch_max_records };
                let done = start.done.clone();
                self.runtime.spawn(ExactlyOnce::new(serial, claimed, is_log_new, done).run())
            }
        }
    }
}

impl Assignment {
    /// None yet.
    #[must_use]
    pub const fn new(spawner: WorkerSpawner) -> Self {
        Self { spawner, partitions: BTreeMap::new(), leases: 0 }
    }

    /// Starts a worker for `partition`, which is read from `start`.
    pub fn assign(&mut self, partition: i32, start: Start, guarantee: Guarantee) {
        self.leases += 1;
        let lease = Lease { partition, number: self.leases };
        let (queue, records) = unbounded_channel();
        let stop = CancellationToken::new();
        let task = self.spawner.spawn(lease, records, stop.clone(), guarantee, &start);
        let tracker = OffsetTracker::starting_at(start);
        let assigned = Assigned { lease, guarantee, tracker, queue, stop, task, ended: false };
        if let Some(forgotten) = self.partitions.insert(partition, assigned) {
            forgotten.task.abort();
        }
    }

    /// Starts a worker for `partition` in place of the one before, about whose log nothing is known any more.
    /// Returns what [`Assignment::release`] does.
    pub fn restart(&mut self, partition: i32) -> usize {
        let Some(assigned) = self.partitions.get(&partition) else { return 0 };
        let guarantee = match assigned.guarantee {
            Guarantee::ExactlyOnce { claimed, .. } => Guarantee::ExactlyOnce { claimed, is_log_new: true },
            other @ (Guarantee::AtMostOnce | Guarantee::AtLeastOnce) => other,
        };
        let undone = self.release(partition);
        self.assign(partition, Start::default(), guarantee);
        undone
    }

    /// Whether `lease` still holds.
    #[must_use]
    pub fn holds(&self, lease: Lease) -> bool {
        self.partitions.get(&lease.partition).is_some_and(|assigned| assigned.lease == lease)
    }

    /// Hands `record` to its partition's worker.
    pub fn dispatch(&mut self, record: Record) -> Dispatched {
        let Some(assigned) = self.partitions.get_mut(&record.partition) else { return Dispatched::NotOurs };
        match assigned.tracker.handed_over(record.offset, record.size()) {
            Admission::Work => {}
            Admission::Done => return Dispatched::Done,
            Admission::Rewound => return Dispatched::Rewound(Box::new(record)),
        }
        // The queue is closed only when the worker has ended, which its report tells.
        let _ = assigned.queue.send(record);
        Dispatched::Taken
    }

    /// Whether the partition is this member's and its worker may get another record.
    #[must_use]
    pub fn has_room(&self, partition: i32) -> bool {
        self.partitions.get(&partition).is_some_and(|Assigned { tracker, guarantee, .. }| {
            let full_at = match guarantee {
                Guarantee::AtLeastOnce => FULL_AT_RECORDS_OF_LANES,
                Guarantee::AtMostOnce | Guarantee::ExactlyOnce { .. } => FULL_AT_RECORDS,
            };
            tracker.undone() < full_at && tracker.undone_bytes() < FULL_AT_BYTES && !tracker.is_crowded()
        })
    }

    /// The records at `offsets` are done, if `lease` still holds.
    pub fn done(&mut self, lease: Lease, offsets: &[i64]) {
        if let Some(assigned) = self.current(lease) {
            offsets.iter().for_each(|offset| assigned.tracker.done(*offset));
        }
    }

    /// The worker of `lease` is gone. `true` when nobody told it to go.
    pub fn ended(&mut self, lease: Lease) -> bool {
        self.current(lease).is_some_and(|assigned| {
            assigned.ended = true;
            !assigned.stop.is_cancelled()
        })
    }

    /// The broker has `commit` of `partition`.
    pub fn committed(&mut self, partition: i32, commit: &Commit) {
        if let Some(assigned) = self.partitions.get_mut(&partition) {
            assigned.tracker.committed(commit);
        }
    }

    /// What the broker does not have yet, of all partitions.
    #[must_use]
    pub fn to_commit(&mut self) -> Vec<(i32, Commit)> {
        self.to_commit_of(&self.owned())
    }

    /// What the broker does not have yet, of `partitions`.
    #[must_use]
    pub fn to_commit_of(&mut self, partitions: &[i32]) -> Vec<(i32, Commit)> {
        let trackers = self.partitions.iter_mut().filter(|(partition, _)| partitions.contains(partition));
        trackers
            .filter_map(|(partition, assigned)| Some((*partition, assigned.tracker.to_commit()?)))
            .collect()
    }

    /// A commit of everything of `lease` below `offset`, if the lease holds and its worker has not been told to stop.
    #[must_use]
    pub fn commit_up_to(&self, lease: Lease, offset: i64) -> Option<Commit> {
        let assigned = self.partitions.get(&lease.partition).filter(|assigned| assigned.lease == lease)?;
        (!assigned.stop.is_cancelled()).then(|| assigned.tracker.commit_up_to(offset))
    }

    /// Tells the workers of `partitions` to end.
    pub fn stop(&self, partitions: &[i32]) {
        for partition in partitions {
            if let Some(assigned) = self.partitions.get(partition) {
                assigned.stop.cancel();
            }
        }
    }

    /// Whether a worker of `partitions` has not ended.
    #[must_use]
    pub fn any_running(&self, partitions: &[i32]) -> bool {
        partitions
            .iter()
            .any(|partition| self.partitions.get(partition).is_some_and(|assigned| !assigned.ended))
    }

    /// Stops what still runs of `partition` and forgets it. Returns how many of its records are committed and not
    /// done.
    pub fn release(&mut self, partition: i32) -> usize {
        let Some(assigned) = self.partitions.remove(&partition) else { return 0 };
        assigned.task.abort();
        assigned.tracker.committed_undone()
    }

    /// Every partition this member has.
    #[must_use]
    pub fn owned(&self) -> Vec<i32> {
        self.partitions.keys().copied().collect()
    }

    /// Records that are handed over and not done.
    #[must_use]
    pub fn undone(&self) -> usize {
        self.partitions.values().map(|assigned| assigned.tracker.undone()).sum()
    }

    /// The oldest record of each partition that is handed over and not done.
    pub fn oldest(&self) -> impl Iterator<Item = (i32, i64)> {
        self.partitions
            .iter()
            .filter_map(|(partition, assigned)| Some((*partition, assigned.tracker.first_undone()?)))
    }

    fn current(&mut self, lease: Lease) -> Option<&mut Assigned> {
        self.partitions.get_mut(&lease.partition).filter(|assigned| assigned.lease == lease)
    }
}
