//! How partitions are given back: drained, committed, forgotten, in this order.

use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Instant;

use rdkafka::topic_partition_list::TopicPartitionList;

use super::{HEARTBEAT, HEARTBEAT_BOUND, PollError, PollLoop, RETRY_PAUSE, partitions};
use crate::config::Delivery;
use crate::rebalance::unassign;

/// A last commit is tried this often before its records are left to be repeated.
const COMMIT_ATTEMPTS: u32 = 3;

impl PollLoop {
    /// Drain to a deadline, commit, release: in this order, so that the next owner starts where this one ended.
    pub(super) fn revoke(&mut self, list: &TopicPartitionList) -> Result<(), PollError> {
        let partitions = partitions(list);
        self.drain(&partitions, Instant::now() + self.revoke_drain)?;
        self.release(&partitions);
        tracing::info!(group = self.subscription.group, ?partitions, "partitions revoked");
        unassign(&self.member.client, list).map_err(PollError::Assign)
    }

    /// Others may have these partitions already: stop at once and commit nothing.
    pub(super) fn lose(&mut self, list: &TopicPartitionList) -> Result<(), PollError> {
        let partitions = partitions(list);
        self.assignment.stop(&partitions);
        self.forget(&partitions);
        tracing::warn!(
            group = self.subscription.group,
            ?partitions,
            "partitions lost; what was in flight is repeated"
        );
        unassign(&self.member.client, list).map_err(PollError::Assign)
    }

    pub(super) fn drain_all(&mut self) -> Result<(), PollError> {
        let owned = self.assignment.owned();
        self.drain(&owned, Instant::now() + self.shutdown_drain)?;
        self.release(&owned);
        self.show();
        Ok(())
    }

    pub(super) fn leave(mut self) {
        self.forget(&self.assignment.owned());
        self.health.retire(HEARTBEAT);
        self.member.leave();
        tracing::info!(group = self.subscription.group, "left the group");
    }

    /// Lets the workers of `partitions` finish the batch they have in hand, until `deadline`.
    fn drain(&mut self, partitions: &[i32], deadline: Instant) -> Result<(), PollError> {
        self.assignment.stop(partitions);
        while self.assignment.any_running(partitions) {
            self.health.beat(HEARTBEAT, HEARTBEAT_BOUND);
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!(?partitions, "drain overran its deadline; what is in flight is given up");
                return Ok(());
            }
            match self.reports.recv_timeout(left.min(HEARTBEAT_BOUND / 2)) {
                Ok(report) => self.apply_reports(Some(report))?,
                Err(RecvTimeoutError::Timeout) => {}
                // The loop holds a sender itself, through the assignment.
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Commits what `partitions` have done, then forgets them.
    fn release(&mut self, partitions: &[i32]) {
        let offsets = self.assignment.to_commit_of(partitions);
        if self.subscription.delivery != Delivery::AtMostOnce && !offsets.is_empty() {
            for _ in 0..COMMIT_ATTEMPTS {
                if self.commit_now(&offsets) {
                    break;
                }
                thread::sleep(RETRY_PAUSE);
            }
        }
        self.forget(partitions);
    }

    pub(super) fn forget(&mut self, partitions: &[i32]) {
        for partition in partitions {
            let undone = self.assignment.release(*partition);
            self.member.queues.forget(*partition);
            self.count_lost(*partition, undone);
        }
    }

    /// At most once: what was committed and not delivered never will be.
    pub(super) fn count_lost(&self, partition: i32, records: usize) {
        if self.subscription.delivery == Delivery::AtMostOnce && records > 0 {
            self.metrics.lost.inc_by(records as u64);
            tracing::warn!(partition, records, "committed records were not delivered");
        }
    }
}
