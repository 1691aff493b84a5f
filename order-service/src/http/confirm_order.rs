//! `POST /orders/{id}/confirm`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use super::Api;
use super::change_order::change_order;
use super::extract::{IfMatch, OrderPath};
use super::problem::{ApiError, Problem};
use super::view::OrderView;
use crate::domain::Change;

/// Confirms an order that is `PENDING`.
#[utoipa::path(
    post, path = "/orders/{id}/confirm",
    params(
        ("id" = uuid::Uuid, Path, description = "The order"),
        ("If-Match" = Option<String>, Header, nullable = false, example = "\"1\"", pattern = r#"^(\*|(W/)?"[^"]*"( *, *(W/)?"[^"]*")*)$"#, description = "Change it only at this version, such as \"1\""),
    ),
    responses(
        (status = 200, description = "The order after the change; ETag is its version", body = OrderView),
        (status = 400, description = "The id or If-Match does not parse", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such order", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The order's status does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "The order is at another version than If-Match names", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database is away, or ended in the middle; see detail", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "Took too long; whether it took effect is unknown", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn confirm_order(
    State(api): State<Arc<Api>>,
    OrderPath(id): OrderPath,
    IfMatch(expected): IfMatch,
) -> Result<Response, ApiError> {
    change_order(&api, id, Change::Confirm, &expected).await
}
