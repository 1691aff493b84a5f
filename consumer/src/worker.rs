//! What the workers of partitions have in common: whom they work for, and what they tell the poll loop.

use std::sync::mpsc;

use tokio::sync::oneshot;

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
    /// Exactly once: the claim is worth nothing any more, and the group has not taken the partition from this member.
    Fenced {
        /// Who says so.
        lease: Lease,
    },
    /// Something came from the brokers. Not a worker's word: it stands here to end the wait for one.
    Wake,
    /// The worker is gone.
    Ended {
        /// Who.
        lease: Lease,
        /// Whether it ended by a panic.
        panicked: bool,
    },
}

/// Reports in a worker's name, and its end however that comes: by return, abort or panic.
#[derive(Debug)]
pub struct Reporter {
    /// In whose name.
    pub lease: Lease,
    /// Where to.
    pub reports: mpsc::Sender<Report>,
}

impl Reporter {
    /// The records at `offsets` are dealt with.
    pub fn done(&self, offsets: Vec<i64>) {
        if !offsets.is_empty() {
            self.send(Report::Done { lease: self.lease, offsets });
        }
    }

    /// Tells the poll loop.
    pub fn send(&self, report: Report) {
        // The poll loop outlives its workers but for the end of the process, when nobody needs the report.
        let _ = self.reports.send(report);
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.send(Report::Ended { lease: self.lease, panicked: std::thread::panicking() });
    }
}
