//! The `consumer` program: reads its flags and hands over to [`consumer::run`].

use anyhow::Context;
use clap::Parser;
use consumer::Args;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    runtime::telemetry::init(&args.log)?;
    runtime::tls::install_provider();
    if let Some(command) = args.command.clone() {
        return consumer::commands::run(command, args.validate()?, std::io::stdout()).await;
    }
    let shutdown = runtime::shutdown::on_signal().context("failed to listen for signals")?;
    let listener = TcpListener::bind(args.admin_addr)
        .await
        .with_context(|| format!("failed to bind the admin port at {}", args.admin_addr))?;
    consumer::run(args.validate()?, listener, shutdown).await?;
    Ok(())
}
