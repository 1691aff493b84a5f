//! The rules of deliveries over what one run left. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;
use uuid::Uuid;

use super::plan::Guarantee;
use super::sink::Applied;
use crate::proof::check::{Rule, Violation};

/// An order's version.
pub type Event = (Uuid, i64);

/// What a run left.
#[derive(Clone, Debug)]
pub struct History {
    /// What was promised.
    pub guarantee: Guarantee,
    /// Payloads of the topic's events.
    pub topic: HashMap<Event, Vec<u8>>,
    /// Records of the topic that are no events, by key.
    pub poison: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What the sink applied, in order.
    pub applied: Vec<Applied>,
    /// Events in the dead-letter topic.
    pub letters: HashMap<Event, Vec<u8>>,
    /// Letters that are no events, by key.
    pub poison_letters: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The version of an order that the sink refuses.
    pub refused: HashMap<Uuid, i64>,
    /// Most events that may be lost, or be repeated.
    pub bound: Bound,
}

/// What the faults that happened may have cost at most.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize)]
pub struct Bound {
    /// Events lost, at most once.
    pub lost: usize,
    /// Events repeated, at least once.
    pub repeated: usize,
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
}

/// Judges a history.
#[must_use]
pub fn check(history: &History) -> Verdict {
    let applied: HashSet<Event> = history.applied.iter().map(|applied| applied.event).collect();
    let lost = lost(history, &applied);
    let repeated = history.applied.len() - applied.len();
    let mut violations = delivered(history, &lost);
    violations.extend(in_order(history));
    violations.extend(unaltered(history));
    violations.extend(counted(history, repeated));
    Verdict { violations, lost: lost.len(), repeated }
}

fn lost(history: &History, applied: &HashSet<Event>) -> Vec<Event> {
    let missing =
        history.topic.keys().filter(|event| !applied.contains(event) && !history.letters.contains_key(event));
    // At most once gives up what is refused.
    let given_up = |event: &Event| {
        history.guarantee == Guarantee::AtMostOnce && history.refused.get(&event.0) == Some(&event.1)
    };
    missing.filter(|event| !given_up(event)).copied().collect()
}

/// C4: nothing is lost, or no more than the faults may have cost; and nothing is dead-lettered without a reason.
fn delivered(history: &History, lost: &[Event]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut broken = |what: String| violations.push(Violation::of(Rule::Delivered, what));
    if history.guarantee == Guarantee::AtMostOnce {
        let poison = history.poison.keys().filter(|key| !history.poison_letters.contains_key(*key)).count();
        if lost.len() + poison > history.bound.lost {
            broken(format!(
                "{} events and {poison} letters lost, {} at most",
                lost.len(),
                history.bound.lost
            ));
        }
    } else {
        lost.iter().for_each(|(order, version)| broken(format!("order {order} version {version} is lost")));
        for (key, value) in &history.poison {
            if history.poison_letters.get(key) != Some(value) {
                broken(format!(
                    "{:?} is not in the dead-letter topic as it was",
                    String::from_utf8_lossy(key)
                ));
            }
        }
    }
    for (order, version) in history.letters.keys() {
        let from = history.refused.get(order).copied();
        // What comes again of an order that is stuck by now follows it, as far as anybody still knows.
        let is_repetition = history.guarantee == Guarantee::AtLeastOnce
            && from.is_some()
            && history.applied.iter().any(|applied| applied.event == (*order, *version));
        if is_repetition {
            continue;
        }
        if from.is_none_or(|from| *version < from) || history.guarantee == Guarantee::AtMostOnce {
            broken(format!("order {order} version {version} is a dead letter without a reason"));
        }
    }
    violations
}

/// C5: the first applications of an order's events rise, and none passes one that is dead-lettered.
fn in_order(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    let (mut last, mut seen) = (HashMap::<Uuid, i64>::new(), HashSet::new());
    for Applied { event: (order, version), .. } in &history.applied {
        if !seen.insert((*order, *version)) {
            continue;
        }
        let before = last.entry(*order).or_insert(0);
        if *before > *version {
            let what = format!("order {order}: version {version} after {before}");
            violations.push(Violation::of(Rule::InOrder, what));
        }
        *before = (*before).max(*version);
        let refused = history.refused.get(order).filter(|_| history.guarantee != Guarantee::AtMostOnce);
        if refused.is_some_and(|refused| version > refused) {
            let what = format!("order {order}: version {version} passed a dead letter");
            violations.push(Violation::of(Rule::InOrder, what));
        }
    }
    violations
}

