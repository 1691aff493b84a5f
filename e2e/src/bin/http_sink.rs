//! The demo's HTTP sink as a program.

use std::net::SocketAddr;

use anyhow::Context;
use clap::Parser;
use runtime::telemetry::LogArgs;

#[derive(Parser)]
#[command(about = "Writes down every order event that it is sent")]
struct Args {
    /// Where to listen.
    #[arg(long, env = "HTTP_ADDR", default_value = "127.0.0.1:8090")]
    http_addr: SocketAddr,
    /// The database to write to.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    #[command(flatten)]
    log: LogArgs,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Args { http_addr, database_url, log } = Args::parse();
    runtime::telemetry::init(&log)?;
    runtime::tls::install_provider();
    let shutdown = runtime::shutdown::on_signal()?;
    let pool = e2e::database::connect(&database_url)?;
    e2e::http_sink::prepare(&pool).await.context("failed to create the table")?;
    let listener = tokio::net::TcpListener::bind(http_addr).await?;
    runtime::admin::serve(listener, e2e::http_sink::router(pool), shutdown.cancelled_owned()).await
}
