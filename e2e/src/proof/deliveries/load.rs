//! What the topic gets: histories of orders, each in its order, and records that are no events. Side by side over some seconds, or
//! all at once.

use std::time::Duration;

use anyhow::Context;
use order_events::{EventType, OrderEvent, OrderId, OrderSnapshot, OrderStatus, partition_for};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use runtime::kafka::KafkaConnection;
use tokio::task::JoinSet;

use super::plan::{Flaw, Plan};
use crate::proof::backends::bootstrap;

/// Longest that a record may wait for room in the producer's queue, which is far larger than any run.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// What somebody types into a console producer.
const TYPED: &[u8] = b"hello-1";
/// A type of event that nobody knows.
const UNKNOWN_TYPE: &str = "com.example.Other.v9";
/// The JSON of something else.
const OTHER_JSON: &[u8] = br#"{"orderId":1001,"status":"CREATED"}"#;

/// A record that is to be sent.
#[derive(Clone, Debug)]
struct Raw {
    partition: i32,
    key: Option<String>,
    value: Option<Vec<u8>>,
    headers: OwnedHeaders,
}

/// Records that come one after another.
#[derive(Debug)]
struct History {
    first: Vec<Raw>,
    /// What the relay publishes once more, late.
    again: Vec<Raw>,
}

#[derive(Clone)]
struct Writer {
    producer: FutureProducer,
    topic: String,
}

/// Produces all of the plan's records; `orders` are its orders' ids.
///
/// # Errors
/// When Kafka does not take a record.
pub async fn run(plan: &Plan, topic: &str, orders: &[OrderId]) -> anyhow::Result<()> {
    let connection = KafkaConnection { bootstrap_servers: bootstrap(), tls: None, sasl: None };
    let mut config = connection.client_config("proof-load");
    // Neither duplicates nor gaps of its own.
    let producer = config.set("enable.idempotence", "true").set("linger.ms", "1").create()?;
    let writer = Writer { producer, topic: topic.to_owned() };
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let histories = histories(plan, orders, &mut rng)?;
    let sent = if plan.is_backlog {
        writer.send_at_once(&histories).await
    } else {
        side_by_side(plan, &writer, histories, &mut rng).await
    };
    sent.context("failed to produce the load")
}

/// The orders' histories, and among them what is nobody's.
fn histories(plan: &Plan, orders: &[OrderId], rng: &mut StdRng) -> anyhow::Result<Vec<History>> {
    let mut histories = Vec::new();
    for (index, (order, versions)) in orders.iter().zip(&plan.orders).enumerate() {
        let is_doubled = rng.random_ratio(plan.doubled_percent, 100);
        let (mut first, mut again) = (Vec::new(), Vec::new());
        for version in 1..=*versions {
            let event = event(*order, version);
            let raw = Raw::of(&event, plan.partitions)?;
            if is_doubled {
                again.push(raw.clone());
            }
            first.push(raw);
            for poison in plan.poison.iter().filter(|poison| poison.behind == Some((index, version))) {
                first.push(poisoned(poison.flaw, &event, plan.partitions)?);
            }
        }
        histories.push(History { first, again });
    }
    for poison in plan.poison.iter().filter(|poison| poison.behind.is_none()) {
        // An order that is nowhere else.
        let stray = poisoned(poison.flaw, &event(OrderId::generate(), 1), plan.partitions)?;
        let place = rng.random_range(0..=histories.len());
        histories.insert(place, History { first: vec![stray], again: Vec::new() });
    }
    Ok(histories)
}

