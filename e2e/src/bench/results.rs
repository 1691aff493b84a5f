//! What the runs found, as it is kept in JSON.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::environment::Environment;
use super::samples::{Figures, Latency};
use super::usage::Usage;
use super::workload::Choice;

/// Everything that was measured; each part may be measured anew by itself.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct Results {
    /// Ways to take an order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ladder: Option<Part<Vec<Rung>>>,
    /// A backlog leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Part<Vec<Drain>>>,
    /// Latency against load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Part<Vec<Step>>>,
    /// The long runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headline: Option<Part<Headline>>,
    /// Consumers at work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumers: Option<Part<Consumers>>,
}

/// Consumers at work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Consumers {
    /// Events in the topic.
    pub events: u64,
    /// Partition by partition, and by key.
    pub keys: Vec<KeysAtWork>,
    /// Seconds of the published comparison.
    pub published: Spread,
    /// What each guarantee costs.
    pub prices: Vec<PriceOf>,
    /// What a slow order does to the others.
    pub slow_key: SlowKey,
}

/// A drain into a sink that takes its time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeysAtWork {
    /// What the sink takes over an event, in milliseconds.
    pub pause_millis: f64,
    /// Events per second, one after another in each partition.
    pub by_partition: Spread,
    /// Events per second, keys side by side.
    pub by_key: Spread,
}

/// A drain into PostgreSQL.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PriceOf {
    /// Under which guarantee.
    pub guarantee: String,
    /// Rows per second.
    pub per_second: Spread,
}

/// Ages of the other orders' events at their delivery, in milliseconds: without and with a slow order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SlowKey {
    /// Events per second.
    pub per_second: f64,
    /// Medians.
    pub p50: (Spread, Spread),
    /// 99th percentiles.
    pub p99: (Spread, Spread),
}

/// One part, with what it was measured on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part<T> {
    /// The machine and the versions.
    pub environment: Environment,
    /// A smoke run: the figures say only that it runs.
    pub quick: bool,
    /// Seconds of each measured window, without its warm-up.
    pub seconds: f64,
    /// Repetitions.
    pub repetitions: usize,
    /// What was found.
    pub found: T,
}

/// Median and extremes over the repetitions.
#[derive(Clone, Copy, Default, PartialEq, Debug, Serialize, Deserialize)]
pub struct Spread {
    /// The one in the middle; the lower of two.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

/// One way to take orders, with so many clients and such products.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rung {
    /// Through HTTP, or at the store with no HTTP and no relay.
    pub level: Level,
    /// `naive`, `one statement` or `combining`.
    pub arm: String,
    /// Clients, each with one order under way.
    pub clients: usize,
    /// Which products.
    pub choice: Choice,
    /// Orders per second.
    pub per_second: Spread,
    /// Median latency in milliseconds.
    pub p50: Spread,
    /// 99th percentile in milliseconds.
    pub p99: Spread,
    /// Calls that failed, all repetitions together.
    pub failures: u64,
}

/// Where an order enters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Level {
    /// `POST /orders` at the service.
    Http,
    /// The store's function, or the statement, in the benchmark's own process.
    Store,
}

/// A backlog that left.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Drain {
    /// Events that waited.
    pub events: i64,
    /// Mean size of a record: key, headers and payload.
    pub bytes_per_event: f64,
    /// Orders offered per second meanwhile; 0 for none.
    pub orders_per_second: f64,
    /// Events per second, from the first in the topic to the last row gone.
    pub per_second: Spread,
    /// Latency of the orders meanwhile, of the run with the median p99.
    pub order_latency: Option<Latency>,
    /// CPU, of the last repetition.
    pub usage: Usage,
}

/// One load, and the latencies under it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// Orders offered per second.
    pub offered: f64,
    /// Orders accepted per second.
    pub accepted: Spread,
    /// Whether the service kept up in every repetition.
    pub kept_up: bool,
    /// From due to 201, median.
    pub http_p50: Spread,
    /// From due to 201, 99th percentile.
    pub http_p99: Spread,
    /// From 201 to seen by a consumer, median.
    pub kafka_p50: Spread,
    /// From 201 to seen by a consumer, 99th percentile.
    pub kafka_p99: Spread,
    /// CPU, of the last repetition.
    pub usage: Usage,
}

/// The long runs.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct Headline {
    /// Each run by name.
    pub runs: Vec<LongRun>,
    /// Four times more than it can take.
    pub overload: Option<Overload>,
}

/// A long run at one load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LongRun {
    /// What is special about it.
    pub name: String,
    /// Its figures.
    pub figures: Figures,
    /// CPU of each part.
    pub usage: Usage,
    /// What the database's log had to do.
    pub log: LogWork,
    /// Orders per batch; 0 where there are no batches.
    pub orders_per_batch: f64,
    /// Most memory of the service, in MiB.
    pub resident_mib: f64,
    /// Seconds from the end of the load until the outbox was empty.
    pub drained_after: f64,
    /// Whether database and topic agree with the answers.
    pub audit: Audit,
}

/// Work of the write-ahead log.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub struct LogWork {
    /// Sync calls per second.
    pub syncs_per_second: f64,
    /// Bytes per accepted order, its event's way out of the outbox included.
    pub bytes_per_order: f64,
}

/// What is counted after a run, the outbox being empty.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub struct Audit {
    /// 201s.
    pub accepted: i64,
    /// Orders in the database: as many, and those whose answer broke.
    pub orders: i64,
    /// Records in the topic: as many as orders, and duplicates.
    pub records: i64,
}

/// Before, during and after an overload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Overload {
    /// Half of the sustained load.
    pub before: Figures,
    /// Four times the sustained load.
    pub during: Figures,
    /// Half of it again.
    pub after: Figures,
    /// Most memory of the service before and during, in MiB.
    pub resident_mib: (f64, f64),
    /// Seconds from the end of the overload until the service answered as before it, for two seconds on end.
    pub recovered_after: Option<f64>,
    /// Shares of half seconds in which it did not: before the overload, and from its recovery on.
    #[serde(default)]
    pub ill_slices: (f64, f64),
    /// CPU during the overload.
    pub usage: Usage,
}

impl Spread {
    /// The spread of these; all zero when there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else { return Self::default() };
        // Of an even number, the mean of the middle two: neither is nearer to the truth.
        let middle = f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Self { median: middle, min: *min, max: *max }
    }
}

impl Results {
    /// What the file holds; nothing when there is none yet.
    ///
    /// # Errors
    /// When the file is not one of ours.
    pub fn load(file: &Path) -> anyhow::Result<Self> {
        if !file.exists() {
            return Ok(Self::default());
        }
        serde_json::from_str(&fs::read_to_string(file)?)
            .with_context(|| format!("{} is of another version: remove it and measure again", file.display()))
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn save(&self, file: &Path) -> anyhow::Result<()> {
        let aside = file.with_extension("json.new");
        fs::write(&aside, serde_json::to_string_pretty(self)? + "\n")?;
        fs::rename(&aside, file).with_context(|| format!("failed to write {}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_median_and_extremes() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0]), Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Spread::of([]), Spread::default());
    }
}
