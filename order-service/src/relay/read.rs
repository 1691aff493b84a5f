//! Reads the heads of the led shards: what is due to be sent, in the order in which it is to be sent.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fail::fail_point;
use futures::{StreamExt, TryStreamExt};
use rdkafka::message::{Header, OwnedHeaders};
use serde::Deserialize;
use sqlx::postgres::PgRow;
use sqlx::types::{Json, Uuid};
use sqlx::{PgPool, Row};

use super::floor::Start;
use super::in_flight::{RowId, Skip};
use super::pace::Found;
use crate::store::DatabaseError;
use crate::store::error::bounded;

/// An event as it waits in the outbox.
#[derive(Clone, Debug)]
pub struct OutboxRow {
    /// Where it stands.
    pub row: RowId,
    /// The record's key, as UUID.
    pub order_id: Uuid,
    /// When it was recorded, as this machine's clock would have had it.
    pub recorded: Instant,
    /// The record's headers, in order.
    pub headers: OwnedHeaders,
    /// The record's value.
    pub payload: Vec<u8>,
}

/// What to read.
#[derive(Debug)]
pub(super) struct Request {
    /// Shards to read; no two reads of one shard run at once.
    pub(super) shards: Vec<i16>,
    /// Where each begins.
    pub(super) start: Start,
    /// What is in hand or parked.
    pub(super) skip: Skip,
    /// How many rows in all, but at least one of each shard.
    pub(super) limit: usize,
    /// The service had been told to stop before: what this read does not find, no request will record any more.
    pub(super) last: bool,
    /// The topic, for [`Heads::epoch`].
    pub(super) topic: String,
}

/// The rows at the heads.
#[derive(Default, Debug)]
pub struct Heads {
    /// By shard, and within it by id.
    pub rows: Vec<OutboxRow>,
    /// The last id of each shard whose page was full: there is more.
    pub full: BTreeMap<i16, i64>,
    /// Of when the rows are, in terms of [`super::growth::Mapping`].
    pub epoch: Option<i64>,
}

impl Heads {
    pub(super) fn found(&self) -> Found {
        match (self.rows.is_empty(), self.full.is_empty()) {
            (true, _) => Found::None,
            (false, false) => Found::More,
            (false, true) => Found::Some,
        }
    }
}

/// A header as the outbox keeps it, still in the row's buffer: two allocations less for each of nine.
#[derive(Deserialize)]
struct Stored<'a>(#[serde(borrow)] Cow<'a, str>, #[serde(borrow)] Cow<'a, str>);

/// The first rows of each shard that are not to be skipped, `limit` in all.
///
/// One statement, hence one snapshot: whoever sees an order's later row in it sees its earlier ones. From each shard's
/// floor, below which everything is in hand; what is in hand above it is skipped by its id. The ids to skip are a subquery because that is hashed by every version of
/// PostgreSQL, while `<> all` compares one by one before 15.
pub(super) async fn heads(pool: PgPool, request: Request) -> (Request, Result<Heads, DatabaseError>) {
    let found = fetch(&pool, &request).await;
    fail_point!("relay::after_read");
    (request, found)
}

async fn fetch(
    pool: &PgPool,
    Request { shards, start, skip, limit, topic, .. }: &Request,
) -> Result<Heads, DatabaseError> {
    if shards.is_empty() {
        return Ok(Heads::default());
    }
    let page = page(*limit, shards.len());
    let statement = sqlx::query(
        "select head.shard, head.id, head.order_id, head.headers, head.payload,
                date_part('epoch', now() - head.recorded_at),
                (select epoch from topic_partitions where topic = $6)
         from unnest($1::smallint[], $2::bigint[]) as led (shard, floor)
         cross join lateral (
             select shard, id, order_id, headers, payload, recorded_at from outbox
             where outbox.shard = led.shard and outbox.id >= led.floor
               and outbox.id not in (select unnest($3::bigint[]))
               and outbox.order_id not in (select unnest($4::uuid[]))
             order by outbox.id limit $5
         ) as head",
    )
    .bind(shards)
    .bind(&start.floors)
    .bind(&skip.ids)
    .bind(&skip.orders)
    .bind(i64::try_from(page).unwrap_or(i64::MAX))
    .bind(topic);
    // Row by row, so that a large page does not keep a thread from everything else.
    let (asked, mut epoch) = (Instant::now(), None);
    let fetched = statement.fetch(pool).map(|row| {
        let row = row?;
        epoch = row.try_get(6)?;
        outbox_row(&row, asked)
    });
    let mut rows: Vec<OutboxRow> = bounded("read the outbox", fetched.try_collect()).await?;
    // As they come anyway; but no join promises it.
    rows.sort_by_key(|row| row.row);
    let full = rows
        .chunk_by(|a, b| a.row.shard == b.row.shard)
        .filter(|shard| shard.len() >= page)
        .filter_map(|shard| shard.last().map(|row| (row.row.shard, row.row.id)))
        .collect();
    Ok(Heads { rows, full, epoch })
}

/// Rows of each shard that are read at once: together no more than `limit`, and at least one of each.
fn page(limit: usize, shards: usize) -> usize {
    (limit / shards.max(1)).max(1)
}

/// The named rows, as far as the outbox still has them.
///
/// # Errors
/// When the database fails.
pub(super) async fn rows(pool: &PgPool, rows: &[RowId]) -> Result<Vec<OutboxRow>, DatabaseError> {
    let (shards, ids): (Vec<i16>, Vec<i64>) = rows.iter().map(|row| (row.shard, row.id)).unzip();
    let statement = sqlx::query(
        "select shard, id, order_id, headers, payload, date_part('epoch', now() - recorded_at) from outbox
         where (shard, id) in (select * from unnest($1::smallint[], $2::bigint[])) order by shard, id",
    );
    let statement = statement.bind(shards).bind(ids);
    let asked = Instant::now();
    let fetched = statement.fetch(pool).map(|row| outbox_row(&row?, asked)).try_collect();
    bounded("read refused events", fetched).await
}

/// `asked` is when the statement was sent, and so a little before its `now()`.
fn outbox_row(row: &PgRow, asked: Instant) -> sqlx::Result<OutboxRow> {
    let age = Duration::try_from_secs_f64(row.try_get(5)?).unwrap_or_default();
    let Json(stored): Json<Vec<Stored<'_>>> = row.try_get(3)?;
    let headers =
        stored.iter().fold(OwnedHeaders::new_with_capacity(stored.len()), |headers, Stored(key, value)| {
            headers.insert(Header { key, value: Some(value.as_ref()) })
        });
    Ok(OutboxRow {
        row: RowId { shard: row.try_get(0)?, id: row.try_get(1)? },
        order_id: row.try_get(2)?,
        recorded: asked.checked_sub(age).unwrap_or(asked),
        headers,
        payload: row.try_get::<&[u8], _>(4)?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_takes_no_more_than_there_is_room_for_but_one_row_of_each_shard() {
        assert_eq!((page(2000, 16), page(2000, 3)), (125, 666));
        assert_eq!((page(31, 16), page(15, 16), page(0, 16)), (1, 1, 1));
    }
}
