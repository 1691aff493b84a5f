//! What a consumer is told: flags and environment, parsed once into a [`Config`] that holds no contradiction.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use reqwest::Url;
use runtime::kafka::{KafkaArgs, KafkaConnection, Secret};
use runtime::telemetry::LogArgs;

use crate::commands::Command;
use crate::retry::RetryPolicy;

/// What a group promises about each record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Delivery {
    /// Commit, then deliver once: a crash or a failure loses at most what is in flight.
    #[value(name = "AtMostOnce")]
    AtMostOnce,
    /// Deliver, then commit: a crash repeats at most what is in flight.
    #[value(name = "AtLeastOnce")]
    AtLeastOnce,
    /// The sink applies and moves the group's place in one step: nothing is lost or repeated.
    #[value(name = "ExactlyOnce")]
    ExactlyOnce,
}

/// Where a group starts that has committed nothing yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum StartFrom {
    /// At the oldest record that the topic still has.
    #[value(name = "Earliest")]
    Earliest,
    /// At the first record written after the group's first assignment.
    #[value(name = "Latest")]
    Latest,
}

/// Which sink the events go to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum SinkKind {
    /// Rows in a PostgreSQL table.
    Postgres,
    /// One POST per event.
    Http,
}

/// Delivers a topic's order events to a sink, as a member of a consumer group.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Args {
    /// What to do other than to consume.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to reach Kafka.
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
    /// Topic to consume.
    #[arg(long, env = "TOPIC")]
    pub topic: String,
    /// Consumer group to be a member of.
    #[arg(long, env = "GROUP")]
    pub group: String,
    /// Guarantee of the group.
    #[arg(long, env = "DELIVERY", value_enum, default_value_t = Delivery::AtLeastOnce)]
    pub delivery: Delivery,
    /// Where the group starts when it has committed nothing yet.
    #[arg(long, env = "START_FROM", value_enum, default_value_t = StartFrom::Earliest)]
    pub start_from: StartFrom,
    /// Topic for records that can't be delivered.
    #[arg(long, env = "DEAD_LETTER_TOPIC")]
    pub dead_letter_topic: String,
    /// Where the events go.
    #[arg(long, env = "SINK", value_enum)]
    pub sink: SinkKind,
    /// PostgreSQL URL of the sink; give it through the environment, not as a flag.
    #[arg(long, env = "SINK_DATABASE_URL", hide_env_values = true)]
    pub sink_database_url: Option<Secret>,
    /// URL that the http sink posts to.
    #[arg(long, env = "SINK_HTTP_URL")]
    pub sink_http_url: Option<String>,
    /// Longest wait for an answer of the http sink, in seconds.
    #[arg(long, env = "SINK_HTTP_TIMEOUT_SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub sink_http_timeout_seconds: u64,
    /// Attempts at a record that the sink refuses, before it is dead-lettered.
    #[arg(long, env = "RETRY_MAX_ATTEMPTS", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub retry_max_attempts: u32,
    /// Wait after the first failure, in milliseconds.
    #[arg(long, env = "RETRY_INITIAL_BACKOFF_MILLIS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub retry_initial_backoff_millis: u64,
    /// Longest wait between two attempts, in seconds.
    #[arg(long, env = "RETRY_MAX_BACKOFF_SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub retry_max_backoff_seconds: u64,
    /// Calls of the sink at once for each partition of an at-least-once group, each for other keys.
    #[arg(long, env = "LANES", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub lanes: u32,
    /// Most records of one partition that are delivered as one batch.
    #[arg(long, env = "BATCH_MAX_RECORDS", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch_max_records: u32,
    /// Address of the admin server.
    #[arg(long, env = "ADMIN_ADDR", default_value = "0.0.0.0:9090")]
    pub admin_addr: SocketAddr,
    /// Name of this member in the broker's logs and in `kafka-consumer-groups.sh --describe`.
    #[arg(long, env = "POD_NAME", default_value = "consumer")]
    pub pod_name: String,
    /// Time from the stop signal to the end of the process, in seconds.
    #[arg(long, env = "SHUTDOWN_GRACE_SECONDS", default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub shutdown_grace_seconds: u64,
}

/// Everything the consumer needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster.
    pub kafka: KafkaConnection,
    /// Who this is and what it reads.
    pub subscription: Subscription,
    /// Topic for records that can't be delivered.
    pub dead_letter_topic: String,
    /// Where the events go.
    pub sink: SinkConfig,
    /// How failures are retried.
    pub retry: RetryPolicy,
    /// Calls of the sink at once for each partition.
    pub lanes: usize,
    /// Most records of one partition that are delivered as one batch.
    pub batch_max_records: usize,
    /// Time from the stop signal to the end.
    pub shutdown_grace: Duration,
}

/// Who the member is and what it reads.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Topic to consume.
    pub topic: String,
    /// The group.
    pub group: String,
    /// Name of this member.
    pub client_id: String,
    /// Guarantee of the group.
    pub delivery: Delivery,
    /// Where the group starts when it has committed nothing yet.
    pub start_from: StartFrom,
}

