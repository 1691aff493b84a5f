//! The PostgreSQL and the Kafka of the benchmarks, and a database and a topic of its own for each arm. `lab/bench` runs them.

use std::time::Duration;

use anyhow::{Context, anyhow};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::FutureProducer;
use runtime::kafka::KafkaConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use tokio::process::Command;
use uuid::Uuid;

use crate::kubectl;

/// Every database and topic of ours begins so.
const PREFIX: &str = "bench_";
/// Partitions of an arm's topic: the resource's default.
const PARTITIONS: i32 = 3;
/// Longest wait for Kafka to make or delete a topic, or to say where it ends.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the two are, and the containers they run in.
#[derive(Clone, Debug)]
pub struct Backends {
    /// `host:port` of PostgreSQL.
    pub postgres: String,
    /// `host:port` of Kafka.
    pub kafka: String,
    /// PostgreSQL's container, for its CPU time.
    pub postgres_container: String,
    /// Kafka's container.
    pub kafka_container: String,
}

impl Backends {
    /// Those of `lab/bench`.
    #[must_use]
    pub fn of_the_benchmarks() -> Self {
        Self {
            postgres: "10.213.94.3:5432".to_owned(),
            kafka: "10.213.94.2:9092".to_owned(),
            postgres_container: "orderflow-bench-postgres".to_owned(),
            kafka_container: "orderflow-bench-kafka".to_owned(),
        }
    }

    /// Those of `lab/backends`, which the integration tests use.
    #[must_use]
    pub fn of_the_tests() -> Self {
        Self {
            postgres: "127.0.0.1:15433".to_owned(),
            kafka: "127.0.0.1:19094".to_owned(),
            postgres_container: "orderflow-it-postgres".to_owned(),
            kafka_container: "orderflow-it-kafka".to_owned(),
        }
    }

    /// A connection to the server itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        let options: PgConnectOptions = self.url("postgres").parse()?;
        options.connect().await.with_context(|| format!("PostgreSQL does not answer at {}", self.postgres))
    }

    /// Removes what an interrupted benchmark left behind. Only for servers that serve nothing but benchmarks.
    ///
    /// # Errors
    /// When a server does not answer.
    pub async fn sweep(&self) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        let left = sqlx::query_scalar("select datname::text from pg_database where starts_with(datname, $1)");
        let left: Vec<String> = left.bind(PREFIX).fetch_all(&mut connection).await?;
        for name in &left {
            let statement = format!("drop database {name} with (force)");
            sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
        }
        connection.close().await?;
        let admin: AdminClient<DefaultClientContext> = self.kafka_client("bench").create()?;
        let left: Vec<&str> = left.iter().map(String::as_str).collect();
        // A topic may be gone already; its database went last.
        admin
            .delete_topics(&left, &admin_options())
            .await
            .map(drop)
            .or_else(|error| if left.is_empty() { Ok(()) } else { Err(error.into()) })
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.postgres)
    }

    fn kafka_client(&self, name: &str) -> rdkafka::ClientConfig {
        KafkaConnection { bootstrap_servers: self.kafka.clone(), tls: None, sasl: None }.client_config(name)
    }

    /// Runs a command in a container and answers what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub async fn exec(container: &str, command: &[&str]) -> anyhow::Result<String> {
        let mut docker = Command::new("docker");
        docker.arg("exec").arg(container).args(command);
        kubectl::run(docker, "")
            .await
            .with_context(|| format!("failed to run {} in {container}", command.join(" ")))
    }
}

/// A database and a topic that nobody else uses.
#[derive(Debug)]
pub struct Arena {
    /// Both are named so.
    pub name: String,
    /// Where to find them.
    pub backends: Backends,
    /// Connections for looking at the database.
    pub pool: PgPool,
}

impl Arena {
    /// Makes both.
    ///
    /// # Errors
    /// When a server does not answer.
    pub async fn create(backends: &Backends) -> anyhow::Result<Self> {
        let name = format!("{PREFIX}{}", Uuid::new_v4().simple());
        let mut connection = backends.connect().await?;
        sqlx::query(AssertSqlSafe(format!("create database {name}"))).execute(&mut connection).await?;
        connection.close().await?;
        let pool = PgPoolOptions::new().max_connections(2).connect_lazy(&backends.url(&name))?;
        let arena = Self { name, backends: backends.clone(), pool };
        let topic = NewTopic::new(&arena.name, PARTITIONS, TopicReplication::Fixed(1));
        for made in arena.admin()?.create_topics([&topic], &admin_options()).await? {
            made.map_err(|(topic, code)| anyhow!("failed to make topic {topic}: {code}"))?;
        }
        Ok(arena)
    }

    /// Removes both.
    ///
    /// # Errors
    /// When a server does not answer.
    pub async fn remove(self) -> anyhow::Result<()> {
        self.admin()?.delete_topics(&[&self.name], &admin_options()).await?;
        self.pool.close().await;
        let mut connection = self.backends.connect().await?;
        sqlx::query(AssertSqlSafe(format!("drop database {} with (force)", self.name)))
            .execute(&mut connection)
            .await?;
        // What this arm left to write must not be written during the next one.
        sqlx::query("checkpoint").execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }

    /// The database's URL.
    #[must_use]
    pub fn database_url(&self) -> String {
        self.backends.url(&self.name)
    }

    /// A pool of exactly so many connections, all of them open.
    ///
    /// # Errors
    /// When the server refuses one.
    pub async fn connections(&self, count: u32) -> anyhow::Result<PgPool> {
        let options = PgPoolOptions::new().max_connections(count).min_connections(count);
        let pool = options.connect(&self.database_url()).await?;
        // Every one at once, so that each is made.
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(pool.acquire().await?);
        }
        drop(all);
        Ok(pool)
    }

    /// A number that the database knows.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn number(&self, query: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(query).fetch_one(&self.pool).await?)
    }

    /// A consumer of the topic that no group knows, assigned to nothing yet.
    ///
    /// # Errors
    /// When librdkafka refuses a setting.
    pub fn consumer(&self) -> anyhow::Result<BaseConsumer> {
        let mut config = self.backends.kafka_client("bench");
        config.set("group.id", "bench").set("enable.auto.commit", "false").set("check.crcs", "false");
        Ok(config.create()?)
    }

    /// A producer, and how it is set up where nothing is lost.
    ///
    /// # Errors
    /// When librdkafka refuses a setting.
    pub fn producer(&self) -> anyhow::Result<FutureProducer> {
        let mut config = self.backends.kafka_client("bench");
        Ok(config.set("linger.ms", "1").set("acks", "all").create()?)
    }

    /// The topic's partitions.
    #[must_use]
    pub fn partitions(&self) -> std::ops::Range<i32> {
        0..PARTITIONS
    }

    /// Records in the topic.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub async fn records(&self) -> anyhow::Result<i64> {
        let (consumer, name, partitions) = (self.consumer()?, self.name.clone(), self.partitions());
        let count = move || {
            partitions
                .map(|partition| Ok(consumer.fetch_watermarks(&name, partition, KAFKA_TIMEOUT)?.1))
                .sum()
        };
        tokio::task::spawn_blocking(count).await?
    }

    fn admin(&self) -> anyhow::Result<AdminClient<DefaultClientContext>> {
        Ok(self.backends.kafka_client("bench").create()?)
    }
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(KAFKA_TIMEOUT)).operation_timeout(Some(KAFKA_TIMEOUT))
}
