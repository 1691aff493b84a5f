//! What callers were told: one answer for each key and order, and that of the order as it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use order_events::OrderStatus;
use uuid::Uuid;

use super::refusals::{OUT_OF_COUPONS, OUT_OF_STOCK, REUSED};
use super::{Rule, Violation};
use crate::proof::history::{History, StoredOrder};
use crate::proof::ledger::{Action, Answer, Outcome, Purchase, Verb};

/// Refusals that are kept under their key and given again, whatever has become possible since.
const KEPT: [&str; 5] =
    [OUT_OF_STOCK, OUT_OF_COUPONS, "unknown-product", "unknown-coupon", "amount-too-large"];
/// C2, as to answers: whoever repeats an order under its key gets the first answer again, and a key answers one order only.
/// Keys outlive every run, so none is forgotten in it.
#[must_use]
pub fn repeated(history: &History) -> Vec<Violation> {
    let mut given: BTreeMap<&str, Vec<(&Purchase, BTreeSet<String>)>> = BTreeMap::new();
    for call in &history.calls {
        let Action::Create(purchase) = &call.action else { continue };
        let (Some(key), Some(answer)) = (&purchase.key, definite(&call.outcome)) else { continue };
        let purchases = given.entry(key).or_default();
        match purchases.iter_mut().find(|(known, _)| *known == purchase) {
            Some((_, answers)) => {
                answers.insert(answer);
            }
            None => purchases.push((purchase, BTreeSet::from([answer]))),
        }
    }
    let mut found = Vec::new();
    for (key, purchases) in given {
        for (purchase, answers) in purchases.iter().filter(|(_, answers)| answers.len() > 1) {
            found.push(format!(
                "purchase {} was answered in {} ways: {answers:?}",
                purchase.user,
                answers.len()
            ));
        }
        let answered = purchases.iter().filter(|(_, answers)| answers.iter().any(|answer| answer != REUSED));
        if answered.count() > 1 {
            found.push(format!("key {key} answered more than one order"));
        }
    }
    found.into_iter().map(|what| Violation::of(Rule::Asked, what)).collect()
}

/// The answer, if it is one that is given again.
fn definite(outcome: &Outcome) -> Option<String> {
    match outcome {
        // Whether it was given before is no part of it.
        Outcome::Ok(answer) => Some(format!("{:?}", Answer { replayed: false, ..answer.clone() })),
        Outcome::Refused { problem, .. } if KEPT.contains(&problem.as_str()) || problem == REUSED => {
            Some(problem.clone())
        }
        Outcome::Refused { .. } | Outcome::Unknown { .. } => None,
    }
}

/// C1, as to answers: a success shows the order in the state that was asked for.
#[must_use]
pub fn apt(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    for call in &history.calls {
        let Outcome::Ok(answer) = &call.outcome else { continue };
        // A repetition is shown the order as it was created.
        let (status, is_its_version) = match &call.action {
            Action::Create(_) => (OrderStatus::Pending, answer.version == 1),
            Action::Change { to: Verb::Confirm, .. } => (OrderStatus::Confirmed, answer.version > 1),
            Action::Change { to: Verb::Cancel, .. } => (OrderStatus::Cancelled, answer.version > 1),
        };
        if answer.status != status || !is_its_version {
            found.push(format!("{:?} was answered with {answer:?}", call.action));
        }
    }
    found.into_iter().map(|what| Violation::of(Rule::Kept, what)).collect()
}

/// C1, as to amounts: every answer names the total that is stored.
#[must_use]
pub fn priced(history: &History) -> Vec<Violation> {
    let orders: HashMap<Uuid, &StoredOrder> = history.orders.iter().map(|order| (order.id, order)).collect();
    let mut found = Vec::new();
    for call in &history.calls {
        let Outcome::Ok(answer) = &call.outcome else { continue };
        if orders.get(&answer.order).is_some_and(|stored| stored.total_minor != answer.total_minor) {
            found.push(format!("order {} was answered with a total of {}", answer.order, answer.total_minor));
        }
    }
    found.into_iter().map(|what| Violation::of(Rule::Kept, what)).collect()
}

/// Once the service has recovered, whoever asks again under a key gets an answer that is given again: no key stays in
/// progress for ever, whatever became of those who were first to use it. A run that did not recover was not asked.
#[must_use]
pub fn settled(history: &History) -> Vec<Violation> {
    let Some(recovered) = history.recovered else { return Vec::new() };
    let mut settled: HashMap<(&str, &Purchase), Option<&Outcome>> = HashMap::new();
    for call in &history.calls {
        let Action::Create(purchase) = &call.action else { continue };
        let Some(key) = &purchase.key else { continue };
        let last = settled.entry((key, purchase)).or_default();
        if call.began >= recovered && !last.is_some_and(is_definite) {
            *last = Some(&call.outcome);
        }
    }
    let mut found: Vec<String> = settled
        .into_iter()
        .filter(|(_, last)| !last.is_some_and(is_definite))
        .map(|((key, purchase), last)| {
            format!("after the recovery key {key} gave {} no answer to keep: {last:?}", purchase.user)
        })
        .collect();
    found.sort_unstable();
    found.into_iter().map(|what| Violation::of(Rule::Recovered, what)).collect()
}

