//! Benchmarks: a real release build of the order service, real PostgreSQL and Kafka with durable commits, on one machine.
//!
//! ```text
//! workload ─▶ generate ─HTTP─▶ service (a process) ─▶ PostgreSQL ─▶ Kafka ─▶ watch
//!                │                 └──── usage: CPU and memory of each ────┘     │
//!                └─ samples ─▶ tally ─────────▶ runs ◀───────────────────────────┘
//!                                                │ results (JSON) ─▶ render (Markdown, SVG)
//! ```

pub mod workload;
pub mod schedule;
pub mod wire;
pub mod generate;
pub mod samples;
pub mod backends;
pub mod service;
pub mod usage;
pub mod watch;
pub mod environment;
pub mod results;
pub mod receiver;
pub mod runs;
pub mod plot;
pub mod goals;
pub mod render;
