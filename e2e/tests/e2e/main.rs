//! The whole product on a real cluster: real API server, broker and database, real orders, real faults.
//!
//! `make e2e` installs everything first; the tests run one at a time and each leaves the pipeline as it found it.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod support;
mod api;
mod tutorial;
mod dead_letters;
mod plans;
mod faults;
mod scaling;
mod steadiness;
mod lifecycle;
