//! What callers were told: one answer for each key and order, and no refusal without a reason.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use order_events::OrderStatus;
use uuid::Uuid;

use super::{Rule, Violation};
use crate::proof::history::{History, StoredOrder};
use crate::proof::ledger::{Action, Call, Outcome, Purchase, Verb};

/// Refusals that are kept under their key and given again, whatever has become possible since.
const KEPT: [&str; 5] =
    ["insufficient-stock", OUT_OF_COUPONS, "unknown-product", "unknown-coupon", "amount-too-large"];
/// The key was used for another order.
const REUSED: &str = "idempotency-key-reused";
/// What no purchase of a plan gives a reason for.
const NEVER_DESERVED: [&str; 4] = ["unknown-product", "unknown-coupon", "amount-too-large", "invalid"];
const OUT_OF_STOCK: &str = "insufficient-stock";
const OUT_OF_COUPONS: &str = "coupon-exhausted";

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
        Outcome::Ok(answer) => Some(format!("{answer:?}")),
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

/// C1, as to what is read: after the recovery every order that was told of can be read, as it is stored, and every answer
/// names the total that is stored.
#[must_use]
pub fn read(history: &History) -> Vec<Violation> {
    let orders: HashMap<Uuid, &StoredOrder> = history.orders.iter().map(|order| (order.id, order)).collect();
    let mut found = Vec::new();
    for call in &history.calls {
        let Outcome::Ok(answer) = &call.outcome else { continue };
        if orders.get(&answer.order).is_some_and(|stored| stored.total_minor != answer.total_minor) {
            found.push(format!("order {} was answered with a total of {}", answer.order, answer.total_minor));
        }
    }
    for (order, answer) in &history.read {
        let Some(stored) = orders.get(order) else { continue };
        // A change of unknown outcome may have come true after the look.
        let is_older = answer.as_ref().is_some_and(|read| read.version < stored.version);
        if is_older && history.calls.iter().any(|call| is_unknown_change(call, *order)) {
            continue;
        }
        let is_as_stored = answer.as_ref().is_some_and(|read| {
            let said = (read.order, read.version, read.status.name(), read.total_minor);
            said == (stored.id, stored.version, stored.status.as_str(), stored.total_minor)
        });
        if !is_as_stored {
            found.push(format!("order {order} was read as {answer:?}, and is stored as {stored:?}"));
        }
    }
    found.into_iter().map(|what| Violation::of(Rule::Kept, what)).collect()
}

fn is_unknown_change(call: &Call, of: Uuid) -> bool {
    matches!(call.action, Action::Change { order, .. } if order == of)
        && matches!(call.outcome, Outcome::Unknown { .. })
}

/// No order is refused for want of stock, or of a coupon's uses, where everything that anybody ever asked for could be had.
#[must_use]
pub fn founded(history: &History) -> Vec<Violation> {
    let mut purchases: HashMap<&str, &Purchase> = HashMap::new();
    for call in &history.calls {
        if let Action::Create(purchase) = &call.action {
            purchases.insert(&purchase.user, purchase);
        }
    }
    let (mut units, mut uses): (HashMap<String, i64>, HashMap<&str, i64>) = Default::default();
    for purchase in purchases.values() {
        for (product, wanted) in purchase.items() {
            *units.entry(product).or_default() += wanted;
        }
        if let Some(coupon) = &purchase.coupon {
            *uses.entry(coupon).or_default() += 1;
        }
    }
    let is_ample = |product: &String| {
        let stock = history.shop.products.get(product).map(|product| product.stock);
        stock.is_some_and(|stock| stock >= units.get(product).copied().unwrap_or_default())
    };
    let mut found = Vec::new();
    for call in &history.calls {
        let (Action::Create(purchase), Outcome::Refused { problem, .. }) = (&call.action, &call.outcome)
        else {
            continue;
        };
        let unfounded = match problem.as_str() {
            OUT_OF_STOCK => purchase.items().keys().all(is_ample),
            OUT_OF_COUPONS => purchase.coupon.as_deref().is_some_and(|code| {
                let limit = history.shop.coupons.get(code).map(|coupon| coupon.limit);
                limit.is_some_and(|limit| limit >= uses.get(code).copied().unwrap_or_default())
            }),
            // Every purchase of a plan is of what its shop has.
            word => NEVER_DESERVED.contains(&word),
        };
        if unfounded {
            found.push(format!("purchase {} was refused for {problem}, and there was enough", purchase.user));
        }
    }
    found.into_iter().map(|what| Violation::of(Rule::Founded, what)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{broken, call, create, ok, pending, refused, sound, unknown};
    use super::*;

    fn refused_for(problem: &str) -> Outcome {
        Outcome::Refused { status: 409, problem: problem.to_owned() }
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
    fn an_order_that_can_not_be_read_or_is_read_as_it_was_is_found() {
        let mut history = sound();
        history.read[0].1 = None;
        assert_eq!(broken(&history), [Rule::Kept]);
        let Outcome::Ok(as_it_was) = history.calls[0].outcome.clone() else { unreachable!("it was placed") };
        history.read[0].1 = Some(as_it_was);
        assert_eq!(broken(&history), [Rule::Kept]);
        history.calls[2].outcome = unknown();
        assert!(broken(&history).is_empty(), "a change of unknown outcome may come true late");
    }

    #[test]
    fn a_repetition_that_is_not_answered_for_now_is_none() {
        let mut history = sound();
        history.calls.push(call(create("u2", Some("TEN")), refused(503)));
        history.calls.push(call(create("u2", Some("TEN")), refused_for("idempotency-key-in-progress")));
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
    fn an_order_that_is_refused_though_there_is_enough_is_found() {
        let mut history = sound();
        history.calls.push(call(create("u4", None), refused_for(OUT_OF_STOCK)));
        assert!(broken(&history).is_empty(), "six of five were asked for");
        history.shop.products.get_mut("tea").unwrap().stock += 1;
        *history.stock.get_mut("tea").unwrap() += 1;
        assert_eq!(broken(&history), [Rule::Founded]);
    }

    #[test]
    fn an_order_that_is_refused_as_unknown_and_one_that_is_shown_in_another_state_are_found() {
        let mut history = sound();
        history.calls.push(call(create("u4", None), refused_for("invalid")));
        assert_eq!(broken(&history), [Rule::Founded]);
        let mut history = sound();
        for call in &mut history.calls {
            if let (Action::Create(_), Outcome::Ok(answer)) = (&call.action, &mut call.outcome) {
                answer.status = OrderStatus::Confirmed;
            }
        }
        assert!(broken(&history).contains(&Rule::Kept));
    }

    #[test]
    fn a_coupon_that_is_refused_though_it_has_uses_left_is_found() {
        let mut history = sound();
        history.calls.push(call(create("u4", Some("TEN")), refused_for(OUT_OF_COUPONS)));
        assert!(broken(&history).is_empty(), "two uses of one were asked for");
        history.shop.coupons.get_mut("TEN").unwrap().limit = 2;
        assert_eq!(broken(&history), [Rule::Founded]);
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
}
