//! Latency against load, up to where the service no longer keeps up: to the answer, and from the answer to Kafka.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Measured, Plan, open};
use crate::bench::environment::Environment;
use crate::bench::results::{Part, Spread, Step};
use crate::bench::samples::{Latency, Samples, micros};
use crate::bench::usage::Usage;
use crate::bench::watch::Watch;
use crate::bench::workload::{Choice, Workload};

/// Loads, in orders per second; climbing ends with the first that is too much.
const LOADS: [f64; 12] =
    [250.0, 500.0, 1000.0, 2000.0, 3000.0, 4000.0, 5000.0, 6000.0, 7000.0, 8000.0, 10_000.0, 12_000.0];
/// Longest that the outbox may take to empty after a load that was too much.
const DRAIN_DEADLINE: Duration = Duration::from_secs(120);

/// One window at one load.
struct Point {
    accepted: f64,
    kept_up: bool,
    http: Latency,
    kafka: Latency,
    usage: Usage,
}

/// Climbs from load to load.
///
/// # Errors
/// When a part fails.
pub async fn run(plan: &Plan) -> anyhow::Result<Part<Vec<Step>>> {
    let environment = Environment::look(&plan.backends).await?;
    let mut found: Vec<Vec<Point>> = LOADS.iter().map(|_| Vec::new()).collect();
    for repetition in 0..plan.repetitions {
        for (load, points) in LOADS.iter().zip(&mut found) {
            let point = measure(plan, *load, repetition as u64).await?;
            println!(
                "  {load}/s: {:.0}/s accepted; answer p50 {:.1} p99 {:.1} ms; then in Kafka p50 {:.1} p99 {:.1} ms",
                point.accepted, point.http.p50, point.http.p99, point.kafka.p50, point.kafka.p99
            );
            let kept_up = point.kept_up;
            points.push(point);
            if !kept_up {
                break;
            }
        }
    }
    let steps = LOADS.iter().zip(found).filter(|(_, points)| !points.is_empty()).map(|(load, points)| {
        let spread = |of: fn(&Point) -> f64| Spread::of(points.iter().map(of));
        Step {
            offered: *load,
            accepted: spread(|point| point.accepted),
            kept_up: points.iter().all(|point| point.kept_up),
            http_p50: spread(|point| point.http.p50),
            http_p99: spread(|point| point.http.p99),
            kafka_p50: spread(|point| point.kafka.p50),
            kafka_p99: spread(|point| point.kafka.p99),
            usage: points.last().map(|point| point.usage).unwrap_or_default(),
        }
    });
    Ok(plan.part(environment, plan.window, plan.repetitions, steps.collect()))
}

async fn measure(plan: &Plan, load: f64, seed: u64) -> anyhow::Result<Point> {
    let stage = plan.stage(plan.mode()).await?;
    let start = Instant::now() + Duration::from_millis(500);
    let watch = Watch::begin(&stage.arena, start).await?;
    let workload = Workload::plain(Choice::Uniform);
    let windows = (plan.warm_up, plan.window);
    let measured = stage.measure_from(start, workload, open(load), windows, seed).await?;
    stage.service.drained(&stage.arena, DRAIN_DEADLINE).await?;
    let seen = watch.end().await?;
    stage.strike().await?;
    let Measured { figures, usage, samples, .. } = measured;
    Ok(Point {
        accepted: figures.accepted_per_second,
        kept_up: figures.kept_up(),
        http: figures.accepted_latency,
        kafka: Latency::of_micros(to_kafka(&samples, &seen, plan)?),
        usage,
    })
}

/// From each 201 within the window to its record, in microseconds. A record may be seen before its 201 is: that is 0.
///
/// # Errors
/// When one was not seen: leaving out what comes late would make the rest look fast.
fn to_kafka(samples: &Samples, seen: &[(Uuid, u64)], plan: &Plan) -> anyhow::Result<Vec<u64>> {
    let mut first: HashMap<Uuid, u64> = HashMap::with_capacity(seen.len());
    for (order, at) in seen {
        first.entry(*order).or_insert(*at);
    }
    let window = micros(plan.warm_up)..micros(plan.warm_up + plan.window);
    let accepted = samples.accepted.iter().filter(|(_, at)| window.contains(at));
    accepted
        .map(|(order, at)| {
            let seen =
                first.get(order).with_context(|| format!("the record of order {order} was not seen"))?;
            Ok(seen.saturating_sub(*at))
        })
        .collect()
}
