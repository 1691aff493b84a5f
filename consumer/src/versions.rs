//! Which version of each order was delivered last: finds repetitions, and events that are missing. Pure.
//!
//! The relay may publish an event twice, late (a leader that was frozen), and whoever takes a partition over reads again what was not
//! committed. An order whose past is not known here passes: nothing is dropped on a guess. Nor is a version that was found missing
//! and comes after all, nor one that went to the dead-letter topic and is published again.

use std::collections::HashMap;

use order_events::OrderId;

/// Orders remembered, of one partition: a few minutes of a busy partition, in about 4 MiB.
const MOST: usize = 50_000;

/// The last version of each of the orders that were delivered lately.
#[derive(Debug, Default)]
pub struct Versions {
    /// Seen since the last turn of generations, and in the one before.
    young: HashMap<OrderId, Known>,
    old: HashMap<OrderId, Known>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    last: i64,
    /// Versions before it, from this one to that one, that were not seen: of several gaps the last.
    missing: Option<(i64, i64)>,
}

/// What a version means after those before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// It is the next one, or nothing is known of its order, or it was missing until now.
    Next,
    /// It was delivered before.
    Repeated,
    /// Versions before it have not been seen, from this one on.
    Missing {
        /// The first of them.
        from: i64,
    },
}

impl Versions {
    /// What `version` of `order` means.
    #[must_use]
    pub fn look(&self, order: OrderId, version: i64) -> Seen {
        match self.known(order) {
            Some(Known { missing: Some((from, until)), .. }) if (from..until).contains(&version) => {
                Seen::Next
            }
            Some(Known { last, .. }) if version <= last => Seen::Repeated,
            Some(Known { last, .. }) if version > after(last) => Seen::Missing { from: after(last) },
            Some(_) | None => Seen::Next,
        }
    }

    /// `version` of `order` is delivered. What was delivered before is no news.
    pub fn record(&mut self, order: OrderId, version: i64) {
        if self.look(order, version) == Seen::Repeated {
            return;
        }
        if self.young.len() >= MOST / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        let known = match self.known(order) {
            None => Known { last: version, missing: None },
            Some(Known { last, missing: Some((from, until)) }) if (from..until).contains(&version) => {
                // Those before it in the gap are given up: coming now, they would be out of order twice.
                Known { last, missing: Some((version + 1, until)).filter(|(from, until)| from < until) }
            }
            Some(Known { last, .. }) if version > after(last) => {
                Known { last: version, missing: Some((after(last), version)) }
            }
            Some(known) => Known { last: version, ..known },
        };
        self.young.insert(order, known);
    }

    /// A version of `order` went to the dead-letter topic: what comes of it there is not seen here.
    pub fn forget(&mut self, order: OrderId) {
        self.young.remove(&order);
        self.old.remove(&order);
    }

    fn known(&self, order: OrderId) -> Option<Known> {
        self.young.get(&order).or_else(|| self.old.get(&order)).copied()
    }
}

/// The version that comes next. Nothing does after the highest there is, which any producer can write.
const fn after(last: i64) -> i64 {
    last.saturating_add(1)
}

#[cfg(test)]
mod tests {
    use sqlx::types::Uuid;

    use super::*;

    fn order(number: u128) -> OrderId {
        OrderId(Uuid::from_u128(number))
    }

    #[test]
    fn repetitions_and_gaps_are_told_from_the_next_version() {
        let (mut versions, order) = (Versions::default(), order(1));
        assert_eq!(versions.look(order, 7), Seen::Next, "nothing is known of it");
        versions.record(order, 7);
        assert_eq!(versions.look(order, 7), Seen::Repeated);
        assert_eq!(versions.look(order, 6), Seen::Repeated);
        assert_eq!(versions.look(order, 8), Seen::Next);
        assert_eq!(versions.look(order, 10), Seen::Missing { from: 8 });
        versions.record(order, 6);
        assert_eq!(versions.look(order, 7), Seen::Repeated, "what is known does not go back");
    }

    #[test]
    fn a_missing_version_that_comes_late_is_delivered_once() {
        let (mut versions, order) = (Versions::default(), order(1));
        versions.record(order, 1);
        versions.record(order, 4);
        assert_eq!(versions.look(order, 3), Seen::Next);
        versions.record(order, 3);
        assert_eq!(versions.look(order, 3), Seen::Repeated);
        assert_eq!(versions.look(order, 5), Seen::Next, "the last one is still the last");
    }

    #[test]
    fn the_highest_version_there_is_can_come_and_be_repeated() {
        let (mut versions, order) = (Versions::default(), order(1));
        for _ in 0..2 {
            versions.record(order, i64::MAX);
            assert_eq!(versions.look(order, i64::MAX), Seen::Repeated);
        }
        assert_eq!(versions.look(order, 1), Seen::Repeated);
    }

    #[test]
    fn versions_below_the_highest_there_is_can_be_missing_and_come_late() {
        let (mut versions, order) = (Versions::default(), order(1));
        versions.record(order, 1);
        assert_eq!(versions.look(order, i64::MAX), Seen::Missing { from: 2 });
        versions.record(order, i64::MAX);
        assert_eq!(versions.look(order, i64::MAX - 1), Seen::Next);
        versions.record(order, i64::MAX - 1);
        assert_eq!(versions.look(order, i64::MAX - 1), Seen::Repeated);
    }

    #[test]
    fn nothing_is_known_of_an_order_with_a_dead_letter() {
        let (mut versions, order) = (Versions::default(), order(1));
        versions.record(order, 1);
        versions.forget(order);
        assert_eq!(versions.look(order, 2), Seen::Next, "it may have been corrected and published again");
        assert_eq!(versions.look(order, 4), Seen::Next, "those before it may have been replayed");
    }

    #[test]
    fn memory_is_bounded_and_recent_orders_stay() {
        let mut versions = Versions::default();
        for number in 0..200_000_u128 {
            versions.record(order(number), 1);
        }
        assert!(versions.young.len() + versions.old.len() <= MOST);
        assert_eq!(versions.look(order(190_000), 1), Seen::Repeated);
        assert_eq!(versions.look(order(0), 1), Seen::Next, "it is forgotten");
    }
}
