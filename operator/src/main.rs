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
            tokio::runtime::Runtime::new()?
                .block_on(async { operator::run(args, shutdown::on_signal()?).await })
        }
    }
}
