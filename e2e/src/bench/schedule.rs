//! When each order is due.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// How arrivals follow one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
pub enum Arrivals {
    /// Evenly.
    Fixed,
    /// As if from many clients that know nothing of each other.
    Poisson,
}

/// An endless row of due times, counted from the start.
#[derive(Clone, Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    gap: f64,
    count: u64,
    elapsed: f64,
    random: StdRng,
}

impl Schedule {
    /// `per_second` arrivals on average; the seed decides all of them.
    #[must_use]
    pub fn new(arrivals: Arrivals, per_second: f64, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { arrivals, gap: 1.0 / per_second, count: 0, elapsed: 0.0, random }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let due = match self.arrivals {
            // Multiplied, not added up: the error of many additions would bend the rate.
            Arrivals::Fixed => self.count as f64 * self.gap,
            Arrivals::Poisson => {
                // `random` is below 1, so the logarithm is of something above 0.
                self.elapsed -= self.gap * (1.0 - self.random.random::<f64>()).ln();
                self.elapsed
            }
        };
        self.count += 1;
        Some(Duration::from_secs_f64(due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_arrivals_are_even() {
        let due: Vec<_> = Schedule::new(Arrivals::Fixed, 4.0, 0).take(3).collect();
        assert_eq!(due, [0, 250, 500].map(Duration::from_millis));
    }

    #[test]
    fn poisson_arrivals_keep_the_rate_and_vary_as_they_should() {
        let due: Vec<_> = Schedule::new(Arrivals::Poisson, 1000.0, 7).take(100_000).collect();
        let seconds = due.last().unwrap().as_secs_f64();
        assert!((99.0..101.0).contains(&seconds), "{seconds}");
        let gaps: Vec<f64> = due.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1000.0).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!(
            (0.95..1.05).contains(&variance),
            "an exponential gap's variance is its mean squared: {variance}"
        );
    }

    #[test]
    fn a_seed_decides_all_arrivals() {
        let due = |seed| Schedule::new(Arrivals::Poisson, 10.0, seed).take(10).collect::<Vec<_>>();
        assert_eq!(due(1), due(1));
        assert_ne!(due(1), due(2));
    }
}
