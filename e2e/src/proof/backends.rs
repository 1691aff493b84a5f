//! The campaign's own Kafka and PostgreSQL containers (`lab/proof up`): breaking them, and a database and topic per run.

use std::time::Duration;

use anyhow::{Context, bail};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use runtime::kafka::KafkaConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use tokio::process::Command;
use tokio::sync::{Mutex, MutexGuard};

use crate::kubectl::{run, wait_for};

/// Names and ports are those of lab/lib/backends.sh. Kafka names the port of the campaign's proxy as its own.
pub const KAFKA: &str = "orderflow-proof-kafka";
/// Where the campaign's proxy for Kafka listens.
pub const KAFKA_PROXY_PORT: u16 = 29094;
/// Where Kafka itself listens.
pub const KAFKA_PORT: u16 = 29095;
/// PostgreSQL.
pub const POSTGRES: &str = "orderflow-proof-postgres";
/// Where it listens.
pub const POSTGRES_PORT: u16 = 25433;
/// PostgreSQL on a disk that can be filled.
pub const SMALL_POSTGRES: &str = "orderflow-proof-postgres-small";
/// Where that one listens.
pub const SMALL_POSTGRES_PORT: u16 = 25434;
/// The container that keeps its disk while it is down.
pub const SMALL_DISK_HOLDER: &str = "orderflow-proof-disk-holder";

/// Longest wait for a container to run and answer: Kafka's start beside a busy machine.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// Longest wait for Kafka to make or delete a topic.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for one answer about the cluster.
const METADATA_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections of the campaign itself.
const CONNECTIONS: u32 = 4;

/// A container, which one fault at a time may break.
#[derive(Debug)]
pub struct Container {
    /// Its name.
    pub name: &'static str,
    in_use: Mutex<()>,
}

impl Container {
    /// The container of that name.
    #[must_use]
    pub fn named(name: &'static str) -> Self {
        Self { name, in_use: Mutex::new(()) }
    }

    /// Waits until no other fault breaks it.
    pub async fn claim(&self) -> MutexGuard<'_, ()> {
        self.in_use.lock().await
    }

    /// `docker VERB NAME`.
    ///
    /// # Errors
    /// When docker fails.
    pub async fn docker(&self, verb: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("docker");
        command.args(verb).arg(self.name);
        run(command, "")
            .await
            .with_context(|| format!("failed to run docker {} {}", verb.join(" "), self.name))
    }

    /// Runs `script` in it with `sh -c`.
    ///
    /// # Errors
    /// When docker or the script fails.
    pub async fn sh(&self, script: &str) -> anyhow::Result<String> {
        let mut command = Command::new("docker");
        command.args(["exec", self.name, "sh", "-c", script]);
        run(command, "").await.with_context(|| format!("failed to run {script:?} in {}", self.name))
    }

    /// Its state, such as `running`, `paused` or `exited`.
    ///
    /// # Errors
    /// When docker fails: mostly because there is no such container.
    pub async fn state(&self) -> anyhow::Result<String> {
        let state = self.docker(&["container", "inspect", "--format", "{{.State.Status}}"]).await;
        Ok(state.context("run lab/proof up")?.trim().to_owned())
    }

    /// Makes it run again, whatever a fault left it in.
    ///
    /// # Errors
    /// When docker fails.
    pub async fn mend(&self) -> anyhow::Result<()> {
        let _claimed = self.claim().await;
        match self.state().await?.as_str() {
            "running" => {}
            "paused" => drop(self.docker(&["unpause"]).await?),
            _ => drop(self.docker(&["start"]).await?),
        }
        Ok(())
    }

    /// Lines that it logged since `since`, as docker counts time, that contain `text`.
    ///
    /// # Errors
    /// When docker fails.
    pub async fn logged(&self, since: &str, text: &str) -> anyhow::Result<usize> {
        let mut command = Command::new("sh");
        command.args(["-c", "docker logs --since \"$1\" \"$2\" 2>&1", "sh", since, self.name]);
        let log = run(command, "").await?;
        Ok(log.lines().filter(|line| line.contains(text)).count())
    }
}

