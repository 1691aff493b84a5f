//! Consumers at work: what keys side by side are worth, what each guarantee costs, and what a slow order does to the others.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use order_events::{OrderEvent, OrderId, partition_for};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use sqlx::Row;
use tokio::process::{Child, Command};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Plan;
use super::store::template;
use crate::bench::backends::Arena;
use crate::bench::environment::Environment;
use crate::bench::receiver::{Pause, Receiver};
use crate::bench::results::{Consumers, KeysAtWork, Part, PriceOf, SlowKey, Spread};
use crate::bench::samples::Latency;
use crate::bench::workload::product;

/// Events of a drain, and orders they belong to.
const EVENTS: u64 = 100_000;
const ORDERS: u64 = 20_000;
/// The same of a smoke run.
const QUICK_EVENTS: u64 = 2_000;
const QUICK_ORDERS: u64 = 400;
/// What the sink takes over an event.
const PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(5), Duration::from_millis(50)];
/// Partition by partition, so many of the events are drained: a quarter of a minute or less. The rest would only take longer.
const SERIAL: [u64; 3] = [20_000, 6_000, 800];
/// The published comparison of Confluent's Parallel Consumer: so many records of up to so long.
const PUBLISHED: (u64, Duration) = (10_000, Duration::from_millis(5));
/// Longest that a drain may take.
const DEADLINE: Duration = Duration::from_secs(300);
/// Load of the comparison with a slow order: events per second, for so long, and the slow order's one among so many.
const STEADY_PER_SECOND: u32 = 400;
const STEADY_SECONDS: u32 = 20;
const SLOW_ONE_IN: u32 = 200;
const SLOW: Duration = Duration::from_secs(1);
/// Most records on their way to the broker.
const ON_THEIR_WAY: usize = 5_000;

/// A consumer as a process of its own; it ends with this.
struct Running(#[expect(dead_code, reason = "it is killed when this is dropped")] Child);

/// Measures all of it.
///
/// # Errors
/// When a part fails, or an event is lost.
pub async fn run(plan: &Plan, consumer: &Path) -> anyhow::Result<Part<Consumers>> {
    ensure!(consumer.exists(), "there is no {}: build the consumer in release mode", consumer.display());
    let environment = Environment::look(&plan.backends).await?;
    let arena = Arena::create(&plan.backends).await?;
    let (events, orders) = if plan.quick { (QUICK_EVENTS, QUICK_ORDERS) } else { (EVENTS, ORDERS) };
    fill(&arena, events, orders).await?;
    let bench = Bench { consumer, arena: &arena, events, repetitions: plan.repetitions };
    let found = Consumers {
        events,
        keys: bench.keys().await?,
        published: bench.published().await?,
        prices: bench.prices().await?,
        slow_key: bench.slow_key(plan).await?,
    };
    arena.remove().await?;
    Ok(plan.part(environment, plan.window, plan.repetitions, found))
}

struct Bench<'a> {
    consumer: &'a Path,
    arena: &'a Arena,
    events: u64,
    repetitions: usize,
}

