//! Records of the topic that are no events.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde::Serialize;

/// What is wrong with a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Flaw {
    /// It has no key.
    NoKey,
    /// It has no value: what a compacted topic takes for a deletion.
    NoValue,
    /// Nothing says what it is, and it is no JSON: typed by hand.
    NoType,
    /// An event, but of a type that nobody knows.
    UnknownType,
    /// It says that it is an event, and is other JSON.
    Schema,
}

/// A record that is no event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Poison {
    /// What is wrong with it.
    pub flaw: Flaw,
    /// It has the key of this order, and comes behind that version of it; otherwise it is nobody's.
    pub behind: Option<(usize, i64)>,
}

impl Flaw {
    /// Each.
    pub const ALL: [Self; 5] = [Self::NoKey, Self::NoValue, Self::NoType, Self::UnknownType, Self::Schema];
}

impl Poison {
    /// Any, of nobody or of one of `orders`, which are given by the number of their versions.
    pub(super) fn any(rng: &mut StdRng, orders: &[i64]) -> Self {
        let flaw = Flaw::ALL.choose(rng).copied().unwrap_or(Flaw::NoType);
        let is_of_order = rng.random_bool(0.5) && flaw != Flaw::NoKey;
        let behind = is_of_order.then(|| {
            let order = rng.random_range(0..orders.len());
            (order, rng.random_range(1..=orders[order]))
        });
        Self { flaw, behind }
    }
}
