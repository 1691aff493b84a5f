//! `GET /orders?userId=&limit=&cursor=`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use order_events::OrderId;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Api;
use super::extract::Params;
use super::problem::{ApiError, Problem};
use super::view::OrderView;
use crate::domain::{UserId, Violation};
use crate::store::orders;

/// Orders on a page unless the caller says otherwise.
const DEFAULT_LIMIT: i64 = 20;
/// Most orders on a page: bounds the answer's size.
const MAX_LIMIT: i64 = 100;

/// Whose orders, and which page of them.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListOrders {
    /// Who ordered: printable, at most 128 characters.
    #[param(
        min_length = 1,
        max_length = 128,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub user_id: String,
    /// Orders on the page, 1 to 100; default 20.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<i64>,
    /// `nextCursor` of the page before; opaque.
    #[param(pattern = "^[0-9a-f]{32}$")]
    pub cursor: Option<String>,
}

/// A page of orders, newest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OrderPage)]
pub struct OrderPage {
    /// The orders.
    pub orders: Vec<OrderView>,
    /// Where the next page starts; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Lists a user's orders, newest first.
#[utoipa::path(
    get, path = "/orders", params(ListOrders),
    responses(
        (status = 200, description = "A page of orders", body = OrderPage),
        (status = 400, description = "A parameter does not parse", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter breaks a rule", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Overload, or the database is away; see Retry-After", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "Took too long", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn list_orders(
    State(api): State<Arc<Api>>,
    Params(params): Params<ListOrders>,
) -> Result<Json<OrderPage>, ApiError> {
    let ListOrders { user_id, limit, cursor } = params;
    let user_id = UserId::parse("userId", user_id)?;
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Violation::new("limit", format!("must be 1 to {MAX_LIMIT}, not {limit}")).into());
    }
    let before = cursor.as_deref().map(parse_cursor).transpose()?;
    // One more than asked for tells whether there is a next page.
    let mut orders = orders::list(&api.pool, &user_id, limit + 1, before).await?;
    let more = usize::try_from(limit).is_ok_and(|limit| {
        let more = orders.len() > limit;
        orders.truncate(limit);
        more
    });
    let next_cursor = orders.last().filter(|_| more).map(|order| order.id.0.simple().to_string());
    Ok(Json(OrderPage { orders: orders.into_iter().map(OrderView::from).collect(), next_cursor }))
}

fn parse_cursor(text: &str) -> Result<OrderId, ApiError> {
    Uuid::try_parse(text)
        .map(OrderId)
        .map_err(|_| ApiError::BadParameter("cursor must be the nextCursor of an earlier page".to_owned()))
}
