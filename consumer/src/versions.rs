//! Which version of each order was delivered last: finds repetitions, and events that are missing. Pure.
//!
//! The relay may publish an event twice, late (a leader that was frozen), and whoever takes a partition over reads again what was not
//! committed. An order whose past is not known here passes: nothing is dropped on a guess.

use std::collections::HashMap;

use order_events::OrderId;

/// Orders remembered, of one partition: a few minutes of a busy partition, in about 3 MiB.
const MOST: usize = 50_000;

/// The last version of each of the orders that were delivered lately.
#[derive(Debug, Default)]
pub struct Versions {
    /// Seen since the last turn of generations, and in the one before.
    young: HashMap<OrderId, i64>,
    old: HashMap<OrderId, i64>,
}

/// What a version means after those before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// It is the next one, or nothing is known of its order.
    Next,
    /// It, or a later one, was delivered before.
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
        match self.young.get(&order).or_else(|| self.old.get(&order)) {
            Some(last) if version <= *last => Seen::Repeated,
            Some(last) if version > last + 1 => Seen::Missing { from: last + 1 },
            Some(_) | None => Seen::Next,
        }
    }

    /// `version` of `order` is dealt with.
    pub fn record(&mut self, order: OrderId, version: i64) {
        if self.young.len() >= MOST / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        let known = self.old.get(&order).copied().unwrap_or(version).max(version);
        let last = self.young.entry(order).or_insert(known);
        *last = known.max(*last);
    }
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
