//! C1 and C2: the database holds what clients were told, and nothing that no client asked for.

use std::collections::{BTreeMap, HashMap};

use order_events::EventType;
use uuid::Uuid;

use super::{Audit, Rule, Violation};
use crate::proof::history::{History, StoredOrder};
use crate::proof::ledger::{Action, Answer, Outcome, Purchase, Verb};

/// The status of an answer that says the service failed.
const INTERNAL: u16 = 500;

/// C1: every 201 and every change that was answered 200 is in the database, with its event, and where a change was to be
/// of one version only (`If-Match`), it follows that version.
#[must_use]
pub fn kept(history: &History, audit: &Audit<'_>) -> Vec<Violation> {
    let orders: HashMap<Uuid, &StoredOrder> = history.orders.iter().map(|order| (order.id, order)).collect();
    let mut found = Vec::new();
    for call in &history.calls {
        let Outcome::Ok(Answer { order, version, .. }) = &call.outcome else { continue };
        let event_type = match &call.action {
            Action::Create(_) => EventType::OrderCreated,
            Action::Change { to, .. } => event_of(*to),
        };
        let missing = match orders.get(order) {
            None => "the order is not in the database".to_owned(),
            Some(stored) if stored.version < *version => {
                format!("the database has version {} only", stored.version)
            }
            Some(stored) if matches!(&call.action, Action::Create(wanted) if wanted.user != stored.user) => {
                format!("the order is {}'s", stored.user)
            }
            Some(_) if matches!(&call.action, Action::Change { at: Some(at), .. } if at + 1 != *version) => {
                format!("it was to be changed only as it was at another version: {:?}", call.action)
            }
            Some(_) => match audit.event(*order, *version) {
                Some(event) if event.event_type == event_type => continue,
                Some(event) => format!("event {version} is {}", event.event_type.name()),
                None => format!("event {version} was not recorded"),
            },
        };
        let what = format!("{} {order} was acknowledged at version {version}: {missing}", event_type.name());
        found.push(Violation::of(Rule::Kept, what));
    }
    found
}

/// C2: one order per key, with one answer; no order and no change without a call that may have caused it.
#[must_use]
pub fn asked(history: &History, audit: &Audit<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut purchases: BTreeMap<&str, Vec<(&Purchase, &Outcome)>> = BTreeMap::new();
    for call in &history.calls {
        if let Action::Create(wanted) = &call.action {
            purchases.entry(&wanted.user).or_default().push((wanted, &call.outcome));
        }
    }
    let mut bought: BTreeMap<&str, Vec<&StoredOrder>> = BTreeMap::new();
    for order in &history.orders {
        bought.entry(&order.user).or_default().push(order);
    }
    for (user, orders) in bought {
        let calls = purchases.get(user).map_or(&[][..], Vec::as_slice);
        if orders.len() > 1 {
            let ids: Vec<String> = orders.iter().map(|order| order.id.to_string()).collect();
            found.push(format!("purchase {user} became {} orders: {}", ids.len(), ids.join(", ")));
        }
        for order in orders {
            if !calls.iter().any(|(wanted, outcome)| may_have_placed(outcome) && is_for(order, wanted)) {
                found.push(format!("order {} of {user} has no call that may have placed it", order.id));
            }
        }
    }
    found.extend(changes_without_calls(history, audit));
    found.into_iter().map(|what| Violation::of(Rule::Asked, what)).collect()
}

/// Calls for one change of one order that may have made it.
#[derive(Default)]
struct Askers {
    acknowledged: usize,
    /// Of each that ended without a word of what became of it, the version that it named, if any.
    unknown: Vec<Option<i64>>,
}

impl Askers {
    /// What is wrong with the changes that made these versions. One that no call was acknowledged for is that of a call of
    /// unknown outcome, which changes only what is at the version that it named.
    fn wrong(&self, versions: &[i64]) -> Option<String> {
        let Self { acknowledged, unknown } = self;
        if !(*acknowledged..=acknowledged + unknown.len()).contains(&versions.len()) {
            let unknown = unknown.len();
            return Some(format!("of {acknowledged} acknowledged and {unknown} unknown calls"));
        }
        let may_be_theirs = |version: &i64| unknown.iter().any(|at| at.is_none_or(|at| at + 1 == *version));
        let is_nobodys = *acknowledged == 0 && !versions.iter().all(may_be_theirs);
        is_nobodys.then(|| format!("of unknown calls for other versions, {unknown:?}"))
    }
}

