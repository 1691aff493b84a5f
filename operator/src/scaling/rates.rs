//! Rates: how fast a partition fills and is read, and how much one pod reads while it is busy.

use std::collections::VecDeque;

use super::signals::Seconds;

/// Arrivals are taken over at least so much time, so that batches even out.
const ARRIVAL_SPAN: Seconds = 10.0;
/// Reading is taken over at least so much time, so that the moment of a commit evens out. It is shorter, for it tells what pods can
/// do, without which nothing is added.
const READ_SPAN: Seconds = 5.0;
/// Samples older than this tell nothing that a decision asks for.
const KEPT: Seconds = 180.0;
/// Two samples further apart than this have a gap between them in which nobody saw anything.
const GAP: Seconds = 30.0;
/// So long after a gap, what arrives may be what was held back during it.
const AFTER_GAP: Seconds = 60.0;
/// Most samples of a partition, whatever the distance of the ticks.
const MAX_SAMPLES: usize = 256;
/// Capacity is the median of so many measurements: one that fell into a hiccup does not count.
const MEASUREMENTS: usize = 9;

/// What was seen of a partition in one tick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// When.
    pub(super) at: Seconds,
    /// The log's end.
    pub(super) end: i64,
    /// Where the group goes on reading.
    pub(super) position: i64,
    /// Records still to be read.
    pub(super) records: u64,
    /// How long the first of them has been waiting.
    pub(super) age: Seconds,
}

/// A partition over the last minutes.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    samples: VecDeque<Sample>,
}

impl History {
    /// Takes down a sample. A place or an end that went backwards begins a new history.
    pub(super) fn push(&mut self, sample: Sample) {
        if self.samples.back().is_some_and(|last| sample.position < last.position || sample.end < last.end) {
            self.samples.clear();
        }
        self.samples.push_back(sample);
        // One that is older stays: the last before a gap, however long the gap.
        let old = |second: &Sample| sample.at - second.at > KEPT;
        while self.samples.len() > MAX_SAMPLES || self.samples.get(1).is_some_and(old) {
            self.samples.pop_front();
        }
    }

    /// Every sample, the oldest first.
    pub(super) fn samples(&self) -> impl DoubleEndedIterator<Item = &Sample> {
        self.samples.iter()
    }

    /// First and last sample of the shortest span that is long enough for a rate, or of the longest there is.
    fn span(&self, least: Seconds) -> Option<(&Sample, &Sample)> {
        let last = self.samples.back()?;
        let long = self.samples.iter().rev().find(|sample| last.at - sample.at >= least);
        let first = long.or_else(|| self.samples.front())?;
        (last.at > first.at).then_some((first, last))
    }

    /// Records appended per second. Soon after a gap the span goes back to before it: what producers held back during a broker's
    /// restart comes all at once, and is a backlog and no rate.
    #[must_use]
    pub(super) fn arrivals(&self) -> Option<f64> {
        let (first, last) = self.span(ARRIVAL_SPAN)?;
        let pairs = self.samples.iter().zip(self.samples.iter().skip(1));
        let mut gaps =
            pairs.filter(|(before, after)| after.at - before.at > GAP && last.at - after.at < AFTER_GAP);
        let first = gaps.next().map_or(first, |(before, _)| before);
        Some((last.end - first.end) as f64 / (last.at - first.at))
    }

    /// Records read per second.
    #[must_use]
    pub(super) fn drain(&self) -> Option<f64> {
        self.span(READ_SPAN)
            .map(|(first, last)| (last.position - first.position) as f64 / (last.at - first.at))
    }

    /// Whether records had been waiting for more than `age` at both ends of the span: whoever reads them was never idle.
    #[must_use]
    pub(super) fn busy(&self, age: Seconds) -> bool {
        let waits = |sample: &Sample| sample.records > 0 && sample.age > age;
        self.span(READ_SPAN).is_some_and(|(first, last)| waits(first) && waits(last))
    }

    /// When the span began over which reading is taken.
    #[must_use]
    pub(super) fn since(&self) -> Option<Seconds> {
        self.span(READ_SPAN).map(|(first, _)| first.at)
    }
}

