//! Reads the heads of the led shards: what is due to be sent, in the order in which it is to be sent.

use sqlx::PgPool;
use sqlx::types::{Json, Uuid};

use super::error::bounded;
use super::in_flight::{InFlight, RowId};
use crate::store::DatabaseError;

/// An event as it waits in the outbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutboxRow {
    /// Where it stands.
    pub row: RowId,
    /// The record's key, as UUID.
    pub order_id: Uuid,
    /// The record's headers, in order.
    pub headers: Vec<(String, String)>,
    /// The record's value.
    pub payload: Vec<u8>,
}

/// The rows at the heads.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Heads {
    /// By shard, and within it by id.
    pub rows: Vec<OutboxRow>,
    /// A shard's page was full.
    pub more: bool,
}

/// The first rows of each shard that are not in flight, about `limit` in all.
///
/// One statement, hence one snapshot: whoever sees an order's later row in it sees its earlier ones. Always from the
/// head; what is in flight is skipped by its id.
///
/// # Errors
/// When the database fails.
pub(super) async fn heads(
    pool: &PgPool,
    shards: &[i16],
    in_flight: &InFlight,
    limit: usize,
) -> Result<Heads, DatabaseError> {
    if shards.is_empty() {
        return Ok(Heads::default());
    }
    let page = limit.div_ceil(shards.len());
    let statement = sqlx::query_as(
        "select head.shard, head.id, head.order_id, head.headers, head.payload
         from unnest($1::smallint[]) as led (shard)
         cross join lateral (
             select * from outbox where outbox.shard = led.shard and outbox.id <> all($2) order by outbox.id limit $3
         ) as head
         order by head.shard, head.id",
    )
    .bind(shards)
    .bind(in_flight.ids())
    .bind(i64::try_from(page).unwrap_or(i64::MAX));
    type Columns = (i16, i64, Uuid, Json<Vec<(String, String)>>, Vec<u8>);
    let found: Vec<Columns> = bounded("read the outbox", statement.fetch_all(pool)).await?;
    let more = found.chunk_by(|a, b| a.0 == b.0).any(|shard| shard.len() >= page);
    let rows = found
        .into_iter()
        .map(|(shard, id, order_id, Json(headers), payload)| OutboxRow {
            row: RowId { shard, id },
            order_id,
            headers,
            payload,
        })
        .collect();
    Ok(Heads { rows, more })
}
