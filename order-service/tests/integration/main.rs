//! The service against a real PostgreSQL and a real Kafka, each test in a database and a topic of its own.

#![allow(clippy::unwrap_used, reason = "in a test, a panic with the line is the message")]

mod harness;
mod topic;
mod api;
mod idempotency;
mod writer;
mod serial;
mod bad_input;
mod concurrency;
mod drain;
mod events;
mod failover;
mod faults;
mod growth;
mod parking;
mod replicas;
mod silence;
