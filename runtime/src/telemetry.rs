//! Structured logs on standard error: one JSON object per line, or plain text where a person reads.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line, for machines.
    #[default]
    Json,
    /// Plain text, for people.
    Text,
}

/// What to log and how.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    /// Log filter in the syntax of `tracing` (`info`, `debug`, `info,rdkafka=warn`, …).
    #[arg(long, env = "LOG", default_value = "info")]
    pub log: String,
    /// Log format.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
}

/// Off unless asked for: the pool of the database tells of each attempt to connect, ten a second, what whoever waits for a connection
/// tells once.
const QUIET: &str = "sqlx_core::pool=off";

/// Installs the process's log subscriber.
///
/// # Errors
/// When the filter does not parse, or a subscriber is installed already.
pub fn init(args: &LogArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", args.log))
        .map_err(|error| anyhow::anyhow!("failed to read --log {:?}: {error}", args.log))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE)
        .with_target(true);
    let installed = match args.log_format {
        // An event carries its own identifiers; the spans of libraries would repeat them.
        LogFormat::Json => {
            builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
        }
        LogFormat::Text => builder.try_init(),
    };
    installed.map_err(|error| anyhow::anyhow!("failed to install the log subscriber: {error}"))
}
