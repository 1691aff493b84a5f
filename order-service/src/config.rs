//! Settings of the service, from flags or environment; each field's doc names its unit and default.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use runtime::kafka::{KafkaArgs, Secret};

/// Everything the service is told from outside.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// The public API.
    #[command(flatten)]
    pub http: HttpConfig,
    /// The database.
    #[command(flatten)]
    pub database: DatabaseConfig,
    /// How orders are written.
    #[command(flatten)]
    pub writer: WriterConfig,
    /// Kafka's address.
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// The relay from the outbox to Kafka.
    #[command(flatten)]
    pub relay: RelayConfig,
    /// ISO 4217 code of the currency of all prices (CURRENCY, default EUR).
    #[arg(long, env = "CURRENCY", default_value = "EUR", value_parser = parse_currency)]
    pub currency: String,
    /// Seconds from the stop signal to the end of the process (default 25, below Kubernetes' 30).
    #[arg(long, env = "SHUTDOWN_GRACE_SECONDS", default_value = "25", value_parser = seconds)]
    pub shutdown_grace: Duration,
}

/// Where the service listens.
#[derive(Clone, Debug, clap::Args)]
pub struct ListenConfig {
    /// Address of the public API (HTTP_ADDR, default 0.0.0.0:8080).
    #[arg(long, env = "HTTP_ADDR", default_value = "0.0.0.0:8080")]
    pub http_addr: SocketAddr,
    /// Address of the admin server (ADMIN_ADDR, default 0.0.0.0:9090).
    #[arg(long, env = "ADMIN_ADDR", default_value = "0.0.0.0:9090")]
    pub admin_addr: SocketAddr,
}

/// Bounds of the public API.
#[derive(Clone, Debug, clap::Args)]
pub struct HttpConfig {
    /// Seconds a request may take before it is answered with 504 (HTTP_TIMEOUT_SECONDS, default 10).
    #[arg(long, env = "HTTP_TIMEOUT_SECONDS", default_value = "10", value_parser = seconds)]
    pub http_timeout: Duration,
    /// Requests served at once; one more is answered with 503 (HTTP_MAX_CONCURRENT, default 2048: a full writer queue,
    /// its batches, and as many reads and changes again). Each holds at most its body of 64 KiB, so all of them at most
    /// 128 MiB; an order of one line takes about 1 KiB.
    #[arg(long, env = "HTTP_MAX_CONCURRENT", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    pub http_max_concurrent: u32,
}

/// How the database is reached.
#[derive(Clone, Debug, clap::Args)]
pub struct DatabaseConfig {
    /// `postgres://…`; give it through the environment, not as a flag.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Secret,
    /// Connections for requests (DATABASE_MAX_CONNECTIONS, default 16); the relay has seven more of its own, and the writer
    /// one for each lane.
    #[arg(long, env = "DATABASE_MAX_CONNECTIONS", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub database_max_connections: u32,
    /// Seconds a request waits for a connection before it is answered with 503 (DATABASE_ACQUIRE_TIMEOUT_SECONDS,
    /// default 2).
    #[arg(long, env = "DATABASE_ACQUIRE_TIMEOUT_SECONDS", default_value = "2", value_parser = seconds)]
    pub database_acquire_timeout: Duration,
}

