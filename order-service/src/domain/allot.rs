//! Who gets what is left: orders against the products and coupons that a transaction has locked, in the order of arrival.

use std::collections::BTreeMap;

use jiff::Timestamp;
use order_events::codec::EncodeError;
use order_events::{EncodedEvent, EventType, OrderItem};

use super::coupon::CouponTerms;
use super::ids::{CouponCode, ProductId};
use super::order::{NewOrder, Order};
use super::refusal::{Refusal, Shortage};

/// A product under its lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StockedProduct {
    /// Its id.
    pub product_id: String,
    /// Price of one unit, in minor units.
    pub price_minor: i64,
    /// Units that are left.
    pub left: i64,
    /// Units that orders took.
    pub taken: i64,
}

/// A coupon under its lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StockedCoupon {
    /// Its code.
    pub code: String,
    /// What it takes off.
    pub terms: CouponTerms,
    /// Uses that are left.
    pub left: i64,
    /// Uses that orders took.
    pub taken: i64,
}

/// The products and coupons that orders are served from.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Shelf {
    products: Vec<StockedProduct>,
    coupons: Vec<StockedCoupon>,
}

/// An order with what it takes to be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Allotted {
    /// The order.
    pub order: Order,
    /// Its `OrderCreated`, as the bytes of a record.
    pub event: EncodedEvent,
}

/// Why an order got nothing. It took nothing either.
#[derive(Debug, thiserror::Error)]
pub enum NotAllotted {
    /// The shop's rules refuse it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Its event does not fit a record.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

impl Shelf {
    /// A shelf of these products and coupons; both are in the order of the bytes of their names, as they were locked.
    ///
    /// # Panics
    /// When they are in another order: a lookup would miss what is there.
    #[must_use]
    pub fn new(products: Vec<StockedProduct>, coupons: Vec<StockedCoupon>) -> Self {
        assert!(products.is_sorted_by(|a, b| a.product_id < b.product_id), "products are locked in order");
        assert!(coupons.is_sorted_by(|a, b| a.code < b.code), "coupons are locked in order");
        Self { products, coupons }
    }

    /// Serves the order, or takes nothing for it: each order sees what those before it left.
    ///
    /// # Errors
    /// [`NotAllotted`], for the first of: unknown products, insufficient stock, amount, coupon, size of the event.
    pub fn allot(&mut self, new: &NewOrder, currency: &str, now: Timestamp) -> Result<Allotted, NotAllotted> {
        let items = self.priced(&new.lines)?;
        let mut order = Order::pending(&new.user_id, items, currency, now).map_err(Refusal::from)?;
        if let Some(code) = &new.coupon_code {
            order.apply_coupon(code, self.redeemable(code)?);
        }
        let event = order.event(EventType::OrderCreated, order.created_at).encode()?;
        self.take(&order);
        Ok(Allotted { order, event })
    }

    /// The lines with their prices, if there is enough of every one.
    ///
    /// # Errors
    /// [`Refusal::UnknownProducts`] or [`Refusal::InsufficientStock`], naming all of them.
    pub fn priced(&self, lines: &BTreeMap<ProductId, i64>) -> Result<Vec<OrderItem>, Refusal> {
        let (mut unknown, mut short) = (Vec::new(), Vec::new());
        let mut items = Vec::with_capacity(lines.len());
        for (product_id, &wanted) in lines {
            match self.product(product_id.as_str()).map(|index| &self.products[index]) {
                None => unknown.push(product_id.clone()),
                Some(product) if product.left < wanted => {
                    short.push(Shortage { product_id: product_id.clone(), available: product.left, wanted });
                }
                Some(product) => items.push(OrderItem {
                    product_id: product_id.as_str().to_owned(),
                    quantity: wanted,
                    unit_price_minor: product.price_minor,
                }),
            }
        }
        if !unknown.is_empty() {
            return Err(Refusal::UnknownProducts(unknown));
        }
        if !short.is_empty() {
            return Err(Refusal::InsufficientStock(short));
        }
        Ok(items)
    }

    /// Products of which units were taken, in the order of their ids.
    pub fn taken_products(&self) -> impl Iterator<Item = &StockedProduct> {
        self.products.iter().filter(|product| product.taken > 0)
    }

    /// Coupons of which uses were taken, in the order of their codes.
    pub fn taken_coupons(&self) -> impl Iterator<Item = &StockedCoupon> {
        self.coupons.iter().filter(|coupon| coupon.taken > 0)
    }

    fn redeemable(&self, code: &CouponCode) -> Result<CouponTerms, Refusal> {
        let coupon = self.coupon(code.as_str()).map(|index| &self.coupons[index]);
        let coupon = coupon.ok_or_else(|| Refusal::UnknownCoupon(code.clone()))?;
        if coupon.left < 1 {
            return Err(Refusal::CouponExhausted(code.clone()));
        }
        Ok(coupon.terms)
    }

    /// Takes what the order was just priced with: every line and the coupon are there.
    fn take(&mut self, order: &Order) {
        for item in &order.items {
            if let Some(index) = self.product(&item.product_id) {
                self.products[index].left -= item.quantity;
                self.products[index].taken += item.quantity;
            }
        }
        if let Some(index) = order.coupon_code.as_deref().and_then(|code| self.coupon(code)) {
            self.coupons[index].left -= 1;
            self.coupons[index].taken += 1;
        }
    }

    fn product(&self, product_id: &str) -> Option<usize> {
        self.products.binary_search_by(|product| product.product_id.as_str().cmp(product_id)).ok()
    }

    fn coupon(&self, code: &str) -> Option<usize> {
        self.coupons.binary_search_by(|coupon| coupon.code.as_str().cmp(code)).ok()
    }
}

#[cfg(test)]
mod tests;
