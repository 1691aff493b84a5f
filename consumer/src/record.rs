//! One record of the topic, owned, with its bytes untouched.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use order_events::{DecodeError, OrderEvent};
use rdkafka::message::{BorrowedMessage, Headers, Message, OwnedHeaders};

/// A record as it was read.
#[derive(Clone, Debug)]
pub struct Record {
    /// Where it was read.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// Its timestamp in milliseconds since 1970, if it has one.
    pub timestamp_millis: Option<i64>,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value.
    pub value: Option<Bytes>,
    /// Its headers as librdkafka holds them, to be passed on unchanged.
    pub headers: OwnedHeaders,
}

/// Why a record is not an order event.
#[derive(Debug, thiserror::Error)]
pub enum Undecodable {
    /// The record as a whole is not one.
    #[error(transparent)]
    Event(#[from] DecodeError),
    /// A header's name is not text, which Kafka's protocol asks for and brokers do not check.
    #[error("failed to decode record: a header's name is not UTF-8")]
    HeaderName,
}

impl Undecodable {
    /// A short, stable word for metrics and dead-letter headers.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Event(error) => error.reason(),
            Self::HeaderName => "HeaderName",
        }
    }
}

impl Record {
    /// A copy of what librdkafka lends.
    #[must_use]
    pub fn copied_from(message: &BorrowedMessage<'_>) -> Self {
        Self {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_millis: message.timestamp().to_millis(),
            key: message.key().map(Bytes::copy_from_slice),
            value: message.payload().map(Bytes::copy_from_slice),
            headers: message.headers().map_or_else(OwnedHeaders::new, |headers| headers.detach()),
        }
    }

    /// Memory that the record holds, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        let headers = self.named_headers().map_or(UNREADABLE_HEADERS, |headers| {
            headers.iter().map(|(name, value)| name.len() + value.len()).sum()
        });
        let (key, value) =
            (self.key.as_ref().map_or(0, Bytes::len), self.value.as_ref().map_or(0, Bytes::len));
        key + value + headers + RECORD_OVERHEAD
    }

    /// Headers with a value, in their order.
    ///
    /// # Errors
    /// [`Undecodable::HeaderName`].
    pub fn named_headers(&self) -> Result<Vec<(&str, &[u8])>, Undecodable> {
        // The client library panics on a header name that is not UTF-8; any producer can write one.
        let named = catch_unwind(AssertUnwindSafe(|| {
            let headers = self.headers.as_borrowed();
            (0..headers.count())
                .filter_map(|index| headers.try_get(index))
                .filter_map(|header| Some((header.key, header.value?)))
                .collect()
        }));
        named.map_err(|_panic| Undecodable::HeaderName)
    }

    /// The order event that the record carries.
    ///
    /// # Errors
    /// When it carries none; see [`Undecodable`].
    pub fn decode(&self) -> Result<OrderEvent, Undecodable> {
        let headers = self.named_headers()?;
        // The last one counts where a name is repeated, as in Kafka's own `Headers.lastHeader`.
        let header = |name: &str| headers.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| *value);
        Ok(order_events::decode(self.key.as_deref(), header, self.value.as_deref())?)
    }
}

/// Charged for every record beside what was sent: bookkeeping. It keeps a flood of empty records within the byte limit of a
/// partition's queue.
const RECORD_OVERHEAD: usize = 512;
/// Charged for headers that can't be looked at: as much as a broker accepts by default, so that hardly any of them are held.
const UNREADABLE_HEADERS: usize = 1024 * 1024;

#[cfg(test)]
pub(crate) mod tests {
    use jiff::Timestamp;
    use order_events::{EventType, OrderId, OrderSnapshot, OrderStatus};
    use rdkafka::message::Header;

    use super::*;

    /// An event as the order service would record it.
    pub(crate) fn event(version: i64) -> OrderEvent {
        OrderEvent {
            event_id: OrderId::generate().0,
            order_id: OrderId::generate(),
            version,
            event_type: EventType::OrderCreated,
            occurred_at: Timestamp::UNIX_EPOCH,
            order: OrderSnapshot {
                user_id: "u1".to_owned(),
                status: OrderStatus::Pending,
                items: Vec::new(),
                coupon_code: None,
                currency: "EUR".to_owned(),
                subtotal_minor: 0,
                discount_minor: 0,
                total_minor: 0,
            },
        }
    }

    /// Another event of the same order.
    pub(crate) fn at_version(of: &OrderEvent, version: i64) -> OrderEvent {
        OrderEvent { event_id: OrderId::generate().0, version, ..of.clone() }
    }

    /// The record of `event` at `offset`, made by the production encoder.
    pub(crate) fn record(event: &OrderEvent, offset: i64) -> Record {
        let encoded = event.encode().expect("a small event encodes");
        let headers = encoded.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
        Record {
            partition: 0,
            offset,
            timestamp_millis: Some(1),
            key: Some(encoded.key.into()),
            value: Some(encoded.payload.into()),
            headers,
        }
    }

    #[test]
    fn an_encoded_event_comes_back() {
        let event = event(1);
        assert_eq!(record(&event, 0).decode().expect("decodes"), event);
    }

    #[test]
    fn what_people_type_into_a_console_producer_is_undecodable_with_a_reason() {
        let typed = |key: Option<&'static str>, value: Option<&'static str>| Record {
            key: key.map(Bytes::from),
            value: value.map(Bytes::from),
            headers: OwnedHeaders::new(),
            ..record(&event(1), 0)
        };
        for (record, reason) in [
            (typed(None, Some("hello-1")), "MissingKey"),
            (typed(Some("1001"), None), "MissingPayload"),
            (typed(Some("1001"), Some(r#"{"orderId":1001,"status":"CREATED"}"#)), "MissingType"),
        ] {
            assert_eq!(record.decode().expect_err("not an event").reason(), reason);
        }
    }

    #[test]
    fn headers_count_in_what_a_record_holds() {
        let mut record = record(&event(1), 0);
        let before = record.size();
        let large = vec![b'x'; 100_000];
        record.headers = record.headers.insert(Header { key: "large", value: Some(&large) });
        assert_eq!(record.size(), before + 100_005);
    }

    #[test]
    fn the_last_of_repeated_headers_counts() {
        let mut record = record(&event(1), 0);
        record.headers = record.headers.insert(Header { key: "ce_type", value: Some("something.else") });
        assert_eq!(record.decode().expect_err("wrong type").reason(), "UnknownType");
    }
}