/// How orders are written to the database.
#[derive(Clone, Debug, clap::Args)]
pub struct WriterConfig {
    /// Orders that arrive together share a transaction, or each has its own (WRITER_MODE, default combining; per-order is
    /// there to compare with).
    #[arg(long, env = "WRITER_MODE", value_enum, default_value_t = WriterMode::Combining)]
    pub writer_mode: WriterMode,
    /// Transactions at once, each on a connection of its own (WRITER_LANES, default 2: a further one begins only with a full
    /// batch, or when the one at work takes long, as with a product that somebody keeps locked).
    #[arg(long, env = "WRITER_LANES", default_value = "2")]
    pub writer_lanes: NonZeroU32,
    /// Most orders of one transaction (WRITER_BATCH, default 100: beyond it the commit's share of an order's cost no longer
    /// matters, and the products stay locked longer).
    #[arg(long, env = "WRITER_BATCH", default_value = "100", value_parser = batch)]
    pub writer_batch: NonZeroU32,
    /// Milliseconds that a lane waits for company before it begins a batch that is not full (WRITER_LINGER_MILLIS,
    /// default 0: under load, orders gather while the lanes are at work).
    #[arg(long, env = "WRITER_LINGER_MILLIS", default_value = "0", value_parser = millis)]
    pub writer_linger: Duration,
    /// Orders that wait; one more is answered with 503 (WRITER_QUEUE, default 1000: ten full batches).
    #[arg(long, env = "WRITER_QUEUE", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub writer_queue: u32,
    /// Longest wait for a batch to begin, in milliseconds; an order that would wait longer is answered with 503 at once,
    /// one that did is answered with 503 then (WRITER_MAX_WAIT_MILLIS, default 500: a shopper still waits for that).
    #[arg(long, env = "WRITER_MAX_WAIT_MILLIS", default_value = "500", value_parser = some_millis)]
    pub writer_max_wait: Duration,
    /// Longest wait of a batch for a lock that somebody else holds, in milliseconds; then only the orders of that product fail
    /// (WRITER_LOCK_TIMEOUT_MILLIS, default 1000: what the service itself locks, it lets go after some milliseconds).
    #[arg(long, env = "WRITER_LOCK_TIMEOUT_MILLIS", default_value = "1000", value_parser = some_millis)]
    pub writer_lock_timeout: Duration,
    /// Hours for which a request is known by its idempotency key (IDEMPOTENCY_TTL_HOURS, default 24).
    #[arg(long, env = "IDEMPOTENCY_TTL_HOURS", default_value = "24", value_parser = hours)]
    pub idempotency_ttl: Duration,
}

/// How orders share transactions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum WriterMode {
    /// Orders that arrive together share one.
    Combining,
    /// Each order has its own.
    PerOrder,
}

impl WriterConfig {
    /// Places in the queue.
    #[must_use]
    pub fn queue_orders(&self) -> usize {
        self.writer_queue as usize
    }

    /// Most orders of one transaction.
    #[must_use]
    pub fn batch_orders(&self) -> usize {
        self.writer_batch.get() as usize
    }
}

/// How events travel from the outbox to Kafka.
#[derive(Clone, Debug, clap::Args)]
pub struct RelayConfig {
    /// Topic of the order events.
    #[arg(long, env = "TOPIC")]
    pub topic: String,
    /// This replica's name among its peers (POD_NAME, default a random UUID).
    #[arg(long, env = "POD_NAME", default_value_t = uuid::Uuid::new_v4().to_string())]
    pub pod_name: String,
    /// Seconds a shard's lease lasts without renewal (RELAY_LEASE_SECONDS, default 10): how long a shard rests after
    /// its leader died. Renewed three times within it.
    #[arg(long, env = "RELAY_LEASE_SECONDS", default_value = "10", value_parser = seconds)]
    pub relay_lease: Duration,
    /// Events read in one round (RELAY_BATCH, default 1000: reads and deletes are at their full rate from there on).
    #[arg(long, env = "RELAY_BATCH", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub relay_batch: u32,
    /// Events sent and not yet acknowledged and deleted (RELAY_MAX_IN_FLIGHT, default 4000: four rounds, so that the
    /// broker always has work); below 16, still one of each shard that is led.
    #[arg(long, env = "RELAY_MAX_IN_FLIGHT", default_value_t = 4000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub relay_max_in_flight: u32,
    /// Seconds without any acknowledgement after which a relay with events in flight starts anew, and lets its shards
    /// go if it can't reach Kafka (RELAY_STALL_SECONDS, default 45: brokers restart faster).
    #[arg(long, env = "RELAY_STALL_SECONDS", default_value = "45", value_parser = seconds)]
    pub relay_stall: Duration,
    /// Consumer groups that must have read the topic before keys are mapped by more partitions, separated by commas
    /// (CONSUMER_GROUPS; without it the count stays as it is).
    #[arg(long, env = "CONSUMER_GROUPS", value_parser = consumer_groups)]
    pub consumer_groups: Option<ConsumerGroups>,
    /// What a topic that has grown means (PARTITION_GROWTH, default order-safe).
    #[arg(long, env = "PARTITION_GROWTH", value_enum, default_value_t = PartitionGrowth::OrderSafe)]
    pub partition_growth: PartitionGrowth,
    /// Seconds for which publishing rests at most until the groups have read everything; then it goes on by the old count, and
    /// growth is tried again later (GROWTH_DRAIN_TIMEOUT_SECONDS, default 30).
    #[arg(long, env = "GROWTH_DRAIN_TIMEOUT_SECONDS", default_value = "30", value_parser = seconds)]
    pub growth_drain_timeout: Duration,
}