impl Bench<'_> {
    async fn keys(&self) -> anyhow::Result<Vec<KeysAtWork>> {
        let (mut serial, mut by_key) = (PAUSES.map(|_| Vec::new()), PAUSES.map(|_| Vec::new()));
        for _ in 0..self.repetitions {
            for (nth, pause) in PAUSES.into_iter().enumerate() {
                let some = self.events.min(SERIAL[nth]);
                serial[nth].push(self.drain(Pause::Fixed(pause), some, &[("LANES", "1")]).await?);
                by_key[nth].push(self.drain(Pause::Fixed(pause), self.events, &[]).await?);
                let (serial, by_key) = (serial[nth].last(), by_key[nth].last());
                println!("  sink of {pause:?}: {serial:?}/s by partition, {by_key:?}/s by key");
            }
        }
        let found = PAUSES.into_iter().zip(serial).zip(by_key).map(|((pause, serial), by_key)| KeysAtWork {
            pause_millis: pause.as_secs_f64() * 1e3,
            by_partition: Spread::of(serial),
            by_key: Spread::of(by_key),
        });
        Ok(found.collect())
    }

    /// Seconds that the published comparison takes here.
    async fn published(&self) -> anyhow::Result<Spread> {
        let (events, most) = PUBLISHED;
        let mut seconds = Vec::new();
        for _ in 0..self.repetitions {
            let events = events.min(self.events);
            let rate = self.drain(Pause::UpTo(most), events, &[("LANES", "64")]).await?;
            seconds.push(events as f64 / rate);
            println!("  {events} records of up to {most:?}: {:?} s", seconds.last());
        }
        Ok(Spread::of(seconds))
    }

    /// Events per second into PostgreSQL under each guarantee.
    async fn prices(&self) -> anyhow::Result<Vec<PriceOf>> {
        let guarantees = ["AtMostOnce", "AtLeastOnce", "ExactlyOnce"];
        let mut found: Vec<(&str, Vec<f64>)> = guarantees.map(|guarantee| (guarantee, Vec::new())).into();
        for _ in 0..self.repetitions {
            for (guarantee, rates) in &mut found {
                rates.push(self.rows_per_second(guarantee).await?);
                println!("  {guarantee}: {:?} rows/s", rates.last());
            }
        }
        let price = |(guarantee, rates): (&str, Vec<f64>)| PriceOf {
            guarantee: guarantee.to_owned(),
            per_second: Spread::of(rates),
        };
        Ok(found.into_iter().map(price).collect())
    }

    async fn drain(&self, pause: Pause, events: u64, settings: &[(&str, &str)]) -> anyhow::Result<f64> {
        let receiver = Receiver::start(pause).await?;
        let http = [("SINK", "http"), ("SINK_HTTP_URL", receiver.url.as_str())];
        let _running = start(self.consumer, self.arena, &[&http, settings].concat())?;
        receiver.rate_of(events, DEADLINE).await
    }

    async fn rows_per_second(&self, guarantee: &str) -> anyhow::Result<f64> {
        let pool = &self.arena.pool;
        sqlx::raw_sql("drop table if exists order_events, order_events_place").execute(pool).await?;
        sqlx::raw_sql("checkpoint").execute(pool).await?;
        let url = self.arena.database_url();
        let settings = [("SINK", "postgres"), ("SINK_DATABASE_URL", url.as_str()), ("DELIVERY", guarantee)];
        let _running = start(self.consumer, self.arena, &settings)?;
        let events = i64::try_from(self.events)?;
        let arrived = crate::kubectl::wait_for("all rows", DEADLINE, || async {
            // Before the first of them there is no table.
            let count = self.arena.number("select count(*) from order_events").await.unwrap_or_default();
            Ok((count >= events).then_some(()))
        });
        arrived.await?;
        let row = sqlx::query(
            "select count(*), extract(epoch from max(delivered_at) - min(delivered_at))::float8 from order_events",
        );
        let row = row.fetch_one(pool).await?;
        let (rows, seconds): (i64, f64) = (row.try_get(0)?, row.try_get(1)?);
        ensure!(rows == events, "{rows} rows of {events} events");
        Ok(rows as f64 / seconds)
    }

    /// A steady load, with and without an order over whose events the sink takes a second.
    async fn slow_key(&self, plan: &Plan) -> anyhow::Result<SlowKey> {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        let seconds = if plan.quick { 3 } else { STEADY_SECONDS };
        for _ in 0..self.repetitions {
            without.push(self.steady(plan, None, seconds).await?);
            with.push(self.steady(plan, Some(OrderId::generate()), seconds).await?);
            println!(
                "  others' p99: {:?} ms without a slow order, {:?} with one",
                without.last(),
                with.last()
            );
        }
        let p99 = |found: &[Latency]| Spread::of(found.iter().map(|latency| latency.p99));
        let p50 = |found: &[Latency]| Spread::of(found.iter().map(|latency| latency.p50));
        Ok(SlowKey {
            per_second: f64::from(STEADY_PER_SECOND),
            p50: (p50(&without), p50(&with)),
            p99: (p99(&without), p99(&with)),
        })
    }

    async fn steady(&self, plan: &Plan, slow: Option<OrderId>, seconds: u32) -> anyhow::Result<Latency> {
        let arena = Arena::create(&plan.backends).await?;
        let others = PAUSES[1];
        let pause = slow.map_or(Pause::Fixed(others), |order| Pause::OneSlow {
            order: order.to_string(),
            slow: SLOW,
            others,
        });
        let receiver = Receiver::start(pause).await?;
        let settings = [("SINK", "http"), ("SINK_HTTP_URL", receiver.url.as_str())];
        let _running = start(self.consumer, &arena, &settings)?;
        let producer = arena.producer()?;
        // The group is formed by the first event, which is not like those that follow.
        send(&producer, &arena, &event_of(OrderId::generate(), 1)).await?;
        receiver.rate_of(1, DEADLINE).await?;
        let mut ticks = interval(Duration::from_secs(1) / STEADY_PER_SECOND);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut version, mut others_sent) = (0, 1);
        let mut sending = tokio::task::JoinSet::new();
        for number in 0..STEADY_PER_SECOND * seconds {
            ticks.tick().await;
            let event = match slow.filter(|_| number % SLOW_ONE_IN == 0) {
                Some(order) => {
                    version += 1;
                    event_of(order, version)
                }
                None => {
                    others_sent += 1;
                    event_of(OrderId::generate(), 1)
                }
            };
            let (producer, name) = (producer.clone(), arena.name.clone());
            sending.spawn(async move { send_to(&producer, &name, &event).await });
        }
        while let Some(sent) = sending.join_next().await {
            sent??;
        }
        let begun = Instant::now();
        while receiver.ages_count() < others_sent {
            ensure!(begun.elapsed() < DEADLINE, "events are missing");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ages = receiver.ages();
        arena.remove().await?;
        Ok(ages)
    }
}