/// The PostgreSQL that a run uses.
#[derive(Debug)]
pub struct Postgres {
    /// Its container.
    pub container: Container,
    /// Where it listens on 127.0.0.1, without a proxy between.
    pub port: u16,
}

impl Postgres {
    /// The ordinary one, or the one whose disk can be filled.
    #[must_use]
    pub fn new(fills_disk: bool) -> Self {
        let (name, port) =
            if fills_disk { (SMALL_POSTGRES, SMALL_POSTGRES_PORT) } else { (POSTGRES, POSTGRES_PORT) };
        Self { container: Container::named(name), port }
    }

    /// Where `database` is.
    #[must_use]
    pub fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username("postgres")
            .database(database)
            .application_name("proof")
    }

    /// Connects, waiting until the server answers.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub async fn connect(&self, database: &str) -> anyhow::Result<PgConnection> {
        let options = self.options(database);
        wait_for("PostgreSQL to answer; is lab/proof up?", ANSWER_DEADLINE, || async {
            Ok(Some(options.connect().await?))
        })
        .await
    }

    /// Creates an empty database and answers a pool on it.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn create(&self, database: &str) -> anyhow::Result<PgPool> {
        let mut connection = self.connect("postgres").await?;
        for statement in [
            format!("drop database if exists {database} with (force)"),
            format!("create database {database}"),
        ] {
            sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
        }
        connection.close().await?;
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(ANSWER_DEADLINE);
        Ok(pool.connect_lazy_with(self.options(database)))
    }

    /// Removes the database.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn drop_database(&self, database: &str) -> anyhow::Result<()> {
        let mut connection = self.connect("postgres").await?;
        let statement = format!("drop database if exists {database} with (force)");
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }
}

/// Where the campaign finds Kafka: behind its own proxy, on a wire that no fault touches.
#[must_use]
pub fn bootstrap() -> String {
    format!("127.0.0.1:{KAFKA_PROXY_PORT}")
}

/// Creates the topic.
///
/// # Errors
/// When Kafka does not within a minute.
pub async fn create_topic(topic: &str, partitions: i32) -> anyhow::Result<()> {
    wait_for("Kafka to create the topic; is lab/proof up?", ANSWER_DEADLINE, || async {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for made in admin()?.create_topics([&new], &options()).await? {
            match made {
                Ok(_) => {}
                // An earlier run's, perhaps on its way out: its records are not this run's.
                Err((name, rdkafka::types::RDKafkaErrorCode::TopicAlreadyExists)) => {
                    drop(delete_topic(&name).await);
                    bail!("topic {name} is still there");
                }
                Err((name, code)) => bail!("failed to create topic {name}: {code}"),
            }
        }
        Ok(Some(()))
    })
    .await
}

/// Waits until Kafka answers.
///
/// # Errors
/// When it does not within a minute.
pub async fn kafka_answers() -> anyhow::Result<()> {
    wait_for("Kafka to answer", ANSWER_DEADLINE, || async {
        let client = admin()?;
        let metadata = tokio::task::spawn_blocking(move || {
            client.inner().fetch_metadata(None, METADATA_TIMEOUT).map(|metadata| metadata.brokers().len())
        });
        Ok((metadata.await?? > 0).then_some(()))
    })
    .await
}

/// Deletes the topic.
///
/// # Errors
/// When Kafka fails.
pub async fn delete_topic(topic: &str) -> anyhow::Result<()> {
    admin()?.delete_topics(&[topic], &options()).await.context("failed to delete the topic")?;
    Ok(())
}

fn admin() -> anyhow::Result<AdminClient<DefaultClientContext>> {
    let connection = KafkaConnection { bootstrap_servers: bootstrap(), tls: None, sasl: None };
    let config: ClientConfig = connection.client_config("proof-admin");
    config.create().context("failed to make a Kafka client")
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ADMIN_TIMEOUT)).operation_timeout(Some(ADMIN_TIMEOUT))
}
