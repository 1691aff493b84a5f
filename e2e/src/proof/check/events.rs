//! C3, C6 and C7: what was recorded is what stands in the topic, in order, byte for byte.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use order_events::cloudevents::{HEADER_ID, HEADER_ORDER_VERSION};
use order_events::{EventType, OrderEvent, OrderStatus, partition_for};
use uuid::Uuid;

use super::{Audit, Rule, Violation, decoded, identity};
use crate::proof::history::{History, Record, StoredOrder};
use crate::proof::plan::Shop;

/// C3: an order of version n has the events 1..n and nothing else was recorded; each shows the order as it is stored but
/// for its status, which is the last one's; the topic has each of them and no other.
#[must_use]
pub fn published(history: &History, audit: &Audit<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (order, version) in &audit.repeated {
        found.push(format!("event {version} of {order} was recorded twice"));
    }
    let mut expected = BTreeSet::new();
    for order in &history.orders {
        expected.extend((1..=order.version).map(|version| (order.id, version)));
        found.extend(no_life(order.id, audit));
        for event in audit.of_order(order.id).filter(|event| !shows(event, order, &history.shop)) {
            found.push(format!(
                "event {} of {} does not show the order as it is stored",
                event.version, order.id
            ));
        }
    }
    let recorded: BTreeSet<(Uuid, i64)> = audit.events.keys().copied().collect();
    let topic: BTreeSet<(Uuid, i64)> = history.topic.iter().filter_map(identity).collect();
    let waiting: BTreeSet<(Uuid, i64)> = history.waiting.iter().copied().collect();
    // What waits is late, which is another rule's.
    let due: BTreeSet<(Uuid, i64)> =
        recorded.iter().copied().filter(|event| !waiting.contains(event)).collect();
    let each = |found: &mut Vec<String>, events: Vec<&(Uuid, i64)>, what: &str| {
        found.extend(events.into_iter().map(|(order, version)| format!("event {version} of {order} {what}")));
    };
    each(&mut found, expected.difference(&recorded).collect(), "was never recorded, but the order is at it");
    each(&mut found, recorded.difference(&expected).collect(), "was recorded, but the order is not at it");
    each(
        &mut found,
        due.difference(&topic).collect(),
        "is lost: recorded, and neither in the topic nor in the outbox",
    );
    each(&mut found, topic.difference(&recorded).collect(), "is a ghost: in the topic, and never recorded");
    found.into_iter().map(|what| Violation::of(Rule::Published, what)).collect()
}

/// An order is created, then perhaps confirmed, then perhaps cancelled, and each event says which in type and status.
fn no_life(order: Uuid, audit: &Audit<'_>) -> Option<String> {
    use EventType::{OrderCancelled, OrderConfirmed, OrderCreated};
    let lived: Vec<EventType> = audit.of_order(order).map(|event| event.event_type).collect();
    let is_a_life = matches!(
        lived.as_slice(),
        [] | [OrderCreated]
            | [OrderCreated, OrderConfirmed | OrderCancelled]
            | [OrderCreated, OrderConfirmed, OrderCancelled]
    );
    let is_said = audit.of_order(order).all(|event| {
        event.order.status
            == match event.event_type {
                OrderCreated => OrderStatus::Pending,
                OrderConfirmed => OrderStatus::Confirmed,
                OrderCancelled => OrderStatus::Cancelled,
            }
    });
    (!is_a_life || !is_said).then(|| format!("the events of {order} are no life of an order: {lived:?}"))
}

fn shows(event: &OrderEvent, order: &StoredOrder, shop: &Shop) -> bool {
    let shown = &event.order;
    let items: BTreeMap<String, i64> =
        shown.items.iter().map(|item| (item.product_id.clone(), item.quantity)).collect();
    let is_priced = shown.items.iter().all(|item| {
        let price = shop.products.get(&item.product_id).map(|product| product.price_minor);
        price == Some(item.unit_price_minor)
    });
    let is_last = event.version == order.version;
    (!is_last || shown.status.name() == order.status)
        && is_priced
        && items == order.items
        && shown.user_id == order.user
        && shown.coupon_code == order.coupon
        && shown.currency == order.currency
        && shown.subtotal_minor == order.subtotal_minor
        && shown.discount_minor == order.discount_minor
        && shown.total_minor == order.total_minor
}

