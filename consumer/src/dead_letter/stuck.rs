//! Which keys have a letter in the dead-letter topic that is neither replayed nor let go: their later records follow it there. Pure.
//!
//! The topic itself is the record of it: letters, and marks that say up to which of them a key is done with. Whoever has read it
//! to its end knows the same.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use super::mark::Kind;
use crate::record::Record;

/// The keys, each by its hash: a key may be as long as a record, and there may be as many as letters. Two that share a hash of
/// 64 bits would be stuck together, which is a matter of luck with billions of them.
#[derive(Debug, Default)]
pub struct StuckKeys {
    /// Of each key the last letter's offset, by the partition of the dead-letter topic that has it: one, unless that topic grew.
    last: HashMap<u64, Vec<(i32, i64)>>,
    /// Up to where the topic is read, by partition: what a worker tells of a letter before that is no news.
    read: HashMap<i32, i64>,
    hasher: RandomState,
}

impl StuckKeys {
    /// `record` of the topic was read, and is of that `kind`. What it says counts before it counts as read: a worker that has
    /// written it must never find both its own word refused as no news and the key not stuck.
    pub fn read(&mut self, record: &Record, kind: &Kind) {
        let (partition, offset) = (record.partition, record.offset);
        match (&record.key, kind) {
            (Some(key), Kind::Letter) => self.letter(key, partition, offset),
            (Some(key), Kind::Mark(mark)) => self.released(key, partition, mark.through),
            (Some(_), Kind::Other) | (None, _) => {}
        }
        self.read_to(partition, offset + 1);
    }

    /// There is a letter of `key` at `offset` of `partition`. Letters may be told of more than once, and late.
    fn letter(&mut self, key: &[u8], partition: i32, offset: i64) {
        let places = self.last.entry(self.hasher.hash_one(key)).or_default();
        match places.iter_mut().find(|(known, _)| *known == partition) {
            Some((_, last)) => *last = offset.max(*last),
            None => places.push((partition, offset)),
        }
    }

    /// A letter of `key` was written at `offset` of `partition`. Whether it still counts is known already, if it was read since.
    pub fn written(&mut self, key: &[u8], partition: i32, offset: i64) {
        if self.read.get(&partition).is_none_or(|read| offset >= *read) {
            self.letter(key, partition, offset);
        }
    }

    /// `partition` is read up to `next`.
    fn read_to(&mut self, partition: i32, next: i64) {
        self.read.insert(partition, next);
    }

    /// Letters of `partition` before `low` have expired. Returns how many keys are let go by that, unnoticed by anybody so far.
    #[must_use]
    pub fn expired(&mut self, partition: i32, low: i64) -> usize {
        let before = self.last.len();
        self.last.retain(|_, places| {
            places.retain(|(known, last)| *known != partition || *last >= low);
            !places.is_empty()
        });
        before - self.last.len()
    }

    /// Letters of `key` in `partition` are done with, up to and with the one at `through`. One after it keeps the key stuck.
    fn released(&mut self, key: &[u8], partition: i32, through: i64) {
        let hash = self.hasher.hash_one(key);
        if let Some(places) = self.last.get_mut(&hash) {
            places.retain(|(known, last)| *known != partition || *last > through);
            if places.is_empty() {
                self.last.remove(&hash);
            }
        }
    }

    /// `partition` was made anew: what was in it is gone.
    pub fn forget(&mut self, partition: i32) {
        self.read.remove(&partition);
        self.last.retain(|_, places| {
            places.retain(|(known, _)| *known != partition);
            !places.is_empty()
        });
    }

    /// Whether records of `key` go to the dead-letter topic.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        !self.last.is_empty() && self.last.contains_key(&self.hasher.hash_one(key))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.last.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.last.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::dead_letter::mark::{Ending, Mark};
    use crate::record::tests::{event, record};

    #[test]
    fn what_a_record_says_is_known_once_it_counts_as_read() {
        let mut stuck = StuckKeys::default();
        let read = record(&event(1), 7);
        let key = read.key.clone().expect("an event has a key");
        stuck.read(&read, &Kind::Letter);
        stuck.written(&key, 0, 7);
        assert!(stuck.contains(&key), "whoever wrote it need not have told first");
        let (ending, at) = (Ending::Replayed, Timestamp::UNIX_EPOCH);
        let mark = Mark { ending, through: 7, letters: 1, at, reason: None };
        stuck.read(&Record { offset: 8, ..read }, &Kind::Mark(mark));
        stuck.written(&key, 0, 7);
        assert!(stuck.is_empty(), "the letter was read, and so was its mark");
    }

    #[test]
    fn a_key_is_stuck_from_its_first_letter_until_all_are_done_with() {
        let mut stuck = StuckKeys::default();
        stuck.letter(b"a", 0, 3);
        stuck.letter(b"a", 0, 7);
        assert!(stuck.contains(b"a") && !stuck.contains(b"b"));
        stuck.released(b"a", 0, 6);
        assert!(stuck.contains(b"a"), "the letter at 7 came later");
        stuck.released(b"a", 0, 7);
        assert!(stuck.is_empty());
    }

    #[test]
    fn a_letter_that_is_told_of_again_and_late_changes_nothing() {
        let mut stuck = StuckKeys::default();
        stuck.letter(b"a", 0, 7);
        stuck.letter(b"a", 0, 3);
        stuck.released(b"a", 0, 5);
        assert!(stuck.contains(b"a"));
    }

    #[test]
    fn a_letter_is_no_news_after_its_mark_was_read() {
        let mut stuck = StuckKeys::default();
        stuck.letter(b"a", 0, 7);
        stuck.released(b"a", 0, 7);
        stuck.read_to(0, 9);
        stuck.written(b"a", 0, 7);
        assert!(stuck.is_empty());
        stuck.written(b"a", 0, 9);
        assert!(stuck.contains(b"a"));
    }

    #[test]
    fn a_key_whose_letters_expired_is_let_go() {
        let mut stuck = StuckKeys::default();
        stuck.letter(b"a", 0, 7);
        stuck.letter(b"b", 0, 8);
        assert_eq!(stuck.expired(0, 8), 1);
        assert!(!stuck.contains(b"a") && stuck.contains(b"b"));
    }

    #[test]
    fn letters_in_two_partitions_are_let_go_one_by_one() {
        let mut stuck = StuckKeys::default();
        stuck.letter(b"a", 0, 7);
        stuck.letter(b"a", 4, 1);
        stuck.released(b"a", 0, 7);
        assert!(stuck.contains(b"a"));
        stuck.forget(4);
        assert_eq!(stuck.len(), 0);
    }
}
