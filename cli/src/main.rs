//! `kubectl orderflow`, found by kubectl as `kubectl-orderflow` on the path.

use clap::{Parser, Subcommand};
use cli::dlt::{self, Dlt};
use cli::kubectl::Where;

#[derive(Parser)]
#[command(
    name = "kubectl orderflow",
    bin_name = "kubectl orderflow",
    version,
    about = "Order pipelines, from your own machine"
)]
struct Cli {
    #[command(flatten)]
    there: Where,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Look at a group's dead letters, deliver them again, or let their orders go.
    Dlt(Dlt),
}

fn main() -> anyhow::Result<()> {
    let Cli { there, command } = Cli::parse();
    match command {
        Command::Dlt(dlt) => dlt::run(&there, &dlt),
    }
}
