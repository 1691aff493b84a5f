//! What a coupon takes off.

use super::money::percent_of;

/// A coupon's terms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CouponTerms {
    /// A share of the subtotal, 1 to 100 percent; rounded down, see [`percent_of`].
    PercentOff(u8),
    /// A fixed amount in minor units, at most the subtotal: an order never costs less than nothing.
    AmountOff(i64),
}

impl CouponTerms {
    /// What comes off `subtotal_minor` (not negative), in minor units: between 0 and the subtotal.
    #[must_use]
    pub fn discount_minor(self, subtotal_minor: i64) -> i64 {
        match self {
            Self::PercentOff(percent) => percent_of(subtotal_minor, percent.min(100)),
            Self::AmountOff(amount_minor) => amount_minor.clamp(0, subtotal_minor),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_discount_is_never_negative_and_never_above_the_subtotal(
            subtotal in 0..=i64::MAX,
            terms in prop_oneof![
                any::<u8>().prop_map(CouponTerms::PercentOff),
                any::<i64>().prop_map(CouponTerms::AmountOff),
            ],
        ) {
            prop_assert!((0..=subtotal).contains(&terms.discount_minor(subtotal)));
        }
    }

    #[test]
    fn a_full_discount_makes_the_order_free() {
        assert_eq!(CouponTerms::PercentOff(100).discount_minor(12_345), 12_345);
        assert_eq!(CouponTerms::AmountOff(20_000).discount_minor(12_345), 12_345);
    }
}
