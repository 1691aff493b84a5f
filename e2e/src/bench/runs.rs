//! The experiments, and what they have in common: an arena, a service, a load, a window.

pub mod ladder;
pub mod store;
pub mod drain;
pub mod latency;
pub mod headline;
pub mod overload;
pub mod consumers;

use std::path::PathBuf;
use std::time::Duration;

use runtime::shutdown::CancellationToken;
use sqlx::{PgPool, Row};
use tokio::time::{Instant, sleep_until};

use super::backends::{Arena, Backends};
use super::environment::Environment;
use super::generate::{Load, Pace};
use super::results::{LogWork, Part};
use super::samples::{Figures, Samples};
use super::schedule::Arrivals;
use super::service::Service;
use super::usage::{Meters, Usage, resident_bytes};
use super::workload::Workload;

/// From the call to a run's time zero: enough for the generator's thread to start.
const LEAD: Duration = Duration::from_millis(200);
/// Most calls under way at once in an open loop that the service can take: far above what its latency at that load asks for.
pub const CONNECTIONS: usize = 256;
/// How often memory is looked at.
const MEMORY_EVERY: Duration = Duration::from_millis(100);

/// What all experiments are told.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where PostgreSQL and Kafka are.
    pub backends: Backends,
    /// The order service's release build.
    pub binary: PathBuf,
    /// Modes of the writer to compare, as `WRITER_MODE` names them.
    pub modes: Vec<String>,
    /// Further settings of the service.
    pub settings: Vec<(String, String)>,
    /// Load before each measured window.
    pub warm_up: Duration,
    /// Each measured window of the ladder and of latency against load.
    pub window: Duration,
    /// Each long run.
    pub long_window: Duration,
    /// Times that each arm runs, in turn with the others.
    pub repetitions: usize,
    /// Orders per second that are asked for first.
    pub target: f64,
    /// Events of the backlog.
    pub backlog: i64,
    /// A smoke run.
    pub quick: bool,
}

/// One measured window.
#[derive(Debug)]
pub struct Measured {
    /// Its figures.
    pub figures: Figures,
    /// CPU of each part in it.
    pub usage: Usage,
    /// What the database's log had to do in it.
    pub log: LogWork,
    /// Orders per batch in it; 0 where there are no batches.
    pub orders_per_batch: f64,
    /// Most memory of the service in it, in MiB.
    pub resident_mib: f64,
    /// All calls, those of the warm-up included.
    pub samples: Samples,
}

/// A service on an arena of its own.
#[derive(Debug)]
pub struct Stage {
    /// Database and topic.
    pub arena: Arena,
    /// The process.
    pub service: Service,
    meters: Meters,
}

impl Plan {
    /// The settings in the mode.
    fn settings<'a>(&'a self, mode: &'a str) -> Vec<(&'a str, &'a str)> {
        let given = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        std::iter::once(("WRITER_MODE", mode)).chain(given).collect()
    }

    /// The mode that the product is shipped in, or the only one there is.
    fn mode(&self) -> &str {
        self.modes.last().map_or("combining", String::as_str)
    }

    /// Starts a service in that mode with an empty database and topic.
    async fn stage(&self, mode: &str) -> anyhow::Result<Stage> {
        let arena = Arena::create(&self.backends).await?;
        let service = Service::start_with_catalogue(&self.binary, &arena, &self.settings(mode)).await?;
        let meters = Meters::new(service.pid, &self.backends).await?;
        Ok(Stage { arena, service, meters })
    }

    /// The part with what it was measured on.
    fn part<T>(&self, environment: Environment, seconds: Duration, repetitions: usize, found: T) -> Part<T> {
        Part { environment, quick: self.quick, seconds: seconds.as_secs_f64(), repetitions, found }
    }
}

/// An open loop with Poisson arrivals.
#[must_use]
pub const fn open(per_second: f64) -> Pace {
    Pace::Open { per_second, arrivals: Arrivals::Poisson, connections: CONNECTIONS }
}

impl Stage {
    /// Puts the load on, lets it warm up, and measures.
    ///
    /// # Errors
    /// When a part is gone.
    pub async fn measure(
        &self,
        workload: Workload,
        pace: Pace,
        (warm_up, window): (Duration, Duration),
        seed: u64,
    ) -> anyhow::Result<Measured> {
        let start = Instant::now() + LEAD;
        self.measure_from(start, workload, pace, (warm_up, window), seed).await
    }

    /// As [`Stage::measure`], with a given time zero.
    async fn measure_from(
        &self,
        start: Instant,
        workload: Workload,
        pace: Pace,
        (warm_up, window): (Duration, Duration),
        seed: u64,
    ) -> anyhow::Result<Measured> {
        let load = Load { address: self.service.http, workload, duration: warm_up + window, seed, pace };
        let running = tokio::spawn(load.run(start, CancellationToken::new()));
        sleep_until(start + warm_up).await;
        let (reading, log, batches) =
            (self.meters.read()?, log_work(&self.arena.pool).await?, self.batches().await?);
        let resident_mib = self.most_memory_until(start + warm_up + window).await?;
        let usage = reading.until(self.meters.read()?);
        let (log_after, batches_after) = (log_work(&self.arena.pool).await?, self.batches().await?);
        let samples = running.await??;
        let figures = samples.figures(warm_up, warm_up + window);
        let seconds = window.as_secs_f64();
        let log = LogWork {
            syncs_per_second: (log_after.0 - log.0) / seconds,
            bytes_per_order: (log_after.1 - log.1) / (figures.accepted_per_second * seconds).max(1.0),
        };
        let orders_per_batch = (batches_after.0 - batches.0) / (batches_after.1 - batches.1).max(1.0);
        Ok(Measured { figures, usage, log, orders_per_batch, resident_mib, samples })
    }

    /// Orders in batches, and batches, so far.
    async fn batches(&self) -> anyhow::Result<(f64, f64)> {
        let orders = self.service.metric("orderflow_writer_batch_orders_sum").await?;
        Ok((orders, self.service.metric("orderflow_writer_batch_orders_count").await?))
    }

    async fn most_memory_until(&self, end: Instant) -> anyhow::Result<f64> {
        let mut most = 0;
        while Instant::now() < end {
            most = most.max(resident_bytes(self.service.pid)?);
            sleep_until(end.min(Instant::now() + MEMORY_EVERY)).await;
        }
        Ok(most as f64 / (1024.0 * 1024.0))
    }

    /// Stops the service and removes database and topic.
    async fn strike(self) -> anyhow::Result<()> {
        self.service.stop().await?;
        self.arena.remove().await
    }
}

/// Sync calls and bytes of the write-ahead log so far.
async fn log_work(pool: &PgPool) -> anyhow::Result<(f64, f64)> {
    let row =
        sqlx::query("select wal_sync::float8, wal_bytes::float8 from pg_stat_wal").fetch_one(pool).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}
