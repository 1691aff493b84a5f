//! How an order looks from outside.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::Order;

/// An order.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Order)]
pub struct OrderView {
    /// Its identity.
    pub order_id: Uuid,
    /// `PENDING`, `CONFIRMED` or `CANCELLED`.
    #[schema(example = "PENDING")]
    pub status: &'static str,
    /// 1 when created, one more with each change; also the entity tag.
    #[schema(minimum = 1)]
    pub version: i64,
    /// Who ordered.
    pub user_id: String,
    /// Its lines, one per product, by product id.
    pub items: Vec<ItemView>,
    /// The coupon used.
    pub coupon_code: Option<String>,
    /// ISO 4217 code of the amounts.
    #[schema(example = "EUR")]
    pub currency: String,
    /// Sum of the lines, in minor units.
    pub subtotal_minor: i64,
    /// What the coupon took off, in minor units; a percentage is rounded down.
    pub discount_minor: i64,
    /// What is to be paid, in minor units.
    pub total_minor: i64,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// One line of an order.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OrderItem)]
pub struct ItemView {
    /// The product.
    pub product_id: String,
    /// Units.
    pub quantity: i64,
    /// Price of one unit when the order was placed, in minor units.
    pub unit_price_minor: i64,
}

impl From<Order> for OrderView {
    fn from(order: Order) -> Self {
        let Order {
            id,
            user_id,
            status,
            version,
            items,
            coupon_code,
            currency,
            subtotal_minor,
            discount_minor,
            total_minor,
            created_at,
        } = order;
        let items = items
            .into_iter()
            .map(|item| ItemView {
                product_id: item.product_id,
                quantity: item.quantity,
                unit_price_minor: item.unit_price_minor,
            })
            .collect();
        Self {
            order_id: id.0,
            status: status.name(),
            version,
            user_id,
            items,
            coupon_code,
            currency,
            subtotal_minor,
            discount_minor,
            total_minor,
            created_at,
        }
    }
}

/// The order as an answer, with its version as entity tag.
pub fn answer(status: StatusCode, order: Order) -> Response {
    let tag = entity_tag(order.version);
    let mut response = (status, Json(OrderView::from(order))).into_response();
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// The entity tag of an order's version.
#[must_use]
pub fn entity_tag(version: i64) -> String {
    format!("\"{version}\"")
}
