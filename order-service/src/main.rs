//! The order service's process: parses, listens and delegates.

use clap::Parser;
use order_service::{Config, ListenConfig, Listeners, run};
use runtime::telemetry::{self, LogArgs};
use runtime::{shutdown, tls};

/// Takes orders and publishes their events to Kafka.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    listen: ListenConfig,
    #[command(flatten)]
    service: Config,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Cli { log, listen, service } = Cli::parse();
    telemetry::init(&log)?;
    tls::install_provider();
    // Reads FAILPOINTS; only a build for the fault campaign has this.
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    let shutdown = shutdown::on_signal()?;
    run(service, Listeners::bind(&listen).await?, shutdown).await
}