/// What one pod reads per second while it is busy.
#[derive(Clone, Debug, Default)]
pub(super) struct Capacity {
    measured: VecDeque<f64>,
    at_least: f64,
}

impl Capacity {
    /// A capacity that is known from elsewhere, in records per second.
    #[must_use]
    pub(super) fn of(records: f64) -> Self {
        Self { measured: [records; MEASUREMENTS].into(), at_least: records }
    }

    /// A pod read so much, and had more to read all the time.
    pub(super) fn measured(&mut self, records: f64) {
        // A pod that reads nothing at all does not work slowly: it does not work.
        if records > 0.0 {
            self.measured.push_back(records);
            if self.measured.len() > MEASUREMENTS {
                self.measured.pop_front();
            }
        }
    }

    /// A pod read so much, and may have been idle in between: it can do that, and perhaps more.
    pub(super) fn reached(&mut self, records: f64) {
        match self.known() {
            Some(known) if records > known => self.measured(records),
            Some(_) => {}
            None => self.at_least = self.at_least.max(records),
        }
    }

    /// Pods that did so much could not do enough: what they reached is what they can do.
    pub(super) fn settle(&mut self) {
        if self.measured.is_empty() {
            self.measured(self.at_least);
        }
    }

    /// In records per second, once it was measured.
    #[must_use]
    pub(super) fn known(&self) -> Option<f64> {
        let mut sorted: Vec<_> = self.measured.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }

    /// What it is at least, in records per second.
    #[must_use]
    pub(super) fn at_least(&self) -> f64 {
        self.known().unwrap_or(self.at_least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(samples: &[(Seconds, i64, i64)]) -> History {
        let mut history = History::default();
        for (at, end, position) in samples {
            let records = (end - position).unsigned_abs();
            history.push(Sample {
                at: *at,
                end: *end,
                position: *position,
                records,
                age: records as f64 / 10.0,
            });
        }
        history
    }

    #[test]
    fn rates_are_taken_over_the_shortest_span_that_is_long_enough() {
        let history = history(&[(0.0, 0, 0), (5.0, 500, 170), (10.0, 550, 200), (15.0, 600, 300)]);
        assert_eq!(history.arrivals(), Some(10.0));
        assert_eq!(history.drain(), Some(20.0));
        assert_eq!(history.since(), Some(10.0));
    }

    #[test]
    fn one_sample_is_no_rate() {
        assert_eq!(history(&[(0.0, 100, 50)]).arrivals(), None);
        assert_eq!(history(&[]).drain(), None);
    }

    #[test]
    fn a_place_that_went_backwards_begins_a_new_history() {
        let history = history(&[(0.0, 100, 50), (5.0, 100, 20), (10.0, 100, 30)]);
        assert_eq!(history.drain(), Some(2.0));
        assert_eq!(history.samples().count(), 2);
    }

    #[test]
    fn what_was_held_back_during_a_gap_is_no_rate() {
        let history =
            history(&[(0.0, 0, 0), (5.0, 50, 50), (125.0, 650, 50), (130.0, 1250, 50), (135.0, 1350, 50)]);
        assert_eq!(history.arrivals(), Some(10.0));
    }

    #[test]
    fn a_history_is_bounded() {
        let samples: Vec<_> = (0..5000).map(|tick| (f64::from(tick), i64::from(tick), 0)).collect();
        assert!(history(&samples).samples().count() <= MAX_SAMPLES);
    }

    #[test]
    fn busy_is_who_had_records_waiting_at_both_ends() {
        assert!(history(&[(0.0, 100, 0), (10.0, 200, 100)]).busy(5.0));
        assert!(!history(&[(0.0, 10, 0), (10.0, 200, 100)]).busy(5.0));
    }

    #[test]
    fn capacity_is_unknown_until_a_pod_was_busy_and_one_hiccup_changes_nothing() {
        let mut capacity = Capacity::default();
        capacity.reached(70.0);
        assert_eq!((capacity.known(), capacity.at_least()), (None, 70.0));
        capacity.measured(0.0);
        assert_eq!(capacity.known(), None, "a pod that reads nothing was not measured");
        for records in [100.0, 104.0, 3.0, 102.0, 101.0] {
            capacity.measured(records);
        }
        assert_eq!(capacity.known(), Some(101.0));
    }
}
