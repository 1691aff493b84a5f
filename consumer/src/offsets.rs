//! What of one partition is done, and up to where it may be committed. Pure.

use std::collections::BTreeMap;

/// The records of one partition between hand-over to a worker and the broker's receipt of the commit.
///
/// Records may finish in any order; what may be committed is only ever the *watermark*: the offset below which every
/// record that was handed over is done. Offsets may be sparse (compaction and transaction markers leave holes), so
/// the watermark follows what was handed over and never counts.
#[derive(Debug, Default)]
pub struct OffsetTracker {
    /// Handed over and at or above the watermark.
    pending: BTreeMap<i64, Pending>,
    /// One past the highest offset handed over.
    next: Option<i64>,
    /// What the broker has, or, before the first commit, where the partition was read from.
    committed: Option<i64>,
    undone: usize,
    undone_bytes: usize,
}

#[derive(Debug)]
struct Pending {
    bytes: usize,
    done: bool,
}

impl OffsetTracker {
    /// A record was handed to the worker. Offsets rise; one that does not is refused with `false`: it belongs to
    /// another log, and another tracker.
    pub fn handed_over(&mut self, offset: i64, bytes: usize) -> bool {
        if self.next.is_some_and(|next| offset < next) {
            return false;
        }
        self.pending.insert(offset, Pending { bytes, done: false });
        self.next = Some(offset + 1);
        self.committed.get_or_insert(offset);
        self.undone += 1;
        self.undone_bytes += bytes;
        true
    }

    /// The record at `offset` was delivered, dead-lettered or, at most once, given up.
    pub fn done(&mut self, offset: i64) {
        if let Some(pending) = self.pending.get_mut(&offset)
            && !pending.done
        {
            pending.done = true;
            self.undone -= 1;
            self.undone_bytes -= pending.bytes;
        }
        while self.pending.first_key_value().is_some_and(|(_, pending)| pending.done) {
            self.pending.pop_first();
        }
    }

    /// The watermark, if the broker does not have it yet.
    #[must_use]
    pub fn to_commit(&self) -> Option<i64> {
        let watermark = self.pending.first_key_value().map(|(offset, _)| *offset).or(self.next)?;
        self.committed.is_none_or(|committed| committed < watermark).then_some(watermark)
    }

    /// The broker confirmed a commit of `offset`. A confirmation that arrives late does not move it back.
    pub fn committed(&mut self, offset: i64) {
        self.committed = self.committed.max(Some(offset));
    }

    /// Records that are not done though their offset is committed: what an at-most-once group loses when its
    /// worker ends now.
    #[must_use]
    pub fn committed_undone(&self) -> usize {
        let Some(committed) = self.committed else { return 0 };
        self.pending.range(..committed).filter(|(_, pending)| !pending.done).count()
    }

    /// Records that are handed over and not done.
    #[must_use]
    pub const fn undone(&self) -> usize {
        self.undone
    }

    /// Bytes of the records that are handed over and not done.
    #[must_use]
    pub const fn undone_bytes(&self) -> usize {
        self.undone_bytes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_committed_before_something_is_done() {
        let mut tracker = OffsetTracker::default();
        assert_eq!(tracker.to_commit(), None);
        assert!(tracker.handed_over(40, 1));
        assert!(tracker.handed_over(41, 1));
        assert_eq!(tracker.to_commit(), None);
        tracker.done(41);
        assert_eq!(tracker.to_commit(), None, "40 is not done, so 41 must not be committed over it");
        tracker.done(40);
        assert_eq!(tracker.to_commit(), Some(42));
    }

    #[test]
    fn a_confirmed_commit_is_not_repeated() {
        let mut tracker = OffsetTracker::default();
        assert!(tracker.handed_over(0, 1));
        tracker.done(0);
        tracker.committed(1);
        assert_eq!(tracker.to_commit(), None);
        tracker.committed(0);
        assert_eq!(tracker.to_commit(), None, "a late confirmation does not move the commit back");
    }

    #[test]
    fn an_offset_that_does_not_rise_is_refused() {
        let mut tracker = OffsetTracker::default();
        assert!(tracker.handed_over(7, 1));
        assert!(!tracker.handed_over(7, 1));
        assert!(!tracker.handed_over(3, 1));
        assert!(tracker.handed_over(9, 1), "holes are fine");
    }

    #[test]
    fn what_is_committed_and_not_done_is_what_at_most_once_loses() {
        let mut tracker = OffsetTracker::default();
        for offset in 0..5 {
            assert!(tracker.handed_over(offset, 1));
        }
        tracker.committed(4);
        tracker.done(0);
        assert_eq!(tracker.committed_undone(), 3);
    }

    /// Sparse rising offsets with sizes, and an order in which they finish; not all of them do.
    fn histories() -> impl Strategy<Value = (Vec<(i64, usize)>, Vec<usize>)> {
        (prop::collection::vec((1_i64..4, 0_usize..100), 1..60), 0_i64..1_000_000).prop_flat_map(
            |(steps, start)| {
                let mut offset = start;
                let records: Vec<_> = steps
                    .into_iter()
                    .map(|(step, bytes)| {
                        offset += step;
                        (offset, bytes)
                    })
                    .collect();
                let indices: Vec<usize> = (0..records.len()).collect();
                let finished = prop::sample::subsequence(indices, 0..=records.len()).prop_shuffle();
                (Just(records), finished)
            },
        )
    }

    proptest! {
        #[test]
        fn a_commit_never_passes_a_record_that_is_not_done((records, finished) in histories()) {
            let mut tracker = OffsetTracker::default();
            for (offset, bytes) in &records {
                prop_assert!(tracker.handed_over(*offset, *bytes));
            }
            let mut done = BTreeSet::new();
            for index in finished {
                let (offset, _) = records[index];
                tracker.done(offset);
                done.insert(offset);
                let first_undone = records.iter().map(|(offset, _)| *offset).find(|offset| !done.contains(offset));
                if let Some(commit) = tracker.to_commit() {
                    prop_assert!(first_undone.is_none_or(|undone| commit <= undone));
                    tracker.committed(commit);
                }
                let undone_bytes: usize =
                    records.iter().filter(|(offset, _)| !done.contains(offset)).map(|(_, bytes)| bytes).sum();
                prop_assert_eq!(tracker.undone_bytes(), undone_bytes);
                prop_assert_eq!(tracker.undone(), records.len() - done.len());
            }
        }

        #[test]
        fn once_all_is_done_the_commit_is_one_past_the_last((records, _) in histories(), reverse in any::<bool>()) {
            let mut tracker = OffsetTracker::default();
            let mut offsets: Vec<i64> = records.iter().map(|(offset, _)| *offset).collect();
            for offset in &offsets {
                prop_assert!(tracker.handed_over(*offset, 0));
            }
            let last = *offsets.last().expect("histories are not empty");
            if reverse {
                offsets.reverse();
            }
            for offset in offsets {
                tracker.done(offset);
            }
            prop_assert_eq!(tracker.to_commit(), Some(last + 1));
            prop_assert_eq!(tracker.undone(), 0);
        }
    }
}
