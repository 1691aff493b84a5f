//! Runs the fault campaign of consumers: seeds and a guarantee in, verdicts out (docs/proof.md).

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::Parser;
use e2e::proof::backends::{Container, KAFKA, KAFKA_PORT, KAFKA_PROXY_PORT, Postgres, kafka_answers};
use e2e::proof::check::Rule;
use e2e::proof::deliveries::plan::{Guarantee, Plan};
use e2e::proof::deliveries::run::{Judged, Settings, run};
use e2e::proof::proxy::{Chooser, Directory, Proxy};
use e2e::proof::report::{Report, totals};
use tokio::task::JoinSet;

/// A campaign of so many runs meets every kind of fault.
const LARGE: u64 = 200;
/// Runs at most for each that is to count.
const ATTEMPTS: u64 = 2;
/// Exit code when a rule was broken.
const UNSOUND: u8 = 1;
/// Exit code when there is no verdict, since something else failed.
const NO_VERDICT: u8 = 2;

#[derive(Parser)]
#[command(about = "Runs consumers under faults and checks what their sink has")]
struct Args {
    /// The consumer.
    #[arg(long)]
    consumer: PathBuf,
    /// Where results and the evidence of failed runs go.
    #[arg(long)]
    out: PathBuf,
    /// The guarantees under trial.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "AtMostOnce,AtLeastOnce,ExactlyOnce")]
    guarantees: Vec<Guarantee>,
    /// Runs of each that are to count.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    runs: u64,
    /// Runs side by side.
    #[arg(long, default_value_t = 3, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=16))]
    jobs: usize,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Stop at the first run that breaks one of these rules.
    #[arg(long, value_name = "RULE", value_delimiter = ',')]
    until_broken: Vec<Rule>,
    /// Keep the evidence of sound runs, too.
    #[arg(long)]
    keep: bool,
    /// Print the plan of the first seed instead of running it.
    #[arg(long)]
    plan: bool,
}

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
        for guarantee in &args.guarantees {
            println!("{}", serde_json::to_string_pretty(&Plan::of(args.from, *guarantee))?);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !args.consumer.is_file() {
        bail!("there is no {}: run lab/proof deliveries", args.consumer.display());
    }
    let stop = runtime::shutdown::on_signal()?;
    fs::create_dir_all(&args.out).with_context(|| format!("failed to create {}", args.out.display()))?;
    Container::named(KAFKA).mend().await?;
    Postgres::new(false).container.mend().await?;
    let directory = Directory::new(args.from);
    let chooser = Chooser::ByKafkaClient(directory.clone());
    let _proxy = Proxy::listen(KAFKA_PROXY_PORT, KAFKA_PORT, chooser).await?;
    kafka_answers().await?;
    let settings = Settings {
        consumer: args.consumer.clone(),
        out: args.out.clone(),
        keep: args.keep,
        commit: commit()?,
        directory,
    };
    let (mut all, mut lacks) = (Vec::new(), false);
    for guarantee in &args.guarantees {
        let reports = tokio::select! {
            reports = campaign(&args, &settings, *guarantee) => reports?,
            () = stop.cancelled() => bail!("stopped before the end; members are ended, nothing is judged"),
        };
        print!("{guarantee:?}: {}", totals(&reports));
        let counted = reports.iter().filter(|report| report.counts()).count();
        if as_u64(counted) < args.runs && args.until_broken.is_empty() {
            println!("only {counted} of {} runs had enough faults", args.runs);
            lacks = true;
        }
        let missed = missed(*guarantee, &reports);
        if args.runs >= LARGE && args.until_broken.is_empty() && !missed.is_empty() {
            println!("never happened: {}", missed.join(", "));
            lacks = true;
        }
        all.extend(reports);
    }
    Ok(if all.iter().any(is_unsound) {
        ExitCode::from(UNSOUND)
    } else if lacks || all.iter().any(|report| report.broken.is_some()) {
        ExitCode::from(NO_VERDICT)
    } else {
        ExitCode::SUCCESS
    })
}

/// Runs until enough count, some side by side: most of a run is waiting for sessions and pauses to end.
async fn campaign(args: &Args, settings: &Settings, guarantee: Guarantee) -> anyhow::Result<Vec<Report>> {
    let file = args.out.join("deliveries.jsonl");
    let mut results = OpenOptions::new().create(true).append(true).open(&file)?;
    let (mut reports, mut counted, mut enough) = (Vec::new(), 0, false);
    let mut seeds = args.from..args.from + ATTEMPTS * args.runs;
    let mut under_way = JoinSet::new();
    loop {
        while !enough && under_way.len() < args.jobs && counted + as_u64(under_way.len()) < args.runs {
            let Some(seed) = seeds.next() else { break };
            let settings = settings.clone();
            under_way.spawn(async move { run(seed, guarantee, &settings).await });
        }
        let Some(judged) = under_way.join_next().await else { return Ok(reports) };
        let judged = judged?;
        writeln!(results, "{}", serde_json::to_string(&judged)?)?;
        let Judged { report, letters, letters_again, .. } = judged;
        println!("{guarantee:?}, {letters} letters, {letters_again} again, {}", report.delivery_line());
        counted += u64::from(report.counts());
        enough |= report.breaks(&args.until_broken);
        reports.push(report);
    }
}

/// Kinds of faults that were planned for these runs, and happened in none.
fn missed(guarantee: Guarantee, reports: &[Report]) -> Vec<&'static str> {
    let happened: BTreeSet<&str> = reports
        .iter()
        .flat_map(|report| &report.faults)
        .filter(|fault| fault.happened)
        .map(|fault| fault.kind.as_str())
        .collect();
    let planned = reports.iter().flat_map(|report| Plan::of(report.seed, guarantee).faults);
    let kinds: BTreeSet<&str> = planned.map(|planned| planned.fault.kind()).collect();
    kinds.into_iter().filter(|kind| !happened.contains(kind)).collect()
}

/// Commit of this checkout, with `-dirty` when files differ from it.
fn commit() -> anyhow::Result<String> {
    let mut describe = Command::new("git");
    describe.args(["describe", "--always", "--dirty", "--exclude", "*"]);
    let described = describe.output().context("failed to ask git for the commit")?;
    Ok(String::from_utf8(described.stdout)?.trim().to_owned())
}

fn is_unsound(report: &Report) -> bool {
    report.broken.is_none() && !report.is_sound()
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
