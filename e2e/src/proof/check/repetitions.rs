//! C9, as to the topic: no more repetitions than what befell the relays may have cost.

use std::collections::HashSet;

use uuid::Uuid;

use super::{Rule, Violation, identity};
use crate::proof::history::History;

/// What a relay's log says when it begins anew from the heads of its shards.
const BEGINS_ANEW: &str = "the relay failed";
/// What it says when it leads other shards than before.
const LEADS_OTHERS: &str = "shards led";

/// How often a relay may have lost what it had in hand, so that it, or who leads its shards next, sends it again: whenever a
/// process ends, a relay says that it begins anew or leads other shards, and once in each replica for every fault that
/// happened, which may have made the producer send anew by itself.
#[must_use]
pub fn disturbances<'a>(
    replicas: usize,
    happened: usize,
    ends: usize,
    logs: impl IntoIterator<Item = &'a str>,
) -> usize {
    let says = |line: &&str| line.contains(BEGINS_ANEW) || line.contains(LEADS_OTHERS);
    let told: usize = logs.into_iter().map(|log| log.lines().filter(says).count()).sum();
    replicas * happened + ends + told
}

/// Records of the topic beyond the first of their event.
#[must_use]
pub fn beyond_the_first(history: &History) -> usize {
    let all: Vec<(Uuid, i64)> = history.topic.iter().filter_map(identity).collect();
    all.len() - all.iter().collect::<HashSet<_>>().len()
}

/// C9: as many repetitions at most as a relay may have had events in hand, for each time that one may have lost them.
#[must_use]
pub fn counted(history: &History, duplicates: usize) -> Option<Violation> {
    let History { in_hand, disturbances, .. } = history;
    let allowed = in_hand.saturating_mul(*disturbances);
    (duplicates > allowed).then(|| {
        let what = format!(
            "{duplicates} records of the topic repeat another: relays have at most {in_hand} events in hand, and may have lost them {disturbances} times"
        );
        Violation::of(Rule::Counted, what)
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{broken, sound};
    use super::*;

    #[test]
    fn as_many_repetitions_as_were_in_hand_are_allowed_and_no_more() {
        let mut history = sound();
        (history.in_hand, history.disturbances) = (2, 1);
        for copy in 0..3 {
            assert!(broken(&history).is_empty(), "{copy} repetitions");
            let mut again = history.topic[copy].clone();
            again.offset = 90 + i64::try_from(copy).unwrap();
            history.topic.push(again);
        }
        assert_eq!(broken(&history), [Rule::Counted]);
        history.disturbances = 2;
        assert!(broken(&history).is_empty(), "it was in hand twice");
    }

    #[test]
    fn whatever_may_make_a_relay_send_again_is_counted() {
        let logs = ["INFO shards led owner=a\nWARN the relay failed; it goes on\nINFO ready", "INFO ready"];
        assert_eq!(disturbances(3, 2, 4, logs), 3 * 2 + 4 + 2);
        assert_eq!(disturbances(1, 0, 0, [""]), 0);
    }
}
