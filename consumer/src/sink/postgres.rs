//! The `postgres` sink: one row per event, a batch as one statement.

mod places;
mod table;

use std::future::Future;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use runtime::kafka::Secret;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::types::Uuid;
use sqlx::{Connection, PgPool};

use self::table::Table;
use super::{Applied, Claimed, Decoded, Sink, SinkError};

/// One statement is in flight per assigned partition; more partitions than this share the connections. It keeps ten
/// pods within PostgreSQL's default of 100 connections.
const MAX_CONNECTIONS: u32 = 8;
/// Waiting for a connection longer than this is an outage; the retry's backoff takes over.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// A statement that takes longer is given up and tried again: the connection may be dead without a sign. It is far
/// above what a batch takes.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest wait for a connection's sign of life.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// Most rows of one statement. Beyond some hundred, larger batches gain nothing and only lengthen a retry.
const BATCH_LIMIT: usize = 500;
/// Statements at once for one partition: while one waits for its commit the next is on its way. More only make smaller batches.
const LANES: usize = 2;

/// The primary key is what makes a redelivery harmless, and a repetition by the relay, which has another offset. `json` keeps the
/// payload's bytes; `jsonb` would not.
const CREATE_TABLE: &str = r#"
CREATE TABLE IF NOT EXISTS order_events (
    seq          bigint GENERATED ALWAYS AS IDENTITY,
    "group"      text        NOT NULL,
    topic        text        NOT NULL,
    partition    int         NOT NULL,
    "offset"     bigint      NOT NULL,
    order_id     uuid        NOT NULL,
    version      bigint      NOT NULL,
    type         text        NOT NULL,
    event_id     uuid        NOT NULL,
    payload      json        NOT NULL,
    delivered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY ("group", topic, event_id)
)"#;

/// `ORDER BY` makes `seq` rise as the offsets do, and concurrent statements lock rows in one order.
const INSERT: &str = r#"
INSERT INTO order_events ("group", topic, partition, "offset", order_id, version, type, event_id, payload)
SELECT $1, $2, partition, "offset", order_id, version, type, event_id, payload::json
FROM UNNEST($3::int[], $4::bigint[], $5::uuid[], $6::bigint[], $7::text[], $8::uuid[], $9::text[])
     AS row (partition, "offset", order_id, version, type, event_id, payload)
ORDER BY partition, "offset"
ON CONFLICT DO NOTHING"#;

/// Rows in the table `order_events`; in an exactly-once group, places in `order_events_place`.
#[derive(Debug)]
pub struct PostgresSink {
    pool: PgPool,
    group: String,
    topic: String,
    events: Table,
    /// Made only for a group that is exactly once.
    places: Table,
}

/// Why the sink could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("failed to read SINK_DATABASE_URL")]
pub struct BadDatabaseUrl(#[source] sqlx::Error);

impl PostgresSink {
    /// A sink that connects when it is first used: a database that is down delays events, it does not stop the start.
    ///
    /// # Errors
    /// When the URL does not parse.
    pub fn new(url: &Secret, group: &str, topic: &str) -> Result<Self, BadDatabaseUrl> {
        let options: PgConnectOptions = url.expose().parse().map_err(BadDatabaseUrl)?;
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // The pool itself asks for a sign of life too, and waits for the answer without an end: a server that vanished
            // without a word would keep the connection's place.
            .after_release(|connection, _| {
                let pinged = tokio::time::timeout(PING_TIMEOUT, connection.ping());
                Box::pin(async move { Ok(matches!(pinged.await, Ok(Ok(())))) })
            })
            .connect_lazy_with(options.application_name(group));
        Ok(Self {
            pool,
            group: group.to_owned(),
            topic: topic.to_owned(),
            events: Table::new("order_events", CREATE_TABLE),
            places: Table::new("order_events_place", places::CREATE_TABLE),
        })
    }

    /// Makes sure of the tables before their first use. `work` that fails may have met another, empty database: then they are
    /// looked for again.
    async fn with<T, const N: usize>(
        &self,
        tables: [&Table; N],
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, SinkError> {
        for table in tables {
            bounded(table.ensure(&self.pool)).await?;
        }
        let result = bounded(work).await;
        if result.is_err() {
            tables.iter().for_each(|table| table.doubt());
        }
        result
    }

    async fn insert(&self, batch: &[Decoded]) -> Result<(), SinkError> {
        let rows = Rows::of(batch)?;
        let inserted = self.with(
            [&self.events],
            sqlx::query(INSERT)
                .bind(&self.group)
                .bind(&self.topic)
                .bind(rows.partitions)
                .bind(rows.offsets)
                .bind(rows.order_ids)
                .bind(rows.versions)
                .bind(rows.types)
                .bind(rows.event_ids)
                .bind(rows.payloads)
                .execute(&self.pool),
        );
        inserted.await.map(|_result| ())
    }
}

impl Sink for PostgresSink {
    fn batch_limit(&self) -> usize {
        BATCH_LIMIT
    }

    fn patience(&self) -> Duration {
        // The tables, the batch, and where an exactly-once group's place is, if not where it should be, would each take as long
        // at most; a database that slow is down, and what it was asked for is asked for again.
        ACQUIRE_TIMEOUT.max(STATEMENT_TIMEOUT)
    }

    fn apply_limit(&self) -> usize {
        BATCH_LIMIT
    }

    fn lanes(&self) -> usize {
        LANES
    }

    fn deliver<'a>(&'a self, batch: &'a [Decoded]) -> BoxFuture<'a, Result<(), SinkError>> {
        self.insert(batch).boxed()
    }

    fn claim(&self, partition: i32, begin: i64) -> BoxFuture<'_, Result<Claimed, SinkError>> {
        self.take_place(partition, begin).boxed()
    }

    fn apply<'a>(
        &'a self,
        claimed: &'a Claimed,
        batch: &'a [Decoded],
        until: i64,
    ) -> BoxFuture<'a, Result<Applied, SinkError>> {
        self.move_place(*claimed, batch, until).boxed()
    }
}

