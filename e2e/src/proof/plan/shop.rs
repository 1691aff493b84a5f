//! What is there to buy: products and coupons, some of them scarce.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde::Serialize;

/// The product of which there is always enough: by it a replica shows that it takes orders.
pub const PROBE: &str = "probe";

/// The currency of all prices: not the service's default, so that one that does not look at its settings is found out.
pub const CURRENCY: &str = "CHF";

/// Coupons of which there are one to three uses: each gives a moment at which two orders may want the last one.
pub const SCARCE_COUPONS: u32 = 20;

/// What a scarce coupon takes off, or as much as an amount: little, since it is how often it is used that matters.
const SCARCE_PERCENT: i64 = 10;
/// Minor units of a coupon that takes off an amount, for each percent that another would take off: at most the highest price of a
/// unit, so that some orders cost less than that and some more.
const MINOR_PER_PERCENT: i64 = 100;

/// The code of one of them.
#[must_use]
pub fn scarce_coupon(nth: u32) -> String {
    format!("ONCE-{:02}", nth % SCARCE_COUPONS)
}

/// What is there to buy.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shop {
    /// Products by id.
    pub products: BTreeMap<String, Product>,
    /// Coupons by code.
    pub coupons: BTreeMap<String, Coupon>,
}

/// A product as it is at first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Product {
    /// Price of a unit.
    pub price_minor: i64,
    /// Units.
    pub stock: i64,
}

/// A coupon as it is at first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Coupon {
    /// What it takes off.
    pub terms: Terms,
    /// How often it may be used.
    pub limit: i64,
}

/// What a coupon takes off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Terms {
    /// So many percent.
    PercentOff(i64),
    /// So many minor units.
    AmountOffMinor(i64),
}

impl Terms {
    /// An amount or a percentage of the same size, as `is_amount` says.
    fn of(percent: i64, is_amount: bool) -> Self {
        if is_amount { Self::AmountOffMinor(percent * MINOR_PER_PERCENT) } else { Self::PercentOff(percent) }
    }

    /// What comes off a subtotal, as the API documents it: a percentage is rounded down, and an amount is at most the subtotal.
    #[must_use]
    pub fn discount_minor(self, subtotal_minor: i64) -> i64 {
        match self {
            Self::PercentOff(percent) => subtotal_minor * percent / 100,
            Self::AmountOffMinor(amount_minor) => amount_minor.min(subtotal_minor),
        }
    }
}

/// What the clients of a run like to buy. A hot product makes every order wait for it, which hides what else they could
/// meet at; so not every run has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Taste {
    /// Of a hundred lines, so many are of the first product, whatever the others are.
    pub hot_percent: u32,
    /// Of a hundred orders, so many use a coupon.
    pub coupon_percent: u32,
    /// Most lines of an order.
    pub max_lines: usize,
}

impl Taste {
    /// Some taste.
    pub(super) fn any(rng: &mut StdRng) -> Self {
        let mut one_of = |values: [u32; 4]| values.choose(rng).copied().unwrap_or(values[0]);
        Self {
            hot_percent: one_of([0, 0, 40, 80]),
            coupon_percent: one_of([20, 20, 60, 90]),
            max_lines: if one_of([1, 1, 4, 4]) == 1 { 1 } else { 4 },
        }
    }
}

impl Shop {
    /// A shop with a hot product, a scarce one, and coupons near their limit.
    pub(super) fn any(rng: &mut StdRng) -> Self {
        let mut products = BTreeMap::from([(PROBE.to_owned(), Product { price_minor: 1, stock: 1_000_000 })]);
        // `sku-0` is the hot one, and in some runs it runs out; `sku-1` does in most.
        let hot_runs_out = rng.random_bool(0.25);
        for index in 0..8 {
            let stock = match index {
                0 if hot_runs_out => rng.random_range(100..400),
                1 => rng.random_range(20..120),
                _ => 100_000,
            };
            let price_minor = rng.random_range(1..10_000);
            products.insert(format!("sku-{index}"), Product { price_minor, stock });
        }
        let mut coupons = BTreeMap::new();
        for (code, limit) in
            [("FEW", rng.random_range(1..12)), ("SOME", rng.random_range(20..80)), ("MANY", 100_000)]
        {
            let percent: i64 = rng.random_range(1..=100);
            coupons.insert(code.to_owned(), Coupon { terms: Terms::of(percent, percent % 2 == 0), limit });
        }
        for (nth, limit) in (0..SCARCE_COUPONS).zip([1, 2, 3].into_iter().cycle()) {
            coupons.insert(
                scarce_coupon(nth),
                Coupon { terms: Terms::of(SCARCE_PERCENT, nth.is_multiple_of(2)), limit },
            );
        }
        Self { products, coupons }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn about_half_of_all_coupons_take_off_an_amount_and_half_of_the_scarce_ones() {
        let shops: Vec<Shop> = (0..200).map(|seed| Shop::any(&mut StdRng::seed_from_u64(seed))).collect();
        let is_amount = |coupon: &Coupon| matches!(coupon.terms, Terms::AmountOffMinor(_));
        for code in ["FEW", "SOME", "MANY"] {
            let amounts = shops.iter().filter(|shop| is_amount(&shop.coupons[code])).count();
            assert!((60..=140).contains(&amounts), "{code}: {amounts} of 200");
        }
        let scarce = (0..SCARCE_COUPONS).map(scarce_coupon);
        assert_eq!(scarce.filter(|code| is_amount(&shops[0].coupons[code])).count(), 10);
    }

    #[test]
    fn an_amount_takes_off_no_more_than_the_subtotal_and_a_percentage_is_rounded_down() {
        assert_eq!(Terms::PercentOff(10).discount_minor(99), 9);
        assert_eq!(
            [99, 100, 101].map(|subtotal| Terms::of(1, true).discount_minor(subtotal)),
            [99, 100, 100]
        );
    }
}
