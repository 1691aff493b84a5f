//! What the topic gets: histories of orders side by side, each in its order, and records that are no events.

use std::time::Duration;

use anyhow::Context;
use order_events::{EventType, OrderEvent, OrderId, OrderSnapshot, OrderStatus, partition_for};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use runtime::kafka::KafkaConnection;
use tokio::task::JoinSet;

use super::plan::Plan;
use crate::proof::backends::bootstrap;

/// Longest that a record may take: faults of Kafka last seconds.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// Produces all of the plan's events; `orders` are its orders' ids.
///
/// # Errors
/// When Kafka does not take a record.
pub async fn run(plan: &Plan, topic: &str, orders: &[OrderId]) -> anyhow::Result<()> {
    let connection = KafkaConnection { bootstrap_servers: bootstrap(), tls: None, sasl: None };
    let mut config = connection.client_config("proof-load");
    // Neither duplicates nor gaps of its own.
    let producer: FutureProducer = config.set("enable.idempotence", "true").set("linger.ms", "1").create()?;
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let mut histories = JoinSet::new();
    for (order, versions) in orders.iter().zip(&plan.orders) {
        let begin = Duration::from_millis(rng.random_range(0..plan.load));
        let (producer, topic, order, versions) = (producer.clone(), topic.to_owned(), *order, *versions);
        let (partitions, pause) = (plan.partitions, Duration::from_millis(plan.pause));
        let is_doubled = rng.random_ratio(plan.doubled_percent, 100);
        histories.spawn(async move {
            tokio::time::sleep(begin).await;
            let mut sent = Vec::new();
            for version in 1..=versions {
                let event = event(order, version);
                send(&producer, &topic, partitions, &event).await?;
                sent.push(event);
                tokio::time::sleep(pause).await;
            }
            for event in sent.iter().filter(|_| is_doubled) {
                send(&producer, &topic, partitions, event).await?;
            }
            anyhow::Ok(())
        });
    }
    for number in 0..plan.poison {
        let begin = Duration::from_millis(rng.random_range(0..plan.load));
        let (producer, topic, partitions) = (producer.clone(), topic.to_owned(), plan.partitions);
        histories.spawn(async move {
            tokio::time::sleep(begin).await;
            let (key, value) = (format!("poison-{number}"), format!("hello-{number}"));
            let partition = partition_for(key.as_bytes(), partitions);
            let record = FutureRecord::to(&topic).key(&key).payload(&value).partition(partition);
            producer.send(record, SEND_TIMEOUT).await.map_err(|(error, _)| error)?;
            Ok(())
        });
    }
    while let Some(ended) = histories.join_next().await {
        ended?.context("failed to produce the load")?;
    }
    Ok(())
}

async fn send(
    producer: &FutureProducer,
    topic: &str,
    partitions: i32,
    event: &OrderEvent,
) -> anyhow::Result<()> {
    let encoded = event.encode()?;
    let headers = encoded.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(value) })
    });
    let record = FutureRecord::to(topic)
        .key(&encoded.key)
        .payload(&encoded.payload)
        .partition(partition_for(encoded.key.as_bytes(), partitions))
        .headers(headers);
    producer.send(record, SEND_TIMEOUT).await.map(drop).map_err(|(error, _)| error.into())
}

fn event(order_id: OrderId, version: i64) -> OrderEvent {
    let is_first = version == 1;
    OrderEvent {
        event_id: uuid::Uuid::now_v7(),
        order_id,
        version,
        event_type: if is_first { EventType::OrderCreated } else { EventType::OrderConfirmed },
        occurred_at: jiff::Timestamp::now(),
        order: OrderSnapshot {
            user_id: "proof".to_owned(),
            status: if is_first { OrderStatus::Pending } else { OrderStatus::Confirmed },
            items: Vec::new(),
            coupon_code: None,
            currency: "EUR".to_owned(),
            subtotal_minor: 0,
            discount_minor: 0,
            total_minor: 0,
        },
    }
}
