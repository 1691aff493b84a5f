//! An order: how a request becomes one, what it costs, and which changes of status it allows.

use std::collections::BTreeMap;

use jiff::Timestamp;
use order_events::{EventType, OrderEvent, OrderId, OrderItem, OrderSnapshot, OrderStatus};
use uuid::Uuid;

use super::coupon::CouponTerms;
use super::ids::{CouponCode, ProductId, UserId, Violation};
use super::money::{self, AmountTooLarge};

/// Most lines of one order: keeps a transaction's row locks and an event's size small.
pub const MAX_ITEMS: usize = 100;
/// Largest quantity of one product in one order.
pub const MAX_QUANTITY: i64 = 1_000_000;

/// A request for an order that passed every rule that needs no database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewOrder {
    /// Who orders.
    pub user_id: UserId,
    /// Units wanted per product, at least one product, in the order of the ids: stock rows are locked in this order.
    pub lines: BTreeMap<ProductId, i64>,
    /// The coupon to use, if any.
    pub coupon_code: Option<CouponCode>,
}

impl NewOrder {
    /// Parses a request. Lines with the same product are merged into one, their quantities added.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first.
    pub fn parse(
        user_id: String,
        items: Vec<(String, i64)>,
        coupon_code: Option<String>,
    ) -> Result<Self, Vec<Violation>> {
        let mut violations = Vec::new();
        let user_id = UserId::parse("userId", user_id).map_err(|violation| violations.push(violation));
        let lines = merge_lines(items, &mut violations);
        let coupon_code = coupon_code
            .map(|code| CouponCode::parse("couponCode", code))
            .transpose()
            .map_err(|violation| violations.push(violation));
        match (user_id, coupon_code) {
            (Ok(user_id), Ok(coupon_code)) if violations.is_empty() => {
                Ok(Self { user_id, lines, coupon_code })
            }
            _ => Err(violations),
        }
    }
}

fn merge_lines(items: Vec<(String, i64)>, violations: &mut Vec<Violation>) -> BTreeMap<ProductId, i64> {
    let mut lines = BTreeMap::new();
    if items.is_empty() || items.len() > MAX_ITEMS {
        let count = items.len();
        violations.push(Violation::new("items", format!("must have 1 to {MAX_ITEMS} lines, not {count}")));
        return lines;
    }
    for (index, (product_id, quantity)) in items.into_iter().enumerate() {
        match ProductId::parse(&format!("items[{index}].productId"), product_id) {
            Ok(product_id) => {
                let units = lines.entry(product_id).or_insert(0_i64);
                *units = units.saturating_add(quantity.max(0));
                if !(1..=MAX_QUANTITY).contains(&quantity) || *units > MAX_QUANTITY {
                    violations.push(Violation::new(
                        format!("items[{index}].quantity"),
                        format!("must be 1 to {MAX_QUANTITY} per product, equal products added up"),
                    ));
                }
            }
            Err(violation) => violations.push(violation),
        }
    }
    lines
}

/// A change of status that a shop asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// `PENDING` → `CONFIRMED`.
    Confirm,
    /// `PENDING` or `CONFIRMED` → `CANCELLED`; stock and coupon are given back.
    Cancel,
}

/// The order's status does not allow the change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an order that is {} can't be {}", from.name(), to.name())]
pub struct StatusConflict {
    /// Where the order stands.
    pub from: OrderStatus,
    /// What was asked for.
    pub to: OrderStatus,
}

/// An order as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// Its identity.
    pub id: OrderId,
    /// Who ordered.
    pub user_id: String,
    /// Where it stands.
    pub status: OrderStatus,
    /// 1 when created, one more with each change.
    pub version: i64,
    /// Its lines, by product id.
    pub items: Vec<OrderItem>,
    /// The coupon used, if any.
    pub coupon_code: Option<String>,
    /// ISO 4217 code of the amounts.
    pub currency: String,
    /// Sum of the lines, in minor units.
    pub subtotal_minor: i64,
    /// What the coupon took off, in minor units.
    pub discount_minor: i64,
    /// `subtotal_minor - discount_minor`.
    pub total_minor: i64,
    /// When it was created, to the microsecond, as the database keeps it.
    pub created_at: Timestamp,
}

impl Order {
    /// A `PENDING` order of version 1, without a discount yet.
    ///
    /// # Errors
    /// [`AmountTooLarge`] when the lines' sum overflows.
    pub fn pending(
        user_id: &UserId,
        items: Vec<OrderItem>,
        currency: &str,
        now: Timestamp,
    ) -> Result<Self, AmountTooLarge> {
        let subtotal_minor = money::subtotal_minor(&items)?;
        Ok(Self {
            id: OrderId::generate(),
            user_id: user_id.as_str().to_owned(),
            status: OrderStatus::Pending,
            version: 1,
            items,
            coupon_code: None,
            currency: currency.to_owned(),
            subtotal_minor,
            discount_minor: 0,
            total_minor: subtotal_minor,
            // The database keeps microseconds; an order reads the same before and after.
            created_at: Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now),
        })
    }

    /// Uses the coupon on this order.
    pub fn apply_coupon(&mut self, code: &CouponCode, terms: CouponTerms) {
        self.coupon_code = Some(code.as_str().to_owned());
        self.discount_minor = terms.discount_minor(self.subtotal_minor);
        // The discount lies between 0 and the subtotal.
        self.total_minor = self.subtotal_minor - self.discount_minor;
    }

    /// The order as it was when it was created, whatever became of it since: a change touches status and version alone.
    #[must_use]
    pub fn as_created(self) -> Self {
        Self { status: OrderStatus::Pending, version: 1, ..self }
    }

    /// Makes the change, which is one version more, and says which event it is.
    ///
    /// # Errors
    /// [`StatusConflict`] when the status does not allow it; the order is as before.
    pub fn change(&mut self, change: Change) -> Result<EventType, StatusConflict> {
        let (to, event_type, allowed) = match change {
            Change::Confirm => {
                (OrderStatus::Confirmed, EventType::OrderConfirmed, self.status == OrderStatus::Pending)
            }
            Change::Cancel => {
                (OrderStatus::Cancelled, EventType::OrderCancelled, self.status != OrderStatus::Cancelled)
            }
        };
        if !allowed {
            return Err(StatusConflict { from: self.status, to });
        }
        self.status = to;
        self.version += 1;
        Ok(event_type)
    }

    /// The event that says what just happened to the order.
    #[must_use]
    pub fn event(&self, event_type: EventType, occurred_at: Timestamp) -> OrderEvent {
        OrderEvent {
            event_id: Uuid::now_v7(),
            order_id: self.id,
            version: self.version,
            event_type,
            occurred_at,
            order: OrderSnapshot {
                user_id: self.user_id.clone(),
                status: self.status,
                items: self.items.clone(),
                coupon_code: self.coupon_code.clone(),
                currency: self.currency.clone(),
                subtotal_minor: self.subtotal_minor,
                discount_minor: self.discount_minor,
                total_minor: self.total_minor,
            },
        }
    }
}

#[cfg(test)]
mod tests;
