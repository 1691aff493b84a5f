//! Idempotency keys: taken, looked up and finished in the transaction of the order they belong to.

use std::time::Duration;

use order_events::OrderId;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgPool, Row};

use super::error::{DatabaseError, KeyConflict, Outcome, bounded};
use super::orders::order_columns;
use crate::domain::{KeyedBy, Order, Refusal};

/// Expired keys deleted by one statement: a few milliseconds of locks, and a statement far below its timeout.
pub const SWEEP_BATCH: u64 = 2_000;
/// Pause between two of them: at most 20,000 keys a second are deleted, more than can be written, and orders are served
/// in between.
const BETWEEN_BATCHES: Duration = Duration::from_millis(100);
/// Pause once none has expired.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// What a transaction may do under a key.
#[derive(Debug)]
pub enum Claim {
    /// The key is new, and this transaction's until it ends.
    Ours,
    /// The request was answered before.
    Answered(Outcome),
    /// The key can't be used.
    Conflict(KeyConflict),
}

/// Claims each of the keys for the caller's transaction; the answers are in their order. A key that is named twice is the
/// transaction's twice.
///
/// A key that another transaction is at work on is found out without waiting for it: whoever writes a key's row holds the
/// key's advisory lock until its transaction ends. That lock is tried in the same statement that looks the row up; a
/// transaction that ended in between has written a row which the look does not see, and which [`finish`] then finds.
///
/// # Errors
/// When the database fails.
pub async fn claim(
    connection: &mut PgConnection,
    keys: &[&KeyedBy],
    lifetime: Duration,
) -> Result<Vec<Claim>, DatabaseError> {
    let names: Vec<&str> = keys.iter().map(|keyed_by| keyed_by.key.as_str()).collect();
    let rows = sqlx::query(concat!(
        "select wanted.nth, pg_try_advisory_xact_lock(hashtextextended(wanted.key, 0)) as locked,
                known.fingerprint, known.order_id, known.refusal, ",
        order_columns!(),
        " from unnest($1::text[]) with ordinality as wanted (key, nth)
         left join idempotency_keys as known
                on known.key = wanted.key and known.created_at > now() - $2 * interval '1 second'
         left join orders on orders.id = known.order_id
         order by wanted.nth",
    ))
    .bind(&names)
    .bind(seconds(lifetime))
    .fetch_all(connection)
    .await
    .map_err(DatabaseError::during("claim idempotency keys"))?;
    assert_eq!(rows.len(), keys.len(), "the statement answers a row for each key");
    keys.iter()
        .zip(&rows)
        .map(|(keyed_by, row)| read(keyed_by, row))
        .collect::<sqlx::Result<_>>()
        .map_err(DatabaseError::during("read idempotency keys"))
}

fn read(keyed_by: &KeyedBy, row: &PgRow) -> sqlx::Result<Claim> {
    // A row that can be seen is final, whoever holds the lock to look at it just now.
    let Some(fingerprint) = row.try_get::<Option<&[u8]>, _>("fingerprint")? else {
        let locked = row.try_get("locked")?;
        return Ok(if locked { Claim::Ours } else { Claim::Conflict(KeyConflict::InProgress) });
    };
    if fingerprint != keyed_by.fingerprint.0 {
        return Ok(Claim::Conflict(KeyConflict::Reused));
    }
    let refusal: Option<Json<Refusal>> = row.try_get("refusal")?;
    let verdict = match refusal {
        Some(Json(refusal)) => Err(refusal),
        // What was answered then, whatever became of the order since.
        None => Ok(Order::from_row(row)?.as_created()),
    };
    Ok(Claim::Answered(Outcome { verdict, replayed: true }))
}

/// Writes what became of the request, in the caller's transaction; false when another transaction was first. A row that is
/// there already is overwritten only if it has expired, by the same clock by which the claim did not see it.
///
/// # Errors
/// When the database fails.
pub async fn finish(
    connection: &mut PgConnection,
    keyed_by: &KeyedBy,
    verdict: Result<OrderId, &Refusal>,
    lifetime: Duration,
) -> Result<bool, DatabaseError> {
    let written = sqlx::query(
        "insert into idempotency_keys (key, fingerprint, order_id, refusal) values ($1, $2, $3, $4)
         on conflict (key) do update set fingerprint = excluded.fingerprint, order_id = excluded.order_id,
             refusal = excluded.refusal, created_at = excluded.created_at
         where idempotency_keys.created_at <= now() - $5 * interval '1 second'",
    )
    .bind(keyed_by.key.as_str())
    .bind(&keyed_by.fingerprint.0[..])
    .bind(verdict.ok().map(|OrderId(id)| id))
    .bind(verdict.err().map(Json))
    .bind(seconds(lifetime))
    .execute(connection)
    .await
    .map_err(DatabaseError::during("finish the idempotency key"))?;
    Ok(written.rows_affected() == 1)
}

/// Deletes some of the keys that have expired, oldest first, and answers how many; fewer than [`SWEEP_BATCH`] means that
/// there are no more. What another replica deletes just now is left to it.
///
/// # Errors
/// When the database fails.
pub async fn sweep(pool: &PgPool, lifetime: Duration) -> Result<u64, DatabaseError> {
    let statement = sqlx::query(
        "delete from idempotency_keys where key in (
             select key from idempotency_keys where created_at <= now() - $1 * interval '1 second'
             order by created_at limit $2 for update skip locked)",
    )
    .bind(seconds(lifetime))
    .bind(SWEEP_BATCH.cast_signed());
    let deleted = bounded("delete expired idempotency keys", statement.execute(pool)).await?;
    Ok(deleted.rows_affected())
}

/// Deletes expired keys until dropped.
pub async fn keep_swept(pool: &PgPool, lifetime: Duration) {
    loop {
        match sweep(pool, lifetime).await {
            Ok(SWEEP_BATCH..) => tokio::time::sleep(BETWEEN_BATCHES).await,
            Ok(_none_left) => tokio::time::sleep(SWEEP_EVERY).await,
            Err(error) => {
                tracing::warn!(
                    error = format!("{:#}", anyhow::Error::new(error)),
                    "expired keys are kept for now"
                );
                tokio::time::sleep(SWEEP_EVERY).await;
            }
        }
    }
}

/// A lifetime as the statements take it; options are bounded far below an overflow.
pub(super) fn seconds(lifetime: Duration) -> i64 {
    i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX)
}
