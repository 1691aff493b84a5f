//! Runs the fault campaign: seeds in, verdicts out (docs/proof.md).

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::Parser;
use e2e::proof::check::Rule;
use e2e::proof::document::{self, Which};
use e2e::proof::plan::{Plan, SWEEP, SWEEPS};
use e2e::proof::points::POINTS;
use e2e::proof::report::{Report, points_missed, refuses_most, summary};
use e2e::proof::run::{Settings, run};

/// Runs of `--short`, beside the sweeps: a taste for every commit.
const SHORT_RUNS: usize = 4;
/// A campaign of so many runs meets every kind of fault and every fail point.
const LARGE: u64 = 200;
/// Runs at most for each that is to count.
const ATTEMPTS: u64 = 2;

#[derive(Parser)]
#[command(about = "Runs order services under faults and checks everything they wrote")]
struct Args {
    /// The order service, built with feature `failpoints`.
    #[arg(long, required_unless_present = "document")]
    service: Option<PathBuf>,
    /// Where results and the evidence of failed runs go.
    #[arg(long)]
    out: PathBuf,
    /// Runs that are to count.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    runs: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1, conflicts_with = "seed")]
    from: u64,
    /// This seed only: the same schedule again.
    #[arg(long, conflicts_with_all = ["runs", "short"])]
    seed: Option<u64>,
    /// A few runs, and each fail point once.
    #[arg(long, conflicts_with = "runs")]
    short: bool,
    /// Stop at the first run that breaks one of these rules.
    #[arg(long, value_name = "RULE", value_delimiter = ',')]
    until_broken: Vec<Rule>,
    /// Keep the evidence of sound runs, too.
    #[arg(long)]
    keep: bool,
    /// Runs nothing: keeps what the campaign of `--runs` from `--from` came to in this folder of documents, and shows it there.
    #[arg(long, conflicts_with_all = ["seed", "short"])]
    document: Option<PathBuf>,
    /// With `--document`: the campaign of consumers.
    #[arg(long, requires = "document")]
    deliveries: bool,
    /// Print the plan of the seeds instead of running them.
    #[arg(long)]
    plan: bool,
}

/// Exit code when a rule was broken.
const UNSOUND: u8 = 1;
/// How often a short campaign sweeps at most until every fail point was reached: where the machine is slow, a run may make too
/// few calls to come by each.
const SWEEP_ROUNDS: u64 = 4;

/// Exit code when there is no verdict, since something else failed: it must never look like a bug that was found.
const NO_VERDICT: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    judge(Args::parse()).await.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(NO_VERDICT)
    })
}

