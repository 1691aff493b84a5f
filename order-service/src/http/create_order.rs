//! `POST /orders`.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Api;
use super::extract::Body;
use super::problem::{ApiError, Problem};
use super::view::{self, OrderView};
use crate::domain::{NewOrder, Order};
use crate::metrics::OrderAction;
use crate::store::orders;

/// What is ordered.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateOrder {
    /// Who orders: printable, at most 128 characters.
    #[schema(min_length = 1, max_length = 128)]
    pub user_id: String,
    /// 1 to 100 lines; equal products are merged into one line.
    #[schema(min_items = 1, max_items = 100)]
    pub items: Vec<CreateOrderItem>,
    /// A coupon to use.
    #[schema(min_length = 1, max_length = 64)]
    pub coupon_code: Option<String>,
}

/// One line of what is ordered.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateOrderItem {
    /// The product's id in the catalogue.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._:-]+$")]
    pub product_id: String,
    /// Units, 1 to 1,000,000 per product.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub quantity: i64,
}

/// Places an order: takes stock and coupon and records its event, all or nothing.
#[utoipa::path(
    post, path = "/orders", request_body = CreateOrder,
    responses(
        (status = 201, description = "The order, PENDING; Location and ETag are set", body = OrderView),
        (status = 400, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Insufficient stock, or the coupon has been used up", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not sent as JSON", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A rule is broken, or product or coupon are unknown", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Overload, or the database is away; see Retry-After", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "Took too long; whether it took effect is unknown", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn create_order(
    State(api): State<Api>,
    body: Result<Body<CreateOrder>, ApiError>,
) -> Result<Response, ApiError> {
    let placed = place(&api, body).await;
    api.metrics.order(OrderAction::Create, placed.as_ref().map_or_else(ApiError::word, |_| "accepted"));
    let order = placed?;
    let location = format!("/orders/{}", order.id);
    let mut response = view::answer(StatusCode::CREATED, order);
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

async fn place(api: &Api, body: Result<Body<CreateOrder>, ApiError>) -> Result<Order, ApiError> {
    let Body(CreateOrder { user_id, items, coupon_code }) = body?;
    let items = items.into_iter().map(|item| (item.product_id, item.quantity)).collect();
    let new = NewOrder::parse(user_id, items, coupon_code).map_err(ApiError::Invalid)?;
    let order = orders::place(&api.pool, &new, &api.currency).await?;
    api.wake.notify_one();
    Ok(order)
}
