//! An order as it was submitted: what is ordered, and the key by which a repetition of the request is known.

use sha2::{Digest, Sha256};

use super::ids::Violation;
use super::order::NewOrder;

/// Longest idempotency key, in characters: room for two UUIDs and a prefix, and small in an index.
pub const MAX_KEY_CHARS: usize = 255;
/// First bytes of what is hashed; another number would make every repetition look like another order.
const FINGERPRINT_VERSION: &[u8] = b"orderflow-order-1";

/// A client's name for one request: 1 to [`MAX_KEY_CHARS`] visible ASCII characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Parses the value of `field`.
    ///
    /// # Errors
    /// A [`Violation`] that names the rule.
    pub fn parse(field: &str, text: String) -> Result<Self, Violation> {
        if text.is_empty() || text.len() > MAX_KEY_CHARS || !text.bytes().all(|byte| byte.is_ascii_graphic())
        {
            let rule = format!("must be 1 to {MAX_KEY_CHARS} visible ASCII characters, plain or in quotes");
            return Err(Violation::new(field, rule));
        }
        Ok(Self(text))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What tells one order from another under the same key: SHA-256 over the parsed order, so that spaces, the order of fields
/// and how lines are split make no difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of `new`.
    #[must_use]
    pub fn of(new: &NewOrder) -> Self {
        let mut hash = Sha256::new();
        // Each text with its length before it: no two orders become the same bytes.
        let mut text = |text: &str| {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        };
        text(new.user_id.as_str());
        text(new.coupon_code.as_ref().map_or("", |code| code.as_str()));
        for (product_id, quantity) in &new.lines {
            text(product_id.as_str());
            text(&quantity.to_string());
        }
        hash.update(FINGERPRINT_VERSION);
        Self(hash.finalize().into())
    }
}

/// The key of a submission and the fingerprint that goes with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyedBy {
    /// The client's name for the request.
    pub key: IdempotencyKey,
    /// What the request orders.
    pub fingerprint: Fingerprint,
}

/// An order to place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Submission {
    /// What is ordered.
    pub new: NewOrder,
    /// By what a repetition is known; without it, none is.
    pub keyed_by: Option<KeyedBy>,
}

impl Submission {
    /// A submission under `key`, if one was given.
    #[must_use]
    pub fn new(new: NewOrder, key: Option<IdempotencyKey>) -> Self {
        let keyed_by = key.map(|key| KeyedBy { key, fingerprint: Fingerprint::of(&new) });
        Self { new, keyed_by }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(user: &str, items: &[(&str, i64)], coupon: Option<&str>) -> NewOrder {
        let items = items.iter().map(|(product, quantity)| ((*product).to_owned(), *quantity)).collect();
        NewOrder::parse(user.to_owned(), items, coupon.map(str::to_owned)).unwrap()
    }

    #[test]
    fn a_key_is_visible_ascii_of_at_most_255_characters() {
        for good in ["a", "8e03978e-40d5-43dd-bc93-6894a57f9324", "a\"b\\", &"x".repeat(MAX_KEY_CHARS)] {
            assert!(IdempotencyKey::parse("Idempotency-Key", good.to_owned()).is_ok(), "{good:?}");
        }
        for bad in ["", "a b", "a\tb", "ä", "a\0", &"x".repeat(MAX_KEY_CHARS + 1)] {
            assert!(IdempotencyKey::parse("Idempotency-Key", bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_same_order_has_the_same_fingerprint_however_it_is_written() {
        let written_once = order("u1", &[("p1", 2), ("p2", 3)], None);
        let written_twice = order("u1", &[("p2", 1), ("p1", 2), ("p2", 2)], None);
        assert_eq!(Fingerprint::of(&written_once), Fingerprint::of(&written_twice));
    }

    #[test]
    fn every_part_of_an_order_changes_its_fingerprint() {
        let orders = [
            order("u1", &[("p1", 2)], None),
            order("u2", &[("p1", 2)], None),
            order("u1", &[("p2", 2)], None),
            order("u1", &[("p1", 3)], None),
            order("u1", &[("p1", 2)], Some("TEN")),
            order("u1", &[("p1", 2), ("p2", 2)], None),
            order("u1", &[("p", 12)], None),
        ];
        let mut seen: Vec<_> = orders.iter().map(Fingerprint::of).map(|Fingerprint(bytes)| bytes).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), orders.len());
    }

    /// Golden: a repetition that reaches a newer version is still known.
    #[test]
    fn a_fingerprint_stays_the_same_for_ever() {
        let Fingerprint(bytes) = Fingerprint::of(&order("u1", &[("p1", 2)], Some("TEN")));
        assert_eq!(bytes[..8], [168, 83, 31, 200, 220, 208, 245, 143]);
    }
}