/// C3, as to ids: every event has its own, by which both kinds of sink tell a repetition.
#[must_use]
pub fn identified(history: &History, audit: &Audit<'_>) -> Vec<Violation> {
    let mut events: HashMap<Uuid, BTreeSet<(Uuid, i64)>> = HashMap::new();
    let recorded = audit.events.iter().filter_map(|(event, (_, decoded))| Some((*event, decoded.as_ref()?)));
    let published =
        history.topic.iter().filter_map(decoded).map(|event| ((event.order_id.0, event.version), event));
    for (event, id) in recorded
        .map(|(event, decoded)| (event, decoded.event_id))
        .chain(published.map(|(event, decoded)| (event, decoded.event_id)))
    {
        events.entry(id).or_default().insert(event);
    }
    let shared = events.into_iter().filter(|(_, events)| events.len() > 1);
    let mut found: Vec<String> = shared
        .map(|(id, events)| {
            let first = events.iter().next();
            format!("{} events have the id {id}, such as order and version {first:?}", events.len())
        })
        .collect();
    found.sort_unstable();
    found.into_iter().map(|what| Violation::of(Rule::Published, what)).collect()
}

/// C6: per order, the first occurrences in the topic are 1..n without a gap, all on the partition of its key.
#[must_use]
pub fn ordered(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut last: HashMap<Uuid, i64> = HashMap::new();
    for record in &history.topic {
        let Some((order, version)) = identity(record) else { continue };
        let place = partition_for(record.key.as_bytes(), history.partitions);
        if record.partition != place {
            found.push(format!("{} belongs on partition {place}", at(record)));
        }
        let last = last.entry(order).or_default();
        if version > *last + 1 {
            found.push(format!("{} is event {version} of {order}, after event {last}", at(record)));
        }
        *last = version.max(*last);
    }
    found.into_iter().map(|what| Violation::of(Rule::Ordered, what)).collect()
}

/// C7: every record is an order event, with key, headers and value as they were recorded.
#[must_use]
pub fn unaltered(history: &History, audit: &Audit<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for record in &history.topic {
        let Some(event) = decoded(record) else {
            found.push(format!("{} is no order event", at(record)));
            continue;
        };
        let version = event.version.to_string();
        if !record.headers.iter().any(|(name, value)| name == HEADER_ORDER_VERSION && *value == version) {
            found.push(format!("{} has another version in its headers", at(record)));
        }
        // One that says another id than the value is no order event; one that says none is.
        if !record.headers.iter().any(|(name, _)| name == HEADER_ID) {
            found.push(format!("{} has no id in its headers", at(record)));
        }
        let Some((recorded, _)) = audit.events.get(&(event.order_id.0, event.version)) else { continue };
        if recorded.payload != record.payload {
            found.push(format!("the value of {} is not what was recorded", at(record)));
        }
        if recorded.headers != record.headers {
            found.push(format!("the headers of {} are not what was recorded", at(record)));
        }
    }
    found.into_iter().map(|what| Violation::of(Rule::Unaltered, what)).collect()
}