/// The answer is one that is given again.
#[must_use]
pub fn is_definite(outcome: &Outcome) -> bool {
    definite(outcome).is_some()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{broken, call, create, ok, pending, refused, sound, unknown};
    use super::super::refusals::IN_PROGRESS;
    use super::*;
    use crate::proof::ledger::Call;

    fn refused_for(problem: &str) -> Outcome {
        let status = if problem == REUSED { 422 } else { 409 };
        Outcome::Refused { status, problem: problem.to_owned() }
    }

    #[test]
    fn a_repetition_that_is_refused_after_it_was_accepted_is_found() {
        let mut history = sound();
        history.calls.push(call(create("u2", Some("TEN")), refused_for("unknown-coupon")));
        assert_eq!(broken(&history), [Rule::Asked, Rule::Founded]);
    }

    #[test]
    fn a_total_that_is_not_the_stored_one_is_found() {
        let mut history = sound();
        let Outcome::Ok(answer) = &mut history.calls[1].outcome else { unreachable!("it was placed") };
        answer.total_minor += 1;
        assert_eq!(broken(&history), [Rule::Kept]);
    }

    #[test]
    fn a_repetition_that_is_not_answered_for_now_is_none() {
        let mut history = sound();
        history.calls.push(call(create("u2", Some("TEN")), refused(503)));
        history.calls.push(call(create("u2", Some("TEN")), refused_for(IN_PROGRESS)));
        assert!(broken(&history).is_empty());
    }

    #[test]
    fn another_order_under_a_key_may_only_be_told_that_it_is_used() {
        let mut history = sound();
        let other = Action::Create(Purchase { key: Some("key-u2".to_owned()), ..purchase("u3") });
        history.calls.push(call(other.clone(), refused_for(REUSED)));
        assert!(broken(&history).is_empty());
        history.calls.push(call(other, refused_for("unknown-product")));
        assert_eq!(broken(&history), [Rule::Asked, Rule::Founded]);
    }

    #[test]
    fn an_order_that_is_shown_in_another_state_is_found() {
        let mut history = sound();
        for call in &mut history.calls {
            if let (Action::Create(_), Outcome::Ok(answer)) = (&call.action, &mut call.outcome) {
                answer.status = OrderStatus::Confirmed;
            }
        }
        assert!(broken(&history).contains(&Rule::Kept));
    }

    fn purchase(user: &str) -> Purchase {
        let Action::Create(purchase) = create(user, None) else { unreachable!("it creates") };
        purchase
    }

    #[test]
    fn the_first_answer_given_again_is_sound() {
        let mut history = sound();
        history.calls.push(call(create("u2", Some("TEN")), ok(pending(), 1, OrderStatus::Pending)));
        assert!(broken(&history).is_empty());
    }

    /// Every purchase of the history is asked for once more, and answered so.
    fn asked_again(answer: impl Fn(&Outcome) -> Outcome) -> History {
        let mut history = sound();
        history.recovered = Some(10);
        let again: Vec<Call> = history.calls[..2]
            .iter()
            .map(|call| Call { began: 10, ended: 11, outcome: answer(&call.outcome), ..call.clone() })
            .collect();
        history.calls.extend(again);
        history
    }

    #[test]
    fn a_key_that_gives_no_answer_after_the_recovery_is_found() {
        assert!(broken(&asked_again(Outcome::clone)).is_empty());
        for answer in [refused(503), unknown()] {
            assert_eq!(broken(&asked_again(|_| answer.clone())), [Rule::Recovered], "{answer:?}");
        }
        let in_progress = asked_again(|_| refused_for(IN_PROGRESS));
        assert_eq!(broken(&in_progress), [Rule::Founded, Rule::Recovered], "it was answered before");
        let mut history = asked_again(Outcome::clone);
        history.calls.pop();
        assert_eq!(broken(&history), [Rule::Recovered], "the other one was not asked");
    }

    #[test]
    fn an_answer_after_some_that_say_nothing_settles_a_key_and_another_one_than_before_is_found() {
        let mut history = asked_again(|_| unknown());
        history.calls.extend(asked_again(Outcome::clone).calls.split_off(3));
        assert!(broken(&history).is_empty());
        let refused = asked_again(|_| refused_for(OUT_OF_STOCK));
        assert_eq!(broken(&refused), [Rule::Asked], "it was accepted before");
    }
}
