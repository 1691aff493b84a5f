//! The types of an order event, version 1.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The identity of an order, and the key of every record about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct OrderId(pub Uuid);

impl OrderId {
    /// A new id. UUIDv7, so that ids made one after another lie beside each other in the primary key's index.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for OrderId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(Self)
    }
}

/// What happened to the order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
pub enum EventType {
    /// The order was saved as `PENDING`; always version 1.
    OrderCreated,
    /// The order was confirmed.
    OrderConfirmed,
    /// The order was cancelled; its stock and coupon were given back.
    OrderCancelled,
}

impl EventType {
    /// Every type, in the order of an order's life.
    pub const ALL: [Self; 3] = [Self::OrderCreated, Self::OrderConfirmed, Self::OrderCancelled];

    /// The name as it stands in the payload.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OrderCreated => "OrderCreated",
            Self::OrderConfirmed => "OrderConfirmed",
            Self::OrderCancelled => "OrderCancelled",
        }
    }
}

/// Where an order stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum OrderStatus {
    /// Saved, with stock and coupon taken.
    Pending,
    /// Confirmed by the shop.
    Confirmed,
    /// Cancelled, with stock and coupon given back.
    Cancelled,
}

impl OrderStatus {
    /// The name as it stands in the payload and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Confirmed => "CONFIRMED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

impl FromStr for OrderStatus {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Pending, Self::Confirmed, Self::Cancelled]
            .into_iter()
            .find(|status| status.name() == text)
            .ok_or_else(|| UnknownStatus(text.to_owned()))
    }
}

/// A status this version does not know.
#[derive(Debug, thiserror::Error)]
#[error("unknown order status {0:?}: it is one of PENDING, CONFIRMED, CANCELLED")]
pub struct UnknownStatus(String);

/// One line of an order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderItem {
    /// The product's id in the catalogue.
    pub product_id: String,
    /// Units ordered, at least 1.
    pub quantity: i64,
    /// Price of one unit when the order was taken, in minor units of the order's currency.
    pub unit_price_minor: i64,
}

/// The order as it stood when the event was recorded: a reader needs no second source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderSnapshot {
    /// Who ordered.
    pub user_id: String,
    /// Where the order stands after this event.
    pub status: OrderStatus,
    /// Its lines.
    pub items: Vec<OrderItem>,
    /// The coupon used, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coupon_code: Option<String>,
    /// ISO 4217 code of all amounts.
    pub currency: String,
    /// Sum of the lines, in minor units.
    pub subtotal_minor: i64,
    /// What the coupon took off, in minor units.
    pub discount_minor: i64,
    /// `subtotal_minor - discount_minor`, in minor units.
    pub total_minor: i64,
}

/// One event of one order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderEvent {
    /// Unique per event; a redelivery carries the same id.
    pub event_id: Uuid,
    /// The order, and the key of the record.
    pub order_id: OrderId,
    /// 1 for the order's first event, then 2, 3, … without a gap.
    pub version: i64,
    /// What happened.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// When it was recorded.
    pub occurred_at: Timestamp,
    /// The order after it.
    pub order: OrderSnapshot,
}
