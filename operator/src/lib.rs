//! The operator: makes an `OrderPipeline` so and keeps it so.
//!
//! ```text
//! run ─ watches ─┐                          one pass
//!                ├─▶ reconcile: observe ─▶ validate ─▶ plan ─▶ apply ─▶ report
//! poller ────────┘      │        │ reads     │ pure     │ pure   │ writes   │ one status apply, Events
//! (Kafka has no watch)  │     Observed  Validated…     Plan    Applied
//!                       └─▶ finalize (deletion)
//! ```
//!
//! Where nothing is to be changed (`mode: Plan`, `operator plan`), `check` stands in for apply: it asks Kafka what it would refuse.
//!
//! `crd` holds the resource, `owners` knows whose a topic or group is, `freshness` whether a watch is ahead of
//! our own writes, `names` what others rely on, `render` the manifests, `kafka` the few requests to brokers.
//! `lease` elects one of several processes; `leadership` is what its writes are refused without.
//! No step but observe, check, apply, report and finalize can do I/O: the others are given nothing to do it with.

pub mod cli;
pub mod run;
pub mod lease;
pub mod leadership;
pub mod context;
pub mod crd;
pub mod names;
pub mod reconcile;
pub mod observe;
pub mod validate;
pub mod plan;
pub mod render;
pub mod check;
pub mod apply;
pub mod report;
pub mod events;
pub mod finalize;
pub mod preview;
pub mod poller;
pub mod owners;
pub mod freshness;
pub mod backoff;
pub mod kafka;
pub mod hash;
pub mod metrics;

#[cfg(test)]
mod fixtures;

pub use run::run;
