//! C1, as to what is read after the recovery: each order is shown in full as it is stored, and listed as its user's.

use std::collections::{BTreeSet, HashMap};

use uuid::Uuid;

use super::{Rule, Violation};
use crate::proof::history::{History, Shown, StoredOrder};
use crate::proof::ledger::{Action, Call, Outcome};

/// Every order that was told of can be read, as it is stored, with its version as entity tag.
#[must_use]
pub fn shown(history: &History) -> Vec<Violation> {
    let orders: HashMap<Uuid, &StoredOrder> = history.orders.iter().map(|order| (order.id, order)).collect();
    let mut found = Vec::new();
    for (order, shown) in &history.read.orders {
        let Some(stored) = orders.get(order) else { continue };
        // A change of unknown outcome may have come true after the look.
        let may_be_older = || history.calls.iter().any(|call| is_unknown_change(call, *order));
        if !shown.as_ref().is_some_and(|shown| is_as_stored(shown, stored, may_be_older)) {
            found.push(format!("order {order} was read as {shown:?}, and is stored as {stored:?}"));
        }
    }
    found.into_iter().map(|what| Violation::of(Rule::Kept, what)).collect()
}

fn is_as_stored(shown: &Shown, stored: &StoredOrder, may_be_older: impl FnOnce() -> bool) -> bool {
    let mut expected = stored.clone();
    if shown.order.version < stored.version && may_be_older() {
        expected.version = shown.order.version;
        expected.status.clone_from(&shown.order.status);
    }
    let tag = format!("\"{}\"", expected.version);
    shown.order == expected
        && shown.lines_minor == expected.subtotal_minor
        && shown.tag.as_deref() == Some(tag.as_str())
}

fn is_unknown_change(call: &Call, of: Uuid) -> bool {
    matches!(call.action, Action::Change { order, .. } if order == of)
        && matches!(call.outcome, Outcome::Unknown { .. })
}

/// A user's list has the user's orders, each once, and no other. One whose every call is of unknown outcome may have come
/// true after the look.
#[must_use]
pub fn listed(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    for (user, listed) in &history.read.lists {
        let theirs = history.orders.iter().filter(|order| order.user == *user);
        let stored: BTreeSet<Uuid> = theirs.map(|order| order.id).collect();
        let is_as_stored = listed.as_ref().is_some_and(|listed| {
            let ids: BTreeSet<Uuid> = listed.iter().copied().collect();
            let is_complete = ids == stored || (ids.is_subset(&stored) && may_be_late(history, user));
            is_complete && ids.len() == listed.len()
        });
        if !is_as_stored {
            found.push(format!("{user}'s orders were listed as {listed:?}, and are {stored:?}"));
        }
    }
    found.into_iter().map(|what| Violation::of(Rule::Kept, what)).collect()
}

/// Nobody was told that the user has an order, and somebody may have placed one.
fn may_be_late(history: &History, of: &str) -> bool {
    let (mut is_told, mut is_unknown) = (false, false);
    for call in &history.calls {
        if matches!(&call.action, Action::Create(purchase) if purchase.user == of) {
            is_told |= matches!(call.outcome, Outcome::Ok(_));
            is_unknown |= matches!(call.outcome, Outcome::Unknown { .. });
        }
    }
    is_unknown && !is_told
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{broken, cancelled, pending, seen, sound, unknown};
    use super::*;

    #[test]
    fn an_order_that_can_not_be_read_or_is_read_as_it_was_is_found() {
        let mut history = sound();
        history.read.orders[0].1 = None;
        assert_eq!(broken(&history), [Rule::Kept]);
        let as_it_was = StoredOrder { status: "PENDING".to_owned(), version: 1, ..history.orders[0].clone() };
        history.read.orders[0].1 = Some(seen(&as_it_was));
        assert_eq!(broken(&history), [Rule::Kept]);
        history.calls[2].outcome = unknown();
        assert!(broken(&history).is_empty(), "a change of unknown outcome may come true late");
    }

    #[test]
    fn an_order_of_which_any_part_is_read_otherwise_than_it_is_stored_is_found() {
        let changes: [fn(&mut Shown); 8] = [
            |shown| shown.order.user.push('x'),
            |shown| *shown.order.items.get_mut("tea").unwrap() += 1,
            |shown| shown.order.coupon = None,
            |shown| shown.order.currency = "EUR".to_owned(),
            |shown| shown.order.discount_minor += 1,
            |shown| shown.order.total_minor += 1,
            |shown| shown.lines_minor += 1,
            |shown| shown.tag = Some("\"2\"".to_owned()),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut history = sound();
            change(history.read.orders[1].1.as_mut().unwrap());
            assert_eq!(broken(&history), [Rule::Kept], "change {index}");
        }
    }

    #[test]
    fn a_list_that_lacks_an_order_or_has_one_too_many_is_found() {
        let lists = [
            None,
            Some(Vec::new()),
            Some(vec![pending()]),
            Some(vec![cancelled(), pending()]),
            Some(vec![cancelled(), cancelled()]),
        ];
        for listed in lists {
            let mut history = sound();
            history.read.lists[0].1.clone_from(&listed);
            assert_eq!(broken(&history), [Rule::Kept], "{listed:?}");
        }
    }

    #[test]
    fn an_order_of_unknown_outcome_may_come_true_after_its_user_s_list_was_read() {
        let mut history = sound();
        history.read.lists = vec![("u2".to_owned(), Some(Vec::new()))];
        assert_eq!(broken(&history), [Rule::Kept]);
        history.calls[1].outcome = unknown();
        assert!(broken(&history).is_empty());
        history.read.lists[0].1 = Some(vec![cancelled()]);
        assert_eq!(broken(&history), [Rule::Kept], "another's order does not come true there");
    }
}
