//! Measures a release build of the order service against PostgreSQL and Kafka of `lab/bench`, and writes the results down.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Parser, ValueEnum};
use e2e::bench::backends::Backends;
use e2e::bench::results::Results;
use e2e::bench::runs::{Plan, consumers, drain, headline, ladder, latency, overload};
use e2e::bench::{goals, render};

/// Load before each measured window: connections, plans and caches are warm after it.
const WARM_UP: Duration = Duration::from_secs(3);
/// The backlog of the issue.
const BACKLOG: i64 = 1_000_000;
/// Everything in a smoke run is this short.
const QUICK: Duration = Duration::from_secs(1);
/// The backlog of a smoke run.
const QUICK_BACKLOG: i64 = 20_000;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Ways to take an order × clients × products.
    Ladder,
    /// A backlog of a million events leaves.
    Drain,
    /// Latency to the answer and to Kafka, against load.
    Latency,
    /// The long runs: sustained, half of it, one product, overload.
    Headline,
    /// The overload of the long runs alone, by the load that they found sustained.
    Overload,
    /// Keys side by side, guarantees, a slow order.
    Consumers,
    /// All of them.
    All,
    /// Nothing is measured; the document is written anew from the results.
    Render,
    /// Nothing is measured; says which goals the results meet, and fails unless it is all of them.
    Check,
}

#[derive(Parser)]
#[command(about = "Measures the order service; see docs/benchmarks.md")]
struct Args {
    /// What to measure.
    #[arg(value_enum, default_value = "all")]
    parts: Vec<Part>,
    /// The order service's release build; by default the one beside this program.
    #[arg(long)]
    service: Option<PathBuf>,
    /// Modes of the writer that the ladder compares; the last one is used everywhere else.
    #[arg(long, value_delimiter = ',', default_value = "per-order,combining")]
    modes: Vec<String>,
    /// A further setting of the service, NAME=VALUE; may be given several times.
    #[arg(long = "set", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Seconds of each measured window of ladder and latency.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Seconds of each long run.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(3..=3600))]
    long_seconds: u64,
    /// Times that each arm runs, in turn with the others.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    repetitions: u8,
    /// Orders per second that the long runs ask for.
    #[arg(long, default_value_t = 5000.0)]
    target: f64,
    /// A smoke run of about a minute: one repetition, short windows, a small backlog.
    #[arg(long)]
    quick: bool,
    /// Where the results are kept.
    #[arg(long, default_value = "docs/benchmarks/results.json")]
    results: PathBuf,
    /// The document that shows them; it is written anew after each part.
    #[arg(long, default_value = "docs/benchmarks.md")]
    document: PathBuf,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Args {
    fn plan(&self) -> anyhow::Result<Plan> {
        let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("order-service"));
        let binary = self.service.clone().map_or_else(beside, Ok)?;
        if !binary.exists() {
            bail!("there is no {}: build the order service in release mode", binary.display());
        }
        let quick = |full, short| if self.quick { short } else { full };
        Ok(Plan {
            backends: Backends::of_the_benchmarks(),
            binary,
            modes: self.modes.clone(),
            settings: self.settings.clone(),
            warm_up: quick(WARM_UP, QUICK / 2),
            window: quick(Duration::from_secs(self.seconds), QUICK),
            long_window: quick(Duration::from_secs(self.long_seconds), QUICK * 3),
            repetitions: if self.quick { 1 } else { usize::from(self.repetitions) },
            target: self.target,
            backlog: if self.quick { QUICK_BACKLOG } else { BACKLOG },
            quick: self.quick,
        })
    }

    fn wants(&self, part: Part) -> bool {
        self.parts.contains(&part) || self.parts.contains(&Part::All)
    }

    /// Keeps what was found and shows it.
    fn keep(&self, results: &Results) -> anyhow::Result<()> {
        let folder = self.results.parent().context("the results file is in no folder")?;
        std::fs::create_dir_all(folder)?;
        results.save(&self.results)?;
        render::write(results, &self.document, folder)
    }
}

/// Prints each goal with what was found.
fn check(results: &Results) -> anyhow::Result<()> {
    let goals = goals::goals(results);
    for goal in &goals {
        println!("{} {}: {}", if goal.met { "met    " } else { "NOT MET" }, goal.wanted, goal.found);
    }
    ensure!(goals.iter().all(|goal| goal.met), "not every goal is met");
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut results = Results::load(&args.results)?;
    if args.parts == [Part::Render] {
        return args.keep(&results);
    }
    if args.parts == [Part::Check] {
        return check(&results);
    }
    let plan = args.plan()?;
    plan.backends.sweep().await?;
    if args.wants(Part::Ladder) {
        println!("ladder: ways to take an order");
        results.ladder = Some(ladder::run(&plan).await?);
        args.keep(&results)?;
    }
    if args.wants(Part::Drain) {
        println!("drain: a backlog of {} events", plan.backlog);
        results.drain = Some(drain::run(&plan).await?);
        args.keep(&results)?;
    }
    if args.wants(Part::Latency) {
        println!("latency against load");
        results.latency = Some(latency::run(&plan).await?);
        args.keep(&results)?;
    }
    if args.wants(Part::Headline) {
        println!("long runs");
        results.headline = Some(headline::run(&plan).await?);
        args.keep(&results)?;
    }
    if args.parts.contains(&Part::Overload) {
        println!("overload");
        let part = results.headline.as_mut().context("measure the headline first")?;
        let sustained =
            part.found.runs.first().context("the headline has no run")?.figures.offered_per_second;
        part.found.overload = Some(overload::run(&plan, sustained).await?);
        args.keep(&results)?;
    }
    if args.wants(Part::Consumers) {
        println!("consumers");
        results.consumers = Some(consumers::run(&plan, &plan.binary.with_file_name("consumer")).await?);
        args.keep(&results)?;
    }
    println!("results: {}; shown in {}", args.results.display(), args.document.display());
    Ok(())
}
