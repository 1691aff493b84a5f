//! Age: how long the first record that is still to be read has been waiting, from the log's end as it was seen over time.

use std::collections::VecDeque;

use super::signals::Seconds;

/// Most places kept of one partition. Beyond it every other one goes, so that a week's backlog costs no more than this and its age
/// stays right to a few parts in a hundred.
const MAX_PLACES: usize = 256;

/// Age of the first record that is still to be read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Age {
    /// There is no such record.
    Nothing,
    /// In seconds.
    Known(Seconds),
    /// It was there before anybody looked: at least so many seconds. The record's own timestamp tells.
    AtLeast(Seconds),
}

impl Age {
    /// What is known of it, in seconds: never more than it is.
    #[must_use]
    pub const fn seconds(self) -> Seconds {
        match self {
            Self::Nothing => 0.0,
            Self::Known(seconds) | Self::AtLeast(seconds) => seconds,
        }
    }
}

/// A place in the log: every earlier record had been appended by then, and this one and every later one had not.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    offset: i64,
    at: Seconds,
}

/// When which offset of a partition was appended.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    places: VecDeque<Place>,
}

impl Log {
    /// Takes down the log's end as it was read.
    pub(super) fn end_seen(&mut self, offset: i64, at: Seconds) {
        if self.places.back().is_some_and(|last| offset < last.offset) {
            // A log that shrank is another log.
            self.places.clear();
        }
        let stood = self.places.iter().rev().take(2).filter(|place| place.offset == offset).count() == 2;
        match self.places.back_mut() {
            Some(last) if stood => last.at = at,
            _ => self.places.push_back(Place { offset, at }),
        }
        if self.places.len() > MAX_PLACES {
            let newest = self.places.len() - 1;
            let mut index = 0;
            self.places.retain(|_| {
                index += 1;
                index == 1 || index > newest || index % 2 == 0
            });
        }
    }

    /// Takes down when a record was appended, by its own timestamp.
    pub(super) fn record_read(&mut self, offset: i64, appended: Seconds) {
        let later = self.places.partition_point(|place| place.offset <= offset);
        // Producers' clocks err; a record was there before anybody saw it there.
        let seen = self.places.get(later).map_or(appended, |place| place.at);
        self.places.drain(..later);
        self.places.push_front(Place { offset, at: appended.min(seen) });
    }

    /// Forgets what lies so far before `position` that no age needs it.
    pub(super) fn forget_before(&mut self, position: i64) {
        let later = self.places.partition_point(|place| place.offset <= position);
        self.places.drain(..later.saturating_sub(1));
    }

    /// Age of the record at `position`, if the log goes so far.
    #[must_use]
    pub(super) fn age(&self, position: i64, now: Seconds) -> Age {
        let later = self.places.partition_point(|place| place.offset <= position);
        let Some(after) = self.places.get(later) else { return Age::Nothing };
        let Some(before) = later.checked_sub(1).and_then(|index| self.places.get(index)) else {
            return Age::AtLeast((now - after.at).max(0.0));
        };
        // Between two looks the log is taken to have grown evenly.
        let part = (position - before.offset) as f64 / (after.offset - before.offset) as f64;
        Age::Known((now - before.at - part * (after.at - before.at)).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_from_before_the_first_look_is_at_least_as_old_as_that() {
        let mut log = Log::default();
        log.end_seen(500, 10.0);
        assert_eq!(log.age(400, 25.0), Age::AtLeast(15.0));
        assert_eq!(log.age(500, 25.0), Age::Nothing);
    }

    #[test]
    fn after_a_cold_start_the_records_own_timestamp_makes_the_age_exact() {
        let mut log = Log::default();
        log.end_seen(500, 1000.0);
        log.record_read(400, 700.0);
        assert_eq!(log.age(400, 1010.0), Age::Known(310.0));
        assert_eq!(log.age(450, 1010.0), Age::Known(160.0));
    }

    #[test]
    fn a_timestamp_from_the_future_makes_nothing_younger_than_it_was_seen() {
        let mut log = Log::default();
        log.end_seen(500, 1000.0);
        log.record_read(400, 5000.0);
        assert_eq!(log.age(400, 1010.0), Age::Known(10.0));
    }

    #[test]
    fn a_record_after_a_lull_is_not_as_old_as_the_lull() {
        let mut log = Log::default();
        for (end, at) in [(100, 0.0), (100, 50.0), (100, 100.0), (110, 105.0)] {
            log.end_seen(end, at);
        }
        assert_eq!(log.age(100, 105.0), Age::Known(5.0));
    }

    #[test]
    fn a_log_that_shrank_is_another_log() {
        let mut log = Log::default();
        log.end_seen(500, 0.0);
        log.end_seen(20, 10.0);
        assert_eq!(log.age(10, 12.0), Age::AtLeast(2.0));
    }

    proptest! {
        /// Records arrive at any rates; the log is looked at every 5 s.
        #[test]
        fn the_age_is_right_to_one_look(steps in prop::collection::vec(0_i64..1000, 10..60), back in 0_i64..2000) {
            let (mut log, mut appended, mut end) = (Log::default(), Vec::new(), 0);
            log.end_seen(0, 0.0);
            for (index, step) in steps.iter().enumerate() {
                // They all come in the middle between two looks.
                appended.resize(appended.len() + usize::try_from(*step).unwrap(), index as f64 * 5.0 + 2.5);
                end += step;
                log.end_seen(end, (index + 1) as f64 * 5.0);
            }
            let now = steps.len() as f64 * 5.0;
            let position = (end - back).max(0);
            log.forget_before(position);
            match appended.get(usize::try_from(position).unwrap()) {
                Some(at) => {
                    let error = log.age(position, now).seconds() - (now - at);
                    prop_assert!(error.abs() <= 5.0, "{error}");
                }
                None => prop_assert_eq!(log.age(position, now), Age::Nothing),
            }
        }

        #[test]
        fn more_backlog_is_never_younger(steps in prop::collection::vec(0_i64..1000, 2..400), a in 0_i64..5000, b in 0_i64..5000) {
            let (mut log, mut end) = (Log::default(), 0);
            for (index, step) in steps.iter().enumerate() {
                end += step;
                log.end_seen(end, index as f64 * 5.0);
            }
            let now = steps.len() as f64 * 5.0;
            let (older, newer) = ((end - a.max(b)).max(0), (end - a.min(b)).max(0));
            prop_assert!(log.age(older, now).seconds() >= log.age(newer, now).seconds() - 1e-9);
            prop_assert!(log.places.len() <= MAX_PLACES + 1);
        }
    }
}
