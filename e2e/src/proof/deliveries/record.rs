//! Records of the run's topics, as they lie there.

use rdkafka::message::{Headers, Message, OwnedMessage};
use uuid::Uuid;

/// An order's version.
pub type Event = (Uuid, i64);
/// A partition, and an offset in it.
pub type Place = (i32, i64);

/// Header of a letter that says why it is one.
pub(super) const REASON: &str = "orderflow-dlt-reason";
/// Headers that say where the record was read that it was: numbers as Spring writes them, big-endian.
pub(super) const ORIGINAL_PARTITION: &str = "kafka_dlt-original-partition";
pub(super) const ORIGINAL_OFFSET: &str = "kafka_dlt-original-offset";

/// A record of the topic, or a letter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Where it lies.
    pub place: Place,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers, in their order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// The event that it is, or why it is none.
    pub event: Result<Event, &'static str>,
    /// When it was made, in milliseconds since 1970.
    pub at_millis: i64,
}

impl Record {
    /// What Kafka has.
    #[must_use]
    pub fn of(message: &OwnedMessage) -> Self {
        let header = |name: &str| message.headers()?.iter().find(|header| header.key == name)?.value;
        let event = order_events::decode(message.key(), header, message.payload());
        let headers = message.headers().map(|headers| {
            headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
        });
        Self {
            place: (message.partition(), message.offset()),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
            event: event.map(|event| (event.order_id.0, event.version)).map_err(|error| error.reason()),
            at_millis: message.timestamp().to_millis().unwrap_or_default(),
        }
    }

    /// Of a letter: where the record was read that it was.
    #[must_use]
    pub fn origin(&self) -> Option<Place> {
        let partition = self.header(ORIGINAL_PARTITION)?.try_into().ok()?;
        let offset = self.header(ORIGINAL_OFFSET)?.try_into().ok()?;
        Some((i32::from_be_bytes(partition), i64::from_be_bytes(offset)))
    }

    /// Of a letter: why it is one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        std::str::from_utf8(self.header(REASON)?).ok()
    }

    /// Whether this letter is that record as it was: its key, its value, and its headers before all others.
    #[must_use]
    pub fn is_letter_of(&self, record: &Self) -> bool {
        self.key == record.key && self.value == record.value && self.headers.starts_with(&record.headers)
    }

    /// The last of that name: what is added to a letter stands behind what its record had.
    fn header(&self, name: &str) -> Option<&[u8]> {
        let (_, value) = self.headers.iter().rev().find(|(key, _)| key == name)?;
        value.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::Timestamp;
    use rdkafka::message::{Header, OwnedHeaders};

    use super::*;

    fn message(key: Option<&str>, headers: OwnedHeaders, value: Option<&str>) -> OwnedMessage {
        let bytes = |text: Option<&str>| text.map(|text| text.as_bytes().to_vec());
        let (topic, timestamp) = ("t".to_owned(), Timestamp::CreateTime(7));
        OwnedMessage::new(bytes(value), bytes(key), topic, timestamp, 2, 77, Some(headers))
    }

    #[test]
    fn a_letter_says_where_its_record_was_and_is_that_record_with_more_headers() {
        let own = OwnedHeaders::new().insert(Header { key: "trace", value: Some("1") });
        let record = Record::of(&message(Some("k"), own.clone(), Some("hello")));
        let (partition, offset) = (2_i32.to_be_bytes(), 77_i64.to_be_bytes());
        let headers = own
            .insert(Header { key: REASON, value: Some("MissingType") })
            .insert(Header { key: ORIGINAL_PARTITION, value: Some(partition.as_slice()) })
            .insert(Header { key: ORIGINAL_OFFSET, value: Some(offset.as_slice()) });
        let letter = Record::of(&message(Some("k"), headers.clone(), Some("hello")));
        assert_eq!((letter.origin(), letter.reason()), (Some(record.place), Some("MissingType")));
        assert!(letter.is_letter_of(&record));
        assert!(!Record::of(&message(None, headers.clone(), Some("hello"))).is_letter_of(&record));
        assert!(!Record::of(&message(Some("k"), headers, None)).is_letter_of(&record));
        let bare = Record::of(&message(Some("k"), OwnedHeaders::new(), Some("hello")));
        assert!(bare.origin().is_none() && !bare.is_letter_of(&record));
    }

    #[test]
    fn what_is_no_event_says_why() {
        let reason = |key, value| Record::of(&message(key, OwnedHeaders::new(), value)).event;
        assert_eq!(reason(None, Some("hello")), Err("MissingKey"));
        assert_eq!(reason(Some("k"), None), Err("MissingPayload"));
        assert_eq!(reason(Some("k"), Some("hello")), Err("MissingType"));
    }
}
