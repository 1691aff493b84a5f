//! What confirming and cancelling have in common.

use axum::http::StatusCode;
use axum::response::Response;
use order_events::OrderId;

use super::Api;
use super::problem::ApiError;
use super::view;
use crate::domain::Change;
use crate::metrics::OrderAction;
use crate::store::orders::{self, Expected};

/// Makes the change, counts its outcome, wakes the relay and answers the changed order.
pub(super) async fn change_order(
    api: &Api,
    id: OrderId,
    change: Change,
    expected: &Expected,
) -> Result<Response, ApiError> {
    let changed = orders::change(&api.pool, id, change, expected).await.map_err(ApiError::from);
    let action = match change {
        Change::Confirm => OrderAction::Confirm,
        Change::Cancel => OrderAction::Cancel,
    };
    api.metrics.order(action, changed.as_ref().map_or_else(ApiError::word, |_| "accepted"));
    let order = changed?;
    api.wake.notify_one();
    Ok(view::answer(StatusCode::OK, order))
}
