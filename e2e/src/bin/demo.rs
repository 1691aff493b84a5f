//! Posts real orders to the running pipeline, waits until every event is delivered, and says what became of them.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Parser;
use e2e::api::{OrderApi, Outcome};
use e2e::evidence::Sources;
use e2e::load::{Call, Load, Progress};
use e2e::{catalogue, names, report};
use indicatif::{ProgressBar, ProgressStyle};
use uuid::Uuid;

/// Longest wait for the last event after the load.
const DELIVERY_DEADLINE: Duration = Duration::from_secs(120);
/// How often progress is shown: often on a terminal, rarely in a log.
const TICK: Duration = Duration::from_millis(200);
const LOG_EVERY: u64 = 25;

#[derive(Parser)]
#[command(about = "Posts orders to the demo pipeline and checks that each event arrives once and in order")]
struct Args {
    /// Orders per second.
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..=2000))]
    rate: u32,
    /// Seconds of load.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    runtime::tls::install_provider();
    println!("loading the catalogue: {} products and coupon {}", catalogue::PRODUCTS, catalogue::COUPON);
    catalogue::load().await?;
    let sources = Sources::local()?;
    send_one_ahead(&sources).await?;
    let load = load("demo", args.rate, args.seconds);
    let run = load.run.clone();
    println!("posting {} orders per second for {} s to {}", args.rate, args.seconds, names::ORDER_API);
    let calls = post(&load).await?;
    println!("waiting until every event is delivered");
    let waited = sources.wait_until_delivered(&run, DELIVERY_DEADLINE).await;
    let judged = sources.judge(&run, &calls).await?;
    print!("{}", report::table(&calls, &judged));
    if let Err(error) = waited {
        eprintln!("{error:#}");
        return Ok(ExitCode::FAILURE);
    }
    // Nothing lost of nothing would prove nothing.
    let accepted = calls.iter().filter(|call| matches!(call.outcome, Outcome::Accepted(_))).count();
    if u64::try_from(accepted)? * 2 < load.total() {
        eprintln!("the order service took only {accepted} of {} orders", load.total());
        return Ok(ExitCode::FAILURE);
    }
    let sound = judged.findings.is_sound() && judged.findings.duplicated() == 0;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Groups that were just started take a few seconds to share out the partitions, which is not what the load is to measure.
async fn send_one_ahead(sources: &Sources) -> anyhow::Result<()> {
    println!("sending one order ahead, until every group has it");
    let one = load("ahead", 1, 1);
    one.run(&OrderApi::new(names::ORDER_API)?, Arc::default()).await;
    sources.wait_until_delivered(&one.run, DELIVERY_DEADLINE).await
}

fn load(name: &str, per_second: u32, seconds: u64) -> Load {
    Load {
        run: format!("{name}-{}", Uuid::now_v7().simple()),
        per_second,
        duration: Duration::from_secs(seconds),
        confirm_percent: 10,
        cancel_percent: 5,
    }
}

/// Posts the load with a bar on a terminal, or a line every few seconds in a log.
async fn post(load: &Load) -> anyhow::Result<Vec<Call>> {
    let bar = ProgressBar::new(load.total());
    bar.set_style(ProgressStyle::with_template("[{bar:40}] {pos}/{len} posted, {msg} accepted")?);
    let progress = Arc::new(Progress::default());
    let api = OrderApi::new(names::ORDER_API)?;
    let running = load.run(&api, Arc::clone(&progress));
    tokio::pin!(running);
    let mut ticks = tokio::time::interval(TICK);
    let mut tick = 0;
    loop {
        tokio::select! {
            calls = &mut running => {
                bar.finish_and_clear();
                return Ok(calls);
            }
            _ = ticks.tick() => {
                let (posted, accepted) =
                    (progress.posted.load(Ordering::Relaxed), progress.accepted.load(Ordering::Relaxed));
                bar.set_position(posted);
                bar.set_message(accepted.to_string());
                tick += 1;
                if bar.is_hidden() && tick % LOG_EVERY == 0 {
                    println!("  {posted}/{} posted, {accepted} accepted", load.total());
                }
            }
        }
    }
}