async fn side_by_side(
    plan: &Plan,
    writer: &Writer,
    histories: Vec<History>,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    let pause = Duration::from_millis(plan.pause);
    let mut under_way = JoinSet::new();
    for History { first, again } in histories {
        let begin = Duration::from_millis(rng.random_range(0..plan.load));
        let writer = writer.clone();
        under_way.spawn(async move {
            tokio::time::sleep(begin).await;
            for raw in &first {
                writer.send(raw).await?;
                tokio::time::sleep(pause).await;
            }
            for raw in &again {
                writer.send(raw).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = under_way.join_next().await {
        ended??;
    }
    Ok(())
}

impl Writer {
    fn record<'a>(&'a self, raw: &'a Raw) -> FutureRecord<'a, str, [u8]> {
        FutureRecord {
            topic: &self.topic,
            partition: Some(raw.partition),
            payload: raw.value.as_deref(),
            key: raw.key.as_deref(),
            timestamp: None,
            headers: Some(raw.headers.clone()),
        }
    }

    async fn send(&self, raw: &Raw) -> anyhow::Result<()> {
        let sent = self.producer.send(self.record(raw), SEND_TIMEOUT).await;
        sent.map(drop).map_err(|(error, _)| error.into())
    }

    /// One order after another, and what is published once more behind all of them.
    async fn send_at_once(&self, histories: &[History]) -> anyhow::Result<()> {
        let first = histories.iter().flat_map(|history| &history.first);
        let again = histories.iter().flat_map(|history| &history.again);
        let mut answers = Vec::new();
        for raw in first.chain(again) {
            answers.push(self.producer.send_result(self.record(raw)).map_err(|(error, _)| error)?);
        }
        for answer in answers {
            answer.await?.map_err(|(error, _)| error)?;
        }
        Ok(())
    }
}

impl Raw {
    fn of(event: &OrderEvent, partitions: i32) -> anyhow::Result<Self> {
        let encoded = event.encode()?;
        let headers = encoded.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
        Ok(Self {
            partition: partition_for(encoded.key.as_bytes(), partitions),
            key: Some(encoded.key),
            value: Some(encoded.payload),
            headers,
        })
    }
}

/// What becomes of `event` by that flaw. It keeps its partition, and its key if it has one.
fn poisoned(flaw: Flaw, event: &OrderEvent, partitions: i32) -> anyhow::Result<Raw> {
    let sound = Raw::of(event, partitions)?;
    let unknown = Header { key: "ce_type", value: Some(UNKNOWN_TYPE) };
    Ok(match flaw {
        Flaw::NoKey => Raw { key: None, value: Some(TYPED.to_vec()), headers: OwnedHeaders::new(), ..sound },
        Flaw::NoValue => Raw { value: None, ..sound },
        Flaw::NoType => Raw { value: Some(TYPED.to_vec()), headers: OwnedHeaders::new(), ..sound },
        Flaw::UnknownType => Raw { headers: OwnedHeaders::new().insert(unknown), ..sound },
        Flaw::Schema => Raw { value: Some(OTHER_JSON.to_vec()), ..sound },
    })
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

#[cfg(test)]
mod tests {
    use rdkafka::message::Headers;

    use super::super::plan::Guarantee;
    use super::*;

    #[test]
    fn each_flaw_makes_no_event_of_a_record_for_a_reason_of_its_own() {
        let event = event(OrderId::generate(), 1);
        for (flaw, reason) in [
            (Flaw::NoKey, "MissingKey"),
            (Flaw::NoValue, "MissingPayload"),
            (Flaw::NoType, "MissingType"),
            (Flaw::UnknownType, "UnknownType"),
            (Flaw::Schema, "Schema"),
        ] {
            let raw = poisoned(flaw, &event, 3).unwrap();
            let header = |name: &str| raw.headers.iter().find(|header| header.key == name)?.value;
            let key = raw.key.as_deref().map(str::as_bytes);
            let refused = order_events::decode(key, header, raw.value.as_deref()).unwrap_err();
            assert_eq!(refused.reason(), reason);
        }
    }

    #[test]
    fn a_plan_s_records_are_its_events_in_their_order_and_its_poison() {
        for plan in (1..=30).map(|seed| Plan::of(seed, Guarantee::AtLeastOnce)) {
            let orders: Vec<OrderId> = plan.orders.iter().map(|_| OrderId::generate()).collect();
            let histories = histories(&plan, &orders, &mut StdRng::seed_from_u64(plan.seed)).unwrap();
            let records: usize = histories.iter().map(|history| history.first.len()).sum();
            let events = usize::try_from(plan.orders.iter().sum::<i64>()).unwrap();
            assert_eq!(records, events + plan.poison.len(), "seed {}", plan.seed);
            let strays = plan.poison.iter().filter(|poison| poison.behind.is_none()).count();
            assert_eq!(histories.len(), orders.len() + strays, "seed {}", plan.seed);
        }
    }
}
