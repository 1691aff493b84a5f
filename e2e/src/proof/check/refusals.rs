//! No unfounded refusal: who is told that something can't be had, or done, could have been told so, by all that had happened.
//!
//! The words are listed that a client of a run may hear; every other refusal is unfounded, whatever its status. Three kinds
//! of doubt are left to the service: a call of unknown outcome may have come true at any time after it began; a key may be
//! in progress for anybody, since a transaction whose connection was lost goes on until PostgreSQL notices, and the call's
//! own first attempt may be it; and that a replica is busy or not there needs no reason in a run full of faults.

use std::collections::{BTreeMap, HashMap};

use order_events::EventType;
use uuid::Uuid;

use super::calls::event_of;
use super::{Audit, Rule, Violation};
use crate::proof::client::CUT_OFF;
use crate::proof::history::History;
use crate::proof::ledger::{Action, Call, Outcome, Purchase, Verb};

/// The key was used for another order.
pub(super) const REUSED: &str = "idempotency-key-reused";
/// There is not enough of a product.
pub(super) const OUT_OF_STOCK: &str = "insufficient-stock";
/// The coupon has no use left.
pub(super) const OUT_OF_COUPONS: &str = "coupon-exhausted";
const IN_PROGRESS: &str = "idempotency-key-in-progress";
const STALE: &str = "stale";
const STATUS_CONFLICT: &str = "status-conflict";

/// No call is refused without a reason: an order only for want of what there may have been too little of, or for its key; a
/// change only where the order may have been at another version, or in a status that does not allow it, when it was asked for.
#[must_use]
pub fn founded(history: &History, audit: &Audit<'_>) -> Vec<Violation> {
    let known = Known::of(history, audit);
    let mut found = Vec::new();
    for call in &history.calls {
        let Outcome::Refused { status, problem } = &call.outcome else { continue };
        let refusal = (*status, problem.as_str());
        if matches!(refusal, (0, "connect") | (503, "busy" | "unavailable")) {
            continue;
        }
        let is_founded = match &call.action {
            Action::Create(purchase) => known.may_be_refused(purchase, call, refusal),
            Action::Change { order, to, at } => known.may_not_change((*order, *to, *at), call.ended, refusal),
        };
        if !is_founded {
            let Call { action, began, ended, .. } = call;
            found.push(format!("{status} {problem} was answered from {began} to {ended} µs to {action:?}"));
        }
    }
    found.into_iter().map(|what| Violation::of(Rule::Founded, what)).collect()
}

/// What reasons there may have been.
struct Known<'a> {
    history: &'a History,
    audit: &'a Audit<'a>,
    /// Units that were ever asked for, by product.
    units: HashMap<String, i64>,
    /// Uses that were ever asked for, by coupon.
    uses: HashMap<&'a str, i64>,
    /// Calls under each key that may have settled it.
    settlers: HashMap<&'a str, Vec<(&'a Purchase, &'a Call)>>,
    /// Calls that may have changed each order.
    changes: HashMap<Uuid, Vec<(Verb, &'a Call)>>,
}

impl<'a> Known<'a> {
    fn of(history: &'a History, audit: &'a Audit<'a>) -> Self {
        let mut known = Self {
            history,
            audit,
            units: HashMap::new(),
            uses: HashMap::new(),
            settlers: HashMap::new(),
            changes: HashMap::new(),
        };
        // Of a user's purchases, which share a key, one at most becomes an order: the largest.
        let mut units: HashMap<&str, BTreeMap<String, i64>> = HashMap::new();
        let mut coupons: HashMap<&str, &str> = HashMap::new();
        for call in &history.calls {
            match &call.action {
                Action::Create(purchase) => {
                    let most = units.entry(&purchase.user).or_default();
                    for (product, wanted) in purchase.items() {
                        let most = most.entry(product).or_default();
                        *most = wanted.max(*most);
                    }
                    if let Some(coupon) = &purchase.coupon {
                        coupons.insert(&purchase.user, coupon);
                    }
                    if let (Some(key), true) = (&purchase.key, may_settle(&call.outcome)) {
                        known.settlers.entry(key).or_default().push((purchase, call));
                    }
                }
                Action::Change { order, to, .. } => {
                    if !matches!(call.outcome, Outcome::Refused { .. }) {
                        known.changes.entry(*order).or_default().push((*to, call));
                    }
                }
            }
        }
        for (product, wanted) in units.into_values().flatten() {
            *known.units.entry(product).or_default() += wanted;
        }
        for coupon in coupons.into_values() {
            *known.uses.entry(coupon).or_default() += 1;
        }
        known
    }

    fn may_be_refused(&self, purchase: &Purchase, call: &Call, refusal: (u16, &str)) -> bool {
        match refusal {
            (409, OUT_OF_STOCK) => !purchase.items().keys().all(|product| self.is_ample(product)),
            (409, OUT_OF_COUPONS) => purchase.coupon.as_deref().is_some_and(|code| {
                let limit = self.history.shop.coupons.get(code).map(|coupon| coupon.limit);
                limit.is_none_or(|limit| limit < self.uses.get(code).copied().unwrap_or_default())
            }),
            (409, IN_PROGRESS) => purchase.key.is_some(),
            (422, REUSED | CUT_OFF) => self.may_be_anothers(purchase, call.ended),
            (409, CUT_OFF) => true,
            _ => false,
        }
    }