impl RelayConfig {
    /// By which rules this replica goes over to more partitions, in words to compare with those of others: in a rollout there are
    /// replicas of both, and none may go by the old ones any longer.
    #[must_use]
    pub fn growth_terms(&self) -> String {
        let groups =
            self.consumer_groups.as_ref().map(|ConsumerGroups(names)| names.iter().collect::<BTreeSet<_>>());
        format!("{:?} {groups:?}", self.partition_growth)
    }
}

/// Names of consumer groups; none at all where nobody reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerGroups(pub Vec<String>);

/// How the relay goes over to more partitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum PartitionGrowth {
    /// Once every group has read what was published before, so that no two events of one order change places.
    OrderSafe,
    /// At once.
    Immediate,
}

#[expect(clippy::unnecessary_wraps, reason = "clap wants a parser that may fail")]
fn consumer_groups(text: &str) -> Result<ConsumerGroups, String> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    Ok(ConsumerGroups(names.map(str::to_owned).collect()))
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(count @ 1..=86_400) => Ok(Duration::from_secs(u64::from(count))),
        _ => Err("must be a whole number of seconds between 1 and 86400".to_owned()),
    }
}

fn millis(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(count @ 0..=60_000) => Ok(Duration::from_millis(u64::from(count))),
        _ => Err("must be a whole number of milliseconds between 0 and 60000".to_owned()),
    }
}

fn some_millis(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(count @ 1..=60_000) => Ok(Duration::from_millis(u64::from(count))),
        _ => Err("must be a whole number of milliseconds between 1 and 60000".to_owned()),
    }
}

fn hours(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(count @ 1..=8_760) => Ok(Duration::from_secs(u64::from(count) * 3_600)),
        _ => Err("must be a whole number of hours between 1 and 8760".to_owned()),
    }
}

/// Bounded so that a batch stays far below the statement timeout and its arguments below a few megabytes.
fn batch(text: &str) -> Result<NonZeroU32, String> {
    let count = text.parse().ok().filter(|count: &NonZeroU32| count.get() <= 1_000);
    count.ok_or_else(|| "must be a whole number of orders between 1 and 1000".to_owned())
}

fn parse_currency(text: &str) -> Result<String, String> {
    if text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase()) {
        Ok(text.to_owned())
    } else {
        Err("must be an ISO 4217 code: three capital letters".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_seconds_is_whole_positive_and_bounded() {
        assert_eq!(seconds("25"), Ok(Duration::from_secs(25)));
        for bad in ["0", "-1", "1.5", "86401", "", "ten"] {
            assert!(seconds(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bounds_of_the_writer_are_bounded_themselves() {
        assert_eq!(millis("0"), Ok(Duration::ZERO));
        assert_eq!(hours("24"), Ok(Duration::from_secs(86_400)));
        assert!(batch("1000").is_ok());
        for bad in ["-1", "", "ten", "60001"] {
            assert!(millis(bad).is_err() && hours(bad).is_err() && batch(bad).is_err(), "{bad:?}");
        }
        assert!(hours("0").is_err() && batch("0").is_err());
    }

    #[test]
    fn groups_are_separated_by_commas_and_may_be_none() {
        let parsed = |text| consumer_groups(text).map(|ConsumerGroups(names)| names);
        assert_eq!(parsed("a, b,"), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(parsed(""), Ok(vec![]));
    }

    #[test]
    fn a_currency_is_three_capital_letters() {
        assert!(parse_currency("EUR").is_ok());
        for bad in ["eur", "EURO", "", "€"] {
            assert!(parse_currency(bad).is_err(), "{bad:?}");
        }
    }
}
