//! What there was left for certain, of a product's units and of a coupon's uses, when somebody was refused for want of it.
//!
//! A purchase is judged under the locks of its transaction, and its caller told so once that has committed, or where it had
//! nothing to write: what it saw was committed by others before, or taken by others of the same transaction, which committed
//! with it. What a transaction took that came to nothing was never seen. So orders that are stored are all that can have left
//! too little, from their first call on until their cancellation was acknowledged.

use std::collections::HashMap;

use uuid::Uuid;

use crate::proof::history::History;
use crate::proof::ledger::{Action, Outcome, Purchase, Verb};

/// What is known of how much there was.
pub struct Remains<'a> {
    history: &'a History,
    /// When each user's purchase was first asked for.
    asked: HashMap<&'a str, u64>,
    /// What orders took of each product.
    units: HashMap<&'a str, Vec<Lot>>,
    /// What they took of each coupon.
    uses: HashMap<&'a str, Vec<Lot>>,
}

/// What an order took of something.
struct Lot {
    count: i64,
    /// When the order was first asked for: it held nothing before.
    asked: u64,
    /// When its cancellation was acknowledged: it held nothing any more. A cancellation of unknown outcome gave nothing back
    /// as far as can be told.
    given_back: Option<u64>,
}

impl<'a> Remains<'a> {
    /// Of a run's calls and orders.
    #[must_use]
    pub fn of(history: &'a History) -> Self {
        let (mut asked, mut cancelled) = (HashMap::<&str, u64>::new(), HashMap::<Uuid, u64>::new());
        for call in &history.calls {
            match (&call.action, &call.outcome) {
                (Action::Create(purchase), _) => {
                    let first = asked.entry(&purchase.user).or_insert(call.began);
                    *first = call.began.min(*first);
                }
                (Action::Change { order, to: Verb::Cancel, .. }, Outcome::Ok(_)) => {
                    let first = cancelled.entry(*order).or_insert(call.ended);
                    *first = call.ended.min(*first);
                }
                (Action::Change { .. }, _) => {}
            }
        }
        let (mut units, mut uses) = (HashMap::<&str, Vec<Lot>>::new(), HashMap::<&str, Vec<Lot>>::new());
        for order in &history.orders {
            // One that nobody asked for is another rule's to find, and may have been there from the start.
            let asked = asked.get(order.user.as_str()).copied().unwrap_or_default();
            let given_back = cancelled.get(&order.id).copied();
            let lot = |count| Lot { count, asked, given_back };
            for (product, count) in &order.items {
                units.entry(product).or_default().push(lot(*count));
            }
            if let Some(coupon) = &order.coupon {
                uses.entry(coupon).or_default().push(lot(1));
            }
        }
        Self { history, asked, units, uses }
    }

    /// There may have been less of a product than the purchase wants, when it was refused by an answer that came at `by`.
    #[must_use]
    pub fn may_lack_stock(&self, purchase: &Purchase, by: u64) -> bool {
        purchase.items().iter().any(|(product, wanted)| {
            let stock = self.history.shop.products.get(product).map(|product| product.stock);
            let held = self.most_held(lots(&self.units, product), purchase, by);
            stock.is_some_and(|stock| stock - held < *wanted)
        })
    }

    /// The same of its coupon's uses, of which it wants one.
    #[must_use]
    pub fn may_lack_uses(&self, purchase: &Purchase, by: u64) -> bool {
        purchase.coupon.as_deref().is_some_and(|code| {
            let limit = self.history.shop.coupons.get(code).map(|coupon| coupon.limit);
            let held = self.most_held(lots(&self.uses, code), purchase, by);
            limit.is_some_and(|limit| limit - held < 1)
        })
    }

    /// The most that orders may have held when the purchase was judged. That was at any time since it was first asked for: a
    /// refusal is kept under its key, and given again to whoever repeats it.
    fn most_held(&self, lots: &[Lot], purchase: &Purchase, by: u64) -> i64 {
        let since = self.asked.get(purchase.user.as_str()).copied().unwrap_or_default();
        let held = lots.iter().filter(|lot| lot.asked <= by && lot.given_back.is_none_or(|at| at >= since));
        held.map(|lot| lot.count).sum()
    }
}

fn lots<'a>(all: &'a HashMap<&str, Vec<Lot>>, of: &str) -> &'a [Lot] {
    all.get(of).map_or(&[][..], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::super::Rule;
    use super::super::fixture::{broken, call, create, sound, unknown};
    use super::super::refusals::{OUT_OF_COUPONS, OUT_OF_STOCK};
    use super::*;
    use crate::proof::ledger::Call;

    /// A history in which two units are wanted and refused, long after one order of two was cancelled and beside another one
    /// of two, of so many units at first.
    fn refused_of(stock: i64) -> History {
        let mut history = sound();
        history.shop.products.get_mut("tea").unwrap().stock = stock;
        history.stock.insert("tea".to_owned(), stock - 2);
        history.calls.push(refusal(create("u4", None), OUT_OF_STOCK));
        history
    }

    fn refusal(action: Action, problem: &str) -> Call {
        let outcome = Outcome::Refused { status: 409, problem: problem.to_owned() };
        Call { began: 10, ended: 20, ..call(action, outcome) }
    }

    #[test]
    fn an_order_that_is_refused_though_there_is_enough_is_found() {
        assert!(broken(&refused_of(3)).is_empty(), "one unit was left");
        assert_eq!(broken(&refused_of(4)), [Rule::Founded], "the last two are there to be sold");
    }

    #[test]
    fn what_was_cancelled_is_there_again_once_that_was_acknowledged_and_not_before() {
        let mut history = refused_of(4);
        history.calls[2].outcome = unknown();
        assert!(broken(&history).is_empty(), "it may have been cancelled after the refusal");
        let mut history = refused_of(4);
        history.calls[2].ended = 15;
        assert!(broken(&history).is_empty(), "it was acknowledged while the other call was under way");
    }

    #[test]
    fn a_refusal_that_is_given_again_is_judged_from_the_first_call_on() {
        let mut history = refused_of(4);
        history.calls.push(call(create("u4", None), unknown()));
        assert!(broken(&history).is_empty(), "the first call may have been refused before the cancellation");
        history.calls[4].began = 5;
        assert_eq!(broken(&history), [Rule::Founded], "by then it was acknowledged");
    }

    #[test]
    fn an_order_that_was_asked_for_later_left_nobody_short_before() {
        let mut history = refused_of(3);
        (history.calls[1].began, history.calls[1].ended) = (20, 30);
        assert!(broken(&history).is_empty(), "it may have been placed while the other call was under way");
        history.calls[1].began = 21;
        assert_eq!(broken(&history), [Rule::Founded]);
    }

    #[test]
    fn a_coupon_that_is_refused_though_it_has_uses_left_is_found() {
        let mut history = sound();
        history.calls.push(refusal(create("u4", Some("TEN")), OUT_OF_COUPONS));
        assert!(broken(&history).is_empty(), "its one use is taken");
        history.shop.coupons.get_mut("TEN").unwrap().limit = 2;
        assert_eq!(broken(&history), [Rule::Founded]);
        let mut history = sound();
        history.calls.push(refusal(create("u4", None), OUT_OF_COUPONS));
        assert_eq!(broken(&history), [Rule::Founded], "it names no coupon");
    }
}
