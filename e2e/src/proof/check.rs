//! The checker: every rule over one run's [`History`]. Pure, so that each rule can be shown to find what it is for.
//!
//! The numbers are those of the design; C4 and C5, and C9 as to sinks, speak of consumers, in [`super::deliveries`]. Some rules have no number: a call that is
//! answered 500 met something the service does not know, a deadlock says that locks are not taken in one order, a process
//! that ends unasked has a bug that its restart hides, and a service that does not recover is no proof of anything.

pub mod calls;
pub mod answers;
pub mod reads;
pub mod refusals;
pub mod remains;
pub mod keys;
pub mod events;
pub mod balance;
pub mod repetitions;
#[cfg(test)]
mod fixture;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use order_events::OrderEvent;
use serde::de::IntoDeserializer;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::history::{Event, History, Record};

/// A rule that was broken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Rule {
    /// What a client was told has happened is in the database.
    #[serde(rename = "C1")]
    Kept,
    /// At most one order per idempotency key, and nothing that no call asked for.
    #[serde(rename = "C2")]
    Asked,
    /// The audited events are those of the orders, and the distinct records of the topic.
    #[serde(rename = "C3")]
    Published,
    /// Every event of the topic is at the sink or in the dead-letter topic, or was lost within the guarantee's bound.
    #[serde(rename = "C4")]
    Delivered,
    /// The first applications of each order's events rise, and none passes one that is dead-lettered.
    #[serde(rename = "C5")]
    InOrder,
    /// Repetitions in the topic, and at the sink, are within what faults may have cost.
    #[serde(rename = "C9")]
    Counted,
    /// The first occurrences of each order's events in the topic are 1..n, on the partition of its key.
    #[serde(rename = "C6")]
    Ordered,
    /// A record is the audited event, byte for byte.
    #[serde(rename = "C7")]
    Unaltered,
    /// Stock, coupons and amounts balance.
    #[serde(rename = "C8")]
    Balanced,
    /// No call is answered 500.
    #[serde(rename = "no 500")]
    Understood,
    /// No call is refused without a reason.
    #[serde(rename = "no unfounded refusal")]
    Founded,
    /// No transaction waits for another in a circle.
    #[serde(rename = "no deadlock")]
    Untangled,
    /// No process ends that was neither told to nor met its fail point.
    #[serde(rename = "no unasked end")]
    Standing,
    /// Once healed, orders are taken and the outbox empties within the deadline, and a stop signal ends each replica.
    #[serde(rename = "recovery")]
    Recovered,
}

impl FromStr for Rule {
    type Err = serde::de::value::Error;

    /// By the name that it is shown with.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::deserialize(name.trim().into_deserializer())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kept => "C1",
            Self::Asked => "C2",
            Self::Published => "C3",
            Self::Delivered => "C4",
            Self::InOrder => "C5",
            Self::Counted => "C9",
            Self::Ordered => "C6",
            Self::Unaltered => "C7",
            Self::Balanced => "C8",
            Self::Understood => "no 500",
            Self::Founded => "no unfounded refusal",
            Self::Untangled => "no deadlock",
            Self::Standing => "no unasked end",
            Self::Recovered => "recovery",
        })
    }
}

/// One breach of a rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// What is wrong, with identifiers.
    pub what: String,
}

impl Violation {
    /// A breach of `rule`.
    #[must_use]
    pub fn of(rule: Rule, what: String) -> Self {
        Self { rule, what }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// The verdict over a history.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub struct Verdict {
    /// Every breach.
    pub violations: Vec<Violation>,
    /// Events recorded.
    pub events: usize,
    /// Records of the topic beyond the first of their event: at least once allows some of them.
    pub duplicates: usize,
}

/// Judges a history.
#[must_use]
pub fn check(history: &History) -> Verdict {
    let audit = Audit::of(&history.audit);
    let mut violations = Vec::new();
    violations.extend(calls::kept(history, &audit));
    violations.extend(calls::asked(history, &audit));
    violations.extend(calls::understood(history));
    violations.extend(answers::repeated(history));
    violations.extend(refusals::founded(history, &audit));
    violations.extend(answers::settled(history));
    violations.extend(answers::apt(history));
    violations.extend(answers::priced(history));
    violations.extend(reads::shown(history));
    violations.extend(reads::listed(history));
    violations.extend(events::published(history, &audit));
    violations.extend(events::identified(history, &audit));
    violations.extend(events::ordered(history));
    violations.extend(events::unaltered(history, &audit));
    violations.extend(balance::balanced(history));
    if history.deadlocks > 0 {
        let what = format!("PostgreSQL had to end {} transactions", history.deadlocks);
        violations.push(Violation::of(Rule::Untangled, what));
    }
    let duplicates = repetitions::beyond_the_first(history);
    violations.extend(repetitions::counted(history, duplicates));
    Verdict { violations, events: audit.events.len(), duplicates }
}

/// The audit by order and version, decoded.
#[derive(Debug)]
pub struct Audit<'a> {
    /// Each event; of one that was recorded twice, the last.
    pub events: BTreeMap<(Uuid, i64), (&'a Event, Option<OrderEvent>)>,
    /// Events that were recorded more than once.
    pub repeated: Vec<(Uuid, i64)>,
}

impl<'a> Audit<'a> {
    /// Sorts and decodes the audit.
    #[must_use]
    pub fn of(recorded: &'a [Event]) -> Self {
        let (mut events, mut repeated) = (BTreeMap::new(), Vec::new());
        for event in recorded {
            let decoded = serde_json::from_slice(&event.payload).ok();
            let identity = (event.order, event.version);
            if events.insert(identity, (event, decoded)).is_some() {
                repeated.push(identity);
            }
        }
        Self { events, repeated }
    }

    /// The order event of that version, if it was recorded and can be read.
    #[must_use]
    pub fn event(&self, order: Uuid, version: i64) -> Option<&OrderEvent> {
        self.events.get(&(order, version))?.1.as_ref()
    }

    /// Every readable event of the order.
    pub fn of_order(&self, order: Uuid) -> impl Iterator<Item = &OrderEvent> {
        self.events
            .range((order, i64::MIN)..=(order, i64::MAX))
            .filter_map(|(_, (_, decoded))| decoded.as_ref())
    }
}

/// The event in the record, as every reader of the topic decodes it.
#[must_use]
pub fn decoded(record: &Record) -> Option<OrderEvent> {
    let header =
        |name: &str| record.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_bytes());
    order_events::decode(Some(record.key.as_bytes()), header, Some(&record.payload)).ok()
}

/// Which event the record holds.
#[must_use]
pub fn identity(record: &Record) -> Option<(Uuid, i64)> {
    decoded(record).map(|event| (event.order_id.0, event.version))
}

#[cfg(test)]
mod tests {
    use super::fixture::{broken, sound};
    use super::*;

    #[test]
    fn a_sound_history_is_found_sound() {
        let verdict = check(&sound());
        assert_eq!(verdict, Verdict { violations: Vec::new(), events: 3, duplicates: 0 });
    }

    #[test]
    fn a_duplicate_in_the_topic_is_counted_and_allowed() {
        let mut history = sound();
        let mut again = history.topic[0].clone();
        again.offset = 99;
        history.topic.push(again);
        let verdict = check(&history);
        assert_eq!((verdict.violations.len(), verdict.duplicates), (0, 1));
    }

    #[test]
    fn a_deadlock_is_found() {
        let history = History { deadlocks: 1, ..sound() };
        assert_eq!(broken(&history), [Rule::Untangled]);
    }
}
