//! The command line: `operator run`, `operator plan` and `operator crd`.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use runtime::telemetry::LogArgs;

/// The operator of order pipelines.
#[derive(Clone, Debug, Parser)]
#[command(name = "operator", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Watch and reconcile pipelines.
    Run(Box<RunArgs>),
    /// Print what applying a manifest would change; write nothing. Ends with 0 for nothing, 2 for changes, 1 for an error.
    Plan(PlanArgs),
    /// Print the CustomResourceDefinition.
    Crd,
}

/// Options of `operator plan`. What decides how a pipeline is reconciled has the names it has for `operator run`, so that
/// the command finds the same settings in the operator's own pod.
#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    /// The manifest, YAML or JSON; - is standard input.
    #[arg(default_value = "-")]
    pub file: String,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Image of order services and consumers whose spec names none.
    #[arg(long, env = "DEFAULT_IMAGE", default_value = concat!("orderflow/orderflow:", env!("CARGO_PKG_VERSION")))]
    pub default_image: String,
    /// Namespaces whose pipelines may own what the manifest names, separated by commas; all when empty.
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
    /// Longest wait for Kafka's answer to one request, in seconds.
    #[arg(long, env = "KAFKA_TIMEOUT_SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub kafka_timeout_seconds: u64,
}

/// Forms of output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A line for each change.
    #[default]
    Text,
    /// A list of pipelines with their changes.
    Json,
    /// The same in YAML.
    Yaml,
}

/// Options of `operator run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Image of order services and consumers whose spec names none.
    #[arg(long, env = "DEFAULT_IMAGE", default_value = concat!("orderflow/orderflow:", env!("CARGO_PKG_VERSION")))]
    pub default_image: String,
    /// Namespaces to watch, separated by commas; all when empty.
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
    /// Address of /livez, /readyz and /metrics.
    #[arg(long, env = "ADMIN_ADDR", default_value = "0.0.0.0:9090")]
    pub admin_addr: SocketAddr,
    /// Name of this pod, for Events.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,
    /// How often Kafka is looked at for drift, in seconds.
    #[arg(long, env = "POLL_SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub poll_seconds: u64,
    /// How often what has `autoscaling` is looked at, in seconds.
    #[arg(long, env = "SCALE_SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub scale_seconds: u64,
    /// Longest wait for Kafka's answer to one request, in seconds.
    #[arg(long, env = "KAFKA_TIMEOUT_SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub kafka_timeout_seconds: u64,
    /// How long a deletion waits for Kafka or for pods before it leaves them behind, in seconds.
    #[arg(long, env = "FINALIZER_TIMEOUT_SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub finalizer_timeout_seconds: u64,
    /// Pipelines reconciled at a time. Most of a pass is waiting, and what passes ask of Kafka at one time shares a request.
    #[arg(long, env = "CONCURRENCY", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub concurrency: u16,
    /// Which of several processes works.
    #[command(flatten)]
    pub election: ElectionArgs,
    /// Logs.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Options of the election; the chart turns it on.
#[derive(Clone, Debug, Args)]
pub struct ElectionArgs {
    /// Whether this process works only while it holds the lease. Without, it must be the only one.
    #[arg(long, env = "LEADER_ELECTION", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub leader_election: bool,
    /// Name of the lease; processes that share the work name the same.
    #[arg(long, env = "LEASE_NAME", default_value = "orderflow-operator")]
    pub lease_name: String,
    /// Namespace of the lease; this pod's when left out.
    #[arg(long, env = "LEASE_NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// How long a standby sees no renewal before it takes the lease, in seconds.
    #[arg(long, env = "LEASE_DURATION_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(2..=300))]
    pub lease_duration_seconds: u64,
    /// How long the leader goes on without a renewal before it exits, in seconds; less than the duration.
    #[arg(long, env = "LEASE_RENEW_DEADLINE_SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=299))]
    pub lease_renew_deadline_seconds: u64,
    /// Between two renewals, in seconds; at most half the renew deadline.
    #[arg(long, env = "LEASE_RETRY_SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub lease_retry_seconds: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elects(arguments: &[&str]) -> bool {
        let Command::Run(args) = Cli::parse_from([&["operator", "run"], arguments].concat()).command else {
            panic!("not `run`")
        };
        args.election.leader_election
    }

    #[test]
    fn a_process_elects_where_it_is_told_to() {
        assert!(!elects(&[]));
        assert!(elects(&["--leader-election"]));
        assert!(elects(&["--leader-election=true"]));
        assert!(!elects(&["--leader-election", "false"]));
    }
}
