//! CloudEvents 1.0 attributes of an order event, in Kafka's binary mode (headers `ce_*`) and as structured JSON.
//!
//! Binary mode: <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md>.

use serde_json::{Value, json};

use crate::event::{EventType, OrderEvent};

/// Version of the CloudEvents specification the attributes follow.
pub const SPEC_VERSION: &str = "1.0";
/// `source` of every event of this product.
pub const SOURCE: &str = "/orderflow/order-service";
/// Media type of the payload.
pub const CONTENT_TYPE: &str = "application/json";

/// Header that carries the CloudEvents type, and with it the version of the payload's schema.
pub const HEADER_TYPE: &str = "ce_type";
/// Header that carries the event id.
pub const HEADER_ID: &str = "ce_id";
/// Header that carries the order's version.
pub const HEADER_ORDER_VERSION: &str = "ce_orderversion";

/// The CloudEvents `type` of an event, such as `dev.orderflow.OrderCreated.v1`.
#[must_use]
pub fn type_attribute(event_type: EventType) -> String {
    format!("dev.orderflow.{}.v1", event_type.name())
}

/// The event type that a CloudEvents `type` names, if this version knows it.
#[must_use]
pub fn event_type_of(attribute: &str) -> Option<EventType> {
    EventType::ALL.into_iter().find(|event_type| type_attribute(*event_type) == attribute)
}

/// Headers of the record, in a fixed order so that the same event always becomes the same bytes.
#[must_use]
pub fn headers(event: &OrderEvent) -> Vec<(&'static str, String)> {
    vec![
        ("ce_specversion", SPEC_VERSION.to_owned()),
        (HEADER_ID, event.event_id.to_string()),
        ("ce_source", SOURCE.to_owned()),
        (HEADER_TYPE, type_attribute(event.event_type)),
        ("ce_time", event.occurred_at.to_string()),
        ("ce_subject", event.order_id.to_string()),
        ("ce_partitionkey", event.order_id.to_string()),
        (HEADER_ORDER_VERSION, event.version.to_string()),
        ("content-type", CONTENT_TYPE.to_owned()),
    ]
}

/// The event in structured mode: one JSON object with the attributes beside `data`. A list of these is
/// `application/cloudevents-batch+json`.
///
/// # Errors
/// None in practice: an [`OrderEvent`] always serialises; the type is serde's.
pub fn structured(event: &OrderEvent) -> Result<Value, serde_json::Error> {
    Ok(json!({
        "specversion": SPEC_VERSION,
        "id": event.event_id,
        "source": SOURCE,
        "type": type_attribute(event.event_type),
        "time": event.occurred_at,
        "subject": event.order_id,
        "partitionkey": event.order_id,
        "orderversion": event.version,
        "datacontenttype": CONTENT_TYPE,
        "data": serde_json::to_value(event)?,
    }))
}
