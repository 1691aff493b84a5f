//! The checker: compares what was accepted, what the database holds, what the topic holds and what each sink got.
//! Pure, so that it can itself be shown to find each fault.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};

use uuid::Uuid;

/// One sight of an event at a hop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The order.
    pub order: Uuid,
    /// Its version; 1 is the first.
    pub version: i64,
    /// The partition it was seen on; 0 where there are none.
    pub partition: i32,
    /// Hash of the payload's bytes.
    pub digest: u64,
}

impl Seen {
    /// A sight of the event with this payload.
    #[must_use]
    pub fn new(order: Uuid, version: i64, partition: i32, payload: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        payload.hash(&mut hasher);
        Self { order, version, partition, digest: hasher.finish() }
    }
}

/// All that is known of one run.
#[derive(Clone, Default, Debug)]
pub struct Evidence {
    /// Orders that a client got a 201 for.
    pub accepted: HashSet<Uuid>,
    /// Orders in the database with their version.
    pub orders: HashMap<Uuid, i64>,
    /// Records of the topic, by partition and offset.
    pub topic: Vec<Seen>,
    /// What each sink got, in the order it got it.
    pub sinks: BTreeMap<String, Vec<Seen>>,
}

/// What one hop did to the events.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Hop {
    /// Distinct events seen.
    pub distinct: usize,
    /// Events of the database that were not seen.
    pub lost: usize,
    /// Events seen that the database does not have.
    pub ghosts: usize,
    /// Sights beyond the first of an event.
    pub duplicated: usize,
    /// Events first seen after a later version of their order, or on another partition than it.
    pub out_of_order: usize,
    /// Events whose bytes differ from the topic's.
    pub altered: usize,
}

impl Hop {
    /// Nothing lost, invented, reordered or altered. Duplicates are judged by the caller: some guarantees allow them.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.lost == 0 && self.ghosts == 0 && self.out_of_order == 0 && self.altered == 0
    }
}

/// The verdict over a run.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Findings {
    /// Accepted orders that the database does not have.
    pub unrecorded: usize,
    /// Events the database says there are.
    pub expected: usize,
    /// The topic.
    pub topic: Hop,
    /// Each sink.
    pub sinks: BTreeMap<String, Hop>,
}

impl Findings {
    /// Nothing lost, invented, reordered or altered anywhere.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.unrecorded == 0 && self.topic.is_sound() && self.sinks.values().all(Hop::is_sound)
    }

    /// Duplicates at all hops together.
    #[must_use]
    pub fn duplicated(&self) -> usize {
        self.topic.duplicated + self.sinks.values().map(|hop| hop.duplicated).sum::<usize>()
    }
}

/// Judges a run.
#[must_use]
pub fn check(evidence: &Evidence) -> Findings {
    let expected: HashSet<(Uuid, i64)> =
        evidence.orders.iter().flat_map(|(order, version)| (1..=*version).map(|v| (*order, v))).collect();
    let bytes: HashMap<(Uuid, i64), u64> =
        evidence.topic.iter().map(|seen| ((seen.order, seen.version), seen.digest)).collect();
    Findings {
        unrecorded: evidence.accepted.iter().filter(|order| !evidence.orders.contains_key(*order)).count(),
        expected: expected.len(),
        topic: check_hop(&expected, &bytes, &evidence.topic),
        sinks: evidence
            .sinks
            .iter()
            .map(|(name, seen)| (name.clone(), check_hop(&expected, &bytes, seen)))
            .collect(),
    }
}

fn check_hop(expected: &HashSet<(Uuid, i64)>, bytes: &HashMap<(Uuid, i64), u64>, sights: &[Seen]) -> Hop {
    let mut hop = Hop::default();
    let mut first = HashSet::new();
    let mut last: HashMap<Uuid, (i64, i32)> = HashMap::new();
    for seen in sights {
        let event = (seen.order, seen.version);
        if bytes.get(&event).is_some_and(|digest| *digest != seen.digest) {
            hop.altered += 1;
        }
        if !first.insert(event) {
            hop.duplicated += 1;
            continue;
        }
        if !expected.contains(&event) {
            hop.ghosts += 1;
        }
        let (version, partition) = last.get(&seen.order).copied().unwrap_or((0, seen.partition));
        if seen.version < version || seen.partition != partition {
            hop.out_of_order += 1;
        }
        last.insert(seen.order, (version.max(seen.version), partition));
    }
    hop.distinct = first.len();
    hop.lost = expected.difference(&first).count();
    hop
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn seen(number: u128, version: i64) -> Seen {
        Seen::new(order(number), version, 0, format!("{number}/{version}").as_bytes())
    }

    /// Two orders, three events, all as they should be.
    fn sound() -> Evidence {
        let events = vec![seen(1, 1), seen(2, 1), seen(1, 2)];
        Evidence {
            accepted: HashSet::from([order(1), order(2)]),
            orders: HashMap::from([(order(1), 2), (order(2), 1)]),
            topic: events.clone(),
            sinks: BTreeMap::from([("sink".to_owned(), events)]),
        }
    }

    fn sink(evidence: &mut Evidence) -> &mut Vec<Seen> {
        evidence.sinks.get_mut("sink").unwrap()
    }

    #[test]
    fn a_sound_run_is_found_sound() {
        let findings = check(&sound());
        assert!(findings.is_sound(), "{findings:?}");
        assert_eq!((findings.expected, findings.duplicated()), (3, 0));
    }

    #[test]
    fn an_accepted_order_that_is_not_in_the_database_is_found() {
        let mut evidence = sound();
        evidence.accepted.insert(order(3));
        assert_eq!(check(&evidence).unrecorded, 1);
    }

    #[test]
    fn a_lost_event_is_found_at_the_hop_that_lost_it() {
        let mut evidence = sound();
        sink(&mut evidence).remove(1);
        let findings = check(&evidence);
        assert_eq!((findings.topic.lost, findings.sinks["sink"].lost), (0, 1));
        assert!(!findings.is_sound());
    }

    #[test]
    fn an_event_without_an_order_is_found() {
        let mut evidence = sound();
        evidence.topic.push(seen(9, 1));
        assert_eq!(check(&evidence).topic.ghosts, 1);
    }

    #[test]
    fn a_duplicate_is_counted_and_is_not_disorder() {
        let mut evidence = sound();
        sink(&mut evidence).push(seen(1, 1));
        let hop = &check(&evidence).sinks["sink"];
        assert_eq!((hop.duplicated, hop.out_of_order), (1, 0));
        assert!(hop.is_sound());
    }

    #[test]
    fn a_later_version_before_an_earlier_one_is_found() {
        let mut evidence = sound();
        sink(&mut evidence).swap(0, 2);
        assert_eq!(check(&evidence).sinks["sink"].out_of_order, 1);
    }

    #[test]
    fn an_order_on_two_partitions_is_found() {
        let mut evidence = sound();
        evidence.topic[2].partition = 1;
        assert_eq!(check(&evidence).topic.out_of_order, 1);
    }

    #[test]
    fn altered_bytes_are_found() {
        let mut evidence = sound();
        sink(&mut evidence)[0].digest ^= 1;
        assert_eq!(check(&evidence).sinks["sink"].altered, 1);
    }
}
