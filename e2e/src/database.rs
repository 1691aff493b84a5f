//! What the two databases hold of one run.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use sqlx::Row;
use sqlx::postgres::{PgPool, PgPoolOptions};
use uuid::Uuid;

use crate::check::Seen;

/// Longest wait for a connection: the tests restart the server on purpose.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(60);

/// A delivered event with when its row was written.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// Which event, and its bytes.
    pub seen: Seen,
    /// Microseconds since the epoch, by the database's clock.
    pub at_micros: i64,
}

/// Connects to `url` on first use.
///
/// # Errors
/// When the URL does not parse.
pub fn connect(url: &str) -> anyhow::Result<PgPool> {
    let options = PgPoolOptions::new().max_connections(4).acquire_timeout(ACQUIRE_TIMEOUT);
    // The URL stays out of the message: it may hold a password.
    options.connect_lazy(url).context("failed to read the database URL")
}

/// Version of every order of the run, by id: an order of version n has had the events 1..=n.
///
/// # Errors
/// When the query fails.
pub async fn orders(pool: &PgPool, run: &str) -> anyhow::Result<HashMap<Uuid, i64>> {
    let rows = sqlx::query("select id, version from orders where starts_with(user_id, $1)").bind(run);
    let rows = rows.fetch_all(pool).await.context("failed to read the orders")?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Rows that wait in the outbox.
///
/// # Errors
/// When the query fails.
pub async fn outbox_rows(pool: &PgPool) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar("select count(*) from outbox").fetch_one(pool).await?)
}

/// What the group's PostgreSQL sink holds of the run, in the order it was written.
///
/// # Errors
/// When the query fails.
pub async fn delivered_to_postgres(pool: &PgPool, group: &str, run: &str) -> anyhow::Result<Vec<Delivered>> {
    let query = sqlx::query(
        r#"select order_id, version, payload::text, (extract(epoch from delivered_at) * 1e6)::bigint
           from order_events where "group" = $1 and starts_with(payload #>> '{order,userId}', $2) order by seq"#,
    );
    delivered(query.bind(group).bind(run).fetch_all(pool).await?)
}

/// What the HTTP sink holds of the run, in the order it was received.
///
/// # Errors
/// When the query fails.
pub async fn delivered_over_http(pool: &PgPool, run: &str) -> anyhow::Result<Vec<Delivered>> {
    let query = sqlx::query(
        "select order_id, version, payload::text, (extract(epoch from received_at) * 1e6)::bigint
         from http_events where starts_with(payload #>> '{order,userId}', $1) order by seq",
    );
    delivered(query.bind(run).fetch_all(pool).await?)
}

/// Events that the run should have had by now: one per version of each order.
///
/// # Errors
/// When the query fails.
pub async fn expected_count(pool: &PgPool, run: &str) -> anyhow::Result<i64> {
    let query = sqlx::query_scalar(
        "select coalesce(sum(version), 0)::bigint from orders where starts_with(user_id, $1)",
    );
    Ok(query.bind(run).fetch_one(pool).await?)
}

/// Distinct events of the run that have reached the PostgreSQL sink of `group`, and the HTTP sink.
///
/// # Errors
/// When the query fails.
pub async fn delivered_counts(pool: &PgPool, group: &str, run: &str) -> anyhow::Result<(i64, i64)> {
    let query = sqlx::query_as(
        r#"select (select count(distinct event_id) from order_events
                   where "group" = $1 and starts_with(payload #>> '{order,userId}', $2)),
                  (select count(distinct event_id) from http_events
                   where starts_with(payload #>> '{order,userId}', $2))"#,
    );
    Ok(query.bind(group).bind(run).fetch_one(pool).await?)
}

fn delivered(rows: Vec<sqlx::postgres::PgRow>) -> anyhow::Result<Vec<Delivered>> {
    rows.iter()
        .map(|row| {
            let payload: String = row.try_get(2)?;
            let seen = Seen::new(row.try_get(0)?, row.try_get(1)?, 0, payload.as_bytes());
            Ok(Delivered { seen, at_micros: row.try_get(3)? })
        })
        .collect()
}
