//! What drives a real cluster and judges what it did: load generator, evidence, checker. Nothing here ships.
//!
//! ```text
//! load ─POST─▶ order-service ─▶ orders table ─▶ topic ─▶ sinks
//!  │                                │             │        │
//!  └─ calls ───────────┐       database         dump     sinks
//!                      └──────────────┴── evidence ──┴──────┘──▶ check (pure) ──▶ report
//! ```

pub mod names;
pub mod kubectl;
pub mod api;
pub mod catalogue;
pub mod load;
pub mod database;
pub mod dump;
pub mod evidence;
pub mod check;
pub mod report;
pub mod http_sink;
pub mod proof;
pub mod bench;
pub mod topics;
