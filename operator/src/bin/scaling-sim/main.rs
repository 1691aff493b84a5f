//! `scaling-sim` replays arrivals through our decision and through KEDA with the autoscaler, and tells what each cost.

mod trace;
mod group;
mod world;
mod keda;
mod hpa;
mod run;
mod compare;
mod table;
mod plot;
#[cfg(test)]
mod vectors;
#[cfg(test)]
mod claims;

use std::path::PathBuf;

use clap::Parser;

use compare::{CAREFUL, SWEEP, compare};
use world::Rebalance;

/// Replays arrivals through our scaling and through KEDA's, and prints what each cost.
#[derive(Parser)]
struct Args {
    /// Document whose generated part is written anew, such as docs/scaling.md; its plots go beside it.
    #[arg(long)]
    document: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let cooperative = compare(Rebalance::Cooperative, &SWEEP);
    let stop_the_world = compare(Rebalance::StopTheWorld, &[CAREFUL]);
    println!("{}", table::main(&cooperative));
    println!("All partitions rest in a rebalance:\n\n{}", table::main(&stop_the_world));
    println!("By KEDA's lagThreshold:\n\n{}", table::sweep(&cooperative));
    match args.document {
        Some(document) => {
            table::write(&cooperative, &stop_the_world, &document, &document.with_extension(""))
        }
        None => Ok(()),
    }
}
