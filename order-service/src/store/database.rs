//! Connections to the database, and its schema.

use std::io;
use std::time::Duration;

use anyhow::{Context, ensure};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use runtime::health::Health;
use runtime::kafka::Secret;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection};

use super::error::{DatabaseError, bounded, within};

/// Longest run of one statement on the server. Far above any statement here; it ends what a lost client left behind.
const STATEMENT_TIMEOUT: &str = "10s";
/// Longest pause within a transaction: a client that vanished must not hold its row locks.
const IDLE_IN_TRANSACTION_TIMEOUT: &str = "15s";
/// Longest transaction, where the server can hold a session to it (PostgreSQL 17): above the two together. What stays open
/// longer keeps deleted rows from being passed over and vacuumed.
const TRANSACTION_TIMEOUT: &str = "set transaction_timeout = '30s'";
/// Longest wait for a connection's sign of life. One that gives none leads to a server that vanished without a word: whoever
/// waited for it would keep its place in the pool for a quarter of an hour, or for ever.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// The relay's connections are asked for one only after resting this long. While it works they rest for milliseconds and are
/// not asked; after one of them was given up, the others have rested through the wait, and may lead to the same vanished
/// server: each would cost the longest statement again.
const TRUSTED_AT_REST: Duration = Duration::from_secs(1);
/// Version of the server from which on it knows that setting.
const TRANSACTION_TIMEOUT_SINCE: u32 = 170_000;
/// First pause between attempts to reach the database at start.
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// Longest pause between attempts: a database that is back is noticed within this.
const LAST_RETRY: Duration = Duration::from_secs(5);
/// Longest wait for one connection at start: an address that swallows packets must not stop the retries.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a small statement at start. A connection that died without a word would else stop the start for good.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest that bringing the schema up to date may take before it is begun anew: far above what any migration here takes.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(3600);
/// Key of the lock under which replicas that start together take turns: "migrate" in ASCII.
pub const MIGRATION_LOCK: i64 = 0x6d_6967_7261_7465;
/// Pause between two looks whether it is this replica's turn.
const TURN_POLL: Duration = Duration::from_millis(250);
/// What of the migrations the database has, once there is a table of them.
const APPLIED: &str = "select version, checksum from _sqlx_migrations where success";
/// What is said of a server that takes no writes.
const READ_ONLY: &str = "the server takes no writes: it is a standby, or was set read-only";
/// The relay finds its rows by their index. The outbox may be empty at one moment and hold a million rows at the next, of which no
/// statistics tell: a planner that believes them, or has none, reads all of it for each delete.
const BY_INDEX: [(&str, &str); 3] =
    [("enable_seqscan", "off"), ("enable_hashjoin", "off"), ("enable_mergejoin", "off")];
/// Name of the readiness condition that the database meets.
pub const CONDITION: &str = "database";

/// How connections are made.
///
/// # Errors
/// When the URL does not parse. The URL itself is not in the message: it holds a password.
pub fn connect_options(url: &Secret) -> anyhow::Result<PgConnectOptions> {
    let options: PgConnectOptions = url.expose().parse().context("failed to parse DATABASE_URL")?;
    Ok(options.application_name("order-service").options([
        ("statement_timeout", STATEMENT_TIMEOUT),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT),
    ]))
}

/// A pool that connects when first asked.
#[must_use]
pub fn pool(options: &PgConnectOptions, max_connections: u32, acquire_timeout: Duration) -> PgPool {
    let patience = patience(acquire_timeout);
    pool_options(max_connections, acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(move |connection, _| {
            Box::pin(async move { Ok(is_alive(connection, patience).await) })
        })
        .connect_lazy_with(options.clone())
}

/// The relay's pool. Its connections are not asked for a sign of life before each statement while they are busy: that is a
/// round trip more for each, and a statement that fails is tried again anyway.
#[must_use]
pub fn relay_pool(options: &PgConnectOptions, max_connections: u32, acquire_timeout: Duration) -> PgPool {
    let patience = patience(acquire_timeout);
    pool_options(max_connections, acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(move |connection, rest| {
            Box::pin(
                async move { Ok(rest.idle_for < TRUSTED_AT_REST || is_alive(connection, patience).await) },
            )
        })
        .connect_lazy_with(options.clone().options(BY_INDEX))
}

fn pool_options(max_connections: u32, acquire_timeout: Duration) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(acquire_timeout)
        .after_connect(|connection, _| Box::pin(prepare(connection)))
        // The pool itself asks too, and waits for the answer without an end: here the dead ones are found out before.
        .after_release(|connection, _| Box::pin(async move { Ok(is_alive(connection, PING_TIMEOUT).await) }))
}

/// How long a connection may take to show that it lives: it must leave time to make another within the same wait.
fn patience(acquire_timeout: Duration) -> Duration {
    PING_TIMEOUT.min(acquire_timeout / 2)
}

async fn is_alive(connection: &mut PgConnection, patience: Duration) -> bool {
    matches!(tokio::time::timeout(patience, connection.ping()).await, Ok(Ok(())))
}

/// Makes a new connection fit for use: it leads to a server that takes writes, and holds to the longest transaction where the server
/// can. After a switchover an address may lead for a while to what is a standby now; who kept a connection to that would fail for as
/// long as the connection lasts, while pings succeed.
///
/// # Errors
/// When the connection breaks, and when the server takes no writes: then as if it were away.
pub async fn prepare(connection: &mut PgConnection) -> sqlx::Result<()> {
    takes_writes(connection).await?;
    if connection.server_version_num().is_some_and(|version| version >= TRANSACTION_TIMEOUT_SINCE) {
        sqlx::query(TRANSACTION_TIMEOUT).execute(connection).await?;
    }
    Ok(())
}

async fn takes_writes(connection: &mut PgConnection) -> sqlx::Result<()> {
    let read_only = sqlx::query_scalar("select current_setting('transaction_read_only') = 'on'");
    if read_only.fetch_one(connection).await? {
        return Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, READ_ONLY)));
    }
    Ok(())
}

