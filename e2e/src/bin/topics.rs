//! Measures the deployed operator: many pipelines with a topic each are created, altered, left alone and deleted.

use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use e2e::names::CONTEXT;
use e2e::topics::operator::used;
use e2e::topics::phases::{Phase, Pipelines};
use e2e::topics::report::row;
use kube::config::KubeConfigOptions;
use kube::{Client, Config};

/// Pipelines at most: a one-node cluster and one broker carry them.
const MOST: u64 = 5000;

#[derive(Parser)]
#[command(about = "Measures the operator in the local cluster with many pipelines of one topic each")]
struct Args {
    /// Pipelines in each run, one run after the other.
    #[arg(long, value_delimiter = ',', default_value = "10,50,250", value_parser = clap::value_parser!(u64).range(1..=MOST))]
    count: Vec<u64>,
    /// Seconds for which all are left alone before they are deleted.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=7200))]
    idle_seconds: u64,
    /// Kafka, as the operator can reach it from its own namespace.
    #[arg(long, default_value = "kafka.shop.svc:9092")]
    kafka: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    runtime::tls::install_provider();
    let args = Args::parse();
    let options = KubeConfigOptions { context: Some(CONTEXT.to_owned()), ..KubeConfigOptions::default() };
    let config = Config::from_kubeconfig(&options).await.context("no cluster: run make lab-up")?;
    let pipelines = Pipelines::new(Client::try_from(config)?, args.kafka.clone());
    println!("| phase | pipelines | all | p50 | p99 | longest | operator's CPU | its memory |");
    println!("|---|---|---|---|---|---|---|---|");
    for count in args.count {
        let count = usize::try_from(count)?;
        let measured = measure(&pipelines, count, Duration::from_secs(args.idle_seconds)).await;
        if measured.is_err() {
            pipelines.sweep(count).await?;
        }
        measured?;
    }
    Ok(())
}

async fn measure(pipelines: &Pipelines, count: usize, idle: Duration) -> anyhow::Result<()> {
    let mut events = 0;
    let mut took = Duration::ZERO;
    for (name, phase) in [("create", Phase::Create), ("alter", Phase::Alter), ("delete", Phase::Delete)] {
        if phase == Phase::Delete && !idle.is_zero() {
            rest(idle).await?;
        }
        let before = used()?;
        let timed = pipelines.run(phase, count).await.with_context(|| format!("failed to {name} all"))?;
        println!("{}", row(name, &timed, (before, used()?)));
        events += timed.each.len();
        took += timed.all;
    }
    #[expect(clippy::cast_precision_loss, reason = "some thousand events")]
    let rate = events as f64 / took.as_secs_f64();
    println!("| all three | {count} | {:.2} s | | | | {rate:.1} events/s | |", took.as_secs_f64());
    Ok(())
}

/// What the operator uses while nothing happens.
async fn rest(time: Duration) -> anyhow::Result<()> {
    let before = used()?;
    tokio::time::sleep(time).await;
    let after = used()?;
    let cpu = after.cpu.saturating_sub(before.cpu);
    println!(
        "| idle for {} s | | | | | | {:.2} s ({:.2} % of a core) | {} MiB |",
        time.as_secs(),
        cpu.as_secs_f64(),
        100.0 * cpu.as_secs_f64() / time.as_secs_f64(),
        after.resident / 1024 / 1024,
    );
    Ok(())
}
