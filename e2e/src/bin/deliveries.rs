//! Runs the fault campaign of consumers: seeds and a guarantee in, verdicts out (docs/proof.md).

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use e2e::proof::deliveries::plan::{Guarantee, Plan};
use e2e::proof::deliveries::run::{Settings, run};
use e2e::proof::report::{Report, totals};

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
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Stop at the first run that is not sound.
    #[arg(long)]
    until_unsound: bool,
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
    let (mut all, mut lacks) = (Vec::new(), false);
    for guarantee in &args.guarantees {
        let reports = tokio::select! {
            reports = campaign(&args, *guarantee) => reports?,
            () = stop.cancelled() => bail!("stopped before the end; members are ended, nothing is judged"),
        };
        print!("{guarantee:?}: {}", totals(&reports));
        let counted = reports.iter().filter(|report| report.counts()).count();
        if u64::try_from(counted).unwrap_or(u64::MAX) < args.runs && !args.until_unsound {
            println!("only {counted} of {} runs had enough faults", args.runs);
            lacks = true;
        }
        all.extend(reports);
    }
    Ok(if all.iter().any(|report| report.broken.is_none() && !report.is_sound()) {
        ExitCode::from(UNSOUND)
    } else if lacks || all.iter().any(|report| report.broken.is_some()) {
        ExitCode::from(NO_VERDICT)
    } else {
        ExitCode::SUCCESS
    })
}

async fn campaign(args: &Args, guarantee: Guarantee) -> anyhow::Result<Vec<Report>> {
    fs::create_dir_all(&args.out).with_context(|| format!("failed to create {}", args.out.display()))?;
    let mut results = OpenOptions::new().create(true).append(true).open(args.out.join("deliveries.jsonl"))?;
    let settings = Settings { consumer: args.consumer.clone(), out: args.out.clone(), keep: args.keep };
    let (mut reports, mut counted, mut seed) = (Vec::new(), 0, args.from);
    while counted < args.runs && seed < args.from + ATTEMPTS * args.runs {
        let report = run(seed, guarantee, &settings).await;
        println!("{guarantee:?} {}", report.delivery_line());
        writeln!(results, "{}", serde_json::to_string(&report)?)?;
        counted += u64::from(report.counts());
        seed += 1;
        let is_unsound = report.broken.is_none() && !report.is_sound();
        reports.push(report);
        if args.until_unsound && is_unsound {
            break;
        }
    }
    Ok(reports)
}
