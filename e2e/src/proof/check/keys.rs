//! What is known of idempotency keys: which calls used each, and whether one may have been another's or in progress.

use std::collections::HashMap;

use super::answers::is_definite;
use super::refusals::{OUT_OF_COUPONS, OUT_OF_STOCK};
use crate::proof::history::History;
use crate::proof::ledger::{Action, Call, Outcome, Purchase};

/// The status of an answer that says that the service is not available.
const UNAVAILABLE: u16 = 503;
/// Longest that a transaction may hold its key after its call has ended, in microseconds. PostgreSQL ends one within 25 s: a
/// statement after ten, a pause after fifteen. More than twice that, for what the network held back and a busy machine.
const LINGERS: u64 = 60_000_000;

/// The calls under each key.
pub struct Keys<'a> {
    calls: HashMap<&'a str, Vec<(&'a Purchase, &'a Call)>>,
}

impl<'a> Keys<'a> {
    /// Of a run's calls.
    #[must_use]
    pub fn of(history: &'a History) -> Self {
        let mut calls: HashMap<&str, Vec<(&Purchase, &Call)>> = HashMap::new();
        for call in &history.calls {
            let Action::Create(purchase) = &call.action else { continue };
            if let Some(key) = &purchase.key {
                calls.entry(key).or_default().push((purchase, call));
            }
        }
        Self { calls }
    }

    /// Another purchase may have settled the key by then.
    #[must_use]
    pub fn may_be_anothers(&self, purchase: &Purchase, by: u64) -> bool {
        self.under_key_of(purchase)
            .iter()
            .any(|(other, call)| *other != purchase && may_settle(&call.outcome) && call.began <= by)
    }

    /// Another call may have been at work under the key: one that ran beside this one, or one that ended without a word of what
    /// became of it, whose transaction goes on until PostgreSQL notices. Once a call was told what the key came to, it is in
    /// progress for nobody: whoever looks it up finds that.
    #[must_use]
    pub fn may_be_in_progress(&self, purchase: &Purchase, call: &Call) -> bool {
        let all = self.under_key_of(purchase).iter().map(|(_, other)| *other);
        let others: Vec<&Call> = all.filter(|other| !std::ptr::eq(*other, call)).collect();
        let is_settled = others.iter().any(|other| other.ended < call.began && is_definite(&other.outcome));
        let is_at_work = |other: &Call| {
            let lingers = may_linger(&other.outcome) && other.ended.saturating_add(LINGERS) >= call.began;
            other.began <= call.ended && (other.ended >= call.began || lingers)
        };
        !is_settled && others.into_iter().any(is_at_work)
    }

    fn under_key_of(&self, purchase: &Purchase) -> &[(&'a Purchase, &'a Call)] {
        purchase.key.as_deref().and_then(|key| self.calls.get(key)).map_or(&[][..], Vec::as_slice)
    }
}

/// The order's key may be settled by a call that ended so: by an order, or by a refusal that is kept.
fn may_settle(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Ok(_) | Outcome::Unknown { .. } => true,
        Outcome::Refused { problem, .. } => matches!(problem.as_str(), OUT_OF_STOCK | OUT_OF_COUPONS),
    }
}

/// A call that ended so may have left its transaction behind. One that succeeded or was refused for a reason has ended it.
fn may_linger(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Unknown { .. } => true,
        Outcome::Refused { status, .. } => *status == UNAVAILABLE,
        Outcome::Ok(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Rule;
    use super::super::fixture::{broken, call, create, refused, sound, unknown};
    use super::super::refusals::{IN_PROGRESS, REUSED};
    use super::*;

    /// When the call of [`with`] begins and ends: long after all others, which ended at 1.
    const BEGAN: u64 = 200_000_000;
    const ENDED: u64 = BEGAN + 10;

    fn with(action: Action, status: u16, problem: &str) -> History {
        let mut history = sound();
        let outcome = Outcome::Refused { status, problem: problem.to_owned() };
        history.calls.push(Call { began: BEGAN, ended: ENDED, ..call(action, outcome) });
        history
    }

    fn other_under_key_of_u2() -> Action {
        let Action::Create(purchase) = create("u3", None) else { unreachable!("it creates") };
        Action::Create(Purchase { key: Some("key-u2".to_owned()), ..purchase })
    }

    #[test]
    fn a_key_is_used_only_where_another_order_may_have_settled_it() {
        assert!(broken(&with(other_under_key_of_u2(), 422, REUSED)).is_empty());
        assert_eq!(broken(&with(create("u4", None), 422, REUSED)), [Rule::Founded]);
        let mut history = with(other_under_key_of_u2(), 422, REUSED);
        history.calls[1].outcome = unknown();
        assert!(broken(&history).is_empty(), "an order of unknown outcome may have settled it");
        history.calls[1].began = ENDED + 1;
        assert_eq!(broken(&history), [Rule::Founded], "but not before it was sent");
    }

    /// Another call of the one that hears that its key is in progress.
    fn beside(began: u64, ended: u64, outcome: Outcome) -> History {
        let mut history = with(create("u4", None), 409, IN_PROGRESS);
        history.calls.push(Call { began, ended, ..call(create("u4", None), outcome) });
        history
    }

    #[test]
    fn a_key_is_in_progress_only_beside_another_call_under_it() {
        assert_eq!(broken(&with(create("u4", None), 409, IN_PROGRESS)), [Rule::Founded]);
        // Each of two that hear it has the other as its reason.
        let told = || Outcome::Refused { status: 409, problem: IN_PROGRESS.to_owned() };
        for (began, ended) in [(BEGAN - 9, BEGAN), (BEGAN + 1, BEGAN + 2), (ENDED, ENDED + 9)] {
            assert!(broken(&beside(began, ended, told())).is_empty(), "from {began} to {ended}");
        }
        let later = beside(ENDED + 1, ENDED + 9, unknown());
        assert_eq!(broken(&later), [Rule::Founded], "it had not been sent");
    }

    #[test]
    fn a_call_whose_end_is_not_known_may_keep_its_key_for_as_long_as_a_transaction_lives() {
        for outcome in [unknown(), refused(503)] {
            let history = beside(BEGAN - LINGERS - 5, BEGAN - LINGERS, outcome.clone());
            assert!(broken(&history).is_empty(), "{outcome:?}");
            let history = beside(BEGAN - LINGERS - 5, BEGAN - LINGERS - 1, outcome.clone());
            assert_eq!(broken(&history), [Rule::Founded], "{outcome:?}");
        }
    }

    #[test]
    fn a_key_of_which_somebody_was_told_what_it_came_to_is_in_progress_for_nobody() {
        let mut history = with(create("u2", Some("TEN")), 409, IN_PROGRESS);
        assert_eq!(broken(&history), [Rule::Founded]);
        history.calls.push(Call { ended: ENDED, ..call(create("u2", Some("TEN")), unknown()) });
        assert_eq!(broken(&history), [Rule::Founded], "whatever else is under way");
        history.calls[1].ended = BEGAN;
        assert!(broken(&history).is_empty(), "it was told so only while the other call was under way");
    }

    #[test]
    fn nothing_is_in_progress_for_an_order_without_a_key() {
        let Action::Create(purchase) = create("u4", None) else { unreachable!("it creates") };
        let keyless = Action::Create(Purchase { key: None, ..purchase });
        assert_eq!(broken(&with(keyless, 409, IN_PROGRESS)), [Rule::Founded]);
    }
}
