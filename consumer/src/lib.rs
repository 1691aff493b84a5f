//! Delivers a topic's order events to a sink, each order's in their order, as a member of a consumer group.
//!
//! ```text
//!                    ┌───────────────────────── poll_loop (one thread) ─────────────────────────┐
//! Kafka ──poll──▶ record ──dispatch──▶ assignment: one queue, worker and offset tracker a partition │
//!                    │ rebalance: what changed, answered as a step of the loop                   │
//!                    └──────────────▲──────────────────────┬─────────────────────────────────────┘
//!                          reports: done, commit first     ▼
//!                                   └── lanes | at_most_once | exactly_once ─▶ breaker ─▶ sink: postgres | http
//!                                                            └──────────▶ dead_letter
//! ```
//!
//! Two rules hold everywhere. Only the poll loop commits, and never beyond what is delivered or dead-lettered (at most
//! once turns that round: nothing is delivered before the broker has its commit). Nothing is ever skipped: what can't be
//! delivered or dead-lettered now is tried again for as long as it takes.

pub mod config;
pub mod run;
pub mod metrics;
pub mod connection;
pub mod poll_loop;
pub mod queues;
pub mod rebalance;
pub mod member;
pub mod start_offsets;
pub mod commits;
pub mod assignment;
pub mod offsets;
pub mod done_map;
pub mod oldest;
pub mod record;
pub mod worker;
pub mod lanes;
pub mod keys;
pub mod versions;
pub mod turn;
pub mod serial;
pub mod at_most_once;
pub mod exactly_once;
pub mod deliver;
pub mod breaker;
pub mod retry;
pub mod sink;
pub mod dead_letter;
pub mod commands;

pub use config::{Args, Config};
pub use run::{RunError, run};

/// The page's example in Rust compiles.
#[cfg(doctest)]
#[doc = include_str!("../../docs/sinks.md")]
struct Page;
