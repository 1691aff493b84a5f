//! A backlog leaves: the outbox holds a million events when the service starts. Alone, and with orders coming in meanwhile.

use std::time::Duration;

use anyhow::{bail, ensure};
use order_events::{EncodedEvent, OrderId};
use runtime::shutdown::CancellationToken;
use tokio::time::Instant;
use uuid::Uuid;

use super::store::template;
use super::{Plan, open};
use crate::bench::backends::Arena;
use crate::bench::environment::Environment;
use crate::bench::generate::Load;
use crate::bench::results::{Drain, Part, Spread};
use crate::bench::samples::Figures;
use crate::bench::service::Service;
use crate::bench::usage::{Meters, Reading, Usage};
use crate::bench::workload::{Choice, Workload, product};

/// Orders per second meanwhile: an eighth or less of what the service takes.
const ORDERS_PER_SECOND: f64 = 500.0;
/// Longest that a backlog may take to leave.
const DEADLINE: Duration = Duration::from_secs(300);
/// How often the topic's end and the outbox are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The start of the meanwhile orders that is not counted: connections and plans are new.
const SETTLE: Duration = Duration::from_secs(1);

/// One backlog that left.
struct Left {
    per_second: f64,
    usage: Usage,
    meanwhile: Option<Figures>,
}

/// Drains with and without orders meanwhile.
///
/// # Errors
/// When a part fails, or an event is lost.
pub async fn run(plan: &Plan) -> anyhow::Result<Part<Vec<Drain>>> {
    let environment = Environment::look(&plan.backends).await?;
    let mut found: Vec<(f64, Vec<Left>)> = vec![(0.0, Vec::new()), (ORDERS_PER_SECOND, Vec::new())];
    let mut bytes_per_event = 0.0;
    for repetition in 0..plan.repetitions {
        for (orders_per_second, runs) in &mut found {
            let (left, bytes) = drain(plan, *orders_per_second, repetition as u64).await?;
            bytes_per_event = bytes;
            let latency = left.meanwhile.as_ref().map(|figures| figures.accepted_latency);
            println!(
                "  {orders_per_second} orders/s meanwhile: {:.0} events/s, orders {latency:?}",
                left.per_second
            );
            runs.push(left);
        }
    }
    let drains = found.into_iter().map(|(orders_per_second, mut runs)| {
        let per_second = Spread::of(runs.iter().map(|left| left.per_second));
        let usage = runs.last().map(|left| left.usage).unwrap_or_default();
        let p99 = |left: &Left| left.meanwhile.as_ref().map_or(0.0, |figures| figures.accepted_latency.p99);
        runs.sort_by(|a, b| p99(a).total_cmp(&p99(b)));
        let middle = runs.get((runs.len().max(1) - 1) / 2).and_then(|left| left.meanwhile.as_ref());
        Drain {
            events: plan.backlog,
            bytes_per_event,
            orders_per_second,
            per_second,
            order_latency: middle.map(|figures| figures.accepted_latency),
            usage,
        }
    });
    Ok(plan.part(environment, plan.window, plan.repetitions, drains.collect()))
}

async fn drain(plan: &Plan, orders_per_second: f64, seed: u64) -> anyhow::Result<(Left, f64)> {
    let arena = Arena::create(&plan.backends).await?;
    // It brings the schema and the catalogue, and goes.
    let settings = plan.settings(plan.mode());
    Service::start_with_catalogue(&plan.binary, &arena, &settings).await?.stop().await?;
    let last = fill(&arena, plan.backlog).await?;
    let bytes = arena.number(
        "select (avg(octet_length(payload) + 36 + octet_length(headers::text)))::bigint
         from (select * from outbox limit 1000) as sample",
    );
    let bytes = bytes.await? as f64;

    let service = Service::start(&plan.binary, &arena, &settings).await?;
    let meters = Meters::new(service.pid, &plan.backends).await?;
    let start = Instant::now();
    let stop = CancellationToken::new();
    let load = (orders_per_second > 0.0).then(|| {
        let workload = Workload::plain(Choice::Uniform);
        let load =
            Load { address: service.http, workload, duration: DEADLINE, seed, pace: open(orders_per_second) };
        tokio::spawn(load.run(start, stop.clone()))
    });
    let (first, from, reading) = wait_for_first(&arena, &meters).await?;
    let until = wait_until_gone(&arena, last).await?;
    let usage = reading.until(meters.read()?);
    stop.cancel();
    let meanwhile = match load {
        Some(load) => Some(load.await??.figures(SETTLE, (until - start).max(SETTLE + LOOK_EVERY))),
        None => None,
    };
    service.drained(&arena, DEADLINE).await?;
    let accepted = arena.number("select count(*) from orders").await?;
    let records = arena.records().await?;
    ensure!(records >= plan.backlog + accepted, "{records} records of {} events", plan.backlog + accepted);
    service.stop().await?;
    arena.remove().await?;
    let per_second = (plan.backlog - first) as f64 / (until - from).as_secs_f64();
    Ok((Left { per_second, usage, meanwhile }, bytes))
}

/// Fills the outbox with events of orders of one line, with bytes as the service writes them; answers the highest id.
async fn fill(arena: &Arena, events: i64) -> anyhow::Result<i64> {
    let order = OrderId(Uuid::from_u128(u128::MAX));
    let event = template(order, "user-00000", &product(0));
    let EncodedEvent { headers, payload, .. } = event.encode()?;
    // Each event gets an order and an event id of its own: a million times the same would flatter a compressing producer.
    let fill = sqlx::query(
        "insert into outbox (shard, order_id, version, headers, payload)
         select n % 16, id, 1, replace(replace($1, $3, id::text), $4, event_id::text)::jsonb,
                convert_to(replace(replace($2, $3, id::text), $4, event_id::text), 'UTF8')
         from (select n, gen_random_uuid() as id, gen_random_uuid() as event_id from generate_series(1, $5) as s (n)) as made",
    );
    let fill = fill.bind(serde_json::to_string(&headers)?).bind(std::str::from_utf8(&payload)?);
    let fill = fill.bind(order.to_string()).bind(event.event_id.to_string()).bind(events);
    fill.execute(&arena.pool).await?;
    sqlx::query("checkpoint").execute(&arena.pool).await?;
    arena.number("select max(id) from outbox").await
}

/// Waits for the first records in the topic: how many, when, and the CPU used until then.
async fn wait_for_first(arena: &Arena, meters: &Meters) -> anyhow::Result<(i64, Instant, Reading)> {
    let begun = Instant::now();
    while begun.elapsed() < DEADLINE {
        let records = arena.records().await?;
        if records > 0 {
            return Ok((records, Instant::now(), meters.read()?));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bail!("no event is in the topic after {DEADLINE:?}")
}

/// Waits until every row up to this id is gone.
async fn wait_until_gone(arena: &Arena, last: i64) -> anyhow::Result<Instant> {
    // Only the head of each shard is looked at, by the primary key: to count would burden the database.
    let left = "select count(*) from generate_series(0, 15) as s (shard)
                cross join lateral (select id from outbox where shard = s.shard order by id limit 1) as head
                where head.id <= $1";
    let begun = Instant::now();
    loop {
        let shards: i64 = sqlx::query_scalar(left).bind(last).fetch_one(&arena.pool).await?;
        if shards == 0 {
            return Ok(Instant::now());
        }
        if begun.elapsed() > DEADLINE {
            bail!("{shards} shards still hold a part of the backlog after {DEADLINE:?}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
