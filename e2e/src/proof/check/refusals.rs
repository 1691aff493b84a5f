//! No unfounded refusal: who is told that something can't be had, or done, could have been told so, by all that had happened.
//!
//! The words are listed that a client of a run may hear; every other refusal is unfounded, whatever its status. Two kinds
//! of doubt are left to the service: a call of unknown outcome may have come true at any time after it began; and that a
//! replica is busy or not there needs no reason in a run full of faults, but is counted, see `report`.

use std::collections::HashMap;

use order_events::EventType;
use uuid::Uuid;

use super::calls::event_of;
use super::keys::Keys;
use super::remains::Remains;
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
/// Another call is at work under the key.
pub const IN_PROGRESS: &str = "idempotency-key-in-progress";
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
    audit: &'a Audit<'a>,
    remains: Remains<'a>,
    keys: Keys<'a>,
    /// Calls that may have changed each order.
    changes: HashMap<Uuid, Vec<(Verb, &'a Call)>>,
}

impl<'a> Known<'a> {
    fn of(history: &'a History, audit: &'a Audit<'a>) -> Self {
        let mut changes: HashMap<Uuid, Vec<(Verb, &Call)>> = HashMap::new();
        for call in &history.calls {
            let Action::Change { order, to, .. } = &call.action else { continue };
            if !matches!(call.outcome, Outcome::Refused { .. }) {
                changes.entry(*order).or_default().push((*to, call));
            }
        }
        Self { audit, remains: Remains::of(history), keys: Keys::of(history), changes }
    }

    fn may_be_refused(&self, purchase: &Purchase, call: &Call, refusal: (u16, &str)) -> bool {
        match refusal {
            (409, OUT_OF_STOCK) => self.remains.may_lack_stock(purchase, call.ended),
            (409, OUT_OF_COUPONS) => self.remains.may_lack_uses(purchase, call.ended),
            (409, IN_PROGRESS) => self.keys.may_be_in_progress(purchase, call),
            (422, REUSED | CUT_OFF) => self.keys.may_be_anothers(purchase, call.ended),
            (409, CUT_OFF) => true,
            _ => false,
        }
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
