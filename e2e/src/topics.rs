//! Measures the operator with many pipelines that own a topic each and nothing else: how soon each change is done, and what it
//! costs, busy and idle.

pub mod phases;
pub mod operator;
pub mod report;

use std::time::Duration;

/// Requests to the API server that the benchmark has under way at a time: as many as a shell loop with some background jobs.
pub const AT_ONCE: usize = 64;

/// Longest wait for the last of all resources.
pub const DEADLINE: Duration = Duration::from_secs(300);

/// Name of the n-th pipeline, and of its topic.
#[must_use]
pub fn name(n: usize) -> String {
    format!("bench-topics-{n:04}")
}
