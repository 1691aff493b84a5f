//! The rules of deliveries over what one run left. Pure.

mod letters;
#[cfg(test)]
mod fixture;

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::plan::Guarantee;
use super::record::{Event, Place, Record};
use super::sink::Applied;
use crate::proof::check::{Rule, Violation};

/// What a run left.
#[derive(Clone, Debug)]
pub struct History {
    /// What was promised.
    pub guarantee: Guarantee,
    /// The topic, by partition and offset.
    pub topic: Vec<Record>,
    /// What the sink applied, in order.
    pub applied: Vec<Applied>,
    /// The dead-letter topic, in order.
    pub letters: Vec<Record>,
    /// The version of an order that the sink refuses.
    pub refused: HashMap<Uuid, i64>,
    /// Most events that may be lost, or be repeated.
    pub bound: Bound,
}

impl History {
    /// How many events the topic has, of each the first.
    #[must_use]
    pub fn events(&self) -> usize {
        self.topic.iter().filter_map(|record| record.event.ok()).collect::<HashSet<Event>>().len()
    }
}

/// What the faults that happened may have cost at most.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bound {
    /// Events lost, at most once.
    pub lost: usize,
    /// Events repeated, at least once.
    pub repeated: usize,
    /// Letters repeated: one is written before its record counts as done, so under each guarantee it may come again.
    pub letters: usize,
}

/// What it came to.
#[derive(Clone, Default, Debug)]
pub struct Verdict {
    /// Every breach.
    pub violations: Vec<Violation>,
    /// Events that are neither at the sink nor among the letters.
    pub lost: usize,
    /// Applications beyond the first.
    pub repeated: usize,
    /// Letters beyond the first of their record.
    pub letters_again: usize,
}

/// The topic, as the rules look at it.
struct Topic<'a> {
    at: HashMap<Place, &'a Record>,
    /// The first record of each event.
    firsts: BTreeMap<Event, &'a Record>,
    /// Of a key the offset of its first record that is for the dead-letter topic: what has the key, and comes later, follows. At most
    /// once nothing follows.
    held_up: HashMap<&'a [u8], i64>,
}

impl<'a> Topic<'a> {
    fn of(History { guarantee, topic, refused, .. }: &'a History) -> Self {
        let (mut at, mut firsts, mut held_up) = (HashMap::new(), BTreeMap::new(), HashMap::new());
        for record in topic {
            at.insert(record.place, record);
            let is_dead = match record.event {
                Ok(event @ (order, version)) => {
                    firsts.entry(event).or_insert(record);
                    refused.get(&order) == Some(&version)
                }
                Err(_) => true,
            };
            if let Some(key) =
                record.key.as_deref().filter(|_| is_dead && *guarantee != Guarantee::AtMostOnce)
            {
                held_up.entry(key).or_insert(record.place.1);
            }
        }
        Self { at, firsts, held_up }
    }

    /// Whether it is an event before which nothing of its key is for the dead-letter topic, itself included.
    fn is_for_sink(&self, record: &Record) -> bool {
        let from = record.key.as_deref().and_then(|key| self.held_up.get(key));
        record.event.is_ok() && from.is_none_or(|from| record.place.1 < *from)
    }

    /// The record that the letter was.
    fn origin_of(&self, letter: &Record) -> Option<&'a Record> {
        self.at.get(&letter.origin()?).copied()
    }
}

/// Judges a history.
#[must_use]
pub fn check(history: &History) -> Verdict {
    let topic = Topic::of(history);
    let applied: HashSet<Event> = history.applied.iter().map(|applied| applied.event).collect();
    let lost = lost(history, &topic, &applied);
    let repeated = history.applied.len() - applied.len();
    let letters_again = letters::again(history);
    let mut violations = delivered(history, &topic, &lost);
    violations.extend(in_order(history, &topic));
    violations.extend(unaltered(history, &topic));
    violations.extend(counted(history, repeated, letters_again));
    violations.extend(letters::founded(history, &topic, &applied));
    violations.extend(letters::in_order(history, &topic));
    Verdict { violations, lost: lost.len(), repeated, letters_again }
}

fn lost(history: &History, topic: &Topic<'_>, applied: &HashSet<Event>) -> Vec<Event> {
    let buried: HashSet<Event> =
        history.letters.iter().filter_map(|letter| topic.origin_of(letter)?.event.ok()).collect();
    // At most once gives up what is refused.
    let given_up = |event: &Event| {
        history.guarantee == Guarantee::AtMostOnce && history.refused.get(&event.0) == Some(&event.1)
    };
    let missing = topic.firsts.keys().filter(|event| !applied.contains(event) && !buried.contains(event));
    missing.filter(|event| !given_up(event)).copied().collect()
}

