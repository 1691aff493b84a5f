//! How fast the relay drains a backlog; ignored, for it takes minutes and wants a release build:
//! `cargo test --release -p order-service --test integration drain -- --ignored --nocapture`.

use std::env;
use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;

use crate::harness::{Bench, bench, until_within};

/// Longest wait for the backlog to drain.
const DRAIN_DEADLINE: Duration = Duration::from_secs(600);

fn number(name: &str, default: i64) -> i64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Fills the outbox with `rows` events of realistic size, `versions` of each order.
async fn fill(bench: &Bench, rows: i64, versions: i64) {
    // Payload and headers are those of an order of four lines; the order of ids is that of many orders at once.
    let statement = format!(
        "insert into outbox (shard, order_id, version, headers, payload)
         select ('x' || substr(md5(o::text), 1, 1))::bit(4)::int, md5(o::text)::uuid, v,
                jsonb_build_array(
                    jsonb_build_array('ce_specversion', '1.0'), jsonb_build_array('ce_id', md5(o || '-' || v)::uuid::text),
                    jsonb_build_array('ce_source', '/orderflow/order-service'),
                    jsonb_build_array('ce_type', 'dev.orderflow.OrderCreated.v1'),
                    jsonb_build_array('ce_time', '2026-01-01T00:00:00.123456789Z'),
                    jsonb_build_array('ce_subject', md5(o::text)::uuid::text),
                    jsonb_build_array('ce_partitionkey', md5(o::text)::uuid::text),
                    jsonb_build_array('ce_orderversion', v::text),
                    jsonb_build_array('content-type', 'application/json')),
                convert_to('{{\"version\":' || v || ',\"orderId\":\"' || md5(o::text)::uuid || '\",\"pad\":\"'
                    || repeat(md5(o::text), 16) || '\"}}', 'UTF8')
         from generate_series(1, {rows} / {versions} / 1000) as page (p)
         cross join generate_series(1, {versions}) as version (v)
         cross join lateral generate_series((p - 1) * 1000 + 1, p * 1000) as orders (o)
         order by p, v, o"
    );
    sqlx::query(AssertSqlSafe(statement)).execute(&bench.pool).await.unwrap();
    sqlx::query("vacuum analyze outbox").execute(&bench.pool).await.unwrap();
    sqlx::query("checkpoint").execute(&bench.pool).await.unwrap();
}

/// Seconds of processor time that this process has used.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; wants a release build"]
async fn drain_a_backlog() {
    let (rows, versions) = (number("DRAIN_ROWS", 1_000_000), number("DRAIN_VERSIONS", 1));
    bench(Some(3), async |bench| {
        let shop = bench.start("a").await;
        until_within(DRAIN_DEADLINE, "it leads every shard", async || {
            shop.metric("orderflow_relay_shards_led").await == 16.0
        })
        .await;
        shop.stop().await;
        fill(bench, rows, versions).await;
        println!("filled");
        let config = bench.config("a");
        let (began, before) = (Instant::now(), processor_seconds());
        let shop = bench.start_with(config).await;
        until_within(DRAIN_DEADLINE, "the backlog is drained", async || {
            !sqlx::query_scalar::<_, bool>("select exists (select from outbox)")
                .fetch_one(&bench.pool)
                .await
                .unwrap()
        })
        .await;
        let took = began.elapsed().as_secs_f64();
        println!(
            "{rows} events in {took:.2} s: {:.0}/s; relay's processor time {:.2} µs an event",
            rows as f64 / took,
            (processor_seconds() - before) * 1e6 / rows as f64
        );
        shop.stop().await;
    })
    .await;
}
