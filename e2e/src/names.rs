//! The names and addresses of the local cluster; the documents promise them.

/// kubectl context of the kind cluster.
pub const CONTEXT: &str = "kind-orderflow";
/// Namespace of the demo pipeline and its backends.
pub const NAMESPACE: &str = "shop";
/// The demo pipeline.
pub const PIPELINE: &str = "orders";
/// Its topic.
pub const TOPIC: &str = "order-events";
/// The group that writes to PostgreSQL.
pub const GROUP_POSTGRES: &str = "data-platform";
/// The group that posts over HTTP.
pub const GROUP_HTTP: &str = "cg-analytics";
/// The order API, from the machine.
pub const ORDER_API: &str = "http://127.0.0.1:8080";
/// Kafka, from the machine.
pub const KAFKA: &str = "127.0.0.1:9094";
/// The order service's database, from the machine.
pub const ORDERS_DB: &str = "postgres://postgres@127.0.0.1:5433/orders";
/// The data platform's database, from the machine.
pub const DATA_PLATFORM_DB: &str = "postgres://postgres@127.0.0.1:5433/data_platform";
