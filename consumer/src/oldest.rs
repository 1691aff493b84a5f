//! How long each partition's oldest record in hand has been that. Others go on without an order that is tried again and again, so
//! it shows nowhere else. Pure but for the log.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Between two looks: the poll loop goes round far more often than anybody asks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// After this the log names the record. Attempts as they are set by default are spent within two minutes.
const SAID_AFTER: Duration = Duration::from_secs(900);

/// The oldest record in hand of each partition.
#[derive(Debug, Default)]
pub struct Oldest {
    looked: Option<Instant>,
    records: BTreeMap<i32, Standing>,
}

#[derive(Debug)]
struct Standing {
    offset: i64,
    since: Instant,
    is_said: bool,
}

impl Oldest {
    /// Whether it is time for another look.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK_INTERVAL)
    }

    /// Takes the offset of the oldest record in hand of each partition that has any. Returns the longest time for which one has been
    /// the oldest, which is not its age: behind a sink that is slow records are old as well, and yet go on.
    #[must_use]
    pub fn look(&mut self, oldest: impl IntoIterator<Item = (i32, i64)>, now: Instant) -> Duration {
        self.looked = Some(now);
        let mut before = std::mem::take(&mut self.records);
        for (partition, offset) in oldest {
            let known = before.remove(&partition).filter(|known| known.offset == offset);
            let mut standing = known.unwrap_or(Standing { offset, since: now, is_said: false });
            if !standing.is_said && now.saturating_duration_since(standing.since) >= SAID_AFTER {
                standing.is_said = true;
                tracing::warn!(partition, offset, "the oldest record in hand is not done for long");
            }
            self.records.insert(partition, standing);
        }
        let times = self.records.values().map(|standing| now.saturating_duration_since(standing.since));
        times.max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_that_stands_longest_counts_and_one_that_is_done_does_not() {
        let (mut oldest, begin) = (Oldest::default(), Instant::now());
        let after = |seconds: u64| begin + Duration::from_secs(seconds);
        assert_eq!(oldest.look([(0, 7), (1, 3)], after(0)), Duration::ZERO);
        assert_eq!(oldest.look([(0, 7), (1, 4)], after(10)), Duration::from_secs(10));
        assert_eq!(oldest.look([(0, 9), (1, 4)], after(15)), Duration::from_secs(5));
        assert_eq!(oldest.look([(0, 9)], after(16)), Duration::from_secs(1), "the other has none");
        assert_eq!(oldest.look([(0, 9), (1, 4)], after(20)), Duration::from_secs(5), "it came back just now");
        assert_eq!(oldest.look([], after(30)), Duration::ZERO);
    }

    #[test]
    fn it_is_looked_once_a_second() {
        let (mut oldest, now) = (Oldest::default(), Instant::now());
        assert!(oldest.is_due(now));
        assert_eq!(oldest.look([], now), Duration::ZERO);
        assert!(!oldest.is_due(now) && oldest.is_due(now + LOOK_INTERVAL));
    }
}
