//! Parks the order of an event that the topic refuses for good, so that every other order goes on.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::types::Uuid;
use sqlx::{PgConnection, PgPool};

use super::error::RelayError;
use super::in_flight::{InFlight, RowId};
use super::lease::Leases;
use super::publish::Publisher;
use super::read;
use super::trial::{Next, Trial};
use crate::store::DatabaseError;
use crate::store::error::bounded;

/// Parked orders of one shard at most; beyond it the shard stops. So many refusals are no matter of single events, and
/// each read names every one of them.
const PARKED_PER_SHARD: usize = 1000;

/// The parked orders of the shards led.
#[derive(Default, Debug)]
pub struct Parked {
    orders: HashMap<Uuid, RowId>,
    /// Shards with more of them than a read can name.
    stopped: BTreeSet<i16>,
    /// Orders that this relay has parked so far.
    added: u64,
}

impl Parked {
    /// How many orders this relay has parked by itself so far.
    #[must_use]
    pub fn added(&self) -> u64 {
        self.added
    }

    /// Takes over what a look at the database found, unless an order was parked since it began. True when orders were let
    /// go since the last look.
    pub(super) fn replace(&mut self, found: Self, as_of: u64) -> bool {
        if as_of != self.added {
            return false;
        }
        let released = self.orders.keys().any(|order_id| !found.orders.contains_key(order_id));
        for (order_id, row) in &self.orders {
            if !found.orders.contains_key(order_id) {
                tracing::info!(%order_id, shard = row.shard, "the order is not parked here any longer");
            }
        }
        let before = std::mem::replace(self, Self { added: as_of, ..found });
        for shard in self.stopped.difference(&before.stopped) {
            tracing::error!(
                shard,
                limit = PARKED_PER_SHARD,
                "too many orders are parked; nothing of this shard is sent until some are let go"
            );
        }
        released
    }

    /// Orders that a read must leave out.
    pub fn orders(&self) -> impl Iterator<Item = Uuid> {
        self.orders.keys().copied()
    }

    /// True when too many orders of the shard are parked for it to be read.
    #[must_use]
    pub fn stops(&self, shard: i16) -> bool {
        self.stopped.contains(&shard)
    }

    /// How many orders are parked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.orders.len()
    }

    /// True when none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }
}

/// One step in telling refused events apart, once nothing is with the producer any more.
///
/// # Errors
/// When the database or the producer fails; the step is taken again. [`RelayError::BatchTooLarge`] when batches are to be
/// smaller.
pub(super) async fn step(
    pool: &PgPool,
    publisher: &Publisher,
    partitions: i32,
    leases: &Leases,
    (trial, in_flight, parked): (&mut Trial, &mut InFlight, &mut Parked),
) -> Result<(), RelayError> {
    loop {
        match trial.advance() {
            Next::Park(row, _) if !in_flight.is_refused(&row) => {}
            Next::Park(row, reason) => {
                record(pool, row, &reason).await.inspect_err(|_| trial.again(vec![row]))?;
                let Some(order_id) = in_flight.drop_order(row) else { continue };
                parked.orders.insert(order_id, row);
                parked.added += 1;
                tracing::error!(
                    %order_id, shard = row.shard, outbox_id = row.id, reason,
                    "the topic refuses an event for good; its order is parked in relay_parked, and no other"
                );
            }
            Next::Try(mut rows) => {
                rows.retain(|row| in_flight.is_refused(row));
                let found = read::rows(pool, &rows).await.inspect_err(|_| trial.again(rows.clone()))?;
                for gone in rows.iter().filter(|row| !found.iter().any(|found| found.row == **row)) {
                    in_flight.forget(*gone);
                }
                if !leases.are_known() {
                    // They ended over the read, and others may lead by now.
                    trial.again(rows);
                    return Ok(());
                }
                if !found.is_empty() {
                    trial.tried();
                    let handed_over = publisher.retry(found, partitions, in_flight, trial);
                    // The rest of them is refused still, and must be in a group to be tried ever again.
                    return handed_over.inspect_err(|_| trial.again(rows));
                }
            }
            Next::Over { batches_too_large: true } => return Err(RelayError::BatchTooLarge),
            Next::Over { batches_too_large: false } => return Ok(()),
        }
    }
}

/// Who is parked in these shards.
///
/// # Errors
/// When the database fails.
pub(super) async fn load(connection: &mut PgConnection, shards: &[i16]) -> Result<Parked, DatabaseError> {
    let statement = sqlx::query_as(
        "select parked.order_id, parked.shard, parked.outbox_id
         from unnest($1::smallint[]) as led (shard)
         cross join lateral (
             select order_id, relay_parked.shard, outbox_id from relay_parked
             where relay_parked.shard = led.shard order by parked_at limit $2
         ) as parked",
    )
    .bind(shards)
    .bind(i64::try_from(PARKED_PER_SHARD + 1).unwrap_or(i64::MAX));
    let found: Vec<(Uuid, i16, i64)> = bounded("read parked orders", statement.fetch_all(connection)).await?;
    let orders: HashMap<Uuid, RowId> =
        found.into_iter().map(|(order_id, shard, id)| (order_id, RowId { shard, id })).collect();
    let stopped = crowded_shards(orders.values());
    Ok(Parked { orders, stopped, added: 0 })
}

async fn record(pool: &PgPool, row: RowId, reason: &str) -> Result<(), DatabaseError> {
    let statement = sqlx::query(
        "insert into relay_parked (order_id, shard, outbox_id, version, reason)
         select order_id, shard, id, version, $3 from outbox where shard = $1 and id = $2
         on conflict (order_id) do nothing",
    );
    bounded("park an order", statement.bind(row.shard).bind(row.id).bind(reason).execute(pool)).await?;
    Ok(())
}

fn crowded_shards<'a>(rows: impl Iterator<Item = &'a RowId>) -> BTreeSet<i16> {
    let mut counts: BTreeMap<i16, usize> = BTreeMap::new();
    rows.for_each(|row| *counts.entry(row.shard).or_default() += 1);
    counts.into_iter().filter(|(_, count)| *count > PARKED_PER_SHARD).map(|(shard, _)| shard).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_stops_at_one_parked_order_too_many() {
        let rows = |count: usize| vec![RowId { shard: 3, id: 1 }; count];
        assert!(crowded_shards(rows(PARKED_PER_SHARD).iter()).is_empty());
        assert_eq!(crowded_shards(rows(PARKED_PER_SHARD + 1).iter()), [3].into());
    }
}
