//! map later
#![allow(missing_docs, reason = "wip")]
pub mod crd;
pub mod kafka;
