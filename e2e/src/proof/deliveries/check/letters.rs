//! The rules of dead letters: which records are among them and why, as they were, in which order, and how often.

use std::collections::{HashMap, HashSet};

use super::{History, Topic};
use crate::proof::check::{Rule, Violation};
use crate::proof::deliveries::plan::Guarantee;
use crate::proof::deliveries::record::{Event, Place, Record};

/// Why an event is a letter: the sink refused it, …
const REJECTED: &str = "Rejected";
/// … or an earlier record of its key is one.
const FOLLOWS: &str = "Follows";

/// Letters beyond the first of their record.
pub(super) fn again(History { letters, .. }: &History) -> usize {
    letters.len() - letters.iter().map(Record::origin).collect::<HashSet<Option<Place>>>().len()
}

/// C4: nothing is a letter without a reason, and each says its own.
pub(super) fn founded(history: &History, topic: &Topic<'_>, applied: &HashSet<Event>) -> Vec<Violation> {
    let pairs = history.letters.iter().filter_map(|letter| Some((letter, topic.origin_of(letter)?)));
    let unfounded = pairs.filter(|pair| !is_founded(history, topic, applied, *pair));
    let what = unfounded.map(|(letter, Record { place, event, .. })| {
        format!(
            "the record at {place:?} ({event:?}) is a dead letter for no reason, or not for {:?}",
            letter.reason()
        )
    });
    what.map(|what| Violation::of(Rule::Delivered, what)).collect()
}

fn is_founded(
    History { guarantee, refused, .. }: &History,
    topic: &Topic<'_>,
    applied: &HashSet<Event>,
    (letter, record): (&Record, &Record),
) -> bool {
    let (order, version) = match record.event {
        Ok(event) => event,
        Err(why) => return letter.reason() == Some(why),
    };
    // It gives up what is refused.
    if *guarantee == Guarantee::AtMostOnce {
        return false;
    }
    match letter.reason() {
        Some(REJECTED) => refused.get(&order) == Some(&version),
        Some(FOLLOWS) => !topic.is_for_sink(record) || comes_again(*guarantee, topic, applied, record),
        _ => false,
    }
}

/// Whether it may be a repetition of something that the sink has: at least once, what comes again of an order that is stuck by
/// then follows it, as far as anybody still knows.
fn comes_again(
    guarantee: Guarantee,
    topic: &Topic<'_>,
    applied: &HashSet<Event>,
    Record { key, event, .. }: &Record,
) -> bool {
    let is_stuck = key.as_deref().is_some_and(|key| topic.held_up.contains_key(key));
    guarantee == Guarantee::AtLeastOnce && is_stuck && event.is_ok_and(|event| applied.contains(&event))
}

/// C5: the first letters of a key come as its records do, so that they can be delivered in their order afterwards. What comes again
/// from before the first of them comes late, and at most once nothing follows.
pub(super) fn in_order(history: &History, topic: &Topic<'_>) -> Vec<Violation> {
    let (mut last, mut seen, mut violations) = (HashMap::<&[u8], i64>::new(), HashSet::new(), Vec::new());
    for record in history.letters.iter().filter_map(|letter| topic.origin_of(letter)) {
        let (Some(key), (partition, offset)) = (record.key.as_deref(), record.place) else { continue };
        let is_first = !topic.is_for_sink(record) && seen.insert(record.place);
        if history.guarantee == Guarantee::AtMostOnce || !is_first {
            continue;
        }
        let before = last.entry(key).or_insert(offset);
        if offset < *before {
            let what =
                format!("the letter of {partition}:{offset} comes after that of {before}, which has its key");
            violations.push(Violation::of(Rule::InOrder, what));
        }
        *before = offset.max(*before);
    }
    violations
}

