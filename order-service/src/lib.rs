//! The order service: takes orders and sees to it that every event of every order reaches the topic, in order per order.
//!
//! ```text
//! client ─▶ http ─▶ domain ─▶ writer: who arrives together ─▶ store: one transaction ─▶ orders + outbox ─▶ relay ─▶ topic
//!            │                                                   ▲                          │
//!            └─ problem: every error as problem+json             └ catalogue (admin)        └ wake-up after commit, poll for truth
//! ```
//!
//! * [`config`]: flags and environment
//! * [`domain`]: what an order is and costs, and who gets what is left; pure
//! * [`store`]: the statements, one module per noun; the order transaction is [`store::batch::place`], and one order at a
//!   time [`store::orders::place`]
//! * [`writer`]: gathers the orders that share a transaction
//! * [`http`]: the public API, one file per verb
//! * [`catalogue`]: products and coupons, on the admin port
//! * [`relay`]: from the outbox to the topic
//! * [`metrics`], [`monitor`]: what is counted, and whether the database is there
//! * [`service`]: starts and stops all of it

pub mod config;
pub mod domain;
pub mod store;
pub mod writer;
pub mod http;
pub mod catalogue;
pub mod relay;
pub mod metrics;
pub mod monitor;
pub mod service;

pub use config::{Config, ListenConfig};
pub use service::{Listeners, run};
