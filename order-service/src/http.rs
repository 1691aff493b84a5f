//! The public API: one file per verb, and one place that turns errors into answers.

pub mod problem;
pub mod body;
pub mod extract;
pub mod view;
pub mod create_order;
pub mod get_order;
pub mod list_orders;
pub mod change_order;
pub mod confirm_order;
pub mod cancel_order;
pub mod openapi;
pub mod guard;
pub mod serve;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use axum::{Router, middleware};
use sqlx::PgPool;
use tokio::sync::Notify;

use crate::config::HttpConfig;
use crate::metrics::ApiMetrics;
use crate::writer::Writer;
use body::MaxBytes;
use guard::Guard;
use problem::ApiError;

/// Largest body of a request, in bytes: an order of the most lines with the longest ids takes a sixth of it.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// What the handlers share.
#[derive(Debug)]
pub struct Api {
    /// The database.
    pub pool: PgPool,
    /// Places orders.
    pub writer: Writer,
    /// Wakes the relay after a commit.
    pub wake: Arc<Notify>,
    /// Counters.
    pub metrics: ApiMetrics,
}

/// The public routes, within the bounds of `config`.
pub fn router(api: Api, config: &HttpConfig) -> Router {
    let HttpConfig { http_timeout, http_max_concurrent } = config;
    let metrics = api.metrics.clone();
    Router::new()
        .route("/orders", post(create_order::create_order).get(list_orders::list_orders))
        .route("/orders/{id}", get(get_order::get_order))
        .route("/orders/{id}/confirm", post(confirm_order::confirm_order))
        .route("/orders/{id}/cancel", post(cancel_order::cancel_order))
        .route("/openapi.json", get(openapi::openapi))
        .fallback(async || ApiError::NoSuchRoute)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(MaxBytes(MAX_BODY_BYTES), body::buffer))
        .layer(middleware::from_fn_with_state(Guard::new(*http_max_concurrent, *http_timeout), guard::guard))
        .layer(middleware::from_fn_with_state(metrics, guard::observe))
        // Shared, since a router clones its state several times for every request.
        .with_state(Arc::new(api))
}
