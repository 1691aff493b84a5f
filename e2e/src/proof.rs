//! The fault campaign: real order services, PostgreSQL and Kafka under faults, and a checker over everything they wrote.
//!
//! ```text
//! seed ─▶ plan ─▶ world (replicas behind proxies, a database and a topic of their own)
//!                   ├─ workload ─▶ client ledger ──────┐
//!                   ├─ faults                          ├─▶ history ─▶ check (pure) ─▶ report
//!                   └─ heal, wait ─▶ audit, topic dump ┘
//! ```
//!
//! A run is made of parts that know nothing of each other: a fault says how it is done to a [`world::World`] and how it
//! shows that it happened; a rule of [`check`] reads a [`history::History`]. A new process to break or a new ledger to
//! compare is one more of each.

pub mod points;
pub mod plan;
pub mod ledger;
pub mod history;
pub mod check;
pub mod proxy;
pub mod backends;
pub mod end;
pub mod replica;
pub mod world;
pub mod audit;
pub mod client;
pub mod workload;
pub mod faults;
pub mod run;
pub mod report;
pub mod campaign;
pub mod document;
pub mod deliveries;