fn at(record: &Record) -> String {
    format!("record {}/{} (key {})", record.partition, record.offset, record.key)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{audited, broken, cancelled, event, pending, record, seen, sound};
    use super::*;

    #[test]
    fn a_lost_event_is_found() {
        let mut history = sound();
        history.topic.remove(1);
        assert_eq!(broken(&history), [Rule::Published]);
    }

    #[test]
    fn an_event_that_still_waits_is_not_lost() {
        let mut history = sound();
        history.topic.remove(1);
        history.waiting.push((pending(), 1));
        assert!(broken(&history).is_empty());
    }

    #[test]
    fn a_ghost_is_found() {
        let mut history = sound();
        history.topic.push(record(&event(Uuid::from_u128(9), 1, EventType::OrderCreated, None), 9));
        assert_eq!(broken(&history), [Rule::Published]);
    }

    #[test]
    fn an_order_without_its_event_is_found() {
        let mut history = sound();
        history.calls.remove(1);
        history.calls.push(super::super::fixture::call(
            super::super::fixture::create("u2", Some("TEN")),
            super::super::fixture::unknown(),
        ));
        history.audit.remove(1);
        history.topic.remove(1);
        assert_eq!(broken(&history), [Rule::Published]);
    }

    #[test]
    fn an_event_without_its_order_is_found() {
        let mut history = sound();
        let event = event(Uuid::from_u128(9), 1, EventType::OrderCreated, None);
        history.audit.push(audited(&event));
        history.topic.push(record(&event, 9));
        assert_eq!(broken(&history), [Rule::Published]);
    }

    #[test]
    fn an_event_that_is_recorded_twice_is_found() {
        let mut history = sound();
        history.audit.push(history.audit[0].clone());
        assert_eq!(broken(&history), [Rule::Published]);
    }

    #[test]
    fn an_event_that_shows_another_order_than_the_stored_one_is_found() {
        let mut history = sound();
        history.audit[1] = audited(&event(pending(), 1, EventType::OrderCreated, None));
        history.topic[1] = record(&event(pending(), 1, EventType::OrderCreated, None), 1);
        assert_eq!(broken(&history), [Rule::Published]);
    }

    #[test]
    fn a_later_event_before_an_earlier_one_is_found() {
        let mut history = sound();
        history.topic.swap(0, 2);
        assert_eq!(broken(&history), [Rule::Ordered]);
    }

    #[test]
    fn a_late_repetition_of_an_earlier_event_is_no_disorder() {
        let mut history = sound();
        history.topic.push(record(&event(cancelled(), 1, EventType::OrderCreated, None), 9));
        assert!(broken(&history).is_empty());
    }

    #[test]
    fn an_event_on_another_partition_is_found() {
        let mut history = sound();
        history.topic[1].partition = (history.topic[1].partition + 1) % history.partitions;
        assert_eq!(broken(&history), [Rule::Ordered]);
    }

    #[test]
    fn altered_bytes_are_found() {
        let mut history = sound();
        history.topic[0].payload.push(b' ');
        assert_eq!(broken(&history), [Rule::Unaltered]);
    }

    #[test]
    fn altered_headers_are_found() {
        let mut history = sound();
        history.topic[0].headers.pop();
        assert_eq!(broken(&history), [Rule::Unaltered]);
    }

    #[test]
    fn a_record_that_is_no_order_event_is_found() {
        let mut history = sound();
        let mut noise = history.topic[0].clone();
        noise.payload = b"hello-1".to_vec();
        history.topic.push(noise);
        assert_eq!(broken(&history), [Rule::Unaltered]);
    }

    #[test]
    fn a_header_with_another_version_is_found() {
        let mut history = sound();
        for headers in [&mut history.topic[0].headers, &mut history.audit[0].headers] {
            let version = headers.iter_mut().find(|(name, _)| name == HEADER_ORDER_VERSION).unwrap();
            version.1 = "5".to_owned();
        }
        assert_eq!(broken(&history), [Rule::Unaltered]);
    }

    #[test]
    fn two_events_with_one_id_are_found() {
        let mut history = sound();
        let mut events = [
            event(cancelled(), 1, EventType::OrderCreated, None),
            event(pending(), 1, EventType::OrderCreated, Some("TEN")),
            event(cancelled(), 2, EventType::OrderCancelled, None),
        ];
        events[2].event_id = events[0].event_id;
        history.audit = events.iter().map(audited).collect();
        history.topic = events.iter().enumerate().map(|(offset, event)| record(event, offset)).collect();
        assert_eq!(broken(&history), [Rule::Published]);
    }

    #[test]
    fn a_record_without_its_id_or_with_another_ones_in_its_headers_is_found() {
        for id in [None, Some(Uuid::nil().to_string())] {
            let mut history = sound();
            for headers in [&mut history.topic[0].headers, &mut history.audit[0].headers] {
                let at = headers.iter().position(|(name, _)| name == HEADER_ID).unwrap();
                match &id {
                    None => drop(headers.remove(at)),
                    Some(id) => headers[at].1.clone_from(id),
                }
            }
            assert!(broken(&history).contains(&Rule::Unaltered), "{id:?}");
        }
    }

    #[test]
    fn an_amount_in_another_currency_is_found() {
        let mut history = sound();
        let mut event = event(pending(), 1, EventType::OrderCreated, Some("TEN"));
        event.order.currency = "EUR".to_owned();
        (history.audit[1], history.topic[1]) = (audited(&event), record(&event, 1));
        assert_eq!(broken(&history), [Rule::Published]);
        history.orders[1].currency = "EUR".to_owned();
        history.read.orders[1].1 = Some(seen(&history.orders[1]));
        assert_eq!(broken(&history), [Rule::Balanced]);
    }
}
