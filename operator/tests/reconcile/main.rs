//! The real reconciliation against the lab's API server and broker.
//!
//! Every scenario has a namespace and topics of its own, and ends in "reconciled once more, nothing was written": no
//! request but reads, no resourceVersion and no topic changed.
#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

mod world;
mod patch;
mod topics;
mod adoption;
mod workloads;
mod scaling;
mod deletion;
mod records;
mod conflicts;
mod draining;
mod failures;
mod plan_mode;
mod rules;
mod leadership;
mod processes;