/// Every change was asked for, and every acknowledged one happened once.
fn changes_without_calls(history: &History, audit: &Audit<'_>) -> Vec<String> {
    let mut asked: HashMap<(Uuid, Verb), Askers> = HashMap::new();
    for call in &history.calls {
        let Action::Change { order, to, at } = &call.action else { continue };
        let askers = asked.entry((*order, *to)).or_default();
        match call.outcome {
            Outcome::Ok(_) => askers.acknowledged += 1,
            Outcome::Unknown { .. } => askers.unknown.push(*at),
            Outcome::Refused { .. } => {}
        }
    }
    let (mut found, nobody) = (Vec::new(), Askers::default());
    for order in &history.orders {
        for verb in [Verb::Confirm, Verb::Cancel] {
            let happened = audit.of_order(order.id).filter(|event| event.event_type == event_of(verb));
            let versions: Vec<i64> = happened.map(|event| event.version).collect();
            if let Some(wrong) = asked.get(&(order.id, verb)).unwrap_or(&nobody).wrong(&versions) {
                let name = event_of(verb).name();
                found.push(format!("order {} has {} {name}, {wrong}", order.id, versions.len()));
            }
        }
    }
    found
}

/// No call is answered 500, and nobody who reads after the recovery.
#[must_use]
pub fn understood(history: &History) -> Vec<Violation> {
    let failed = history.calls.iter().filter(|call| match call.outcome {
        Outcome::Unknown { status, .. } => status == INTERNAL,
        Outcome::Ok(_) | Outcome::Refused { .. } => false,
    });
    let told = failed.map(|call| {
        format!("replica {} answered 500 at {} µs to {:?}", call.replica, call.ended, call.action)
    });
    told.chain(history.read.failures.iter().cloned())
        .map(|what| Violation::of(Rule::Understood, what))
        .collect()
}

/// A call that ended so may have placed an order. A repetition that was given the first answer again has not: whoever placed the
/// order was given it first, or was told nothing.
fn may_have_placed(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Ok(answer) => !answer.replayed,
        Outcome::Unknown { .. } => true,
        Outcome::Refused { .. } => false,
    }
}

fn is_for(order: &StoredOrder, wanted: &Purchase) -> bool {
    order.items == wanted.items() && order.coupon == wanted.coupon
}

pub(super) fn event_of(verb: Verb) -> EventType {
    match verb {
        Verb::Confirm => EventType::OrderConfirmed,
        Verb::Cancel => EventType::OrderCancelled,
    }
}

#[cfg(test)]
mod tests {
    use order_events::OrderStatus;

    use super::super::fixture::{
        audited, broken, call, cancel, cancelled, create, event, ok, pending, record, refused, sound, stored,
        unknown,
    };
    use super::*;

    #[test]
    fn an_acknowledged_order_that_the_database_lacks_is_found() {
        let mut history = sound();
        let lost = Uuid::from_u128(9);
        history.calls.push(call(create("u9", None), ok(lost, 1, OrderStatus::Pending)));
        assert_eq!(broken(&history), [Rule::Kept]);
    }

    #[test]
    fn an_acknowledged_change_that_the_database_lacks_is_found() {
        let mut history = sound();
        history.calls.push(call(cancel(pending()), ok(pending(), 2, OrderStatus::Cancelled)));
        assert_eq!(broken(&history), [Rule::Kept, Rule::Asked]);
    }

    #[test]
    fn a_change_of_another_version_than_was_asked_for_is_found() {
        let mut history = sound();
        let Action::Change { at, .. } = &mut history.calls[2].action else { unreachable!("it cancels") };
        *at = Some(1);
        assert!(broken(&history).is_empty());
        let Action::Change { at, .. } = &mut history.calls[2].action else { unreachable!("it cancels") };
        *at = Some(2);
        assert_eq!(broken(&history), [Rule::Kept]);
    }

    #[test]
    fn an_answer_with_another_clients_order_is_found() {
        let mut history = sound();
        history.calls.push(call(create("u3", None), ok(pending(), 1, OrderStatus::Pending)));
        assert_eq!(broken(&history), [Rule::Kept]);
    }

