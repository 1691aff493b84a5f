//! A small sound history for the rules' tests to break.

use std::collections::BTreeMap;

use jiff::Timestamp;
use order_events::{EventType, OrderEvent, OrderId, OrderItem, OrderSnapshot, OrderStatus, partition_for};
use uuid::Uuid;

use super::{Rule, check};
use crate::proof::history::{Event, History, Reads, Record, Shown, StoredOrder};
use crate::proof::ledger::{Action, Answer, Call, Outcome, Purchase, Verb};
use crate::proof::plan::shop::CURRENCY;
use crate::proof::plan::{Coupon, Product, Shop, Terms};

/// Partitions of the fixture's topic.
const PARTITIONS: i32 = 3;

/// The order that was bought and then cancelled.
pub(crate) fn cancelled() -> Uuid {
    Uuid::from_u128(1)
}

/// The order that stayed.
pub(crate) fn pending() -> Uuid {
    Uuid::from_u128(2)
}

/// Two orders of two units of `tea`, one with coupon `TEN`; the first, which had no coupon, was cancelled.
pub(crate) fn sound() -> History {
    let shop = Shop {
        products: BTreeMap::from([("tea".to_owned(), Product { price_minor: 100, stock: 5 })]),
        coupons: BTreeMap::from([("TEN".to_owned(), Coupon { terms: Terms::PercentOff(10), limit: 1 })]),
    };
    let events = [
        event(cancelled(), 1, EventType::OrderCreated, None),
        event(pending(), 1, EventType::OrderCreated, Some("TEN")),
        event(cancelled(), 2, EventType::OrderCancelled, None),
    ];
    let orders =
        [stored(cancelled(), "u1", "CANCELLED", 2, None), stored(pending(), "u2", "PENDING", 1, Some("TEN"))];
    History {
        shop,
        partitions: PARTITIONS,
        calls: vec![
            call(create("u1", None), ok(cancelled(), 1, OrderStatus::Pending)),
            call(create("u2", Some("TEN")), ok(pending(), 1, OrderStatus::Pending)),
            call(cancel(cancelled()), ok(cancelled(), 2, OrderStatus::Cancelled)),
        ],
        orders: orders.to_vec(),
        audit: events.iter().map(audited).collect(),
        waiting: Vec::new(),
        topic: events.iter().enumerate().map(|(offset, event)| record(event, offset)).collect(),
        stock: BTreeMap::from([("tea".to_owned(), 3)]),
        coupon_uses: BTreeMap::from([("TEN".to_owned(), 1)]),
        read: Reads {
            orders: orders.iter().map(|order| (order.id, Some(seen(order)))).collect(),
            lists: vec![("u1".to_owned(), Some(vec![cancelled()])), ("u9".to_owned(), Some(Vec::new()))],
            failures: Vec::new(),
        },
        deadlocks: 0,
        recovered: None,
        in_hand: 1,
        disturbances: 1,
    }
}

/// The rules that the history breaks, each once.
pub(crate) fn broken(history: &History) -> Vec<Rule> {
    let mut rules: Vec<Rule> =
        check(history).violations.into_iter().map(|violation| violation.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

pub(crate) fn create(user: &str, coupon: Option<&str>) -> Action {
    Action::Create(Purchase {
        user: user.to_owned(),
        key: Some(format!("key-{user}")),
        lines: vec![("tea".to_owned(), 1), ("tea".to_owned(), 1)],
        coupon: coupon.map(str::to_owned),
    })
}

pub(crate) fn cancel(order: Uuid) -> Action {
    Action::Change { order, to: Verb::Cancel, at: None }
}

pub(crate) fn ok(order: Uuid, version: i64, status: OrderStatus) -> Outcome {
    // The one that was bought with a coupon is cheaper.
    let total_minor = if order == pending() { 180 } else { 200 };
    Outcome::Ok(Answer { order, version, status, total_minor, body: 7, replayed: false })
}

pub(crate) fn unknown() -> Outcome {
    Outcome::Unknown { status: 0, why: "no answer".to_owned() }
}

pub(crate) fn refused(status: u16) -> Outcome {
    Outcome::Refused { status, problem: "busy".to_owned() }
}

pub(crate) fn call(action: Action, outcome: Outcome) -> Call {
    Call { client: 0, replica: 0, began: 0, ended: 1, action, outcome }
}

pub(crate) fn stored(id: Uuid, user: &str, status: &str, version: i64, coupon: Option<&str>) -> StoredOrder {
    StoredOrder {
        id,
        user: user.to_owned(),
        status: status.to_owned(),
        version,
        items: BTreeMap::from([("tea".to_owned(), 2)]),
        coupon: coupon.map(str::to_owned),
        currency: CURRENCY.to_owned(),
        subtotal_minor: 200,
        discount_minor: if coupon.is_some() { 20 } else { 0 },
        total_minor: if coupon.is_some() { 180 } else { 200 },
    }
}

/// The order as the API shows it.
pub(crate) fn seen(order: &StoredOrder) -> Shown {
    let (lines_minor, tag) = (order.subtotal_minor, Some(format!("\"{}\"", order.version)));
    Shown { order: order.clone(), lines_minor, tag }
}

/// An event of an order of `u1`, `u2` …, by the order's number.
pub(crate) fn event(order: Uuid, version: i64, event_type: EventType, coupon: Option<&str>) -> OrderEvent {
    let status = match event_type {
        EventType::OrderCreated => OrderStatus::Pending,
        EventType::OrderConfirmed => OrderStatus::Confirmed,
        EventType::OrderCancelled => OrderStatus::Cancelled,
    };
    let number = order.as_u128() * 100 + u128::try_from(version).unwrap();
    OrderEvent {
        event_id: Uuid::from_u128(number),
        order_id: OrderId(order),
        version,
        event_type,
        occurred_at: Timestamp::UNIX_EPOCH,
        order: OrderSnapshot {
            user_id: format!("u{}", order.as_u128()),
            status,
            items: vec![OrderItem { product_id: "tea".to_owned(), quantity: 2, unit_price_minor: 100 }],
            coupon_code: coupon.map(str::to_owned),
            currency: CURRENCY.to_owned(),
            subtotal_minor: 200,
            discount_minor: if coupon.is_some() { 20 } else { 0 },
            total_minor: if coupon.is_some() { 180 } else { 200 },
        },
    }
}

pub(crate) fn audited(event: &OrderEvent) -> Event {
    let (_, headers, payload) = encoded(event);
    Event { order: event.order_id.0, version: event.version, headers, payload }
}

pub(crate) fn record(event: &OrderEvent, offset: usize) -> Record {
    let (key, headers, payload) = encoded(event);
    let partition = partition_for(key.as_bytes(), PARTITIONS);
    Record { partition, offset: i64::try_from(offset).unwrap(), key, headers, payload }
}

fn encoded(event: &OrderEvent) -> (String, Vec<(String, String)>, Vec<u8>) {
    let encoded = event.encode().unwrap();
    let headers = encoded.headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    (encoded.key, headers, encoded.payload)
}
