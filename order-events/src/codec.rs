//! From an event to the bytes of a record, and back.

use uuid::Uuid;

use crate::cloudevents;
use crate::event::{OrderEvent, OrderId};

/// Largest payload that is written or accepted, in bytes. Kafka's default `max.message.bytes` is 1,048,588 with the
/// batch's overhead; the rest is left to key, headers and dead-letter headers.
pub const MAX_EVENT_BYTES: usize = 900_000;

/// An event as the bytes of a record: what the outbox stores and the relay sends, unchanged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EncodedEvent {
    /// The record's key: the order id as text.
    pub key: String,
    /// The record's headers, in order.
    pub headers: Vec<(&'static str, String)>,
    /// The record's value.
    pub payload: Vec<u8>,
}

/// Why an event could not become a record.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The payload is larger than the topic takes.
    #[error(
        "failed to encode event: payload of {size} bytes is over the limit of {MAX_EVENT_BYTES}; send fewer items"
    )]
    TooLarge {
        /// Size of the payload in bytes.
        size: usize,
    },
    /// Serialisation failed.
    #[error("failed to encode event")]
    Json(#[source] serde_json::Error),
}

/// Why the bytes of a record are not an order event. Its [`reason`](DecodeError::reason) goes to the dead letter.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// No key: the record belongs to no order.
    #[error("failed to decode record: it has no key; the key is the order id")]
    MissingKey,
    /// The record has no value.
    #[error("failed to decode record: it has no payload")]
    MissingPayload,
    /// The payload is larger than any event is.
    #[error("failed to decode record: payload of {size} bytes is over the limit of {MAX_EVENT_BYTES}")]
    TooLarge {
        /// Size of the payload in bytes.
        size: usize,
    },
    /// No `ce_type` header, so nothing says what the payload is.
    #[error("failed to decode record: header ce_type is missing")]
    MissingType,
    /// A type or version this build does not know.
    #[error("failed to decode record: unknown type {0:?}")]
    UnknownType(String),
    /// The payload is not the JSON of an order event.
    #[error("failed to decode record: payload is not an order event: {0}")]
    Schema(#[source] serde_json::Error),
    /// Key, headers and payload do not speak of the same event.
    #[error("failed to decode record: {field} says {outside:?}, the payload says {inside:?}")]
    Mismatch {
        /// The part that differs: `key`, `ce_type` or `ce_id`.
        field: &'static str,
        /// What key or header say.
        outside: String,
        /// What the payload says.
        inside: String,
    },
    /// Versions start at 1.
    #[error("failed to decode record: version {0} is below 1")]
    Version(i64),
}

impl DecodeError {
    /// A short, stable word for metrics and dead-letter headers.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::MissingKey => "MissingKey",
            Self::MissingPayload => "MissingPayload",
            Self::TooLarge { .. } => "TooLarge",
            Self::MissingType => "MissingType",
            Self::UnknownType(_) => "UnknownType",
            Self::Schema(_) => "Schema",
            Self::Mismatch { .. } => "Mismatch",
            Self::Version(_) => "Version",
        }
    }
}

impl OrderEvent {
    /// The bytes of this event's record.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`] when the payload is over [`MAX_EVENT_BYTES`].
    pub fn encode(&self) -> Result<EncodedEvent, EncodeError> {
        let payload = serde_json::to_vec(self).map_err(EncodeError::Json)?;
        if payload.len() > MAX_EVENT_BYTES {
            return Err(EncodeError::TooLarge { size: payload.len() });
        }
        Ok(EncodedEvent { key: self.order_id.to_string(), headers: cloudevents::headers(self), payload })
    }
}

/// The event that a record carries. `header` looks a header's value up by name.
///
/// # Errors
/// A [`DecodeError`] that says what is wrong; it never panics, whatever the bytes.
pub fn decode<'a>(
    key: Option<&[u8]>,
    header: impl Fn(&str) -> Option<&'a [u8]>,
    payload: Option<&[u8]>,
) -> Result<OrderEvent, DecodeError> {
    let key = key.ok_or(DecodeError::MissingKey)?;
    let payload = payload.ok_or(DecodeError::MissingPayload)?;
    if payload.len() > MAX_EVENT_BYTES {
        return Err(DecodeError::TooLarge { size: payload.len() });
    }
    let type_attribute =
        String::from_utf8_lossy(header(cloudevents::HEADER_TYPE).ok_or(DecodeError::MissingType)?);
    let event_type = cloudevents::event_type_of(&type_attribute)
        .ok_or_else(|| DecodeError::UnknownType(type_attribute.clone().into_owned()))?;
    let event: OrderEvent = serde_json::from_slice(payload).map_err(DecodeError::Schema)?;
    if event.event_type != event_type {
        return Err(mismatch("ce_type", &type_attribute, event.event_type.name()));
    }
    if parse_key(key) != Some(event.order_id) {
        return Err(mismatch("key", &String::from_utf8_lossy(key), &event.order_id.to_string()));
    }
    if let Some(id) = header(cloudevents::HEADER_ID)
        && std::str::from_utf8(id).ok().and_then(|text| Uuid::parse_str(text).ok()) != Some(event.event_id)
    {
        return Err(mismatch("ce_id", &String::from_utf8_lossy(id), &event.event_id.to_string()));
    }
    if event.version < 1 {
        return Err(DecodeError::Version(event.version));
    }
    Ok(event)
}

fn parse_key(key: &[u8]) -> Option<OrderId> {
    std::str::from_utf8(key).ok()?.parse().ok()
}

fn mismatch(field: &'static str, outside: &str, inside: &str) -> DecodeError {
    DecodeError::Mismatch { field, outside: outside.to_owned(), inside: inside.to_owned() }
}
