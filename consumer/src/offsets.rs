//! What of one partition is done, and what of that may be committed. Pure.

use std::collections::BTreeMap;

use crate::done_map::{LIMIT_BYTES, Runs};

/// A partition has room for more while what is done beyond its watermark takes less than three quarters of what a commit
/// can carry: the rest is for what is in flight and will be done.
const CROWDED_BYTES: usize = LIMIT_BYTES / 4 * 3;

/// Records done between two looks at how long the metadata is by now. So many more runs, of four bytes each, fit the last quarter.
const MEASURED_EVERY: u64 = 128;

/// What a commit says: everything below `offset` is done, and what `metadata` tells beyond it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Commit {
    /// The watermark.
    pub offset: i64,
    /// [`Runs`] as text.
    pub metadata: String,
    /// How much was done by then, for [`OffsetTracker::committed`].
    pub progress: u64,
}

/// Where a partition is read from, by what its group has committed.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Start {
    /// The first offset that is not done, where anything was committed.
    pub offset: Option<i64>,
    /// What is done beyond it.
    pub done: Runs,
}

/// What to do with a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It is to be worked on.
    Work,
    /// It was done before this member had the partition.
    Done,
    /// Offsets rise, this one does not: it belongs to another log, and another tracker.
    Rewound,
}

/// The records of one partition between hand-over to a worker and the broker's receipt of the commit.
///
/// Records may finish in any order. The *watermark* is the offset below which every record that was handed over is done; what
/// is done beyond it goes into the commit's metadata, so that nobody repeats it. Only what is not done is kept: offsets may be
/// sparse (compaction and transaction markers leave holes), and everything else that was passed is done.
#[derive(Debug, Default)]
pub struct OffsetTracker {
    /// Handed over and not done, with their bytes.
    undone: BTreeMap<i64, usize>,
    /// Done before this member had the partition.
    before: Start,
    /// One past the highest offset handed over.
    next: Option<i64>,
    /// What the broker has, or, before the first commit, where the partition was read from.
    committed: Option<i64>,
    undone_bytes: usize,
    /// Counts what was done, and how much of that the broker knows.
    progress: u64,
    confirmed: u64,
    /// Length of the metadata when it was last measured, and the progress of then.
    metadata_bytes: usize,
    measured: u64,
    /// What was read and done when there was nothing to commit.
    without_news: Option<(Option<i64>, u64)>,
}

impl OffsetTracker {
    /// A tracker of a partition that is read from `start`.
    #[must_use]
    pub fn starting_at(start: Start) -> Self {
        Self { before: start, ..Self::default() }
    }

    /// A record was read. Its worker has it where the answer is [`Admission::Work`].
    pub fn handed_over(&mut self, offset: i64, bytes: usize) -> Admission {
        if self.next.is_some_and(|next| offset < next) {
            return Admission::Rewound;
        }
        // A log that begins before what was committed is another one, about whose records nothing is known.
        if self.before.offset.is_some_and(|start| offset < start) {
            self.before = Start::default();
        }
        self.next = Some(offset + 1);
        self.committed.get_or_insert(offset);
        if self.before.done.contains(offset) {
            return Admission::Done;
        }
        self.undone.insert(offset, bytes);
        self.undone_bytes += bytes;
        Admission::Work
    }

    /// The record at `offset` was delivered, dead-lettered or, at most once, given up.
    pub fn done(&mut self, offset: i64) {
        if let Some(bytes) = self.undone.remove(&offset) {
            self.undone_bytes -= bytes;
            self.progress += 1;
            // Commits may be long in coming: while one is awaited, none is asked for.
            if self.progress >= self.measured + MEASURED_EVERY
                && let Some(watermark) = self.watermark()
            {
                let _ = self.metadata(watermark);
            }
        }
    }

    /// What a commit up to `watermark` tells beyond it.
    fn metadata(&mut self, watermark: i64) -> String {
        let metadata = self.done_from(watermark).encode(watermark);
        (self.metadata_bytes, self.measured) = (metadata.len(), self.progress);
        metadata
    }

    /// What the broker does not know yet, if anything.
    pub fn to_commit(&mut self) -> Option<Commit> {
        // It is asked often: what had no news has none until something is read or done.
        if self.without_news == Some((self.next, self.progress)) {
            return None;
        }
        let watermark = self.watermark()?;
        let has_moved = self.committed.is_none_or(|committed| committed < watermark);
        let metadata = self.metadata(watermark);
        let is_news = has_moved || (self.confirmed < self.progress && !metadata.is_empty());
        self.without_news = (!is_news).then_some((self.next, self.progress));
        is_news.then_some(Commit { offset: watermark, metadata, progress: self.progress })
    }

