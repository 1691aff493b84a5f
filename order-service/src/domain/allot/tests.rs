//! The allotment against a model that serves one order after another from plain maps.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::domain::Violation;

/// Price and stock by product, terms and uses by coupon.
#[derive(Clone, Debug)]
struct Shop {
    products: BTreeMap<String, (i64, i64)>,
    coupons: BTreeMap<String, (CouponTerms, i64)>,
}

impl Shop {
    fn shelf(&self) -> Shelf {
        let products = self.products.iter().map(|(id, (price_minor, left))| StockedProduct {
            product_id: id.clone(),
            price_minor: *price_minor,
            left: *left,
            taken: 0,
        });
        let coupons = self.coupons.iter().map(|(code, (terms, left))| StockedCoupon {
            code: code.clone(),
            terms: *terms,
            left: *left,
            taken: 0,
        });
        Shelf::new(products.collect(), coupons.collect())
    }

    /// What a cashier does: the amounts (subtotal, discount), or the kind of refusal.
    fn serve(&mut self, new: &NewOrder) -> Result<(i64, i64), &'static str> {
        if new.lines.keys().any(|id| !self.products.contains_key(id.as_str())) {
            return Err("unknown product");
        }
        if new.lines.iter().any(|(id, wanted)| self.products[id.as_str()].1 < *wanted) {
            return Err("insufficient stock");
        }
        let exact: i128 = new
            .lines
            .iter()
            .map(|(id, wanted)| i128::from(self.products[id.as_str()].0) * i128::from(*wanted))
            .sum();
        let Ok(subtotal) = i64::try_from(exact) else { return Err("amount") };
        let mut discount = 0;
        if let Some(code) = &new.coupon_code {
            match self.coupons.get_mut(code.as_str()) {
                None => return Err("unknown coupon"),
                Some((_, left)) if *left < 1 => return Err("exhausted"),
                Some((terms, left)) => {
                    *left -= 1;
                    discount = terms.discount_minor(subtotal);
                }
            }
        }
        for (id, wanted) in &new.lines {
            self.products.get_mut(id.as_str()).unwrap().1 -= wanted;
        }
        Ok((subtotal, discount))
    }
}

fn kind(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::UnknownProducts(_) => "unknown product",
        Refusal::InsufficientStock(_) => "insufficient stock",
        Refusal::AmountTooLarge => "amount",
        Refusal::UnknownCoupon(_) => "unknown coupon",
        Refusal::CouponExhausted(_) => "exhausted",
    }
}

fn shop() -> impl Strategy<Value = Shop> {
    let price = prop_oneof![0..1_000_i64, Just(i64::MAX / 2)];
    let product = ("[a-d]", (price, 0..12_i64));
    let terms = prop_oneof![
        (1..=100_u8).prop_map(CouponTerms::PercentOff),
        (1..2_000_i64).prop_map(CouponTerms::AmountOff),
    ];
    // Below zero where the shop lowered a limit under what was used.
    let coupon = ("[X-Z]", (terms, -1..4_i64));
    (
        prop::collection::btree_map(product.0, product.1, 1..4),
        prop::collection::btree_map(coupon.0, coupon.1, 0..3),
    )
        .prop_map(|(products, coupons)| Shop { products, coupons })
}

fn order() -> impl Strategy<Value = Result<NewOrder, Vec<Violation>>> {
    (prop::collection::vec(("[a-e]", 1..4_i64), 1..4), prop::option::of("[W-Z]"))
        .prop_map(|(items, coupon)| NewOrder::parse("u1".to_owned(), items, coupon))
}

proptest! {
    #[test]
    fn a_batch_is_served_as_if_its_orders_had_come_one_after_another(
        before in shop(), orders in prop::collection::vec(order(), 1..40),
    ) {
        let (mut shop, mut shelf) = (before.clone(), before.shelf());
        let (mut sold, mut redeemed) = (BTreeMap::new(), BTreeMap::new());
        for new in orders.into_iter().flatten() {
            match (shelf.allot(&new, "EUR", Timestamp::now()), shop.serve(&new)) {
                (Ok(Allotted { order, event }), Ok(amounts)) => {
                    prop_assert_eq!((order.subtotal_minor, order.discount_minor), amounts);
                    prop_assert_eq!(order.total_minor, amounts.0 - amounts.1);
                    prop_assert_eq!(event.key, order.id.to_string());
                    for item in order.items {
                        *sold.entry(item.product_id).or_insert(0) += item.quantity;
                    }
                    if let Some(code) = order.coupon_code {
                        *redeemed.entry(code).or_insert(0) += 1;
                    }
                }
                (Err(NotAllotted::Refused(refusal)), Err(expected)) => prop_assert_eq!(kind(&refusal), expected),
                (got, expected) => prop_assert!(false, "{:?} where {:?} is right", got, expected),
            }
        }
        // What is written: net, and never more than there was.
        let taken: BTreeMap<_, _> =
            shelf.taken_products().map(|product| (product.product_id.clone(), product.taken)).collect();
        prop_assert_eq!(&taken, &sold);
        let used: BTreeMap<_, _> = shelf.taken_coupons().map(|coupon| (coupon.code.clone(), coupon.taken)).collect();
        prop_assert_eq!(&used, &redeemed);
        for (id, taken) in taken {
            prop_assert!(taken <= before.products[&id].1);
            prop_assert_eq!(shop.products[&id].1, before.products[&id].1 - taken);
        }
        for (code, used) in used {
            prop_assert!(used <= before.coupons[&code].1);
        }
    }
}

#[test]
fn an_order_that_is_refused_takes_nothing_from_those_behind_it() {
    let shop = Shop {
        products: BTreeMap::from([("a".to_owned(), (100, 1)), ("b".to_owned(), (100, 1))]),
        coupons: BTreeMap::new(),
    };
    let mut shelf = shop.shelf();
    let parse = |items: &[(&str, i64)], coupon: Option<&str>| {
        let items = items.iter().map(|(id, quantity)| ((*id).to_owned(), *quantity)).collect();
        NewOrder::parse("u1".to_owned(), items, coupon.map(str::to_owned)).unwrap()
    };
    let mut allot = |new: NewOrder| shelf.allot(&new, "EUR", Timestamp::now()).is_ok();
    assert!(!allot(parse(&[("a", 1)], Some("NONE"))), "its coupon fails");
    assert!(!allot(parse(&[("a", 1), ("b", 2)], None)), "one of its lines is short");
    assert!(allot(parse(&[("a", 1)], None)));
    assert!(!allot(parse(&[("a", 1)], None)), "sold out");
    assert!(allot(parse(&[("b", 1)], None)));
}

#[test]
#[should_panic(expected = "locked in order")]
fn a_shelf_out_of_order_is_a_bug() {
    let product = |id: &str| StockedProduct { product_id: id.to_owned(), price_minor: 1, left: 1, taken: 0 };
    let _ = Shelf::new(vec![product("b"), product("a")], Vec::new());
}
