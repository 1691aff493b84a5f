//! Why the shop's rules refuse an order: an answer rather than a failure, so that it can be stored and given again.

use serde::{Deserialize, Serialize};

use super::ids::{CouponCode, ProductId};
use super::money::AmountTooLarge;

/// Why an order was refused. Nothing changed. It is stored as JSON beside an idempotency key: variants and fields keep
/// their names for as long as a key may live.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Refusal {
    /// Products that the catalogue does not have.
    #[error("unknown products: {}", list(.0))]
    UnknownProducts(Vec<ProductId>),
    /// There is less in stock than was asked for.
    #[error("insufficient stock: {}", list(.0))]
    InsufficientStock(Vec<Shortage>),
    /// No such coupon.
    #[error("unknown coupon {0}")]
    UnknownCoupon(CouponCode),
    /// The coupon was used as often as it may be.
    #[error("coupon {0} has been used up")]
    CouponExhausted(CouponCode),
    /// The sum overflows.
    #[error("{AmountTooLarge}")]
    AmountTooLarge,
}

/// A product of which there is too little.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[error("{product_id} ({available} left, {wanted} wanted)")]
pub struct Shortage {
    /// The product.
    pub product_id: ProductId,
    /// Units in stock.
    pub available: i64,
    /// Units asked for.
    pub wanted: i64,
}

impl From<AmountTooLarge> for Refusal {
    fn from(_: AmountTooLarge) -> Self {
        Self::AmountTooLarge
    }
}

fn list(things: &[impl ToString]) -> String {
    things.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Golden: what an earlier version stored is read by this one.
    #[test]
    fn a_refusal_is_stored_in_the_same_words_for_ever() {
        let product_id = ProductId::parse("productId", "p1".to_owned()).unwrap();
        let code = CouponCode::parse("couponCode", "TEN".to_owned()).unwrap();
        let shortage = Shortage { product_id: product_id.clone(), available: 1, wanted: 2 };
        for (refusal, stored) in [
            (Refusal::UnknownProducts(vec![product_id]), json!({"unknownProducts": ["p1"]})),
            (
                Refusal::InsufficientStock(vec![shortage]),
                json!({"insufficientStock": [{"productId": "p1", "available": 1, "wanted": 2}]}),
            ),
            (Refusal::UnknownCoupon(code.clone()), json!({"unknownCoupon": "TEN"})),
            (Refusal::CouponExhausted(code), json!({"couponExhausted": "TEN"})),
            (Refusal::AmountTooLarge, json!("amountTooLarge")),
        ] {
            assert_eq!(serde_json::to_value(&refusal).unwrap(), stored);
            assert_eq!(serde_json::from_value::<Refusal>(stored).unwrap(), refusal);
        }
    }
}