/// A batch as columns.
struct Rows<'a> {
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    order_ids: Vec<Uuid>,
    versions: Vec<i64>,
    types: Vec<&'static str>,
    event_ids: Vec<Uuid>,
    payloads: Vec<&'a str>,
}

impl<'a> Rows<'a> {
    fn of(batch: &'a [Decoded]) -> Result<Self, SinkError> {
        let payloads = batch
            .iter()
            .map(|Decoded { record, .. }| std::str::from_utf8(record.value.as_deref().unwrap_or_default()))
            .collect::<Result<_, _>>()
            // JSON parsers skip what they do not need, so bytes that are not text can hide in unknown fields.
            .map_err(|error| SinkError::rejected("NotUtf8", error.to_string()))?;
        Ok(Self {
            partitions: batch.iter().map(|decoded| decoded.record.partition).collect(),
            offsets: batch.iter().map(|decoded| decoded.record.offset).collect(),
            order_ids: batch.iter().map(|decoded| decoded.event.order_id.0).collect(),
            versions: batch.iter().map(|decoded| decoded.event.version).collect(),
            types: batch.iter().map(|decoded| decoded.event.event_type.name()).collect(),
            event_ids: batch.iter().map(|decoded| decoded.event.event_id).collect(),
            payloads,
        })
    }
}

async fn bounded<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, SinkError> {
    match tokio::time::timeout(STATEMENT_TIMEOUT, work).await {
        Ok(result) => result.map_err(|error| classify(&error)),
        Err(_elapsed) => {
            Err(SinkError::unavailable("Timeout", format!("no answer within {STATEMENT_TIMEOUT:?}")))
        }
    }
}

fn classify(error: &sqlx::Error) -> SinkError {
    match error {
        sqlx::Error::Database(refusal) => {
            let state = refusal.code().unwrap_or_default();
            let message = format!("SQLSTATE {state}: {}", refusal.message());
            match refused_kind(&state) {
                Some(kind) => SinkError::rejected(kind, message),
                None => SinkError::unavailable("Database", message),
            }
        }
        sqlx::Error::Encode(_) => SinkError::rejected("Encode", error.to_string()),
        sqlx::Error::PoolTimedOut => SinkError::unavailable("PoolTimeout", error.to_string()),
        _ => SinkError::unavailable("Connection", error.to_string()),
    }
}

/// SQLSTATE classes that speak of the row itself, after
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>. Everything else (connections, resources,
/// shutdown, a missing database or right, deadlocks, internal errors) would refuse any row and is an outage.
fn refused_kind(state: &str) -> Option<&'static str> {
    match state.get(..2)? {
        "22" => Some("Data"),
        "23" | "44" => Some("Constraint"),
        // JSON nested so deep that the server's stack limit (54001) refuses it.
        "54" => Some("Limit"),
        // Raised by a trigger of the table's owner.
        "P0" => Some("Trigger"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{event, record};

    #[test]
    fn only_what_speaks_of_the_row_is_a_refusal() {
        for refused in ["22001", "22021", "22P02", "23502", "23505", "23514", "44000", "54001", "P0001"] {
            assert!(refused_kind(refused).is_some(), "{refused}");
        }
        for outage in [
            "08006", "25006", "28P01", "3D000", "40001", "40P01", "42501", "42P01", "53100", "53300",
            "57014", "57P01", "XX000", "",
        ] {
            assert!(refused_kind(outage).is_none(), "{outage}");
        }
    }

    #[test]
    fn connection_failures_are_outages() {
        for error in [sqlx::Error::PoolTimedOut, sqlx::Error::PoolClosed, sqlx::Error::WorkerCrashed] {
            assert!(matches!(classify(&error), SinkError::Unavailable { .. }));
        }
    }

    #[test]
    fn bytes_that_hide_in_an_unknown_field_are_refused_before_the_database_sees_them() {
        let event = event(1);
        let mut record = record(&event, 0);
        let mut payload = record.value.expect("has a value").to_vec();
        payload.pop();
        payload.extend_from_slice(b",\"unknown\":\"\xff\"}");
        record.value = Some(payload.into());
        let refused = Rows::of(&[Decoded { record, event }]).err().expect("not text");
        assert!(matches!(refused, SinkError::Rejected { kind: "NotUtf8", .. }));
    }
}