/// C7: letters that are no record of the topic as it was.
pub(super) fn altered(history: &History, topic: &Topic<'_>) -> Vec<String> {
    let is_as_it_was =
        |letter: &Record| topic.origin_of(letter).is_some_and(|record| letter.is_letter_of(record));
    let altered = history.letters.iter().filter(|letter| !is_as_it_was(letter));
    let what = altered.map(|Record { place: (_, offset), .. }| {
        format!("the letter at offset {offset} is no record of the topic as it was")
    });
    what.collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{ALL, ORDER, STUCK, applied, broken, event, letter, poison, sound};
    use super::*;

    const STICKY: [Guarantee; 2] = [Guarantee::AtLeastOnce, Guarantee::ExactlyOnce];

    /// One order whose first version came before a record that is none of its events and has its key, and whose second came after.
    fn poisoned(guarantee: Guarantee) -> History {
        let key = ORDER.to_string();
        let topic = vec![event(0, ORDER, 1), poison(1, Some(&key)), event(2, ORDER, 2)];
        let mut letters = vec![letter(&topic[1], "MissingType")];
        let mut sink = vec![applied(ORDER, 1)];
        if guarantee == Guarantee::AtMostOnce {
            sink.push(applied(ORDER, 2));
        } else {
            letters.push(letter(&topic[2], FOLLOWS));
        }
        History { topic, letters, applied: sink, ..sound(guarantee) }
    }

    #[test]
    fn what_comes_behind_poison_with_its_key_follows_it_but_at_most_once() {
        for guarantee in ALL {
            assert_eq!(broken(&poisoned(guarantee)), [], "{guarantee:?}");
        }
        for guarantee in STICKY {
            let mut history = poisoned(guarantee);
            history.applied.push(applied(ORDER, 2));
            assert_eq!(broken(&history), [Rule::InOrder], "{guarantee:?}");
            let mut history = poisoned(guarantee);
            history.letters.pop();
            assert_eq!(broken(&history), [Rule::Delivered], "{guarantee:?}");
        }
        let mut history = poisoned(Guarantee::AtMostOnce);
        history.letters.push(letter(&history.topic[2], FOLLOWS));
        assert_eq!(broken(&history), [Rule::Delivered]);
    }

    #[test]
    fn poison_without_a_letter_is_found_unless_the_faults_may_have_cost_it() {
        for guarantee in ALL {
            let mut history = sound(guarantee);
            history.letters.retain(|letter| letter.key.is_some());
            assert_eq!(broken(&history), [Rule::Delivered], "{guarantee:?}");
        }
        let mut history = sound(Guarantee::AtMostOnce);
        history.letters.clear();
        history.bound.lost = 2;
        assert_eq!(broken(&history), []);
    }

    #[test]
    fn a_letter_without_a_reason_is_found_and_so_is_a_wrong_reason() {
        let with = |guarantee, origin: usize, reason| {
            let mut history = sound(guarantee);
            history.letters.push(letter(&history.topic[origin], reason));
            history.bound.letters = 1;
            broken(&history)
        };
        assert_eq!(with(Guarantee::AtLeastOnce, 2, FOLLOWS), [Rule::Delivered]);
        assert_eq!(with(Guarantee::ExactlyOnce, 3, FOLLOWS), [Rule::Delivered], "nothing comes again");
        assert_eq!(with(Guarantee::AtLeastOnce, 3, FOLLOWS), [], "what comes again follows");
        assert_eq!(with(Guarantee::AtLeastOnce, 5, REJECTED), [Rule::Delivered], "it was not asked about");
        assert_eq!(with(Guarantee::ExactlyOnce, 4, FOLLOWS), [], "who takes over finds it stuck");
        assert_eq!(with(Guarantee::ExactlyOnce, 6, FOLLOWS), [Rule::Delivered], "poison says what it is");
    }

    #[test]
    fn letters_of_a_key_out_of_their_order_are_found() {
        for guarantee in STICKY {
            let mut history = sound(guarantee);
            history.letters.swap(0, 1);
            assert_eq!(broken(&history), [Rule::InOrder], "{guarantee:?}");
        }
    }

    #[test]
    fn a_letter_that_comes_again_is_counted_under_each_guarantee_and_may_come_late() {
        for guarantee in ALL {
            let mut history = sound(guarantee);
            history.letters.push(history.letters[0].clone());
            assert_eq!(broken(&history), [Rule::Counted], "{guarantee:?}");
            history.bound.letters = 1;
            assert_eq!(broken(&history), [], "{guarantee:?}");
        }
    }

    #[test]
    fn altered_letters_and_letters_of_nothing_are_found() {
        let altered = |change: fn(&mut Record)| {
            let mut history = sound(Guarantee::ExactlyOnce);
            change(&mut history.letters[0]);
            broken(&history)
        };
        assert_eq!(altered(|letter| letter.value = None), [Rule::Unaltered]);
        assert_eq!(altered(|letter| letter.key = None), [Rule::Unaltered]);
        assert_eq!(altered(|letter| drop(letter.headers.remove(0))), [Rule::Unaltered]);
        let mut history = sound(Guarantee::ExactlyOnce);
        history.letters.push(letter(&event(99, STUCK, 9), FOLLOWS));
        assert_eq!(broken(&history), [Rule::Unaltered]);
    }
}
