//! `GET /orders/{id}`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::Api;
use super::extract::OrderPath;
use super::problem::{ApiError, Problem};
use super::view::{self, OrderView};
use crate::store::orders;

/// Reads an order.
#[utoipa::path(
    get, path = "/orders/{id}", params(("id" = uuid::Uuid, Path, description = "The order")),
    responses(
        (status = 200, description = "The order; ETag is its version", body = OrderView),
        (status = 400, description = "The id is not a UUID", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such order", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Overload, or the database is away; see Retry-After", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "Took too long", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn get_order(State(api): State<Arc<Api>>, OrderPath(id): OrderPath) -> Result<Response, ApiError> {
    let order = orders::get(&api.pool, id).await?.ok_or(ApiError::NoSuchOrder(id))?;
    Ok(view::answer(StatusCode::OK, order))
}
