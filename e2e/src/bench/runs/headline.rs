//! The long runs: the most that is sustained, half of it, one hot product, and what a shop sees.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::Instant;

use super::overload;
use super::{Measured, Plan, open};
use crate::bench::environment::Environment;
use crate::bench::generate::Pace;
use crate::bench::results::{Audit, Headline, LongRun, Part};
use crate::bench::samples::Figures;
use crate::bench::workload::{Choice, Workload};

/// A load counts as sustained with answers within this: the bound.
const SUSTAINED_P99_MILLIS: f64 = 100.0;
/// Clients of the closed loop from which the search begins.
const CLIENTS: usize = 128;
/// From one load that was too much to the next.
const STEP_DOWN: f64 = 0.93;
/// The search begins above what the closed loop showed: its clients wait for their answers, a schedule does not.
const BEGIN_ABOVE: f64 = 1.15;
/// Loads tried at most: down to a third of where the search began.
const ATTEMPTS: usize = 16;
/// Longest that the outbox may take to empty after a run.
const DRAIN_DEADLINE: Duration = Duration::from_secs(180);

/// Runs them all.
///
/// # Errors
/// When a part fails, or an accepted order or its event is missing.
pub async fn run(plan: &Plan) -> anyhow::Result<Part<Headline>> {
    let environment = Environment::look(&plan.backends).await?;
    let mut headline = Headline::default();
    let uniform = Workload::plain(Choice::Uniform);
    let sustained = sustain(plan, uniform, "most sustained", &mut headline).await?;
    if sustained > plan.target {
        headline.runs.push(long_run(plan, uniform, plan.target, "target").await?);
    }
    headline.runs.push(long_run(plan, uniform, plan.target.min(sustained) / 2.0, "half of it").await?);
    sustain(plan, Workload::plain(Choice::One), "one product", &mut headline).await?;
    headline.runs.push(long_run(plan, Workload::mixed(), sustained / 2.0, "1–3 lines, coupons, keys").await?);
    headline.overload = Some(overload::run(plan, sustained).await?);
    Ok(plan.part(environment, plan.long_window, 1, headline))
}

/// Finds the most that this workload is sustained at, by short runs, and confirms it by a long one.
async fn sustain(
    plan: &Plan,
    workload: Workload,
    name: &str,
    headline: &mut Headline,
) -> anyhow::Result<f64> {
    let stage = plan.stage(plan.mode()).await?;
    let closed =
        stage.measure(workload, Pace::Closed { clients: CLIENTS }, (plan.warm_up, plan.window), 1).await;
    stage.strike().await?;
    let Measured { figures, usage, .. } = closed?;
    let mut load = figures.accepted_per_second;
    let each = usage.generator * 1e6 / load;
    println!(
        "  {name}: {load:.0}/s from {CLIENTS} clients in a closed loop; the generator takes {each:.0} µs for each"
    );
    load *= BEGIN_ABOVE;
    for _ in 0..ATTEMPTS {
        let stage = plan.stage(plan.mode()).await?;
        let probe = stage.measure(workload, open(load), (plan.warm_up, plan.window), 2).await;
        stage.strike().await?;
        if is_sustained(&probe?.figures) {
            let run = long_run(plan, workload, load, name).await?;
            if is_sustained(&run.figures) {
                headline.runs.push(run);
                return Ok(load);
            }
        }
        load *= STEP_DOWN;
    }
    // The table shows what became of it.
    headline.runs.push(long_run(plan, workload, load, &format!("{name} (not sustained)")).await?);
    Ok(load)
}

fn is_sustained(figures: &Figures) -> bool {
    figures.kept_up() && figures.accepted_latency.p99 <= SUSTAINED_P99_MILLIS
}

async fn long_run(plan: &Plan, workload: Workload, load: f64, name: &str) -> anyhow::Result<LongRun> {
    let stage = plan.stage(plan.mode()).await?;
    let measured = stage.measure(workload, open(load), (plan.warm_up, plan.long_window), 3).await?;
    let ended = Instant::now();
    stage.service.drained(&stage.arena, DRAIN_DEADLINE).await?;
    let drained_after = ended.elapsed().as_secs_f64();
    let audit = Audit {
        accepted: i64::try_from(measured.samples.accepted.len())?,
        orders: stage.arena.number("select count(*) from orders").await?,
        records: stage.arena.records().await?,
    };
    stage.strike().await?;
    let Measured { figures, usage, log, orders_per_batch, resident_mib, .. } = measured;
    println!(
        "  {name}, {load:.0}/s: {:.0}/s accepted, p50 {:.1} ms, p99 {:.1} ms; {audit:?}",
        figures.accepted_per_second, figures.accepted_latency.p50, figures.accepted_latency.p99
    );
    ensure!(audit.orders >= audit.accepted && audit.records >= audit.orders, "something was lost: {audit:?}");
    let name = name.to_owned();
    Ok(LongRun { name, figures, usage, log, orders_per_batch, resident_mib, drained_after, audit })
}
