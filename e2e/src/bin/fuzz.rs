//! Fuzzes the order API from its own description: starts the service on a database and a topic of its own, lets schemathesis
//! at it, and fails on any breach of the description and on any answer that is a server's error.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use e2e::bench::backends::{Arena, Backends};
use e2e::bench::service::Service;
use tokio::process::Command;

/// Cases per operation in the short version: the whole of it stays within a minute.
const SHORT_CASES: u32 = 25;
/// Cases per operation in the full version: some thousands in all.
const FULL_CASES: u32 = 600;
/// Seed of the short version: the same cases each time, for a test that fails for one reason.
const SHORT_SEED: u64 = 1;

#[derive(Parser)]
#[command(about = "Fuzzes the order API from its own OpenAPI document")]
struct Args {
    /// The order service's build; by default the one beside this program.
    #[arg(long)]
    service: Option<PathBuf>,
    /// The schemathesis program.
    #[arg(long)]
    schemathesis: PathBuf,
    /// Folder of what schemathesis is told besides.
    #[arg(long, default_value = "e2e/fuzz")]
    settings: PathBuf,
    /// The short version, with the same cases each time.
    #[arg(long)]
    short: bool,
    /// Seed of the full version; random when absent, and printed at the end of a run.
    #[arg(long)]
    seed: Option<u64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("order-service"));
    let binary = args.service.clone().map_or_else(beside, Ok)?;
    let arena = Arena::create(&Backends::of_the_tests()).await.context("run lab/backends up")?;
    let service = Service::start_with_catalogue(&binary, &arena, &[]).await?;
    let passed = fuzz(&args, &service).await;
    let orders = arena.number("select count(*) from orders").await?;
    let errors = service.metric_where("orderflow_http_requests_total", "status=\"5").await?;
    service.stop().await?;
    arena.remove().await?;
    println!("{orders} orders were taken; {errors} answers were a server's error");
    // Cases that never take an order would say little about what happens to one.
    Ok(if passed? && errors == 0.0 && orders > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn fuzz(args: &Args, service: &Service) -> anyhow::Result<bool> {
    let mut command = Command::new(&args.schemathesis);
    command
        .env("SCHEMATHESIS_HOOKS", args.settings.join("hooks.py"))
        .arg("--config-file")
        .arg(args.settings.join("schemathesis.toml"))
        .arg("run")
        .arg(format!("http://{}/openapi.json", service.http))
        .args(["--checks", "all", "--continue-on-failure", "--warnings", "off"]);
    let (cases, seed) = if args.short { (SHORT_CASES, Some(SHORT_SEED)) } else { (FULL_CASES, args.seed) };
    command.args(["--max-examples", &cases.to_string()]);
    if let Some(seed) = seed {
        command.args(["--seed", &seed.to_string()]);
    }
    let status = command.status().await;
    Ok(status.with_context(|| format!("failed to start {}", args.schemathesis.display()))?.success())
}
