//! What the service counts.

pub mod relay;

use std::time::Duration;

use axum::http::{Method, StatusCode};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use runtime::metrics::Metrics;

pub use relay::RelayMetrics;

/// Upper bounds of the latency buckets, in seconds: from a read of one row to the request timeout.
const LATENCY_BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// What was asked of an order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelValue)]
pub enum OrderAction {
    /// `POST /orders`.
    Create,
    /// `POST /orders/{id}/confirm`.
    Confirm,
    /// `POST /orders/{id}/cancel`.
    Cancel,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    route: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OrderLabels {
    action: OrderAction,
    outcome: &'static str,
}

/// Metrics of the API.
#[derive(Clone, Debug)]
pub struct ApiMetrics {
    requests: Family<RequestLabels, Counter>,
    latency: Family<RouteLabels, Histogram, fn() -> Histogram>,
    orders: Family<OrderLabels, Counter>,
}

impl ApiMetrics {
    /// Metrics that are shown by `metrics`.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let new = Self {
            requests: Family::default(),
            latency: Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS)),
            orders: Family::default(),
        };
        metrics.register(|registry| {
            registry.register("orderflow_http_requests", "Requests answered", new.requests.clone());
            registry.register(
                "orderflow_http_request_duration_seconds",
                "Time to answer",
                new.latency.clone(),
            );
            registry.register("orderflow_orders", "What became of orders and changes", new.orders.clone());
        });
        new
    }

    /// A request was answered.
    pub fn request(&self, method: &Method, route: String, status: StatusCode, took: Duration) {
        let method = method_label(method);
        self.latency.get_or_create(&RouteLabels { method, route: route.clone() }).observe(took.as_secs_f64());
        self.requests.get_or_create(&RequestLabels { method, route, status: status.as_u16() }).inc();
    }

    /// An order was placed, changed or refused: `accepted` or the problem's word.
    pub fn order(&self, action: OrderAction, outcome: &'static str) {
        self.orders.get_or_create(&OrderLabels { action, outcome }).inc();
    }
}

/// A client may invent methods; series may not.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "HEAD" => "HEAD",
        _ => "other",
    }
}