fn start(consumer: &Path, arena: &Arena, settings: &[(&str, &str)]) -> anyhow::Result<Running> {
    let child = Command::new(consumer)
        .env_clear()
        .env("KAFKA_BOOTSTRAP_SERVERS", &arena.backends.kafka)
        .env("TOPIC", &arena.name)
        // A group of its own reads the topic from its beginning.
        .env("GROUP", format!("bench-{}", uuid::Uuid::new_v4().simple()))
        .env("DEAD_LETTER_TOPIC", format!("{}.dlt", arena.name))
        .env("ADMIN_ADDR", "127.0.0.1:0")
        .env("LOG", "error")
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("failed to start {}", consumer.display()))?;
    Ok(Running(child))
}

/// Fills the topic: all first versions, then all second ones, and so on, as a shop's orders go on together.
async fn fill(arena: &Arena, events: u64, orders: u64) -> anyhow::Result<()> {
    let producer = arena.producer()?;
    let orders: Vec<OrderId> = (0..orders).map(|_| OrderId::generate()).collect();
    let versions = i64::try_from(events)? / i64::try_from(orders.len())?;
    for version in 1..=versions {
        for some in orders.chunks(ON_THEIR_WAY) {
            let events: Vec<OrderEvent> = some.iter().map(|order| event_of(*order, version)).collect();
            futures::future::try_join_all(events.iter().map(|event| send(&producer, arena, event))).await?;
        }
    }
    Ok(())
}

fn event_of(order: OrderId, version: i64) -> OrderEvent {
    OrderEvent { version, ..template(order, "user-00000", &product(0)) }
}

async fn send(producer: &FutureProducer, arena: &Arena, event: &OrderEvent) -> anyhow::Result<()> {
    send_to(producer, &arena.name, event).await
}

async fn send_to(producer: &FutureProducer, topic: &str, event: &OrderEvent) -> anyhow::Result<()> {
    let encoded = event.encode()?;
    let headers = encoded.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(value) })
    });
    let record = FutureRecord::to(topic)
        .key(&encoded.key)
        .payload(&encoded.payload)
        .partition(partition_for(encoded.key.as_bytes(), 3))
        .headers(headers);
    producer.send(record, DEADLINE).await.map(drop).map_err(|(error, _)| error.into())
}
