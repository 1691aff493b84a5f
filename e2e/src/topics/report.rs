//! What was measured, as lines for people.

use std::time::Duration;

use super::operator::Used;
use super::phases::Timed;

/// A time at this share of all, of ascending ones.
#[must_use]
pub fn quantile(ascending: &[Duration], share: f64) -> Duration {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place within a short list"
    )]
    let place = (ascending.len() as f64 * share).ceil() as usize;
    ascending.get(place.saturating_sub(1)).copied().unwrap_or_default()
}

/// One phase, as a row: name, all, p50, p99, longest, what the operator used meanwhile.
#[must_use]
pub fn row(phase: &str, timed: &Timed, used: (Used, Used)) -> String {
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    format!(
        "| {phase} | {} | {} | {} | {} | {} | {:.2} s | {} MiB |",
        timed.each.len(),
        seconds(timed.all),
        seconds(quantile(&timed.each, 0.5)),
        seconds(quantile(&timed.each, 0.99)),
        seconds(quantile(&timed.each, 1.0)),
        used.1.cpu.saturating_sub(used.0.cpu).as_secs_f64(),
        used.1.resident / 1024 / 1024,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_time_within_which_that_share_was_done() {
        let times: Vec<Duration> = (1..=100).map(Duration::from_secs).collect();
        assert_eq!(quantile(&times, 0.5), Duration::from_secs(50));
        assert_eq!(quantile(&times, 0.99), Duration::from_secs(99));
        assert_eq!(quantile(&times, 1.0), Duration::from_secs(100));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
