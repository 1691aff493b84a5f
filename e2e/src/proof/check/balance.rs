//! C8: stock, coupons and amounts balance.

use std::collections::BTreeMap;

use super::{Rule, Violation};
use crate::proof::history::{History, StoredOrder};
use crate::proof::plan::shop::CURRENCY;

/// C8: initial stock less what orders hold is the stock, which is not negative; a coupon's uses are the orders that hold
/// it, at most its limit; an order's subtotal is the sum of its lines, its discount what the coupon takes off that, as the API
/// documents it, and its total what is left, in the shop's currency. A cancelled order holds nothing.
#[must_use]
pub fn balanced(history: &History) -> Vec<Violation> {
    let standing: Vec<&StoredOrder> =
        history.orders.iter().filter(|order| order.status != "CANCELLED").collect();
    let mut found = Vec::new();
    let mut sold: BTreeMap<&str, i64> = BTreeMap::new();
    for (product, units) in standing.iter().flat_map(|order| &order.items) {
        *sold.entry(product).or_default() += units;
    }
    for (id, product) in &history.shop.products {
        let sold = sold.get(id.as_str()).copied().unwrap_or_default();
        let left = history.stock.get(id).copied();
        if left != Some(product.stock - sold) || left.is_some_and(|left| left < 0) {
            found.push(format!("{id}: {} less {sold} sold, and the stock says {left:?}", product.stock));
        }
    }
    for (code, coupon) in &history.shop.coupons {
        let holding = standing.iter().filter(|order| order.coupon.as_deref() == Some(code)).count();
        let used = history.coupon_uses.get(code).copied().unwrap_or_default();
        if i64::try_from(holding).ok() != Some(used) || used > coupon.limit {
            found.push(format!(
                "{code}: {holding} orders hold it, {used} uses are counted, {} allowed",
                coupon.limit
            ));
        }
    }
    for order in &history.orders {
        let sum: Option<i64> = order.items.iter().try_fold(0, |sum, (product, units)| {
            Some(sum + units * history.shop.products.get(product)?.price_minor)
        });
        if sum != Some(order.subtotal_minor) {
            found.push(format!("order {}: lines of {sum:?}, subtotal {}", order.id, order.subtotal_minor));
        }
        let discount = match &order.coupon {
            None => Some(0),
            Some(code) => {
                let coupon = history.shop.coupons.get(code);
                coupon.map(|coupon| coupon.terms.discount_minor(order.subtotal_minor))
            }
        };
        let total = discount.map(|discount| order.subtotal_minor - discount);
        if discount != Some(order.discount_minor) || total != Some(order.total_minor) {
            found.push(format!(
                "order {}: {} less {discount:?} is {total:?}, and it says less {} is {}",
                order.id, order.subtotal_minor, order.discount_minor, order.total_minor
            ));
        }
        if order.currency != CURRENCY {
            found.push(format!("order {} is in {}, and prices are in {CURRENCY}", order.id, order.currency));
        }
    }
    found.into_iter().map(|what| Violation::of(Rule::Balanced, what)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{broken, sound};
    use super::*;
    use crate::proof::plan::Terms;

    #[test]
    fn stock_that_does_not_add_up_is_found() {
        let mut history = sound();
        *history.stock.get_mut("tea").unwrap() += 1;
        assert_eq!(broken(&history), [Rule::Balanced]);
    }

    #[test]
    fn stock_below_zero_is_found_even_if_it_adds_up() {
        let mut history = sound();
        history.shop.products.get_mut("tea").unwrap().stock = 1;
        history.stock.insert("tea".to_owned(), -1);
        assert_eq!(broken(&history), [Rule::Balanced]);
    }

    #[test]
    fn a_coupon_that_is_used_beyond_its_limit_is_found() {
        let mut history = sound();
        history.shop.coupons.get_mut("TEN").unwrap().limit = 0;
        assert_eq!(broken(&history), [Rule::Balanced]);
    }

    #[test]
    fn uses_that_no_order_holds_are_found() {
        let mut history = sound();
        history.shop.coupons.get_mut("TEN").unwrap().limit = 9;
        *history.coupon_uses.get_mut("TEN").unwrap() += 1;
        assert_eq!(broken(&history), [Rule::Balanced]);
    }

    #[test]
    fn a_discount_that_is_not_the_coupons_is_found() {
        let mut history = sound();
        history.shop.coupons.get_mut("TEN").unwrap().terms = Terms::AmountOffMinor(20);
        assert!(broken(&history).is_empty(), "an amount comes to the same here");
        for other in [Terms::PercentOff(11), Terms::AmountOffMinor(21), Terms::AmountOffMinor(1000)] {
            history.shop.coupons.get_mut("TEN").unwrap().terms = other;
            assert_eq!(broken(&history), [Rule::Balanced], "{other:?}");
        }
    }

    #[test]
    fn an_order_whose_lines_do_not_add_up_is_found() {
        let mut history = sound();
        history.shop.products.get_mut("tea").unwrap().price_minor = 101;
        assert_eq!(broken(&history), [Rule::Published, Rule::Balanced]);
    }
}