/// The sink and what only it needs.
#[derive(Clone, Debug)]
pub enum SinkConfig {
    /// Rows in a table.
    Postgres {
        /// `postgres://…`, with its password.
        url: Secret,
    },
    /// One POST per event.
    Http {
        /// Where to.
        url: Url,
        /// Longest wait for an answer.
        timeout: Duration,
    },
}

impl Args {
    /// The configuration these flags describe.
    ///
    /// # Errors
    /// When the chosen sink lacks its URL, a URL does not parse, or the dead letters would go back into the topic.
    pub fn validate(self) -> anyhow::Result<Config> {
        let kafka = self.kafka.connection()?;
        let Self {
            kafka: _,
            command: _,
            log: _,
            topic,
            group,
            delivery,
            start_from,
            dead_letter_topic,
            sink,
            sink_database_url,
            sink_http_url,
            sink_http_timeout_seconds,
            retry_max_attempts,
            retry_initial_backoff_millis,
            retry_max_backoff_seconds,
            lanes,
            batch_max_records,
            admin_addr: _,
            pod_name,
            shutdown_grace_seconds,
        } = self;
        if dead_letter_topic == topic {
            bail!("failed to read DEAD_LETTER_TOPIC: it is the consumed topic itself; name another");
        }
        let sink = match sink {
            SinkKind::Postgres => SinkConfig::Postgres {
                url: sink_database_url.context("failed to read SINK_DATABASE_URL: SINK=postgres needs it")?,
            },
            SinkKind::Http => {
                let text = sink_http_url.context("failed to read SINK_HTTP_URL: SINK=http needs it")?;
                SinkConfig::Http {
                    url: http_url(&text)?,
                    timeout: Duration::from_secs(sink_http_timeout_seconds),
                }
            }
        };
        Ok(Config {
            kafka,
            subscription: Subscription { topic, group, client_id: pod_name, delivery, start_from },
            dead_letter_topic,
            sink,
            retry: RetryPolicy {
                max_attempts: retry_max_attempts,
                initial_backoff: Duration::from_millis(retry_initial_backoff_millis),
                max_backoff: Duration::from_secs(retry_max_backoff_seconds),
            },
            lanes: usize::try_from(lanes).context("failed to read LANES")?,
            batch_max_records: usize::try_from(batch_max_records)
                .context("failed to read BATCH_MAX_RECORDS")?,
            shutdown_grace: Duration::from_secs(shutdown_grace_seconds),
        })
    }
}

fn http_url(text: &str) -> anyhow::Result<Url> {
    let url = Url::parse(text).context("failed to read SINK_HTTP_URL")?;
    if !matches!(url.scheme(), "http" | "https") {
        bail!("failed to read SINK_HTTP_URL: its scheme is {:?}, not http or https", url.scheme());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &[&str]) -> anyhow::Result<Config> {
        let base = ["consumer", "--kafka-bootstrap-servers=k:9092", "--topic=t", "--group=g"];
        let dead_letters = if extra.iter().any(|flag| flag.contains("dead-letter")) {
            ""
        } else {
            "--dead-letter-topic=t.g.dlt"
        };
        let flags = base.iter().chain(extra).chain([&dead_letters]).filter(|flag| !flag.is_empty());
        Args::try_parse_from(flags)?.validate()
    }

    #[test]
    fn the_defaults_are_those_of_the_resource() {
        let config = parse(&["--sink=http", "--sink-http-url=http://data-platform/events"]).expect("valid");
        assert_eq!(config.subscription.delivery, Delivery::AtLeastOnce);
        assert_eq!(config.subscription.start_from, StartFrom::Earliest);
        assert_eq!(config.retry.max_attempts, 8);
        assert_eq!(config.retry.initial_backoff, Duration::from_millis(100));
        assert_eq!(config.retry.max_backoff, Duration::from_secs(30));
    }

    #[test]
    fn a_sink_without_its_url_is_refused_by_name() {
        for (sink, variable) in [("--sink=postgres", "SINK_DATABASE_URL"), ("--sink=http", "SINK_HTTP_URL")] {
            let error = parse(&[sink]).expect_err("no URL").to_string();
            assert!(error.contains(variable), "{error}");
        }
    }

    #[test]
    fn dead_letters_do_not_go_back_into_the_topic() {
        let error = parse(&["--sink=http", "--sink-http-url=http://x", "--dead-letter-topic=t"]);
        assert!(error.expect_err("a loop").to_string().contains("DEAD_LETTER_TOPIC"));
    }

    #[test]
    fn a_url_of_another_scheme_is_refused() {
        assert!(parse(&["--sink=http", "--sink-http-url=ftp://x"]).is_err());
    }

    #[test]
    fn a_database_url_is_not_printed() {
        let config =
            parse(&["--sink=postgres", "--sink-database-url=postgres://u:hunter2@h/db"]).expect("valid");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
