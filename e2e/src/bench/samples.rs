//! What became of every call of a run, and its figures.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::wire::Answer;

/// Longest latency that is told apart, in microseconds: no call is waited for so long.
const LONGEST_MICROS: u64 = 600_000_000;

/// How a call ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// 201.
    Accepted,
    /// 409: out of stock.
    Conflict,
    /// 503 that says when to come back.
    Shed,
    /// Any other status.
    Other(u16),
    /// The connection broke, or there was no answer in time.
    Broken,
    /// Never sent: all connections were busy for too long.
    Unsent,
}

impl From<Answer> for Outcome {
    fn from(answer: Answer) -> Self {
        match answer.status {
            201 => Self::Accepted,
            409 => Self::Conflict,
            503 if answer.retry_after => Self::Shed,
            other => Self::Other(other),
        }
    }
}

/// One call. All times are microseconds; a run is far shorter than the hour that fits.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When it was due, from the start of the run.
    pub due: u32,
    /// From when it was due until it was sent: the generator's timer, and the wait for a free connection.
    pub unsent_for: u32,
    /// From when it was due until its answer was read.
    pub latency: u32,
    /// How it ended.
    pub outcome: Outcome,
}

/// All calls of a run.
#[derive(Clone, Default, Debug)]
pub struct Samples {
    /// Every call.
    pub calls: Vec<Sample>,
    /// Orders that were accepted, with when their 201 was read, in microseconds from the start of the run.
    pub accepted: Vec<(Uuid, u64)>,
}

/// The figures of one window of a run. Latencies count from when a call was due.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Calls due per second.
    pub offered_per_second: f64,
    /// 201s per second, by when they were read.
    pub accepted_per_second: f64,
    /// 201s, by when they were due.
    pub accepted: u64,
    /// 409s.
    pub conflicts: u64,
    /// 503s with `Retry-After`.
    pub shed: u64,
    /// Other statuses.
    pub others: u64,
    /// Broken connections and missing answers.
    pub broken: u64,
    /// Calls that were never sent.
    pub unsent: u64,
    /// Latency of the accepted.
    pub accepted_latency: Latency,
    /// The same from when they were sent: what of it is the service's.
    #[serde(default)]
    pub accepted_served: Latency,
    /// Latency of the shed.
    pub shed_latency: Latency,
    /// From due to sent: what of the latency is the generator's.
    pub unsent_for: Latency,
}

/// A distribution, in milliseconds.
#[derive(Clone, Copy, Default, PartialEq, Debug, Serialize, Deserialize)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 9 of 10 are below.
    pub p90: f64,
    /// 99 of 100 are below.
    pub p99: f64,
    /// 999 of 1,000 are below.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl Latency {
    /// The figures of a histogram of microseconds.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1000.0,
        }
    }

    /// The figures of these microseconds.
    #[must_use]
    pub fn of_micros(values: impl IntoIterator<Item = u64>) -> Self {
        let mut histogram = histogram();
        values.into_iter().for_each(|value| histogram.saturating_record(value));
        Self::of(&histogram)
    }
}

/// Three significant digits up to ten minutes; what is longer is counted as that.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LONGEST_MICROS, 3).expect("the bounds are within those of the crate")
}

impl Samples {
    /// The figures of the calls that were due within the window.
    #[must_use]
    pub fn figures(&self, from: Duration, until: Duration) -> Figures {
        let (start, end) = (micros(from), micros(until));
        let seconds = (until - from).as_secs_f64();
        let mut figures = Figures::default();
        let (mut accepted, mut served) = (histogram(), histogram());
        let (mut shed, mut unsent_for) = (histogram(), histogram());
        let mut completed = 0_u64;
        for call in &self.calls {
            let done = u64::from(call.due) + u64::from(call.latency);
            if call.outcome == Outcome::Accepted && (start..end).contains(&done) {
                completed += 1;
            }
            if !(start..end).contains(&u64::from(call.due)) {
                continue;
            }
            unsent_for.saturating_record(u64::from(call.unsent_for));
            match call.outcome {
                Outcome::Accepted => {
                    figures.accepted += 1;
                    accepted.saturating_record(u64::from(call.latency));
                    served.saturating_record(u64::from(call.latency.saturating_sub(call.unsent_for)));
                }
                Outcome::Conflict => figures.conflicts += 1,
                Outcome::Shed => {
                    figures.shed += 1;
                    shed.saturating_record(u64::from(call.latency));
                }
                Outcome::Other(_) => figures.others += 1,
                Outcome::Broken => figures.broken += 1,
                Outcome::Unsent => figures.unsent += 1,
            }
        }
        figures.offered_per_second = figures.calls() as f64 / seconds;
        figures.accepted_per_second = completed as f64 / seconds;
        figures.accepted_latency = Latency::of(&accepted);
        figures.accepted_served = Latency::of(&served);
        figures.shed_latency = Latency::of(&shed);
        figures.unsent_for = Latency::of(&unsent_for);
        figures
    }

    /// Adds another generator's calls.
    pub fn merge(&mut self, other: Self) {
        self.calls.extend(other.calls);
        self.accepted.extend(other.accepted);
    }
}

impl Figures {
    /// Calls that were due.
    #[must_use]
    pub const fn calls(&self) -> u64 {
        self.accepted + self.conflicts + self.shed + self.others + self.broken + self.unsent
    }

    /// Calls that ended as no call should, whatever the load.
    #[must_use]
    pub const fn failures(&self) -> u64 {
        self.conflicts + self.others + self.broken
    }

    /// Whether the service kept up with what was offered: at least 99 of 100 accepted, and as fast as they came.
    #[must_use]
    pub fn kept_up(&self) -> bool {
        let calls = self.calls() as f64;
        self.accepted as f64 >= 0.99 * calls && self.accepted_per_second >= 0.98 * self.offered_per_second
    }
}

/// Microseconds, for runs that take less than a lifetime.
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Microseconds that fit a sample.
#[must_use]
pub fn short_micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(due: u32, latency: u32, outcome: Outcome) -> Sample {
        Sample { due, unsent_for: 0, latency, outcome }
    }

    #[test]
    fn only_calls_due_in_the_window_count_and_throughput_counts_by_completion() {
        let calls = vec![
            call(500_000, 600_000, Outcome::Accepted), // due before, done within
            call(1_200_000, 4_000, Outcome::Accepted),
            call(1_400_000, 2_000, Outcome::Shed),
            call(1_900_000, 300_000, Outcome::Accepted), // due within, done after
        ];
        let samples = Samples { calls, accepted: Vec::new() };
        let figures = samples.figures(Duration::from_secs(1), Duration::from_secs(2));
        assert_eq!((figures.accepted, figures.shed, figures.calls()), (2, 1, 3));
        assert!((figures.accepted_per_second - 2.0).abs() < f64::EPSILON);
        assert!((figures.accepted_latency.max - 300.0).abs() < 1.0);
        assert!(!figures.kept_up());
    }

    #[test]
    fn latencies_of_any_length_are_told_apart() {
        let Latency { p50, p99, max, .. } = Latency::of_micros((1..=1000).map(|index| index * 1000));
        assert!((499.0..502.0).contains(&p50) && (989.0..993.0).contains(&p99), "{p50} {p99}");
        assert!((max - 1000.0).abs() < 2.0, "{max}");
    }

    #[test]
    fn a_refusal_without_retry_after_is_not_orderly() {
        let answer = Answer { status: 503, ..Answer::default() };
        assert_eq!(Outcome::from(answer), Outcome::Other(503));
        assert_eq!(Outcome::from(Answer { retry_after: true, ..answer }), Outcome::Shed);
    }
}