    /// There is as much of the product as was ever asked for.
    fn is_ample(&self, product: &str) -> bool {
        let stock = self.history.shop.products.get(product).map(|product| product.stock);
        stock.is_some_and(|stock| stock >= self.units.get(product).copied().unwrap_or_default())
    }

    /// Another purchase may have settled the key by then.
    fn may_be_anothers(&self, purchase: &Purchase, by: u64) -> bool {
        let settlers =
            purchase.key.as_deref().and_then(|key| self.settlers.get(key)).map_or(&[][..], Vec::as_slice);
        settlers.iter().any(|(other, call)| *other != purchase && call.began <= by)
    }

    fn may_not_change(
        &self,
        (order, to, at): (Uuid, Verb, Option<i64>),
        by: u64,
        refusal: (u16, &str),
    ) -> bool {
        match refusal {
            (412, STALE | CUT_OFF) => at.is_some_and(|at| self.may_be_at(order, at + 1, by)),
            (409, STATUS_CONFLICT | CUT_OFF) => {
                let mut events = self.audit.of_order(order);
                let closed = events.find(|event| forbids(event.event_type, to)).map(|event| event.version);
                closed.is_some_and(|closed| {
                    // What forbids a change forbids it for good. Where a version was named, the order was at it.
                    at.is_none_or(|at| at >= closed) && self.may_be_at(order, closed, by)
                })
            }
            _ => false,
        }
    }

    /// The order may have been at the version, or beyond it, by then: a call made it so that had begun.
    fn may_be_at(&self, order: Uuid, version: i64, by: u64) -> bool {
        let Some(event) = self.audit.event(order, version) else { return false };
        let changes = self.changes.get(&order).map_or(&[][..], Vec::as_slice);
        changes.iter().any(|(verb, call)| {
            let may_be_its = match &call.outcome {
                Outcome::Ok(answer) => answer.version == version,
                Outcome::Unknown { .. } => event_of(*verb) == event.event_type,
                Outcome::Refused { .. } => false,
            };
            may_be_its && call.began <= by
        })
    }
}

/// The order's key may be settled by a call that ended so: by an order, or by a refusal that is kept.
fn may_settle(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Ok(_) | Outcome::Unknown { .. } => true,
        Outcome::Refused { problem, .. } => matches!(problem.as_str(), OUT_OF_STOCK | OUT_OF_COUPONS),
    }
}

