//! Marks in the dead-letter topic: a key's letters up to one of them are replayed, released or discarded. They are the ledger too.

use jiff::Timestamp;
use rdkafka::message::{Header, OwnedHeaders};
use serde::{Deserialize, Serialize};

use super::headers::{ORIGINAL_OFFSET, REASON};
use crate::record::Record;

/// Header that tells a mark from a letter; its value is [`Ending::name`].
pub const MARK: &str = "orderflow-dlt-mark";

/// What became of letters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ending {
    /// They were delivered.
    Replayed,
    /// They stay undelivered; later records of the key are delivered again.
    Released,
    /// The same, and nobody wants them: with a reason.
    Discarded,
}

/// A mark, as the record's JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// What became of them.
    pub ending: Ending,
    /// Offset of the last of them, in the mark's own partition.
    pub through: i64,
    /// How many there were.
    pub letters: u64,
    /// When.
    pub at: Timestamp,
    /// Why, in words.
    pub reason: Option<String>,
}

impl Ending {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Released => "released",
            Self::Discarded => "discarded",
        }
    }
}

impl Mark {
    /// Headers of the record.
    #[must_use]
    pub fn headers(&self) -> OwnedHeaders {
        OwnedHeaders::new().insert(Header { key: MARK, value: Some(self.ending.name()) })
    }
}

/// What a record of the dead-letter topic is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A dead letter.
    Letter,
    /// A mark.
    Mark(Mark),
    /// Nothing of ours.
    Other,
}

impl Kind {
    /// Tells by headers. A mark that can't be read is nothing: its key stays stuck, and a person sees it.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        // Only what somebody else wrote first has names that are not text.
        let Ok(headers) = record.named_headers() else { return Self::Letter };
        let has = |wanted: &str| headers.iter().any(|(name, _)| *name == wanted);
        // A mark that came back through the consumed topic is a letter like any other.
        // So is one of Spring's, which a consumer of the user's own wrote.
        if has(REASON) || has(ORIGINAL_OFFSET) {
            return Self::Letter;
        }
        let mark = record.value.as_deref().filter(|_| has(MARK));
        mark.and_then(|value| serde_json::from_slice(value).ok()).map_or(Self::Other, Self::Mark)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn mark() -> Mark {
        Mark {
            ending: Ending::Discarded,
            through: 7,
            letters: 2,
            at: Timestamp::UNIX_EPOCH,
            reason: Some("a test order".to_owned()),
        }
    }

    fn record(headers: OwnedHeaders, value: &[u8]) -> Record {
        let value = Some(Bytes::copy_from_slice(value));
        Record {
            partition: 0,
            offset: 8,
            timestamp_millis: None,
            key: Some(Bytes::from("k")),
            value,
            headers,
        }
    }

    #[test]
    fn a_mark_comes_back() {
        let bytes = serde_json::to_vec(&mark()).expect("serializes");
        assert_eq!(Kind::of(&record(mark().headers(), &bytes)), Kind::Mark(mark()));
    }

    #[test]
    fn a_letter_is_known_by_its_reason_and_what_can_not_be_read_is_neither() {
        let letter = OwnedHeaders::new().insert(Header { key: REASON, value: Some("Schema") });
        assert_eq!(Kind::of(&record(letter, b"hello-1")), Kind::Letter);
        assert_eq!(Kind::of(&record(OwnedHeaders::new(), b"hello-1")), Kind::Other);
        assert_eq!(Kind::of(&record(mark().headers(), b"{}")), Kind::Other);
    }
}
