//! Money as whole minor units (cents) of one currency; every operation is checked.

use order_events::OrderItem;

/// Highest price of one unit, in minor units. Times the largest quantity it still fits an `i64`.
pub const MAX_PRICE_MINOR: i64 = 1_000_000_000_000;

/// A sum does not fit an `i64` of minor units.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the order's amount is too large: it must stay below 2^63 minor units")]
pub struct AmountTooLarge;

/// Sum of `quantity * unit price` over the lines, in minor units.
///
/// # Errors
/// [`AmountTooLarge`] when a product or the sum overflows.
pub fn subtotal_minor(items: &[OrderItem]) -> Result<i64, AmountTooLarge> {
    items.iter().try_fold(0_i64, |sum, item| {
        let line = item.quantity.checked_mul(item.unit_price_minor).ok_or(AmountTooLarge)?;
        sum.checked_add(line).ok_or(AmountTooLarge)
    })
}

/// `percent` of `amount_minor`, **rounded down to a whole minor unit**: the part that can't be paid out stays with
/// the shop. 10 % of 99 is 9.
///
/// `amount_minor` is not negative and `percent` at most 100, so the result is between 0 and `amount_minor`.
#[must_use]
pub fn percent_of(amount_minor: i64, percent: u8) -> i64 {
    let share = i128::from(amount_minor) * i128::from(percent) / 100;
    // At most the amount itself, which is an i64; saturating only states it to the compiler.
    i64::try_from(share).unwrap_or(amount_minor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(quantity: i64, unit_price_minor: i64) -> OrderItem {
        OrderItem { product_id: "p".to_owned(), quantity, unit_price_minor }
    }

    #[test]
    fn a_percentage_is_rounded_down() {
        for (amount, percent, expected) in
            [(99, 10, 9), (100, 10, 10), (1, 99, 0), (1, 100, 1), (0, 50, 0), (333, 33, 109)]
        {
            assert_eq!(percent_of(amount, percent), expected, "{percent} % of {amount}");
        }
    }

    #[test]
    fn an_overflowing_sum_is_refused() {
        assert_eq!(subtotal_minor(&[line(i64::MAX, 2)]), Err(AmountTooLarge));
        assert_eq!(subtotal_minor(&[line(1, i64::MAX), line(1, 1)]), Err(AmountTooLarge));
        assert_eq!(subtotal_minor(&[]), Ok(0));
    }

    proptest! {
        #[test]
        fn a_percentage_is_within_the_amount_and_less_than_one_unit_below_the_exact_share(
            amount in 0..=i64::MAX, percent in 0_u8..=100,
        ) {
            let share = percent_of(amount, percent);
            prop_assert!((0..=amount).contains(&share));
            let exact_hundredths = i128::from(amount) * i128::from(percent);
            let lost = exact_hundredths - i128::from(share) * 100;
            prop_assert!((0..100).contains(&lost), "lost {lost} hundredths");
        }

        #[test]
        fn a_subtotal_is_the_exact_sum_or_refused(lines in prop::collection::vec((0..=i64::MAX, 0..=i64::MAX), 0..5)) {
            let exact: i128 = lines.iter().fold(0, |sum: i128, (quantity, price)| {
                sum.saturating_add(i128::from(*quantity) * i128::from(*price))
            });
            let items: Vec<_> = lines.iter().map(|(quantity, price)| line(*quantity, *price)).collect();
            match subtotal_minor(&items) {
                Ok(sum) => prop_assert_eq!(i128::from(sum), exact),
                Err(AmountTooLarge) => prop_assert!(exact > i128::from(i64::MAX)),
            }
        }
    }
}
