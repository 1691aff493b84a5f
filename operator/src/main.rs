//! The operator's process: parse, set up logs and TLS, run.

use clap::Parser;
use operator::cli::{Cli, Command};
use runtime::{shutdown, telemetry, tls};

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Crd => {
            print!("{}", operator::crd::yaml()?);
            Ok(())
        }
        Command::Run(args) => {
            telemetry::init(&args.log)?;
            tls::install_provider();
            let runtime = tokio::runtime::Runtime::new()?;
            let result = runtime.block_on(async { operator::run(*args, shutdown::on_signal()?).await });
            // Whoever lost the lease must end now, and not after Kafka's answers.
            runtime.shutdown_background();
            result
        }
    }
}
