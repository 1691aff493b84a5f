//! A dead letter's headers, readable by the tools of Spring, Kafka Connect and Kafka Streams. Pure.
//!
//! Spring: `KafkaHeaders.DLT_*`, numbers as big-endian binary. Connect: `DeadLetterQueueReporter`, numbers as text.
//! Streams: KIP-1034, numbers as text.

use rdkafka::message::{Header, OwnedHeaders};

use super::Cause;
use crate::record::Record;

/// Longest exception message carried, in bytes: large enough to read, small enough to leave the record its room.
pub const MAX_MESSAGE_BYTES: usize = 1_024;

/// Says why the record is here; see [`Cause::reason`].
pub const REASON: &str = "orderflow-dlt-reason";

/// Where a record was read that is a letter now, as Spring says it too.
pub const ORIGINAL_PARTITION: &str = "kafka_dlt-original-partition";
/// See [`ORIGINAL_PARTITION`].
pub const ORIGINAL_OFFSET: &str = "kafka_dlt-original-offset";
/// Class of the exception, in Spring's words.
pub const EXCEPTION_CLASS: &str = "kafka_dlt-exception-fqcn";

/// Where dead letters come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The topic that was read.
    pub topic: String,
    /// The group that could not deliver.
    pub group: String,
}

/// How much is said of the failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// All three families.
    Full,
    /// The reason and the origin alone, for a record that barely fits.
    Minimal,
}

/// The record's own headers, then ours.
#[must_use]
pub fn headers(record: &Record, origin: &Origin, cause: &Cause, detail: Detail) -> OwnedHeaders {
    let Cause { reason, class, message } = cause;
    let message = truncated(message);
    let (partition, offset) = (record.partition.to_string(), record.offset.to_string());
    let mut letter = Letter(record.headers.clone());
    letter.add(REASON, reason.as_bytes());
    letter.add("kafka_dlt-original-topic", origin.topic.as_bytes());
    letter.add(ORIGINAL_PARTITION, &record.partition.to_be_bytes());
    letter.add(ORIGINAL_OFFSET, &record.offset.to_be_bytes());
    if detail == Detail::Minimal {
        return letter.0;
    }
    // Kafka writes -1 for "no timestamp".
    letter.add("kafka_dlt-original-timestamp", &record.timestamp_millis.unwrap_or(-1).to_be_bytes());
    letter.add("kafka_dlt-original-consumer-group", origin.group.as_bytes());
    letter.add(EXCEPTION_CLASS, class.as_bytes());
    letter.add("kafka_dlt-exception-message", message.as_bytes());
    letter.add("__connect.errors.topic", origin.topic.as_bytes());
    letter.add("__connect.errors.partition", partition.as_bytes());
    letter.add("__connect.errors.offset", offset.as_bytes());
    letter.add("__connect.errors.exception.class.name", class.as_bytes());
    letter.add("__connect.errors.exception.message", message.as_bytes());
    letter.add("__streams.errors.exception", class.as_bytes());
    letter.add("__streams.errors.message", message.as_bytes());
    letter.add("__streams.errors.topic", origin.topic.as_bytes());
    letter.add("__streams.errors.partition", partition.as_bytes());
    letter.add("__streams.errors.offset", offset.as_bytes());
    letter.0
}

struct Letter(OwnedHeaders);

impl Letter {
    fn add(&mut self, key: &str, value: &[u8]) {
        let headers = std::mem::replace(&mut self.0, OwnedHeaders::new_with_capacity(0));
        self.0 = headers.insert(Header { key, value: Some(value) });
    }
}

/// `message` cut to [`MAX_MESSAGE_BYTES`] at a character's end.
fn truncated(message: &str) -> &str {
    &message[..message.floor_char_boundary(MAX_MESSAGE_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{event, record};

    fn letter(message: &str, detail: Detail) -> Record {
        let record = Record { partition: 2, ..record(&event(1), 77) };
        let origin = Origin { topic: "order-events".to_owned(), group: "data-platform".to_owned() };
        let cause = Cause { reason: "Schema", class: "orderflow.DecodeError", message: message.to_owned() };
        let headers = headers(&record, &origin, &cause, detail);
        Record { headers, ..record }
    }

    fn value<'a>(record: &'a Record, name: &str) -> Option<&'a [u8]> {
        let named = record.named_headers().expect("names are text");
        named.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    #[test]
    fn each_family_finds_its_own_encoding() {
        let letter = letter("no such field", Detail::Full);
        assert_eq!(value(&letter, "kafka_dlt-original-partition"), Some(2_i32.to_be_bytes().as_slice()));
        assert_eq!(value(&letter, "kafka_dlt-original-offset"), Some(77_i64.to_be_bytes().as_slice()));
        assert_eq!(value(&letter, "kafka_dlt-original-timestamp"), Some(1_i64.to_be_bytes().as_slice()));
        for (name, text) in [
            ("kafka_dlt-original-topic", "order-events"),
            ("kafka_dlt-original-consumer-group", "data-platform"),
            ("kafka_dlt-exception-message", "no such field"),
            ("__connect.errors.partition", "2"),
            ("__connect.errors.offset", "77"),
            ("__streams.errors.offset", "77"),
            ("__streams.errors.message", "no such field"),
            (REASON, "Schema"),
        ] {
            assert_eq!(value(&letter, name), Some(text.as_bytes()), "{name}");
        }
    }

    #[test]
    fn the_records_own_headers_come_first_and_stay() {
        let letter = letter("x", Detail::Full);
        let named = letter.named_headers().expect("names are text");
        assert_eq!(named.first().map(|(key, _)| *key), Some("ce_specversion"));
        assert!(letter.decode().is_ok(), "a dead letter can be read as the event that it was");
    }

    #[test]
    fn a_long_message_is_cut_at_a_characters_end() {
        let letter = letter(&"ü".repeat(5_000), Detail::Full);
        let message = value(&letter, "kafka_dlt-exception-message").expect("has a message");
        assert!(message.len() <= MAX_MESSAGE_BYTES && std::str::from_utf8(message).is_ok());
    }

    #[test]
    fn the_fewest_headers_still_say_why_and_whence() {
        let letter = letter("x", Detail::Minimal);
        assert!(value(&letter, REASON).is_some() && value(&letter, "kafka_dlt-original-offset").is_some());
        assert_eq!(value(&letter, "__streams.errors.message"), None);
    }
}