/// After such an event an order can't be changed so.
fn forbids(event: EventType, to: Verb) -> bool {
    match event {
        EventType::OrderCreated => false,
        EventType::OrderConfirmed => to == Verb::Confirm,
        EventType::OrderCancelled => true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{broken, call, cancel, cancelled, create, pending, refused, sound, unknown};
    use super::*;

    fn with(action: Action, status: u16, problem: &str) -> History {
        let mut history = sound();
        let outcome = Outcome::Refused { status, problem: problem.to_owned() };
        // After everything else, which ended at 1.
        history.calls.push(Call { began: 10, ended: 20, ..call(action, outcome) });
        history
    }

    fn change(order: Uuid, to: Verb, at: Option<i64>) -> Action {
        Action::Change { order, to, at }
    }

    fn other_under_key_of_u2() -> Action {
        let Action::Create(purchase) = create("u3", None) else { unreachable!("it creates") };
        Action::Create(Purchase { key: Some("key-u2".to_owned()), ..purchase })
    }

    #[test]
    fn who_finds_a_replica_busy_or_away_needs_no_reason() {
        for action in [create("u4", None), cancel(pending()), cancel(cancelled())] {
            for (status, problem) in [(0, "connect"), (503, "busy"), (503, "unavailable")] {
                assert!(broken(&with(action.clone(), status, problem)).is_empty(), "{status} {problem}");
            }
        }
    }

    #[test]
    fn a_word_that_no_client_of_a_run_may_hear_is_found() {
        for (status, problem) in [
            (400, "malformed-body"),
            (400, "unreadable"),
            (404, "not-found"),
            (422, "invalid"),
            (422, "unknown-product"),
            (409, "status-conflict"),
            (503, "unreadable"),
        ] {
            assert_eq!(broken(&with(create("u4", None), status, problem)), [Rule::Founded], "{problem}");
        }
        for (status, problem) in [(400, "bad-parameter"), (404, "not-found"), (404, CUT_OFF), (409, "busy")] {
            assert_eq!(broken(&with(cancel(pending()), status, problem)), [Rule::Founded], "{problem}");
            assert_eq!(broken(&with(cancel(cancelled()), status, problem)), [Rule::Founded], "{problem}");
        }
    }

    #[test]
    fn an_order_that_is_refused_though_there_is_enough_is_found() {
        let mut history = with(create("u4", None), 409, OUT_OF_STOCK);
        assert!(broken(&history).is_empty(), "six of five were asked for");
        history.shop.products.get_mut("tea").unwrap().stock += 1;
        *history.stock.get_mut("tea").unwrap() += 1;
        assert_eq!(broken(&history), [Rule::Founded]);
    }

    #[test]
    fn a_coupon_that_is_refused_though_it_has_uses_left_is_found() {
        let mut history = with(create("u4", Some("TEN")), 409, OUT_OF_COUPONS);
        assert!(broken(&history).is_empty(), "two uses of one were asked for");
        history.shop.coupons.get_mut("TEN").unwrap().limit = 2;
        assert_eq!(broken(&history), [Rule::Founded]);
        assert_eq!(broken(&with(create("u4", None), 409, OUT_OF_COUPONS)), [Rule::Founded]);
    }

    #[test]
    fn a_key_is_used_only_where_another_order_may_have_settled_it() {
        assert!(broken(&with(other_under_key_of_u2(), 422, REUSED)).is_empty());
        assert_eq!(broken(&with(create("u4", None), 422, REUSED)), [Rule::Founded]);
        let mut history = with(other_under_key_of_u2(), 422, REUSED);
        history.calls[1].outcome = unknown();
        assert!(broken(&history).is_empty(), "an order of unknown outcome may have settled it");
        history.calls[1].began = 30;
        assert_eq!(broken(&history), [Rule::Founded], "but not before it was sent");
    }

    #[test]
    fn a_key_may_be_in_progress_even_for_the_first_call_but_no_order_without_one() {
        assert!(broken(&with(create("u4", None), 409, IN_PROGRESS)).is_empty());
        let Action::Create(purchase) = create("u4", None) else { unreachable!("it creates") };
        let keyless = Action::Create(Purchase { key: None, ..purchase });
        assert_eq!(broken(&with(keyless, 409, IN_PROGRESS)), [Rule::Founded]);
    }

    #[test]
    fn a_change_is_stale_only_where_the_order_may_have_gone_on() {
        assert!(broken(&with(change(cancelled(), Verb::Confirm, Some(1)), 412, STALE)).is_empty());
        for (order, at) in [(pending(), Some(1)), (cancelled(), Some(2)), (cancelled(), None)] {
            let history = with(change(order, Verb::Cancel, at), 412, STALE);
            assert_eq!(broken(&history), [Rule::Founded], "{order} {at:?}");
        }
    }

    #[test]
    fn a_change_that_had_not_begun_is_no_reason() {
        for (at, status, problem) in [(Some(1), 412, STALE), (None, 409, STATUS_CONFLICT)] {
            let mut history = with(change(cancelled(), Verb::Confirm, at), status, problem);
            history.calls[2].began = 15;
            assert!(broken(&history).is_empty(), "it ran beside the one that cancelled");
            history.calls[2].began = 21;
            assert_eq!(broken(&history), [Rule::Founded]);
            history.calls[2].began = 0;
            history.calls[2].outcome = unknown();
            assert!(broken(&history).is_empty(), "a cancellation of unknown outcome may have been first");
        }
    }

    #[test]
    fn a_status_conflicts_only_with_what_forbids_the_change() {
        for to in [Verb::Confirm, Verb::Cancel] {
            for at in [None, Some(2)] {
                let history = with(change(cancelled(), to, at), 409, STATUS_CONFLICT);
                assert!(broken(&history).is_empty(), "a cancelled order takes no change");
            }
            assert_eq!(broken(&with(change(pending(), to, None), 409, STATUS_CONFLICT)), [Rule::Founded]);
            let at_first = with(change(cancelled(), to, Some(1)), 409, STATUS_CONFLICT);
            assert_eq!(broken(&at_first), [Rule::Founded], "at version 1 every order is pending");
        }
        let confirmed = EventType::OrderConfirmed;
        assert!(forbids(confirmed, Verb::Confirm) && !forbids(confirmed, Verb::Cancel));
    }

    #[test]
    fn a_change_of_unknown_outcome_that_never_happened_is_no_reason() {
        let mut history = with(cancel(pending()), 409, STATUS_CONFLICT);
        history.calls.push(call(cancel(pending()), unknown()));
        assert_eq!(broken(&history), [Rule::Founded]);
    }

    #[test]
    fn an_answer_that_was_cut_off_is_taken_for_any_of_its_status() {
        for status in [409, 412] {
            let action = change(cancelled(), Verb::Cancel, Some(if status == 412 { 1 } else { 2 }));
            assert!(broken(&with(action, status, CUT_OFF)).is_empty(), "{status}");
        }
        assert!(broken(&with(create("u4", None), 409, CUT_OFF)).is_empty());
        assert_eq!(broken(&with(create("u4", None), 400, CUT_OFF)), [Rule::Founded]);
        let mut history = sound();
        history.calls.push(call(create("u4", None), refused(503)));
        assert!(broken(&history).is_empty());
    }
}
