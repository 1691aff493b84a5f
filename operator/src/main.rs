//! The operator's process: parse, set up logs and TLS, run.

use std::process::ExitCode;

use clap::Parser;
use operator::cli::{Cli, Command};
use operator::preview;
use runtime::{shutdown, telemetry, tls};
use tokio::runtime::Runtime;

fn main() -> anyhow::Result<ExitCode> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            error.print()?;
            // Not clap's 2 for a wrong call: that is what `plan` says of changes.
            return Ok(ExitCode::from(u8::from(error.use_stderr())));
        }
    };
    match cli.command {
        Command::Crd => {
            print!("{}", operator::crd::yaml()?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Plan(args) => {
            tls::install_provider();
            Runtime::new()?.block_on(preview::run(args))
        }
        Command::Run(args) => {
            telemetry::init(&args.log)?;
            tls::install_provider();
            let runtime = Runtime::new()?;
            let result = runtime.block_on(async { operator::run(*args, shutdown::on_signal()?).await });
            // Whoever lost the lease must end now, and not after Kafka's answers.
            runtime.shutdown_background();
            result?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
