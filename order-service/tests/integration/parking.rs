//! A topic that refuses an event for good: its order is parked, and no other waits for it.

use futures::future::join_all;
use rdkafka::admin::{AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use reqwest::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Bench, Instance, bench, options, until};
use crate::topic::versions_by_order;

/// Takes a few of the usual events in one batch, and no event of a hundred lines.
const NARROW: &str = "3000";

async fn create_narrow_topic(bench: &Bench) {
    let topic = NewTopic::new(&bench.topic, 1, TopicReplication::Fixed(1));
    bench.create_topic_with(topic.set("max.message.bytes", NARROW)).await;
}

async fn widen_topic(bench: &Bench) {
    let config = AlterConfig::new(ResourceSpecifier::Topic(&bench.topic)).set("max.message.bytes", "1000000");
    let altered = bench.admin().alter_configs([&config], &options()).await.unwrap();
    altered.into_iter().for_each(|topic| drop(topic.unwrap()));
}

async fn lives(shop: &Instance, count: usize) {
    join_all((0..count).map(async |_| {
        let id = shop.placed("p1").await;
        shop.changed(&id, "confirm").await;
    }))
    .await;
}

/// Places an order whose events the narrow topic refuses, however well they are compressed.
async fn large_order(shop: &Instance) -> String {
    let products: Vec<String> = (0..100).map(|_| Uuid::new_v4().to_string()).collect();
    shop.load(&products.iter().map(|id| (id.as_str(), 100, 10)).collect::<Vec<_>>(), &[]).await;
    let items: Vec<Value> = products.iter().map(|id| json!({"productId": id, "quantity": 1})).collect();
    let response = shop.post("/orders").json(&json!({"userId": "u1", "items": items})).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    let body: Value = response.json().await.unwrap();
    body["orderId"].as_str().unwrap().to_owned()
}

async fn parked(bench: &Bench) -> Vec<(Uuid, i64, String)> {
    sqlx::query_as("select order_id, version, reason from relay_parked").fetch_all(&bench.pool).await.unwrap()
}

async fn assert_every_order_but(bench: &Bench, large: Option<&str>) {
    let published = versions_by_order(&bench.records().await);
    let orders: Vec<(Uuid, i64)> =
        sqlx::query_as("select id, version from orders").fetch_all(&bench.pool).await.unwrap();
    for (id, version) in orders {
        let id = id.to_string();
        let expected = (Some(id.as_str()) != large).then(|| (1..=version).collect::<Vec<_>>());
        assert_eq!(published.get(&id), expected.as_ref(), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_topic_refuses_parks_its_order_alone_until_an_operator_lets_it_go() {
    bench(None, async |bench| {
        let shop = bench.start("a").await;
        shop.load(&[("p1", 100, 1000)], &[]).await;
        lives(&shop, 20).await;
        let large = large_order(&shop).await;
        shop.changed(&large, "confirm").await;
        lives(&shop, 20).await;
        create_narrow_topic(bench).await;
        until("all but the large order is published", async || bench.outbox_rows().await == 2).await;
        until("it is counted", async || shop.metric("orderflow_relay_parked_orders").await == 1.0).await;
        let [(order, version, reason)] = parked(bench).await.try_into().unwrap();
        assert_eq!((order.to_string(), version), (large.clone(), 1));
        assert!(reason.contains("MessageSizeTooLarge"), "{reason}");
        shop.stop().await;

        let shop = bench.start("b").await;
        lives(&shop, 5).await;
        shop.changed(&large, "cancel").await;
        until("the others go on", async || bench.outbox_rows().await == 3).await;
        assert_every_order_but(bench, Some(&large)).await;
        assert_eq!(shop.metric("orderflow_relay_errors_total").await, 0.0, "nobody asked the broker again");

        widen_topic(bench).await;
        sqlx::query("delete from relay_parked").execute(&bench.pool).await.unwrap();
        bench.until_published().await;
        assert_every_order_but(bench, None).await;
        until("nobody is parked", async || shop.metric("orderflow_relay_parked_orders").await == 0.0).await;
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_the_topic_refuses_are_sent_smaller_and_park_nobody() {
    bench(None, async |bench| {
        let shop = bench.start("a").await;
        shop.load(&[("p1", 100, 1000)], &[]).await;
        lives(&shop, 100).await;
        create_narrow_topic(bench).await;
        bench.until_published().await;
        assert!(shop.metric("orderflow_relay_errors_total").await >= 1.0);
        assert!(parked(bench).await.is_empty());
        assert_every_order_but(bench, None).await;
        shop.stop().await;
    })
    .await;
}
