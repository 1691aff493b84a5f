//! The outbox: the final bytes of every event that the broker does not have yet.

use std::time::Duration;

use jiff::Timestamp;
use order_events::codec::EncodeError;
use order_events::key::murmur2;
use order_events::{EventType, OrderId};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

use super::error::DatabaseError;
use crate::domain::Order;

/// Number of shards, fixed for good: rows carry their shard, and an order's rows must all be in one.
pub const SHARDS: u8 = 16;
/// Rows counted at most when the outbox is sampled; beyond it the exact number does not matter, the age does. Low enough
/// that counting does not burden a database that has fallen behind already.
const COUNT_LIMIT: i64 = 100_000;

/// The shard of an order: murmur2 over the 16 bytes of its id, without the sign bit, modulo [`SHARDS`].
#[must_use]
pub fn shard_of(order_id: OrderId) -> i16 {
    let positive = murmur2(order_id.0.as_bytes()) & 0x7fff_ffff;
    i16::try_from(positive % u32::from(SHARDS)).expect("a remainder of SHARDS, which is a u8, fits an i16")
}

/// Why an event was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It does not fit a record.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// Records what just happened to the order, in the caller's transaction.
///
/// The caller holds the order's row lock (having inserted the row counts): so an order's versions and outbox ids rise
/// together, and whoever sees a later event sees every earlier one.
///
/// # Errors
/// When the event is too large or the database fails; the caller's transaction must not commit then.
pub async fn record(
    connection: &mut PgConnection,
    order: &Order,
    event_type: EventType,
    occurred_at: Timestamp,
) -> Result<(), RecordError> {
    let encoded = order.event(event_type, occurred_at).encode()?;
    sqlx::query(
        "insert into outbox (shard, order_id, version, headers, payload) values ($1, $2, $3, $4, $5)",
    )
    .bind(shard_of(order.id))
    .bind(order.id.0)
    .bind(order.version)
    .bind(Json(&encoded.headers))
    .bind(&encoded.payload)
    .execute(connection)
    .await
    .map_err(DatabaseError::during("record event"))?;
    Ok(())
}

/// How much waits in the outbox.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Backlog {
    /// Rows, counted up to a hundred thousand.
    pub rows: i64,
    /// Age of the oldest row by the database's clock; zero when there is none.
    pub oldest: Duration,
}

/// Looks at the outbox, for the metrics.
///
/// # Errors
/// When the database fails.
pub async fn backlog(pool: &PgPool) -> Result<Backlog, DatabaseError> {
    let (rows, oldest_seconds): (i64, f64) = sqlx::query_as(
        // The head of each shard by the primary key: an oldest age without an index on time.
        "select (select count(*) from (select from outbox limit $1) as counted),
                coalesce(extract(epoch from clock_timestamp() - min(head.recorded_at))::float8, 0)
         from generate_series(0, $2::int - 1) as s (shard)
         cross join lateral (select recorded_at from outbox where shard = s.shard order by id limit 1) as head",
    )
    .bind(COUNT_LIMIT)
    .bind(i32::from(SHARDS))
    .fetch_one(pool)
    .await
    .map_err(DatabaseError::during("sample the outbox"))?;
    Ok(Backlog { rows, oldest: Duration::try_from_secs_f64(oldest_seconds).unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    /// Golden values: a build that puts a known order elsewhere would let two relays send its events at once.
    #[test]
    fn an_order_stays_on_its_shard_for_ever() {
        let shards: Vec<i16> = [0_u128, 1, 0x0191_0000_0000_7000_8000_0000_0000_0001, u128::MAX]
            .map(|id| shard_of(OrderId(Uuid::from_u128(id))))
            .to_vec();
        assert_eq!(shards, [8, 14, 7, 10]);
    }

    proptest! {
        #[test]
        fn every_order_has_a_shard(id in any::<u128>()) {
            prop_assert!((0..i16::from(SHARDS)).contains(&shard_of(OrderId(Uuid::from_u128(id)))));
        }
    }

    #[test]
    fn orders_spread_over_all_shards() {
        let mut counts = [0; SHARDS as usize];
        for _ in 0..1600 {
            counts[usize::try_from(shard_of(OrderId::generate())).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (40..=180).contains(count)), "{counts:?}");
    }
}
