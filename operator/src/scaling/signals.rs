//! Signals: what one tick read of a partition, and how much of it the group has still to read. Unknown stays unknown.

use crate::crd::StartFrom;

/// A point in time or a span of it, in seconds. Times count from any one beginning, such as the Unix epoch.
pub type Seconds = f64;

/// How far a group has committed in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It could not be read.
    Unknown,
    /// The group has committed nothing there.
    Nothing,
    /// The next offset that it will read.
    At(i64),
}

/// What is known of the first record that the group has still to read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Head {
    /// Nobody looked.
    NotRead,
    /// When it was appended, by its own timestamp.
    Record {
        /// Time of the record.
        appended: Seconds,
    },
    /// There is none up to the log's end: what lies between is markers of transactions, or was compacted away.
    Empty,
}

/// What was read of one partition in a tick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// First offset that the broker keeps.
    pub log_start: Option<i64>,
    /// Offset after the last record.
    pub log_end: Option<i64>,
    /// The group's place.
    pub committed: Committed,
    /// The first record beyond that place.
    pub head: Head,
    /// Which member of the group reads the partition, where that is known; any numbering will do.
    pub owner: Option<u32>,
}

/// What a group has still to read of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Where it goes on reading.
    pub position: i64,
    /// Records from there to the log's end, at most: offsets without a record count until somebody looked.
    pub records: u64,
    /// Records that were deleted before the group read them. They are not part of the backlog: no pod can read them.
    pub lost: u64,
}

impl Reading {
    /// What is still to be read, or nothing when any of it is unknown.
    #[must_use]
    pub fn backlog(&self, start_from: StartFrom) -> Option<Backlog> {
        let (start, end) = (self.log_start?, self.log_end?);
        if start > end {
            return None;
        }
        let (position, lost) = match (self.committed, start_from) {
            (Committed::Unknown, _) => return None,
            (Committed::Nothing, StartFrom::Earliest) => (start, 0),
            (Committed::Nothing, StartFrom::Latest) => (end, 0),
            (Committed::At(committed), _) => (committed.max(start), start.saturating_sub(committed).max(0)),
        };
        // The end is read a moment before or after the commit, so the commit may seem to lie beyond it.
        let left = if self.head == Head::Empty { 0 } else { (end - position).max(0) };
        Some(Backlog { position, records: left.unsigned_abs(), lost: lost.unsigned_abs() })
    }
}

/// Whether a group that starts at the log's end has never committed: it has no place there before a pod of it runs, so
/// that no backlog would ever wake it.
#[must_use]
pub(super) fn needs_a_first_pod(readings: &[Reading], start_from: StartFrom) -> bool {
    start_from == StartFrom::Latest && readings.iter().all(|reading| reading.committed == Committed::Nothing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(start: i64, end: i64, committed: Committed) -> Reading {
        let (log_start, log_end) = (Some(start), Some(end));
        Reading { log_start, log_end, committed, head: Head::NotRead, owner: None }
    }

    fn records(reading: Reading, start_from: StartFrom) -> Option<u64> {
        reading.backlog(start_from).map(|backlog| backlog.records)
    }

    #[test]
    fn what_could_not_be_read_is_unknown_and_not_zero() {
        let known = reading(0, 150, Committed::At(100));
        assert_eq!(records(known, StartFrom::Earliest), Some(50));
        for unknown in [
            Reading { log_end: None, ..known },
            Reading { log_start: None, ..known },
            Reading { committed: Committed::Unknown, ..known },
            reading(10, 5, Committed::At(7)),
        ] {
            assert_eq!(unknown.backlog(StartFrom::Earliest), None, "{unknown:?}");
        }
    }

    #[test]
    fn a_group_without_commits_has_what_it_would_start_with_before_it() {
        let fresh = reading(400, 1000, Committed::Nothing);
        assert_eq!(records(fresh, StartFrom::Earliest), Some(600));
        assert_eq!(records(fresh, StartFrom::Latest), Some(0));
        assert!(needs_a_first_pod(&[fresh, fresh], StartFrom::Latest));
        assert!(!needs_a_first_pod(&[fresh, fresh], StartFrom::Earliest));
        assert!(!needs_a_first_pod(&[fresh, reading(0, 9, Committed::At(9))], StartFrom::Latest));
    }

    #[test]
    fn records_deleted_before_they_were_read_are_lost_and_not_backlog() {
        let behind = reading(1000, 1200, Committed::At(300));
        let expected = Backlog { position: 1000, records: 200, lost: 700 };
        assert_eq!(behind.backlog(StartFrom::Earliest), Some(expected));
    }

    #[test]
    fn markers_of_transactions_are_no_backlog_once_somebody_looked() {
        let marker = reading(0, 101, Committed::At(100));
        assert_eq!(records(marker, StartFrom::Earliest), Some(1));
        assert_eq!(records(Reading { head: Head::Empty, ..marker }, StartFrom::Earliest), Some(0));
    }

    #[test]
    fn a_commit_that_was_read_after_the_end_is_no_negative_backlog() {
        assert_eq!(records(reading(0, 100, Committed::At(103)), StartFrom::Earliest), Some(0));
    }
}
