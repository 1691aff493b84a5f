//! Four times more orders than the service can take: what it refuses and how, what the accepted wait, and how soon it is well again.

use std::time::Duration;

use tokio::time::Instant;

use super::{LEAD, Plan, open};
use crate::bench::generate::Pace;
use crate::bench::results::Overload;
use crate::bench::samples::Samples;
use crate::bench::schedule::Arrivals;
use crate::bench::workload::{Choice, Workload};

/// How much too much it is.
const FACTOR: f64 = 4.0;
/// Calls under way at once in the overload: twice what the service takes in at once, so that it is the service that refuses and
/// not the generator that waits.
const CONNECTIONS: usize = 4096;
/// Recovery is looked at in slices of this.
const SLICE: Duration = Duration::from_millis(500);
/// Slices in a row that show that it is over: two seconds.
const WELL_IN_A_ROW: usize = 4;
/// A slice is as before when its p99 is at most this many times that of before …
const AS_BEFORE_FACTOR: f64 = 2.0;
/// … or below this, in milliseconds.
const AS_BEFORE_MILLIS: f64 = 30.0;

/// Half load, overload, half load, on one service.
///
/// # Errors
/// When a part fails.
pub async fn run(plan: &Plan, sustained: f64) -> anyhow::Result<Overload> {
    let stage = plan.stage(plan.mode()).await?;
    let phase = plan.long_window / 3;
    let half = plan.target.min(sustained) / 2.0;
    let before =
        stage.measure(Workload::plain(Choice::Uniform), open(half), (plan.warm_up, phase), 4).await?;
    let pace =
        Pace::Open { per_second: sustained * FACTOR, arrivals: Arrivals::Poisson, connections: CONNECTIONS };
    let uniform = Workload::plain(Choice::Uniform);
    let start = Instant::now() + LEAD;
    // The half load begins the moment the overload ends, while what is left of it is still being answered.
    let (during, after) = tokio::join!(
        stage.measure_from(start, uniform, pace, (Duration::ZERO, phase), 5),
        stage.measure_from(start + phase, uniform, open(half), (Duration::ZERO, phase), 6),
    );
    let (during, after) = (during?, after?);
    stage.strike().await?;
    let bound = (before.figures.accepted_latency.p99 * AS_BEFORE_FACTOR).max(AS_BEFORE_MILLIS);
    let (recovered_after, ill_after) = recovery(&after.samples, Duration::ZERO, phase, bound);
    let (_, ill_before) = recovery(&before.samples, plan.warm_up, phase, bound);
    println!(
        "  overload: {:.0}/s offered, {:.0}/s accepted with p99 {:.1} ms, {} shed, {} others, {} broken, {} unsent; recovered after {recovered_after:?} s, then {ill_after:.2} of the slices ill, before {ill_before:.2}",
        during.figures.offered_per_second,
        during.figures.accepted_per_second,
        during.figures.accepted_latency.p99,
        during.figures.shed,
        during.figures.others,
        during.figures.broken,
        during.figures.unsent,
    );
    Ok(Overload {
        resident_mib: (before.resident_mib, during.resident_mib),
        before: before.figures,
        during: during.figures,
        after: after.figures,
        recovered_after,
        ill_slices: (ill_before, ill_after),
        usage: during.usage,
    })
}

/// Seconds until the first of so many slices in a row that are as before, and the share of slices from there on that are not: a
/// machine has moments of its own, and there are such slices before the overload too.
fn recovery(samples: &Samples, from: Duration, phase: Duration, p99_bound: f64) -> (Option<f64>, f64) {
    let slices = u32::try_from(phase.as_millis() / SLICE.as_millis()).unwrap_or_default();
    let is_well = |slice: u32| {
        let figures = samples.figures(from + SLICE * slice, from + SLICE * (slice + 1));
        figures.accepted == figures.calls() && figures.accepted_latency.p99 <= p99_bound
    };
    let well: Vec<bool> = (0..slices).map(is_well).collect();
    let Some(first) = well.windows(WELL_IN_A_ROW).position(|row| row.iter().all(|is_well| *is_well)) else {
        return (None, 1.0);
    };
    let rest = &well[first..];
    let ill = rest.iter().filter(|is_well| !**is_well).count();
    (Some(SLICE.as_secs_f64() * first as f64), ill as f64 / rest.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::samples::{Outcome, Sample};

    fn samples(latency: impl Fn(u32) -> u32) -> Samples {
        let call =
            |due: u32| Sample { due, unsent_for: 0, latency: latency(due), outcome: Outcome::Accepted };
        Samples { calls: (0..4_000_000).step_by(1000).map(call).collect(), accepted: Vec::new() }
    }

    #[test]
    fn recovery_is_the_start_of_two_well_seconds_and_what_is_ill_later_is_told_beside_it() {
        let phase = Duration::from_secs(4);
        let found = |latency: fn(u32) -> u32| recovery(&samples(latency), Duration::ZERO, phase, 30.0);
        assert_eq!(found(|_| 1000), (Some(0.0), 0.0));
        assert_eq!(found(|due| if due < 1_200_000 { 90_000 } else { 1000 }), (Some(1.5), 0.0));
        assert_eq!(found(|_| 90_000), (None, 1.0));
        let stall = |due: u32| if (3_000_000..3_500_000).contains(&due) { 90_000 } else { 1000 };
        assert_eq!(found(stall), (Some(0.0), 0.125));
    }
}