async fn judge(args: Args) -> anyhow::Result<ExitCode> {
    runtime::tls::install_provider();
    if args.plan {
        println!("{}", serde_json::to_string_pretty(&Plan::of(args.seed.unwrap_or(args.from)))?);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(docs) = &args.document {
        let which = if args.deliveries { Which::Deliveries } else { Which::OrderPath };
        document::write(docs, &args.out, which, args.from, usize::try_from(args.runs)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let service = args.service.clone().unwrap_or_default();
    if !service.is_file() {
        bail!("there is no {}: run lab/proof run", service.display());
    }
    let stop = runtime::shutdown::on_signal()?;
    let reports = tokio::select! {
        reports = campaign(&args, service) => reports?,
        () = stop.cancelled() => bail!("stopped before the end; replicas are ended, nothing is judged"),
    };
    print!("{}", summary(&reports));
    if let Some(lack) = lack(&args, &reports) {
        println!("{lack}");
        return Ok(ExitCode::from(if is_unsound(&reports) { UNSOUND } else { NO_VERDICT }));
    }
    let missed = points_missed(&reports);
    if args.short && !missed.is_empty() {
        println!("fail points that were never hit: {}", missed.join(", "));
        return Ok(ExitCode::from(NO_VERDICT));
    }
    Ok(if is_unsound(&reports) {
        ExitCode::from(UNSOUND)
    } else if reports.iter().any(|report| report.broken.is_some()) {
        ExitCode::from(NO_VERDICT)
    } else {
        ExitCode::SUCCESS
    })
}

fn is_unsound(reports: &[Report]) -> bool {
    reports.iter().any(|report| report.broken.is_none() && !report.is_sound())
}

/// What is missing for the campaign to say anything: runs in which enough went wrong, and, of a large one, each kind of fault.
fn lack(args: &Args, reports: &[Report]) -> Option<String> {
    if args.short || args.seed.is_some() || !args.until_broken.is_empty() {
        return None;
    }
    let counted = reports.iter().filter(|report| report.counts()).count();
    if u64::try_from(counted).unwrap_or(u64::MAX) < args.runs {
        return Some(format!("only {counted} of {} runs had enough faults", args.runs));
    }
    if args.runs >= LARGE && refuses_most(reports) {
        return Some("less than half of the calls had a definite answer".to_owned());
    }
    let happened = |kind: &str| {
        reports.iter().flat_map(|report| &report.faults).any(|fault| fault.happened && fault.kind == kind)
    };
    let planned = reports.iter().flat_map(|report| Plan::of(report.seed).faults);
    let mut missed: Vec<&str> =
        planned.map(|planned| planned.fault.kind()).chain(POINTS).filter(|kind| !happened(kind)).collect();
    missed.sort_unstable();
    missed.dedup();
    (args.runs >= LARGE && !missed.is_empty()).then(|| format!("never happened: {}", missed.join(", ")))
}

async fn campaign(args: &Args, service: PathBuf) -> anyhow::Result<Vec<Report>> {
    fs::create_dir_all(&args.out).with_context(|| format!("failed to create {}", args.out.display()))?;
    let file = args.out.join("results.jsonl");
    let mut results = OpenOptions::new().create(true).append(true).open(&file)?;
    let settings = Settings { service, out: args.out.clone(), keep: args.keep, commit: commit()? };
    let mut reports = Vec::new();
    if args.short {
        let short = (args.from..).filter(|seed| !Plan::of(*seed).is_slow());
        for seed in (SWEEP..SWEEP + SWEEPS).chain(short.take(SHORT_RUNS)) {
            one(seed, &settings, &mut results, &mut reports).await?;
        }
        for seed in SWEEP + SWEEPS..SWEEP + SWEEPS * SWEEP_ROUNDS {
            let missed = points_missed(&reports);
            if Plan::of(seed).points.iter().flatten().any(|point| missed.contains(&point.name)) {
                one(seed, &settings, &mut results, &mut reports).await?;
            }
        }
    } else if let Some(seed) = args.seed {
        one(seed, &settings, &mut results, &mut reports).await?;
    } else {
        let (mut counted, mut seed) = (0, args.from);
        while counted < args.runs && seed < args.from + ATTEMPTS * args.runs {
            let report = one(seed, &settings, &mut results, &mut reports).await?;
            counted += u64::from(report.counts());
            seed += 1;
            if report.breaks(&args.until_broken) {
                break;
            }
        }
    }
    println!("results: {}", file.display());
    Ok(reports)
}

async fn one(
    seed: u64,
    settings: &Settings,
    results: &mut File,
    reports: &mut Vec<Report>,
) -> anyhow::Result<Report> {
    let report = run(seed, settings).await;
    println!("{}", report.line());
    writeln!(results, "{}", serde_json::to_string(&report)?)?;
    reports.push(report.clone());
    Ok(report)
}

/// Commit of this checkout, with `-dirty` when files differ from it.
fn commit() -> anyhow::Result<String> {
    let mut describe = Command::new("git");
    describe.args(["describe", "--always", "--dirty", "--exclude", "*"]);
    let described = describe.output().context("failed to ask git for the commit")?;
    Ok(String::from_utf8(described.stdout)?.trim().to_owned())
}
