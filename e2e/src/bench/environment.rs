//! What the figures were measured on.

use std::fs;
use std::process::Command;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, Row};

use super::backends::Backends;

/// Settings of PostgreSQL that decide what a commit costs and what it promises.
const POSTGRES_SETTINGS: [&str; 9] = [
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "commit_delay",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "max_connections",
];
/// File of PostgreSQL's volume on which its sync calls are timed.
const PROBE_FILE: &str = "/var/lib/pg/fsync.probe";

/// The machine and what runs on it.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct Environment {
    /// When the measuring began, UTC.
    pub taken_at: String,
    /// Commit of this checkout, with `-dirty` when files differ from it, other than what the benchmarks themselves write.
    pub commit: String,
    /// Model of the processor.
    pub cpu: String,
    /// Cores.
    pub cores: usize,
    /// Memory in GiB.
    pub memory_gib: u64,
    /// Linux.
    pub kernel: String,
    /// PostgreSQL's version.
    pub postgres: String,
    /// Its settings.
    pub postgres_settings: Vec<(String, String)>,
    /// Kafka's version.
    pub kafka: String,
    /// The compiler.
    pub rustc: String,
    /// `fdatasync` calls per second after 8 KiB writes, by `pg_test_fsync` on the volume of PostgreSQL's data.
    pub syncs_per_second: f64,
}

impl Environment {
    /// Looks around.
    ///
    /// # Errors
    /// When a part does not answer, or commits are not durable: the figures would mean nothing.
    pub async fn look(backends: &Backends) -> anyhow::Result<Self> {
        let mut connection = backends.connect().await?;
        let mut postgres_settings = Vec::new();
        for name in POSTGRES_SETTINGS {
            let row = sqlx::query("select current_setting($1)").bind(name).fetch_one(&mut connection).await?;
            postgres_settings.push((name.to_owned(), row.try_get::<String, _>(0)?));
        }
        for name in ["fsync", "synchronous_commit", "full_page_writes"] {
            let on = postgres_settings.iter().any(|(setting, value)| setting == name && value == "on");
            ensure!(on, "PostgreSQL runs with {name} off: commits would not be durable");
        }
        let version = sqlx::query("show server_version").fetch_one(&mut connection).await?;
        connection.close().await?;
        let kafka = Backends::exec(&backends.kafka_container, &["kafka-topics.sh", "--version"]).await?;
        let memory = field("/proc/meminfo", "MemTotal:")?;
        Ok(Self {
            taken_at: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            commit: commit()?,
            cpu: field("/proc/cpuinfo", "model name")?.trim_start_matches([':', ' ']).to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            memory_gib: memory.trim_end_matches(" kB").parse::<u64>()? / (1024 * 1024),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            postgres: version.try_get(0)?,
            postgres_settings,
            kafka: kafka.trim().to_owned(),
            rustc: output("rustc", &["--version"])?,
            syncs_per_second: syncs_per_second(backends).await?,
        })
    }
}

async fn syncs_per_second(backends: &Backends) -> anyhow::Result<f64> {
    let command = ["pg_test_fsync", "-s", "1", "-f", PROBE_FILE];
    let report = Backends::exec(&backends.postgres_container, &command).await?;
    let line = report.lines().find(|line| line.trim_start().starts_with("fdatasync"));
    let rate = line.and_then(|line| line.split_whitespace().nth(1));
    rate.context("pg_test_fsync says nothing of fdatasync")?.parse().context("not a rate")
}

/// The rest of the first line of the file that begins so.
fn field(file: &str, name: &str) -> anyhow::Result<String> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.with_context(|| format!("{file} has no {name}"))?.trim().to_owned())
}

/// The documents are left out: each part of a run writes its share of them.
fn commit() -> anyhow::Result<String> {
    let commit = output("git", &["describe", "--always", "--exclude", "*"])?;
    let changed = output("git", &["status", "--porcelain", "--", ":/", ":!/docs"])?;
    Ok(if changed.is_empty() { commit } else { format!("{commit}-dirty") })
}

fn output(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    ensure!(output.status.success(), "{program} failed");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
