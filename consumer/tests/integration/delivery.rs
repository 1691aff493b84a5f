//! What arrives, in which order, and how often.

use order_events::OrderEvent;
use sqlx::Row;

use crate::harness::{World, eventually, in_world, order_created};
use crate::platform::{Answer, Platform};

/// Rows of `group` as (partition, offset, event id), in the order of their delivery.
pub(crate) async fn rows(world: &World, group: &str) -> Vec<(i32, i64, String)> {
    let pool = world.database().await;
    let query =
        r#"SELECT partition, "offset", event_id::text FROM order_events WHERE "group" = $1 ORDER BY seq"#;
    // Before the first delivery there is no table.
    let rows = sqlx::query(query).bind(world.group(group)).fetch_all(&pool).await.unwrap_or_default();
    pool.close().await;
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

pub(crate) async fn until_rows(world: &World, group: &str, count: usize) -> Vec<(i32, i64, String)> {
    eventually(&format!("{group} has {count} rows"), async || {
        let rows = rows(world, group).await;
        (rows.len() >= count).then_some(rows)
    })
    .await
}

/// Asserts that `found` are the ids of `events`, each once.
pub(crate) fn assert_each_once(found: impl IntoIterator<Item = String>, events: &[OrderEvent]) {
    let mut found: Vec<String> = found.into_iter().collect();
    let mut sent: Vec<String> = events.iter().map(|event| event.event_id.to_string()).collect();
    found.sort();
    sent.sort();
    assert_eq!(found, sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_the_table_in_the_order_of_their_key() {
    in_world(3, async |world| {
        let events = world.send_histories(3, 60, 10).await;
        let member = world.start("platform", &["--sink=postgres", "--batch-max-records=25"]).await;
        let rows = until_rows(&world, "platform", events.len()).await;
        let arrived: Vec<&OrderEvent> = rows
            .iter()
            .filter_map(|row| events.iter().find(|event| event.event_id.to_string() == row.2))
            .collect();
        for order in events.iter().filter(|event| event.version == 1).map(|event| event.order_id) {
            let versions = arrived.iter().filter(|event| event.order_id == order).map(|event| event.version);
            assert!(versions.eq(1..=10), "order {order}");
        }
        assert_each_once(rows.into_iter().map(|row| row.2), &events);
        world.lag_is_zero("platform").await;
        assert!(member.metric("delivered_total").await >= 600.0);
        assert!(member.metric("event_age_seconds_count").await >= 600.0);
        assert!(world.dead_letters().is_empty());
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_payload_is_stored_as_it_was_sent_even_where_jsonb_would_refuse_it() {
    in_world(1, async |world| {
        let mut event = order_created();
        event.order.user_id = "nul \0 in a name".to_owned();
        let encoded = event.encode().expect("encodes");
        assert!(String::from_utf8_lossy(&encoded.payload).contains(r"\u0000"));
        world.send_event(0, &event).await;
        let member = world.start("platform", &["--sink=postgres"]).await;
        until_rows(&world, "platform", 1).await;
        let stored: String = sqlx::query_scalar("SELECT payload::text FROM order_events")
            .fetch_one(&world.database().await)
            .await
            .expect("one row");
        assert_eq!(stored.as_bytes(), encoded.payload);
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_group_receives_everything_again() {
    in_world(2, async |world| {
        let events = world.send_orders(2, 40).await;
        for group in ["first", "second"] {
            let member = world.start(group, &["--sink=postgres"]).await;
            let rows = until_rows(&world, group, events.len()).await;
            assert_each_once(rows.into_iter().map(|row| row.2), &events);
            member.stop().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_posted_with_its_bytes_and_its_attributes() {
    in_world(1, async |world| {
        let platform = Platform::answering(|_| Answer::status(202)).await;
        let event = order_created();
        world.send_event(0, &event).await;
        let url = format!("--sink-http-url={}", platform.url());
        let member = world.start("platform", &["--sink=http", &url]).await;
        world.lag_is_zero("platform").await;
        let received = platform.received().pop().expect("posted");
        assert_eq!(received.body, event.encode().expect("encodes").payload);
        assert_eq!(received.idempotency_key, event.event_id.to_string());
        for (name, value) in [
            ("content-type", "application/json".to_owned()),
            ("ce-specversion", "1.0".to_owned()),
            ("ce-id", event.event_id.to_string()),
            ("ce-type", "dev.orderflow.OrderCreated.v1".to_owned()),
            ("ce-subject", event.order_id.to_string()),
            ("ce-orderversion", "1".to_owned()),
        ] {
            assert_eq!(
                received.headers.get(name).and_then(|held| held.to_str().ok()),
                Some(value.as_str()),
                "{name}"
            );
        }
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_commits_so_that_a_restart_repeats_nothing() {
    in_world(3, async |world| {
        let platform = Platform::answering(|_| Answer::status(204)).await;
        let url = format!("--sink-http-url={}", platform.url());
        let mut events = world.send_orders(3, 150).await;
        for _restart in 0..3 {
            let seen = platform.keys().len();
            let member = world.start("platform", &["--sink=http", &url]).await;
            eventually("some were posted", async || (platform.keys().len() > seen + 20).then_some(())).await;
            member.stop().await;
            events.extend(world.send_orders(3, 30).await);
        }
        let member = world.start("platform", &["--sink=http", &url]).await;
        world.lag_is_zero("platform").await;
        member.stop().await;
        assert_each_once(platform.keys(), &events);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_starts_at_the_latest_misses_nothing_after_its_first_assignment() {
    in_world(1, async |world| {
        world.send_orders(1, 5).await;
        let flags = ["--sink=postgres", "--start-from=Latest"];
        let member = world.start("platform", &flags).await;
        world.lag_is_zero("platform").await;
        member.stop().await;
        // It has delivered nothing yet, and is down while these are written.
        let events = world.send_orders(1, 7).await;
        let member = world.start("platform", &flags).await;
        let rows = until_rows(&world, "platform", events.len()).await;
        assert_each_once(rows.into_iter().map(|row| row.2), &events);
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_far_larger_than_the_queue_arrives_once_each_though_the_worker_is_full() {
    in_world(1, async |world| {
        let events = world.send_orders(1, 12_000).await;
        let platform = Platform::answering(|_| Answer::status(200)).await;
        let url = format!("--sink-http-url={}", platform.url());
        let member = world.start("platform", &["--sink=http", &url]).await;
        eventually("the queue is full", async || (member.metric("in_flight").await >= 1_300.0).then_some(()))
            .await;
        world.lag_is_zero("platform").await;
        assert_each_once(platform.keys(), &events);
        member.stop().await;
    })
    .await;
}
