//! What a dead letter says of itself, and the record it was. Pure.

use bytes::Bytes;
use jiff::Timestamp;
use rdkafka::message::{Header, OwnedHeaders};

use super::headers::{EXCEPTION_CLASS, ORIGINAL_OFFSET, ORIGINAL_PARTITION, REASON};
use crate::record::Record;

/// A dead letter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Letter {
    /// Partition and offset in the dead-letter topic.
    pub place: (i32, i64),
    /// Partition and offset where it was read.
    pub origin: Option<(i32, i64)>,
    /// The record's key.
    pub key: Option<Bytes>,
    /// Why it is here, in a word.
    pub reason: String,
    /// Why it is here.
    pub message: String,
    /// The order's version, where it says one.
    pub version: Option<String>,
    /// When it was written.
    pub at: Option<Timestamp>,
}

impl Letter {
    /// What `record` of the dead-letter topic says; headers that can't be read say nothing.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let headers = record.named_headers().unwrap_or_default();
        let value =
            |name: &str| headers.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let text = |name: &str| value(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let partition = value(ORIGINAL_PARTITION).and_then(|bytes| bytes.try_into().ok());
        let offset = value(ORIGINAL_OFFSET).and_then(|bytes| bytes.try_into().ok());
        Self {
            place: (record.partition, record.offset),
            origin: partition.map(i32::from_be_bytes).zip(offset.map(i64::from_be_bytes)),
            key: record.key.clone(),
            // Spring gives no reason but the exception's class; the last part of its name is a word.
            reason: text(REASON)
                .or_else(|| Some(text(EXCEPTION_CLASS)?.rsplit('.').next()?.to_owned()))
                .unwrap_or_default(),
            message: text("kafka_dlt-exception-message").unwrap_or_default(),
            version: text("ce_orderversion"),
            at: record.timestamp_millis.and_then(|millis| Timestamp::from_millisecond(millis).ok()),
        }
    }
}

/// The record that the letter `record` was: where it was read, and without the headers that were added.
///
/// # Errors
/// In words, when the letter does not say where it comes from.
pub fn original(record: &Record) -> Result<Record, String> {
    let (partition, offset) =
        Letter::of(record).origin.ok_or("it does not say from which partition and offset it comes")?;
    let named = record.named_headers().map_err(|error| error.to_string())?;
    // Ours were added behind its own, the reason first. A record that was a dead letter before has that of then too.
    let own = named.iter().rposition(|(name, _)| *name == REASON).unwrap_or(named.len());
    let headers = named[..own].iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(*value) })
    });
    Ok(Record { partition, offset, headers, ..record.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter::Cause;
    use crate::dead_letter::headers::{Detail, Origin, headers};
    use crate::dead_letter::mark::Kind;
    use crate::record::tests::{event, record};

    #[test]
    fn a_letter_of_springs_is_one() {
        let event = event(3);
        let spring = [
            ("kafka_dlt-original-topic", b"order-events".as_slice()),
            ("kafka_dlt-original-partition", &2_i32.to_be_bytes()),
            ("kafka_dlt-original-offset", &77_i64.to_be_bytes()),
            (
                "kafka_dlt-exception-fqcn",
                b"org.springframework.kafka.listener.ListenerExecutionFailedException",
            ),
            ("kafka_dlt-exception-message", b"Listener failed"),
        ];
        let read = record(&event, 5);
        let headers = spring.iter().fold(read.headers.clone(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(*value) })
        });
        let letter = Record { headers, ..read };
        assert_eq!(Kind::of(&letter), Kind::Letter);
        let said = Letter::of(&letter);
        assert_eq!((said.origin, said.reason.as_str()), (Some((2, 77)), "ListenerExecutionFailedException"));
        let again = original(&letter).expect("it says where it comes from");
        assert_eq!(again.decode().expect("decodes"), event);
    }

    #[test]
    fn the_record_that_became_a_letter_comes_back() {
        let event = event(3);
        let read = Record { partition: 2, ..record(&event, 77) };
        let origin = Origin { topic: "order-events".to_owned(), group: "g".to_owned() };
        let cause = Cause { reason: "Rejected", class: "C", message: "HTTP status 422".to_owned() };
        for detail in [Detail::Full, Detail::Minimal] {
            let headers = headers(&read, &origin, &cause, detail);
            let letter = Record { partition: 0, offset: 5, headers, ..read.clone() };
            let said = Letter::of(&letter);
            assert_eq!((said.place, said.origin), ((0, 5), Some((2, 77))));
            assert_eq!((said.reason.as_str(), said.version.as_deref()), ("Rejected", Some("3")));
            let again = original(&letter).expect("it says where it comes from");
            assert_eq!(again.decode().expect("decodes"), event);
            assert_eq!((again.partition, again.offset), (2, 77));
            assert_eq!(again.named_headers().unwrap(), read.named_headers().unwrap());
        }
    }
}
