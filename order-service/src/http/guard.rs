//! Bounds around every request: how many at once, for how long, and what is counted.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tokio::sync::Semaphore;

use super::problem::ApiError;
use crate::metrics::ApiMetrics;

/// How many requests are served at once, and for how long each.
#[derive(Clone, Debug)]
pub struct Guard {
    permits: Arc<Semaphore>,
    timeout: Duration,
}

impl Guard {
    /// A guard for `max_concurrent` requests of at most `timeout` each.
    #[must_use]
    pub fn new(max_concurrent: u32, timeout: Duration) -> Self {
        Self { permits: Arc::new(Semaphore::new(max_concurrent as usize)), timeout }
    }
}

/// Refuses at once what can't be served now, ends what takes too long, and answers for a handler that panicked.
pub async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let Ok(_permit) = guard.permits.try_acquire() else {
        return ApiError::Busy.into_response();
    };
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(guard.timeout, answer).await {
        Ok(Ok(response)) => response,
        Ok(Err(_panic)) => ApiError::Panicked.into_response(),
        Err(_elapsed) => ApiError::TimedOut.into_response(),
    }
}

/// Counts the request under its route's template, never under its path: the number of series stays bounded.
pub async fn observe(State(metrics): State<ApiMetrics>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    let response = next.run(request).await;
    metrics.request(&method, route, response.status(), started.elapsed());
    response
}
