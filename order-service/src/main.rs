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
    let _scenario = {
        die_at_fail_points();
        fail::FailScenario::setup()
    };
    let shutdown = shutdown::on_signal()?;
    run(service, Listeners::bind(&listen).await?, shutdown).await
}

/// Makes a fail point's `panic` end the process there and then, as SIGKILL does: no unwinding, nothing flushed, nothing let
/// go. Any other panic goes on as in production.
#[cfg(feature = "failpoints")]
fn die_at_fail_points() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if panic.payload_as_str().is_some_and(|message| message.starts_with("failpoint ")) {
            std::process::abort();
        }
    }));
}