    #[test]
    fn two_orders_for_one_key_are_found() {
        let mut history = sound();
        let second = Uuid::from_u128(3);
        history.calls.push(call(create("u2", Some("TEN")), unknown()));
        history.orders.push(stored(second, "u2", "PENDING", 1, Some("TEN")));
        let mut event = event(second, 1, EventType::OrderCreated, Some("TEN"));
        event.order.user_id = "u2".to_owned();
        history.audit.push(audited(&event));
        history.topic.push(record(&event, 9));
        *history.stock.get_mut("tea").unwrap() -= 2;
        history.shop.coupons.get_mut("TEN").unwrap().limit = 2;
        *history.coupon_uses.get_mut("TEN").unwrap() += 1;
        assert_eq!(broken(&history), [Rule::Asked]);
    }

    #[test]
    fn an_order_that_nobody_asked_for_is_found() {
        let mut history = sound();
        history.calls.remove(1);
        assert_eq!(broken(&history), [Rule::Asked]);
    }

    #[test]
    fn an_order_that_every_call_was_refused_is_found() {
        let mut history = sound();
        history.calls[1].outcome = refused(503);
        assert_eq!(broken(&history), [Rule::Asked]);
    }

    #[test]
    fn an_order_that_every_call_but_a_repetition_was_refused_is_found() {
        let mut history = sound();
        let Outcome::Ok(mut again) = history.calls[1].outcome.clone() else { unreachable!("it was placed") };
        again.replayed = true;
        history.calls.push(call(create("u2", Some("TEN")), Outcome::Ok(again)));
        assert!(broken(&history).is_empty(), "the first call placed it");
        history.calls[1].outcome = unknown();
        assert!(broken(&history).is_empty(), "and may have done so without a word");
        history.calls[1].outcome = refused(503);
        assert_eq!(broken(&history), [Rule::Asked]);
    }

    #[test]
    fn an_order_of_something_else_than_asked_for_is_found() {
        let mut history = sound();
        history.calls[1] = call(create("u2", None), ok(pending(), 1, OrderStatus::Pending));
        assert_eq!(broken(&history), [Rule::Asked]);
    }

    #[test]
    fn an_unknown_call_may_have_placed_an_order() {
        let mut history = sound();
        history.calls[1].outcome = unknown();
        assert!(broken(&history).is_empty());
        history.calls.push(call(create("u7", None), unknown()));
        assert!(broken(&history).is_empty(), "or not");
    }

    #[test]
    fn two_answers_for_one_key_are_found() {
        let mut history = sound();
        let Outcome::Ok(mut answer) = history.calls[1].outcome.clone() else { unreachable!() };
        answer.body += 1;
        history.calls.push(call(create("u2", Some("TEN")), Outcome::Ok(answer)));
        assert_eq!(broken(&history), [Rule::Asked]);
    }

    #[test]
    fn an_answer_to_a_key_with_another_payload_is_found() {
        let mut history = sound();
        history.calls.push(call(create("u2", None), history.calls[1].outcome.clone()));
        assert_eq!(broken(&history), [Rule::Asked]);
    }

    #[test]
    fn a_change_that_nobody_asked_for_is_found() {
        let mut history = sound();
        history.calls[2].outcome = refused(503);
        assert_eq!(broken(&history), [Rule::Asked]);
    }

    #[test]
    fn a_change_of_unknown_outcome_follows_the_version_that_it_named() {
        let mut history = sound();
        for (at, expected) in [(None, vec![]), (Some(1), vec![]), (Some(2), vec![Rule::Asked])] {
            history.calls[2] = call(Action::Change { order: cancelled(), to: Verb::Cancel, at }, unknown());
            assert_eq!(broken(&history), expected, "{at:?}");
        }
        history.calls.push(call(cancel(cancelled()), unknown()));
        assert!(broken(&history).is_empty(), "another call may have made it");
    }

    #[test]
    fn a_change_that_is_acknowledged_twice_is_found() {
        let mut history = sound();
        history.calls.push(call(cancel(cancelled()), ok(cancelled(), 2, OrderStatus::Cancelled)));
        assert_eq!(broken(&history), [Rule::Asked]);
    }

    #[test]
    fn an_answer_of_500_is_found() {
        let mut history = sound();
        let failed = Outcome::Unknown { status: 500, why: "internal".to_owned() };
        history.calls.push(call(create("u8", None), failed));
        assert_eq!(broken(&history), [Rule::Understood]);
        let mut history = sound();
        history.read.failures.push("replica 0 answered 500 to GET /orders".to_owned());
        assert_eq!(broken(&history), [Rule::Understood]);
    }
}