/// C4: nothing is lost, or no more than the faults may have cost.
fn delivered(history: &History, topic: &Topic<'_>, lost: &[Event]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut broken = |what: String| violations.push(Violation::of(Rule::Delivered, what));
    let buried: HashSet<Place> = history.letters.iter().filter_map(Record::origin).collect();
    let unburied: Vec<&Record> = history
        .topic
        .iter()
        .filter(|record| record.event.is_err() && !buried.contains(&record.place))
        .collect();
    if history.guarantee == Guarantee::AtMostOnce {
        if lost.len() + unburied.len() > history.bound.lost {
            let (lost, letters) = (lost.len(), unburied.len());
            broken(format!("{lost} events and {letters} letters lost, {} at most", history.bound.lost));
        }
        return violations;
    }
    for event in lost {
        let ((order, version), place) = (event, topic.firsts.get(event).map(|record| record.place));
        broken(format!("order {order} version {version}, at {place:?}, is lost"));
    }
    for Record { place, event, .. } in unburied {
        broken(format!("the record at {place:?} ({event:?}) has no letter"));
    }
    violations
}

/// C5: the first applications of an order's events rise, and none passes what is for the dead-letter topic.
fn in_order(history: &History, topic: &Topic<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut broken = |what: String| violations.push(Violation::of(Rule::InOrder, what));
    let (mut last, mut seen) = (HashMap::<Uuid, i64>::new(), HashSet::new());
    for Applied { event, .. } in &history.applied {
        let (order, version) = event;
        if !seen.insert(event) {
            continue;
        }
        let before = last.entry(*order).or_insert(0);
        if *before > *version {
            broken(format!("order {order}: version {version} after {before}"));
        }
        *before = (*before).max(*version);
        if topic.firsts.get(event).is_some_and(|record| !topic.is_for_sink(record)) {
            broken(format!("order {order}: version {version} passed a dead letter"));
        }
    }
    violations
}

/// C7: every hop has the topic's bytes, and nothing that the topic has not.
fn unaltered(history: &History, topic: &Topic<'_>) -> Vec<Violation> {
    let altered = history.applied.iter().filter(|applied| {
        let record = topic.firsts.get(&applied.event);
        record.and_then(|record| record.value.as_ref()) != Some(&applied.payload)
    });
    let what = altered.map(|Applied { event: (order, version), .. }| {
        format!("order {order} version {version} is not the topic's")
    });
    let letters = letters::altered(history, topic);
    what.chain(letters).map(|what| Violation::of(Rule::Unaltered, what)).collect()
}

/// C9: repetitions are within what the faults may have cost, which is none where the guarantee says so.
fn counted(History { bound, .. }: &History, repeated: usize, letters_again: usize) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (what, times, most) in [
        ("events were applied", repeated, bound.repeated),
        ("letters were written", letters_again, bound.letters),
    ] {
        if times > most {
            violations.push(Violation::of(Rule::Counted, format!("{times} {what} again, {most} at most")));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::fixture::{ALL, ORDER, STUCK, applied, broken, sound};
    use super::*;

    #[test]
    fn sound_runs_are_found_sound() {
        for guarantee in ALL {
            assert_eq!(broken(&sound(guarantee)), [], "{guarantee:?}");
        }
    }

    #[test]
    fn a_lost_event_is_found_unless_the_faults_may_have_cost_it() {
        for guarantee in ALL {
            let mut history = sound(guarantee);
            history.applied.remove(2);
            assert_eq!(broken(&history), [Rule::Delivered], "{guarantee:?}");
            assert_eq!(check(&history).lost, 1, "{guarantee:?}");
        }
        let mut history = sound(Guarantee::AtMostOnce);
        history.applied.remove(2);
        history.bound.lost = 1;
        assert_eq!(broken(&history), []);
    }

    #[test]
    fn a_repetition_is_found_unless_the_faults_may_have_cost_it() {
        for guarantee in ALL {
            let mut history = sound(guarantee);
            history.applied.push(applied(ORDER, 1));
            assert_eq!(broken(&history), [Rule::Counted], "{guarantee:?}");
        }
        let mut history = sound(Guarantee::AtLeastOnce);
        history.applied.push(applied(ORDER, 1));
        history.bound.repeated = 1;
        assert_eq!(broken(&history), []);
    }

    #[test]
    fn events_out_of_order_and_past_a_dead_letter_are_found() {
        let mut history = sound(Guarantee::AtLeastOnce);
        history.applied.swap(0, 1);
        assert_eq!(broken(&history), [Rule::InOrder]);
        let mut history = sound(Guarantee::ExactlyOnce);
        history.applied.push(applied(STUCK, 3));
        assert_eq!(broken(&history), [Rule::InOrder]);
    }

    #[test]
    fn altered_bytes_and_ghosts_are_found() {
        let mut history = sound(Guarantee::AtLeastOnce);
        history.applied[0].payload.push(0);
        assert_eq!(broken(&history), [Rule::Unaltered]);
        let mut history = sound(Guarantee::AtLeastOnce);
        history.applied.push(applied(Uuid::from_u128(9), 1));
        assert_eq!(broken(&history), [Rule::Unaltered]);
    }
}
