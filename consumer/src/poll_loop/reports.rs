//! What workers tell, a step's worth at a time: others tell more while a step waits for a commit.

use std::sync::mpsc::Receiver;

use rdkafka::consumer::Consumer;
use tokio::sync::oneshot;

use super::{BURST, LONGEST_WAIT, PollError, PollLoop};
use crate::assignment::Assignment;
use crate::offsets::Commit;
use crate::worker::{Lease, Report};

/// A worker of an at-most-once group that waits until everything below `offset` is committed.
struct Asked {
    lease: Lease,
    offset: i64,
    committed: oneshot::Sender<bool>,
}

impl PollLoop {
    /// Until a worker reports or something comes from the brokers; not at all while more is known to be there.
    pub(super) fn wait(&self, is_more: bool) -> Option<Report> {
        // It is never closed: the loop holds a sender itself, through the assignment.
        if is_more { None } else { self.reports.recv_timeout(LONGEST_WAIT).ok() }
    }

    /// Completions come before new work: they make room and move the watermarks.
    pub(super) fn apply_reports(&mut self, first: Option<Report>) -> Result<(), PollError> {
        let mut asked = Vec::new();
        for report in taken(first, &self.reports) {
            match report {
                Report::Wake => {}
                Report::Done { lease, offsets } => self.assignment.done(lease, &offsets),
                Report::CommitFirst { lease, offset, committed } => {
                    asked.push(Asked { lease, offset, committed });
                }
                Report::Fenced { lease } => self.fenced |= self.assignment.holds(lease),
                Report::Ended { lease, panicked } => {
                    if self.assignment.ended(lease) {
                        return Err(PollError::Worker { partition: lease.partition, panicked });
                    }
                }
            }
        }
        self.commit_first(asked);
        Ok(())
    }

    /// At most once: one commit for all who wait for one. If it fails of one partition, it counts as failed of all, and they ask
    /// again.
    fn commit_first(&mut self, asked: Vec<Asked>) {
        let (offsets, waiting) = allowed(asked, &self.assignment);
        if offsets.is_empty() {
            return;
        }
        // Whom the group has put out is a stranger to it. Of a stranger it takes a commit, if it has no members by then.
        let is_committed = !self.member.client.assignment_lost() && self.commit_now(&offsets);
        waiting.into_iter().for_each(|committed| answer(committed, is_committed));
    }
}

/// The reports of one step: those that are there when it begins, within a bound.
fn taken(first: Option<Report>, reports: &Receiver<Report>) -> Vec<Report> {
    first.into_iter().chain(reports.try_iter()).take(BURST).collect()
}

/// What is to be committed, and who waits for it. Who has no right to its partition any more is told so at once.
fn allowed(asked: Vec<Asked>, assignment: &Assignment) -> (Vec<(i32, Commit)>, Vec<oneshot::Sender<bool>>) {
    let (mut offsets, mut waiting) = (Vec::new(), Vec::new());
    for Asked { lease, offset, committed } in asked {
        match assignment.commit_up_to(lease, offset) {
            Some(commit) => {
                offsets.push((lease.partition, commit));
                waiting.push(committed);
            }
            None => answer(committed, false),
        }
    }
    (offsets, waiting)
}

fn answer(committed: oneshot::Sender<bool>, is_committed: bool) {
    // A worker that is gone meanwhile needs no answer.
    let _ = committed.send(is_committed);
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use tokio::runtime::Handle;

    use super::*;
    use crate::assignment::WorkerSpawner;
    use crate::deliver::tests::{Scripted, deliverer};
    use crate::offsets::Start;
    use crate::start_offsets::Guarantee;

    #[test]
    fn a_step_takes_what_is_there_and_leaves_what_is_beyond_its_bound() {
        let (sender, reports) = mpsc::channel();
        for _ in 0..BURST + 1 {
            sender.send(Report::Wake).expect("it is open");
        }
        assert_eq!(taken(Some(Report::Wake), &reports).len(), BURST);
        assert_eq!(taken(None, &reports).len(), 2);
        assert!(taken(None, &reports).is_empty(), "it waits for none");
    }

    #[tokio::test]
    async fn all_who_wait_for_a_commit_get_one_together_but_for_those_without_a_right() {
        let (sink, _calls) = Scripted::answering([]);
        let (reports, _told) = mpsc::channel();
        let mut assignment = Assignment::new(WorkerSpawner {
            runtime: Handle::current(),
            deliverer: Arc::new(deliverer(sink)),
            reports,
            lanes: 1,
            batch_max_records: 1,
        });
        // Leases 1 to 3.
        for partition in 0..3 {
            assignment.assign(partition, Start::default(), Guarantee::AtMostOnce);
        }
        assignment.stop(&[2]);
        let (mut asked, mut answers) = (Vec::new(), Vec::new());
        for (partition, number, offset) in [(0, 1, 5), (1, 2, 7), (1, 1, 9), (2, 3, 11)] {
            let (committed, answer) = oneshot::channel();
            asked.push(Asked { lease: Lease { partition, number }, offset, committed });
            answers.push(answer);
        }
        let (offsets, waiting) = allowed(asked, &assignment);
        let offsets: Vec<_> = offsets.iter().map(|(partition, commit)| (*partition, commit.offset)).collect();
        assert_eq!(offsets, [(0, 5), (1, 7)]);
        waiting.into_iter().for_each(|committed| answer(committed, true));
        let told: Vec<bool> = answers.iter_mut().map(|answer| answer.try_recv() == Ok(true)).collect();
        assert_eq!(told, [true, true, false, false]);
    }
}
