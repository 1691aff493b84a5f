//! Runs for the tests of the rules.

use std::collections::HashMap;

use uuid::Uuid;

use super::{Bound, History, check};
use crate::proof::check::Rule;
use crate::proof::deliveries::plan::Guarantee;
use crate::proof::deliveries::record::{ORIGINAL_OFFSET, ORIGINAL_PARTITION, REASON, Record};
use crate::proof::deliveries::sink::Applied;

pub(super) const ALL: [Guarantee; 3] =
    [Guarantee::AtMostOnce, Guarantee::AtLeastOnce, Guarantee::ExactlyOnce];
/// An order that is delivered.
pub(super) const ORDER: Uuid = Uuid::from_u128(1);
/// One whose second version is refused.
pub(super) const STUCK: Uuid = Uuid::from_u128(2);

pub(super) fn applied(order: Uuid, version: i64) -> Applied {
    Applied { event: (order, version), payload: payload(version), at_millis: 0 }
}

fn payload(version: i64) -> Vec<u8> {
    version.to_be_bytes().to_vec()
}

/// The record of an event.
pub(super) fn event(offset: i64, order: Uuid, version: i64) -> Record {
    let headers = vec![("ce_type".to_owned(), Some(b"an event".to_vec()))];
    Record {
        key: Some(order.to_string().into_bytes()),
        value: Some(payload(version)),
        headers,
        event: Ok((order, version)),
        ..poison(offset, None)
    }
}

/// A record that is none.
pub(super) fn poison(offset: i64, key: Option<&str>) -> Record {
    Record {
        place: (0, offset),
        key: key.map(|key| key.as_bytes().to_vec()),
        value: Some(b"hello".to_vec()),
        headers: Vec::new(),
        event: Err(if key.is_some() { "MissingType" } else { "MissingKey" }),
        at_millis: 0,
    }
}

/// The letter that `record` becomes.
pub(super) fn letter(record: &Record, reason: &str) -> Record {
    let (partition, offset) = record.place;
    let mut headers = record.headers.clone();
    headers.extend([
        (REASON.to_owned(), Some(reason.as_bytes().to_vec())),
        (ORIGINAL_PARTITION.to_owned(), Some(partition.to_be_bytes().to_vec())),
        (ORIGINAL_OFFSET.to_owned(), Some(offset.to_be_bytes().to_vec())),
    ]);
    Record { headers, ..record.clone() }
}

/// One order delivered, one whose second version is refused, two records that are no events.
pub(super) fn sound(guarantee: Guarantee) -> History {
    let events = [(ORDER, 1), (ORDER, 2), (ORDER, 3), (STUCK, 1), (STUCK, 2), (STUCK, 3)];
    let mut topic: Vec<Record> =
        (0..).zip(events).map(|(offset, (order, version))| event(offset, order, version)).collect();
    topic.extend([poison(6, Some("p")), poison(7, None)]);
    let mut sink: Vec<Applied> = (1..=3).map(|version| applied(ORDER, version)).collect();
    sink.push(applied(STUCK, 1));
    let mut letters = Vec::new();
    if guarantee == Guarantee::AtMostOnce {
        sink.push(applied(STUCK, 3));
    } else {
        letters.extend([letter(&topic[4], "Rejected"), letter(&topic[5], "Follows")]);
    }
    letters.extend([letter(&topic[6], "MissingType"), letter(&topic[7], "MissingKey")]);
    let refused = HashMap::from([(STUCK, 2)]);
    History { guarantee, topic, applied: sink, letters, refused, bound: Bound::default() }
}

/// The rules that are broken.
pub(super) fn broken(history: &History) -> Vec<Rule> {
    check(history).violations.iter().map(|violation| violation.rule).collect()
}