/// C7: every hop has the topic's bytes, and nothing that the topic has not.
fn unaltered(history: &History) -> Vec<Violation> {
    let applied = history.applied.iter().map(|applied| (&applied.event, &applied.payload));
    let altered =
        applied.chain(&history.letters).filter(|(event, payload)| history.topic.get(event) != Some(payload));
    let what =
        altered.map(|((order, version), _)| format!("order {order} version {version} is not the topic's"));
    what.map(|what| Violation::of(Rule::Unaltered, what)).collect()
}

/// C9: repetitions are within the guarantee's bound.
fn counted(history: &History, repeated: usize) -> Vec<Violation> {
    let most = match history.guarantee {
        Guarantee::AtLeastOnce => history.bound.repeated,
        Guarantee::AtMostOnce | Guarantee::ExactlyOnce => 0,
    };
    if repeated <= most {
        return Vec::new();
    }
    vec![Violation::of(Rule::Counted, format!("{repeated} events were applied again, {most} at most"))]
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: Uuid = Uuid::from_u128(1);
    const STUCK: Uuid = Uuid::from_u128(2);

    fn applied(order: Uuid, version: i64) -> Applied {
        Applied { event: (order, version), payload: vec![u8::try_from(version).unwrap()], at_millis: 0 }
    }

    /// One order delivered, one whose second version is refused.
    fn sound(guarantee: Guarantee) -> History {
        let events =
            |order| (1..=3).map(move |version: i64| ((order, version), applied(order, version).payload));
        let letters = events(STUCK).filter(|((_, version), _)| *version >= 2);
        let is_sticky = guarantee != Guarantee::AtMostOnce;
        let mut sink: Vec<Applied> = (1..=3).map(|version| applied(ORDER, version)).collect();
        sink.push(applied(STUCK, 1));
        if !is_sticky {
            sink.push(applied(STUCK, 3));
        }
        History {
            guarantee,
            topic: events(ORDER).chain(events(STUCK)).collect(),
            poison: BTreeMap::from([(b"p".to_vec(), b"hello-1".to_vec())]),
            applied: sink,
            letters: letters.filter(|_| is_sticky).collect(),
            poison_letters: BTreeMap::from([(b"p".to_vec(), b"hello-1".to_vec())]),
            refused: HashMap::from([(STUCK, 2)]),
            bound: Bound::default(),
        }
    }

    fn broken(history: &History) -> Vec<Rule> {
        check(history).violations.iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn sound_runs_are_found_sound() {
        for guarantee in [Guarantee::AtMostOnce, Guarantee::AtLeastOnce, Guarantee::ExactlyOnce] {
            assert_eq!(broken(&sound(guarantee)), [], "{guarantee:?}");
        }
    }

    #[test]
    fn a_lost_event_is_found_unless_the_faults_may_have_cost_it() {
        for guarantee in [Guarantee::AtLeastOnce, Guarantee::ExactlyOnce, Guarantee::AtMostOnce] {
            let mut history = sound(guarantee);
            history.applied.remove(2);
            assert_eq!(broken(&history), [Rule::Delivered], "{guarantee:?}");
        }
        let mut history = sound(Guarantee::AtMostOnce);
        history.applied.remove(2);
        history.bound.lost = 1;
        assert_eq!(broken(&history), []);
    }

    #[test]
    fn a_repetition_is_found_unless_the_faults_may_have_cost_it() {
        for guarantee in [Guarantee::AtLeastOnce, Guarantee::ExactlyOnce, Guarantee::AtMostOnce] {
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
    fn a_letter_without_a_reason_and_poison_without_a_letter_are_found() {
        let mut history = sound(Guarantee::AtLeastOnce);
        history.letters.insert((ORDER, 3), vec![3]);
        assert_eq!(broken(&history), [Rule::Delivered]);
        let mut history = sound(Guarantee::ExactlyOnce);
        history.letters.insert((STUCK, 1), vec![1]);
        assert_eq!(broken(&history), [Rule::Delivered], "nothing comes again");
        let mut history = sound(Guarantee::AtLeastOnce);
        history.letters.insert((STUCK, 1), vec![1]);
        assert_eq!(broken(&history), [], "what comes again follows");
        let mut history = sound(Guarantee::AtLeastOnce);
        history.poison_letters.clear();
        assert_eq!(broken(&history), [Rule::Delivered]);
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