    /// A commit of everything below `offset`, done or not: what at most once makes before it delivers.
    #[must_use]
    pub fn commit_up_to(&self, offset: i64) -> Commit {
        Commit { offset, metadata: self.done_from(offset).encode(offset), progress: self.progress }
    }

    /// The broker confirmed `commit`. A confirmation that arrives late does not move it back.
    pub fn committed(&mut self, commit: &Commit) {
        self.committed = self.committed.max(Some(commit.offset));
        self.confirmed = self.confirmed.max(commit.progress);
    }

    /// Whether what is done beyond the watermark nearly fills a commit: then the partition must wait for the watermark. It moves
    /// only if something is under way: of what was done before this member had the partition, reading on makes less.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        !self.undone.is_empty() && self.metadata_bytes >= CROWDED_BYTES
    }

    /// Records that are not done though their offset is committed: what an at-most-once group loses when its
    /// worker ends now.
    #[must_use]
    pub fn committed_undone(&self) -> usize {
        self.committed.map_or(0, |committed| self.undone.range(..committed).count())
    }

    /// Records that are handed over and not done.
    #[must_use]
    pub fn undone(&self) -> usize {
        self.undone.len()
    }

    /// The first record that is handed over and not done.
    #[must_use]
    pub fn first_undone(&self) -> Option<i64> {
        self.undone.first_key_value().map(|(offset, _)| *offset)
    }

    /// Bytes of the records that are handed over and not done.
    #[must_use]
    pub const fn undone_bytes(&self) -> usize {
        self.undone_bytes
    }

    fn watermark(&self) -> Option<i64> {
        self.first_undone().or(self.next)
    }

    /// What is done at or beyond `watermark`: between the records that are not, and by what was known before.
    fn done_from(&self, watermark: i64) -> Runs {
        let mut runs = Runs::default();
        let next = self.next.unwrap_or(watermark).max(watermark);
        let mut from = watermark;
        for (undone, _) in self.undone.range(watermark..) {
            if from < *undone {
                runs.push(from, *undone);
            }
            from = undone + 1;
        }
        if from < next {
            runs.push(from, next);
        }
        for (from, until) in self.before.done.iter().filter(|(_, until)| *until > next) {
            runs.push(from.max(next), until);
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn handed_over(offsets: impl IntoIterator<Item = i64>) -> OffsetTracker {
        let mut tracker = OffsetTracker::default();
        for offset in offsets {
            assert_eq!(tracker.handed_over(offset, 1), Admission::Work);
        }
        tracker
    }

    fn offset(commit: Option<Commit>) -> Option<i64> {
        commit.map(|commit| commit.offset)
    }

    #[test]
    fn nothing_is_committed_before_something_is_done() {
        let mut tracker = OffsetTracker::default();
        assert_eq!(tracker.to_commit(), None);
        tracker = handed_over([40, 41]);
        assert_eq!(tracker.to_commit(), None);
        tracker.done(40);
        assert_eq!(offset(tracker.to_commit()), Some(41));
    }

    #[test]
    fn what_is_done_beyond_the_watermark_is_said_and_not_worked_on_again() {
        let mut tracker = handed_over(40..45);
        tracker.done(41);
        tracker.done(43);
        let commit = tracker.to_commit().expect("41 and 43 are news");
        assert_eq!(commit.offset, 40, "40 is not done");
        let done = Runs::decode(&commit.metadata, commit.offset);
        let mut successor = OffsetTracker::starting_at(Start { offset: Some(commit.offset), done });
        let again: Vec<i64> =
            (40..46).filter(|offset| successor.handed_over(*offset, 1) == Admission::Work).collect();
        assert_eq!(again, [40, 42, 44, 45]);
        again.iter().for_each(|offset| successor.done(*offset));
        assert_eq!(offset(successor.to_commit()), Some(46));
    }

    #[test]
    fn a_confirmed_commit_is_not_repeated() {
        let mut tracker = handed_over([0, 1, 2]);
        tracker.done(0);
        tracker.done(2);
        let commit = tracker.to_commit().expect("news");
        tracker.committed(&commit);
        assert_eq!(tracker.to_commit(), None);
        tracker.committed(&Commit { offset: 0, metadata: String::new(), progress: 0 });
        assert_eq!(tracker.to_commit(), None, "a late confirmation does not move the commit back");
    }

    #[test]
    fn an_offset_that_does_not_rise_is_refused() {
        let mut tracker = handed_over([7]);
        assert_eq!(tracker.handed_over(7, 1), Admission::Rewound);
        assert_eq!(tracker.handed_over(3, 1), Admission::Rewound);
        assert_eq!(tracker.handed_over(9, 1), Admission::Work, "holes are fine");
    }

    #[test]
    fn what_was_done_in_another_log_is_not_taken_for_done_in_this_one() {
        let mut done = Runs::default();
        done.push(41, 45);
        let mut tracker = OffsetTracker::starting_at(Start { offset: Some(40), done });
        assert_eq!(tracker.handed_over(0, 1), Admission::Work);
        assert_eq!(tracker.handed_over(42, 1), Admission::Work);
    }

    #[test]
    fn what_is_committed_and_not_done_is_what_at_most_once_loses() {
        let mut tracker = handed_over(0..5);
        tracker.committed(&tracker.commit_up_to(4));
        tracker.done(0);
        assert_eq!(tracker.committed_undone(), 3);
    }

    #[test]
    fn a_partition_whose_commit_is_nearly_full_waits_for_its_watermark() {
        let mut tracker = handed_over(0..3000);
        (1..3000).step_by(2).for_each(|offset| tracker.done(offset));
        assert!(tracker.to_commit().is_some() && tracker.is_crowded());
        (0..2800).for_each(|offset| tracker.done(offset));
        assert!(tracker.to_commit().is_some() && !tracker.is_crowded());
    }

    #[test]
    fn a_partition_fills_up_while_a_commit_is_awaited() {
        let mut tracker = handed_over(0..3000);
        (1..3000).step_by(2).for_each(|offset| tracker.done(offset));
        assert!(tracker.is_crowded(), "nobody asked for a commit");
    }

    #[test]
    fn a_successor_of_a_crowded_partition_reads_on() {
        let mut tracker = handed_over(0..3000);
        (1..3000).step_by(2).for_each(|offset| tracker.done(offset));
        let commit = tracker.to_commit().expect("news");
        let done = Runs::decode(&commit.metadata, commit.offset);
        let mut successor = OffsetTracker::starting_at(Start { offset: Some(commit.offset), done });
        for offset in (0..400).filter(|offset| offset % 2 == 0) {
            assert_eq!(successor.handed_over(offset, 1), Admission::Work);
            successor.done(offset);
            let _ = successor.to_commit();
            assert!(!successor.is_crowded(), "nothing is under way at {offset}");
        }
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
        fn a_commit_says_of_each_record_whether_it_is_done((records, finished) in histories(), members in 1..4_usize) {
            // Several members one after another, each of which does a part and commits at a time of its own.
            let mut done = BTreeSet::new();
            let mut commit = None;
            for part in finished.chunks(finished.len().div_ceil(members).max(1)) {
                let start = commit.as_ref().map_or_else(Start::default, |commit: &Commit| Start {
                    offset: Some(commit.offset),
                    done: Runs::decode(&commit.metadata, commit.offset),
                });
                let from = start.offset.unwrap_or(0);
                let mut tracker = OffsetTracker::starting_at(start);
                for (offset, bytes) in records.iter().filter(|(offset, _)| *offset >= from) {
                    let admission = tracker.handed_over(*offset, *bytes);
                    prop_assert_eq!(admission == Admission::Done, done.contains(offset));
                }
                prop_assert!(records.iter().all(|(offset, _)| *offset >= from || done.contains(offset)));
                for index in part {
                    tracker.done(records[*index].0);
                    done.insert(records[*index].0);
                }
                let left = records.iter().filter(|(offset, _)| !done.contains(offset));
                prop_assert_eq!(tracker.undone_bytes(), left.clone().map(|(_, bytes)| bytes).sum::<usize>());
                prop_assert_eq!(tracker.undone(), left.count());
                commit = tracker.to_commit();
                prop_assert!(commit.is_some());
            }
        }

        #[test]
        fn once_all_is_done_the_commit_is_one_past_the_last((records, _) in histories(), reverse in any::<bool>()) {
            let mut tracker = OffsetTracker::default();
            let mut offsets: Vec<i64> = records.iter().map(|(offset, _)| *offset).collect();
            for offset in &offsets {
                prop_assert_eq!(tracker.handed_over(*offset, 0), Admission::Work);
            }
            let last = *offsets.last().expect("histories are not empty");
            if reverse {
                offsets.reverse();
            }
            for offset in offsets {
                tracker.done(offset);
            }
            let commit = tracker.to_commit().expect("all is news");
            prop_assert_eq!((commit.offset, commit.metadata.as_str()), (last + 1, ""));
            prop_assert_eq!(tracker.undone(), 0);
        }
    }
}
