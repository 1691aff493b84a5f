//! `kubectl orderflow`, found by kubectl as `kubectl-orderflow` on the path.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use cli::dlt::{self, Dlt};
use cli::kubectl::Where;
use cli::plan::{self, Plan};

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
    /// Print what applying manifests would change. Ends with 0 for nothing, 2 for changes, 1 for an error.
    Plan(Plan),
    /// Look at a group's dead letters, deliver them again, or let their orders go.
    Dlt(Dlt),
}

fn main() -> anyhow::Result<ExitCode> {
    let Cli { there, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            error.print()?;
            // Not clap's 2 for a wrong call: that is what `plan` says of changes.
            return Ok(ExitCode::from(u8::from(error.use_stderr())));
        }
    };
    match command {
        Command::Plan(plan) => plan::run(&there, &plan),
        Command::Dlt(dlt) => dlt::run(&there, &dlt).map(|()| ExitCode::SUCCESS),
    }
}
