//! The dead-letter topic as a whole: which letters are open, by key, and what became of the others. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use jiff::Timestamp;

use super::letter::Letter;
use super::mark::{Kind, Mark};
use crate::record::Record;

/// What the topic holds, fed with its records in the order of their offsets.
#[derive(Debug, Default)]
pub struct Shelf {
    /// Open letters by key.
    pub open: BTreeMap<Bytes, Vec<Letter>>,
    /// Letters without a key: nothing follows them, and nothing can be done with them but to look at them.
    pub keyless: Vec<Letter>,
    /// What became of letters: the ledger.
    pub marks: Vec<(Bytes, Mark)>,
}

/// Which keys a command is about.
#[derive(Clone, Default, Debug)]
pub struct Selection {
    /// These.
    pub keys: Vec<Bytes>,
    /// Those with an open letter for this reason.
    pub reason: Option<String>,
    /// Those with an open letter since then.
    pub since: Option<Timestamp>,
}

impl Shelf {
    /// Takes the topic's next record.
    pub fn put(&mut self, record: &Record) {
        match (Kind::of(record), &record.key) {
            (Kind::Letter, Some(key)) => self.open.entry(key.clone()).or_default().push(Letter::of(record)),
            (Kind::Letter, None) => self.keyless.push(Letter::of(record)),
            (Kind::Mark(mark), Some(key)) => {
                if let Some(letters) = self.open.get_mut(key) {
                    letters
                        .retain(|letter| letter.place.0 != record.partition || letter.place.1 > mark.through);
                    if letters.is_empty() {
                        self.open.remove(key);
                    }
                }
                self.marks.push((key.clone(), mark));
            }
            (Kind::Mark(_), None) | (Kind::Other, _) => {}
        }
    }

    /// The selected keys among those with open letters.
    #[must_use]
    pub fn select(&self, selection: &Selection) -> BTreeSet<Bytes> {
        let Selection { keys, reason, since } = selection;
        let matches = |letter: &Letter| {
            reason.as_ref().is_none_or(|reason| letter.reason == *reason)
                && since.is_none_or(|since| letter.at.is_some_and(|at| at >= since))
        };
        let selected = self
            .open
            .iter()
            .filter(|(key, letters)| (keys.is_empty() || keys.contains(key)) && letters.iter().any(matches));
        selected.map(|(key, _)| key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::message::{Header, OwnedHeaders};

    use super::*;
    use crate::dead_letter::headers::REASON;
    use crate::dead_letter::mark::Ending;

    fn letter(key: &'static str, offset: i64, reason: &str) -> Record {
        let headers = OwnedHeaders::new().insert(Header { key: REASON, value: Some(reason) });
        let (key, timestamp_millis) = (Some(Bytes::from(key)), Some(offset * 1000));
        Record { partition: 0, offset, timestamp_millis, key, value: None, headers }
    }

    fn mark(key: &'static str, offset: i64, through: i64) -> Record {
        let at = Timestamp::UNIX_EPOCH;
        let mark = Mark { ending: Ending::Replayed, through, letters: 1, at, reason: None };
        let value = Some(serde_json::to_vec(&mark).unwrap().into());
        let key = Some(Bytes::from(key));
        Record { partition: 0, offset, timestamp_millis: None, key, value, headers: mark.headers() }
    }

    fn shelf() -> Shelf {
        let mut shelf = Shelf::default();
        for record in [
            letter("a", 1, "Rejected"),
            letter("b", 2, "Schema"),
            letter("a", 3, "Follows"),
            mark("a", 4, 1),
            mark("c", 5, 0),
        ] {
            shelf.put(&record);
        }
        shelf
    }

    #[test]
    fn a_mark_ends_letters_up_to_the_one_it_names() {
        let shelf = shelf();
        assert_eq!(shelf.open["a".as_bytes()].iter().map(|letter| letter.place.1).collect::<Vec<_>>(), [3]);
        assert_eq!(shelf.marks.len(), 2);
    }

    #[test]
    fn keys_are_selected_by_any_of_their_open_letters() {
        let shelf = shelf();
        let names = |selection: Selection| -> Vec<Bytes> { shelf.select(&selection).into_iter().collect() };
        assert_eq!(names(Selection::default()), ["a", "b"]);
        assert_eq!(names(Selection { reason: Some("Rejected".to_owned()), ..Selection::default() }), [""; 0]);
        assert_eq!(names(Selection { reason: Some("Schema".to_owned()), ..Selection::default() }), ["b"]);
        assert_eq!(names(Selection { keys: vec!["b".into(), "c".into()], ..Selection::default() }), ["b"]);
        let since = Timestamp::from_second(3).ok();
        assert_eq!(names(Selection { since, ..Selection::default() }), ["a"]);
    }
}
