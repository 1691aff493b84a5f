//! From the outbox to the topic: every event, in order per order, byte for byte, on the right partition.

use std::collections::BTreeMap;

use futures::future::join_all;
use order_events::partition_for;
use reqwest::StatusCode;
use serde_json::Value;

use crate::harness::{Instance, bench, until};
use crate::topic::{Record, versions_by_order};

/// What the outbox held: headers and payload by order and version.
type Recorded = BTreeMap<(String, i64), (Vec<(String, String)>, Vec<u8>)>;

async fn outbox(pool: &sqlx::PgPool) -> Recorded {
    let rows: Vec<(uuid::Uuid, i64, Value, Vec<u8>)> =
        sqlx::query_as("select order_id, version, headers, payload from outbox")
            .fetch_all(pool)
            .await
            .unwrap();
    rows.into_iter()
        .map(|(order, version, headers, payload)| {
            ((order.to_string(), version), (serde_json::from_value(headers).unwrap(), payload))
        })
        .collect()
}

/// Places `count` orders, confirms every second and cancels every third of them, all at once.
async fn lives(shop: &Instance, count: usize) {
    join_all((0..count).map(async |turn| {
        let id = shop.placed("p1").await;
        if turn % 2 == 0 {
            shop.changed(&id, "confirm").await;
        }
        if turn % 3 == 0 {
            shop.changed(&id, "cancel").await;
        }
    }))
    .await;
}

fn assert_complete_and_in_order(records: &[Record], orders: &BTreeMap<String, i64>) {
    let expected: BTreeMap<String, Vec<i64>> =
        orders.iter().map(|(id, version)| (id.clone(), (1..=*version).collect())).collect();
    assert_eq!(versions_by_order(records), expected);
}

async fn orders(pool: &sqlx::PgPool) -> BTreeMap<String, i64> {
    let rows: Vec<(uuid::Uuid, i64)> =
        sqlx::query_as("select id, version from orders").fetch_all(pool).await.unwrap();
    rows.into_iter().map(|(id, version)| (id.to_string(), version)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_wait_for_the_topic_and_then_reach_it_in_order_and_unchanged() {
    bench(None, async |bench| {
        let shop = bench.start("a").await;
        shop.load(&[("p1", 100, 1000)], &[]).await;
        lives(&shop, 30).await;
        let recorded = outbox(&bench.pool).await;
        assert_eq!(recorded.len(), 30 + 15 + 10, "nothing left before there was a topic");

        bench.create_topic(3).await;
        bench.until_published().await;

        let records = bench.records().await;
        assert_complete_and_in_order(&records, &orders(&bench.pool).await);
        for record in &records {
            let (headers, payload) = &recorded[&(record.key.clone(), record.version())];
            assert_eq!((&record.headers, &record.payload), (headers, payload));
            assert_eq!(record.partition, partition_for(record.key.as_bytes(), 3));
            let header =
                |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_bytes());
            order_events::decode(Some(record.key.as_bytes()), header, Some(&record.payload)).unwrap();
        }
        until("acknowledgements are counted", async || {
            shop.metric("orderflow_relay_published_total").await == 55.0
        })
        .await;
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_commits_after_later_ones_were_published_is_published_too() {
    bench(Some(3), async |bench| {
        let shop = bench.start("a").await;
        shop.load(&[("p1", 100, 1000)], &[]).await;
        // One in every shard, so that in each of them a lower id commits last.
        let mut late = bench.pool.begin().await.unwrap();
        sqlx::query(
            "insert into outbox (shard, order_id, version, headers, payload)
             select shard, gen_random_uuid(), 1, '[]', '{\"version\": 1}' from generate_series(0, 15) as s (shard)",
        )
        .execute(&mut *late)
        .await
        .unwrap();
        lives(&shop, 60).await;
        bench.until_published().await;
        let before = bench.records().await.len();
        late.commit().await.unwrap();
        bench.until_published().await;
        assert_eq!(bench.records().await.len(), before + 16);
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_share_the_shards_and_publish_every_event_once_and_in_order() {
    bench(Some(3), async |bench| {
        let (a, b) = bench.start_two().await;
        a.load(&[("p1", 100, 10_000)], &[]).await;
        tokio::join!(lives(&a, 60), lives(&b, 60));
        bench.until_published().await;
        assert_complete_and_in_order(&bench.records().await, &orders(&bench.pool).await);
        a.stop().await;
        until("the other leads all of them", async || b.shards_led().await == 16.0).await;
        lives(&b, 30).await;
        bench.until_published().await;
        assert_complete_and_in_order(&bench.records().await, &orders(&bench.pool).await);
        b.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_leaders_shards_are_taken_over_when_its_leases_end() {
    bench(Some(3), async |bench| {
        let a = bench.start("a").await;
        a.load(&[("p1", 100, 10_000)], &[]).await;
        until("it leads every shard", async || a.metric("orderflow_relay_shards_led").await == 16.0).await;
        a.crash().await;
        let b = bench.start("b").await;
        lives(&b, 30).await;
        until("the other leads every shard", async || b.metric("orderflow_relay_shards_led").await == 16.0)
            .await;
        bench.until_published().await;
        assert_complete_and_in_order(&bench.records().await, &orders(&bench.pool).await);
        b.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_answers_what_is_in_flight_publishes_it_and_lets_the_shards_go() {
    bench(Some(3), async |bench| {
        let a = bench.start("a").await;
        a.load(&[("p1", 100, 10_000)], &[]).await;
        a.placed("p1").await;
        let answers = join_all((0..20).map(|_| a.order("p1", 1, None))).await;
        assert!(answers.iter().all(|answer| answer.status() == StatusCode::CREATED));
        a.stop().await;
        assert_eq!(bench.outbox_rows().await, 0, "flushed");
        assert_eq!(bench.number("select count(*) from relay_leases where owner is not null").await, 0);
        assert_eq!(bench.number("select count(*) from relay_members").await, 0);
        assert_complete_and_in_order(&bench.records().await, &orders(&bench.pool).await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_grows_moves_no_key() {
    bench(Some(2), async |bench| {
        let a = bench.start("a").await;
        a.load(&[("p1", 100, 10_000)], &[]).await;
        lives(&a, 10).await;
        bench.until_published().await;
        a.stop().await;
        bench.grow_topic(6).await;
        let b = bench.start("b").await;
        lives(&b, 20).await;
        bench.until_published().await;
        let records = bench.records().await;
        assert!(records.iter().all(|record| record.partition == partition_for(record.key.as_bytes(), 2)));
        assert_eq!(bench.number("select partitions::bigint from topic_partitions").await, 2);
        b.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_with_fewer_partitions_than_recorded_gets_nothing() {
    bench(Some(2), async |bench| {
        let a = bench.start("a").await;
        until("it leads every shard", async || a.metric("orderflow_relay_shards_led").await == 16.0).await;
        a.stop().await;
        sqlx::query("update topic_partitions set partitions = 3").execute(&bench.pool).await.unwrap();
        let b = bench.start("b").await;
        b.load(&[("p1", 100, 10)], &[]).await;
        b.placed("p1").await;
        until("it says so", async || b.metric("orderflow_relay_errors_total").await >= 2.0).await;
        assert!(bench.records().await.is_empty());
        assert_eq!(bench.outbox_rows().await, 1);
        assert!(b.is_ready().await, "orders go on being taken");
        b.stop().await;
    })
    .await;
}
