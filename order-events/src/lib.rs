//! The order event: what it says, how it is keyed, and how it becomes bytes and comes back.
//!
//! ```text
//! OrderEvent ──encode──▶ key + CloudEvents headers + JSON payload ──decode──▶ OrderEvent
//!                         │
//!                         └─ partition_for(key, n): the partition Java's default partitioner would choose
//! ```
//!
//! Everything here is synchronous and free of I/O. Every published version has a golden file under
//! `tests/golden/`; a change that can no longer read one of them fails the build.

pub mod event;
pub mod key;
pub mod codec;
pub mod cloudevents;

pub use codec::{DecodeError, EncodedEvent, MAX_EVENT_BYTES, decode};
pub use event::{EventType, OrderEvent, OrderId, OrderItem, OrderSnapshot, OrderStatus};
pub use key::partition_for;