/// Whether the database answers, and takes writes.
///
/// # Errors
/// When it does not.
pub async fn ping(pool: &PgPool) -> Result<(), DatabaseError> {
    let answer = async {
        let mut connection = pool.acquire().await?;
        takes_writes(&mut connection).await
    };
    answer.await.map_err(DatabaseError::during("ask for a sign of life"))
}

/// Brings the schema up to date, waiting for the database as long as it takes. Replicas that start together take
/// turns under a lock of the database.
///
/// # Errors
/// When the schema is not one that this program can continue from; waiting would not help.
pub async fn migrate(options: &PgConnectOptions, health: &Health) -> anyhow::Result<()> {
    // A migration may take longer than any statement of the service.
    let options = options.clone().options([("statement_timeout", "0")]);
    let mut pauses = pauses();
    loop {
        match migrate_once(&options).await {
            Ok(()) => return Ok(()),
            Err(error @ (MigrateError::Execute(_) | MigrateError::ExecuteMigration(..))) => {
                tracing::warn!(error = %error, "failed to migrate the database; trying again");
                health.unmet(CONDITION, "waiting for the database");
            }
            Err(error) => return Err(error).context("failed to migrate the database"),
        }
        tokio::time::sleep(pauses.next().unwrap_or(LAST_RETRY)).await;
    }
}

/// Claims the database's outbox for `topic`, waiting for the database as long as it takes; the first claim holds for good.
///
/// # Errors
/// When it belongs to another topic: the relays of both would share its shards, and half of each one's events would go
/// to the other's topic.
pub async fn claim(pool: &PgPool, topic: &str) -> anyhow::Result<()> {
    let mut pauses = pauses();
    let owner = loop {
        match claim_once(pool, topic).await {
            Ok(owner) => break owner,
            Err(error) if error.is_unavailable() => {
                tracing::warn!(%error, "failed to claim the outbox; trying again");
            }
            Err(error) => return Err(error).context("failed to claim the outbox"),
        }
        tokio::time::sleep(pauses.next().unwrap_or(LAST_RETRY)).await;
    };
    ensure!(
        owner == topic,
        "failed to claim the outbox for topic {topic}: the database belongs to topic {owner}; give each pipeline a database of its own"
    );
    Ok(())
}

/// Whose the outbox is, now that `topic` has claimed it if it was nobody's.
async fn claim_once(pool: &PgPool, topic: &str) -> Result<String, DatabaseError> {
    let claim =
        sqlx::query("insert into outbox_topic (topic) values ($1) on conflict do nothing").bind(topic);
    bounded("claim the outbox", claim.execute(pool)).await?;
    let owner = sqlx::query_scalar("select topic from outbox_topic");
    bounded("read whose the outbox is", owner.fetch_one(pool)).await
}

/// Between two attempts at a database that is not there.
fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_RETRY)
        .with_max_delay(LAST_RETRY)
        .with_jitter()
        .without_max_times()
        .build()
}

async fn migrate_once(options: &PgConnectOptions) -> Result<(), MigrateError> {
    let mut connection =
        tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await.map_err(|_| timed_out())??;
    let mut migrations = sqlx::migrate!("./migrations");
    // A newer version may have been here and been rolled back: its migrations survive this binary by rule. The turn is taken
    // here, in steps that each have an end.
    migrations.set_ignore_missing(true).set_locking(false);
    if !is_current(&migrations, &mut connection).await? {
        take_turn(&mut connection).await?;
        let run = migrations.run_direct(None, &mut connection, false);
        tokio::time::timeout(MIGRATION_TIMEOUT, run).await.map_err(|_| timed_out())??;
    }
    // Its end gives the turn back.
    within(STEP_TIMEOUT, connection.close()).await.map_err(MigrateError::Execute)
}

/// Whether the database has every migration, as it is here. One that was altered is for the migrator to tell.
async fn is_current(migrations: &Migrator, connection: &mut PgConnection) -> sqlx::Result<bool> {
    let exists = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null");
    if !within(STEP_TIMEOUT, exists.fetch_one(&mut *connection)).await? {
        return Ok(false);
    }
    let applied: Vec<(i64, Vec<u8>)> =
        within(STEP_TIMEOUT, sqlx::query_as(APPLIED).fetch_all(&mut *connection)).await?;
    Ok(migrations.iter().all(|migration| {
        let has = |(version, checksum): &(i64, Vec<u8>)| {
            *version == migration.version && *checksum == *migration.checksum
        };
        applied.iter().any(has)
    }))
}

/// Waits while another replica migrates, for as long as that takes.
async fn take_turn(connection: &mut PgConnection) -> sqlx::Result<()> {
    loop {
        let turn = sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(MIGRATION_LOCK);
        if within(STEP_TIMEOUT, turn.fetch_one(&mut *connection)).await? {
            return Ok(());
        }
        tokio::time::sleep(TURN_POLL).await;
    }
}

fn timed_out() -> MigrateError {
    MigrateError::Execute(sqlx::Error::PoolTimedOut)
}
