//! Takes in what the broker acknowledged and deletes it from the outbox: only now, and never anything else.

use sqlx::PgPool;

use super::error::{RelayError, bounded};
use super::in_flight::{InFlight, RowId};
use super::publish::Publisher;
use crate::metrics::RelayMetrics;

/// Deletes every acknowledged row in one statement.
///
/// # Errors
/// [`RelayError::Deliver`] when the broker did not take a row, after what it did take was deleted; or the database's.
pub(super) async fn acknowledge(
    pool: &PgPool,
    publisher: &Publisher,
    in_flight: &mut InFlight,
    metrics: &RelayMetrics,
) -> Result<(), RelayError> {
    let (count, failure) = in_flight.delivered(publisher.take_deliveries());
    metrics.published.inc_by(count);
    let rows: Vec<RowId> = in_flight.acknowledged().collect();
    let deleted = if rows.is_empty() { Ok(()) } else { delete(pool, &rows).await };
    if deleted.is_ok() {
        in_flight.deleted(&rows);
    }
    // A failed delivery ends the producer; rows that could not be deleted just now are kept in mind across that.
    match failure {
        Some((row, source)) => Err(RelayError::Deliver { id: row.id, source }),
        None => deleted,
    }
}

async fn delete(pool: &PgPool, rows: &[RowId]) -> Result<(), RelayError> {
    let (shards, ids): (Vec<i16>, Vec<i64>) = rows.iter().map(|row| (row.shard, row.id)).unzip();
    let statement = sqlx::query(
        "delete from outbox using unnest($1::smallint[], $2::bigint[]) as done (shard, id)
         where outbox.shard = done.shard and outbox.id = done.id",
    );
    bounded("delete published events", statement.bind(shards).bind(ids).execute(pool)).await?;
    Ok(())
}
