//! Every published version of the event can still be read, and today's writer still writes those bytes.

#![expect(clippy::unwrap_used, reason = "a test that can't build its fixture has failed")]

use std::collections::HashMap;

use order_events::{DecodeError, EventType, OrderEvent, OrderItem, OrderSnapshot, OrderStatus, decode};

const ORDER_ID: &str = "01927f5e-3c00-7000-8000-000000000001";

fn event(event_type: EventType, version: i64, status: OrderStatus, coupon_code: Option<&str>) -> OrderEvent {
    OrderEvent {
        event_id: format!("01927f5e-3c00-7000-8000-0000000000e{version}").parse().unwrap(),
        order_id: ORDER_ID.parse().unwrap(),
        version,
        event_type,
        occurred_at: "2026-11-22T12:00:00Z".parse().unwrap(),
        order: OrderSnapshot {
            user_id: "u1".to_owned(),
            status,
            items: vec![OrderItem { product_id: "sku-1".to_owned(), quantity: 2, unit_price_minor: 1250 }],
            coupon_code: coupon_code.map(str::to_owned),
            currency: "EUR".to_owned(),
            subtotal_minor: 2500,
            discount_minor: if coupon_code.is_some() { 250 } else { 0 },
            total_minor: if coupon_code.is_some() { 2250 } else { 2500 },
        },
    }
}

fn published() -> [(&'static str, &'static str, OrderEvent); 3] {
    [
        (
            "OrderCreated.v1",
            include_str!("golden/OrderCreated.v1.json"),
            event(EventType::OrderCreated, 1, OrderStatus::Pending, Some("TENOFF")),
        ),
        (
            "OrderConfirmed.v1",
            include_str!("golden/OrderConfirmed.v1.json"),
            event(EventType::OrderConfirmed, 2, OrderStatus::Confirmed, None),
        ),
        (
            "OrderCancelled.v1",
            include_str!("golden/OrderCancelled.v1.json"),
            event(EventType::OrderCancelled, 3, OrderStatus::Cancelled, None),
        ),
    ]
}

fn read(
    key: Option<&str>,
    headers: &[(&str, &str)],
    payload: Option<&str>,
) -> Result<OrderEvent, DecodeError> {
    let headers: HashMap<&str, &[u8]> =
        headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    decode(key.map(str::as_bytes), |name| headers.get(name).copied(), payload.map(str::as_bytes))
}

#[test]
fn every_golden_file_is_read_as_the_event_it_was_written_from() {
    for (name, golden, event) in published() {
        let ce_type = format!("dev.orderflow.{name}");
        let decoded = read(Some(ORDER_ID), &[("ce_type", &ce_type)], Some(golden.trim_end()));
        assert_eq!(decoded.unwrap(), event, "{name}");
    }
}

#[test]
fn the_writer_still_writes_the_bytes_of_every_golden_file() {
    for (name, golden, event) in published() {
        let encoded = event.encode().unwrap();
        assert_eq!(String::from_utf8(encoded.payload).unwrap(), golden.trim_end(), "{name}");
        assert_eq!(encoded.key, ORDER_ID, "{name}");
    }
}

#[test]
fn headers_come_back_with_the_event() {
    for (name, _, event) in published() {
        let encoded = event.encode().unwrap();
        let headers: Vec<(&str, &str)> =
            encoded.headers.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let payload = String::from_utf8(encoded.payload.clone()).unwrap();
        assert_eq!(read(Some(&encoded.key), &headers, Some(&payload)).unwrap(), event, "{name}");
    }
}

#[test]
fn whatever_is_not_an_event_is_refused_with_its_reason() {
    let golden = include_str!("golden/OrderCreated.v1.json").trim_end();
    let created = [("ce_type", "dev.orderflow.OrderCreated.v1")];
    let huge = " ".repeat(order_events::MAX_EVENT_BYTES + 1);
    for (key, headers, payload, reason) in [
        (None, &created[..], Some(golden), "MissingKey"),
        (Some(ORDER_ID), &created[..], None, "MissingPayload"),
        (Some(ORDER_ID), &[], Some(golden), "MissingType"),
        (Some(ORDER_ID), &[], Some("hello-1"), "MissingType"),
        (Some(ORDER_ID), &created[..], Some(r#"{"orderId":1001,"status":"CREATED"}"#), "Schema"),
        (Some(ORDER_ID), &[("ce_type", "dev.orderflow.OrderCreated.v9")], Some(golden), "UnknownType"),
        (Some(ORDER_ID), &[("ce_type", "dev.orderflow.OrderCancelled.v1")], Some(golden), "Mismatch"),
        (Some("u1"), &created[..], Some(golden), "Mismatch"),
        (Some(ORDER_ID), &[created[0], ("ce_id", "not-the-id")], Some(golden), "Mismatch"),
        (Some(ORDER_ID), &created[..], Some(&golden.replace("\"version\":1", "\"version\":0")), "Version"),
        (Some(ORDER_ID), &created[..], Some(&huge), "TooLarge"),
    ] {
        assert_eq!(
            read(key, headers, payload).unwrap_err().reason(),
            reason,
            "key {key:?} headers {headers:?}"
        );
    }
}

#[test]
fn structured_mode_carries_the_same_attributes_as_the_headers() {
    let (_, _, event) = published().into_iter().next().unwrap();
    let structured = order_events::cloudevents::structured(&event).unwrap();
    assert_eq!(structured["type"], "dev.orderflow.OrderCreated.v1");
    assert_eq!(structured["data"], serde_json::to_value(&event).unwrap());
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(key in proptest::option::of(proptest::collection::vec(0u8.., 0..40)),
                                       payload in proptest::collection::vec(0u8.., 0..200)) {
        let headers: HashMap<&str, &[u8]> = HashMap::from([("ce_type", b"dev.orderflow.OrderCreated.v1".as_slice())]);
        let _ = decode(key.as_deref(), |name| headers.get(name).copied(), Some(&payload));
    }
}
