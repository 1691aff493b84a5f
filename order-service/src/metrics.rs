//! What the service counts, one module per part.

pub mod api;
pub mod writer;
pub mod relay;

pub use api::{ApiMetrics, OrderAction};
pub use relay::RelayMetrics;
pub use writer::WriterMetrics;
