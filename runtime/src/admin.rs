//! The admin server: `/livez`, `/readyz`, `/metrics`, and whatever routes the program adds.

use std::future::Future;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::health::Health;
use crate::metrics::{self, Metrics};

/// The three routes of every program.
pub fn routes(health: Health, metrics: Metrics) -> Router {
    Router::new()
        .route(
            "/livez",
            get(|State((health, _)): State<(Health, Metrics)>| async move { verdict(&health.not_alive()) }),
        )
        .route(
            "/readyz",
            get(|State((health, _)): State<(Health, Metrics)>| async move { verdict(&health.not_ready()) }),
        )
        .route(
            "/metrics",
            get(|State((_, metrics)): State<(Health, Metrics)>| async move { exposition(&metrics) }),
        )
        .with_state((health, metrics))
}

/// Serves `router` on `listener` until `shutdown` resolves.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown)
        .await
        .context("failed to serve the admin port")
}

fn verdict(problems: &[String]) -> Response {
    if problems.is_empty() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n").into_response()
    }
}

fn exposition(metrics: &Metrics) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics.render()).into_response()
}
