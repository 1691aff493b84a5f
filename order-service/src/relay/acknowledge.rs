//! Takes in what the broker acknowledged, and deletes it from the outbox: only then, and never anything else.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use fail::fail_point;
use futures::FutureExt;
use sqlx::types::Uuid;
use sqlx::{Error, PgPool};

use super::error::RelayError;
use super::in_flight::{Acknowledged, InFlight};
use super::publish::{Delivery, Outcome, Publisher};
use super::trial::Trial;
use crate::metrics::RelayMetrics;
use crate::store::DatabaseError;
use crate::store::error::bounded;

/// What a delete depends on: else a row stays, and is sent again by whoever leads its shard.
#[derive(Debug)]
pub(super) struct OnlyIf {
    /// Nobody but this one leads the shard. Somebody who slept through the end of its lease may hear only now that the broker has
    /// an event, while the one who leads now takes it that nothing is under way ([`super::growth`]).
    pub(super) owner: String,
    /// By its record keys are mapped by so many partitions as when the row was sent, or by more. Fewer of them are recorded in a
    /// database that has forgotten a switch: what was sent by that has to come before what is sent now, in the old partition.
    pub(super) topic: String,
    /// So many partitions.
    pub(super) partitions: i32,
}

/// The rows of a delete, and how many of them were there.
pub(super) type Deleted = (Vec<Acknowledged>, Result<u64, DatabaseError>);

/// Takes in what became of the rows sent: the next events of their orders are due then.
///
/// # Errors
/// [`RelayError::Deliver`] or [`RelayError::Unconfirmed`] when the broker did not, or perhaps not, take a row, after what
/// it did take was noted.
pub(super) fn acknowledge(
    publisher: &Publisher,
    in_flight: &mut InFlight,
    trial: &mut Trial,
    metrics: &RelayMetrics,
) -> Result<(), RelayError> {
    let (now, mut failure) = (Instant::now(), None);
    for Delivery { id, outcome } in publisher.take_deliveries() {
        match outcome {
            Outcome::Delivered => {
                if let Some(recorded) = in_flight.delivered(id) {
                    metrics.published(now.saturating_duration_since(recorded));
                }
            }
            // These stay in hand until the producer is dropped: nothing of their orders may be sent past them.
            Outcome::Unconfirmed => failure = failure.or(Some(RelayError::Unconfirmed { id })),
            Outcome::Failed(source) if Trial::concerns(&source) => {
                if let Some(row) = in_flight.refused(id) {
                    trial.refuse(row, source);
                }
            }
            Outcome::Failed(source) => failure = failure.or(Some(RelayError::Deliver { id, source })),
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Deletes rows that the broker has, in one statement, and gives them back, with the number of those that were there.
///
/// By their orders, too: after a failover that lost transactions the sequence gives ids out again, and a row that has one of these
/// is another one, which nobody has sent yet. Who leads what is looked up once for all rows: each lease has many dead versions
/// where an old snapshot is open.
pub(super) async fn delete(pool: PgPool, rows: Vec<Acknowledged>, only_if: OnlyIf) -> Deleted {
    let (shards, ids): (Vec<i16>, Vec<i64>) = rows.iter().map(|row| (row.row.shard, row.row.id)).unzip();
    let orders: Vec<Uuid> = rows.iter().map(|row| row.order_id).collect();
    let statement = sqlx::query(
        "delete from outbox using unnest($1::smallint[], $2::bigint[], $3::uuid[]) as done (shard, id, order_id)
         where outbox.shard = done.shard and outbox.id = done.id and outbox.order_id = done.order_id
           and done.shard <> all (array(select shard from relay_leases where owner <> $4))
           and (select partitions from topic_partitions where topic = $5) >= $6",
    );
    let OnlyIf { owner, topic, partitions } = only_if;
    let statement = statement.bind(shards).bind(ids).bind(orders).bind(owner).bind(topic).bind(partitions);
    let deleting = async {
        fail_point!("relay::before_delete");
        let deleted = bounded("delete published events", statement.execute(&pool)).await;
        fail_point!("relay::after_delete");
        Ok(deleted?.rows_affected())
    };
    (rows, failed_if_panicked(deleting).await)
}

/// Turns a panic into a failure, after which the rows are deleted again like after any other. Lost with their task, they would
/// stay in hand as acknowledged, and in the outbox, until another leads their shard.
async fn failed_if_panicked(
    deleting: impl Future<Output = Result<u64, DatabaseError>>,
) -> Result<u64, DatabaseError> {
    let ended = AssertUnwindSafe(deleting).catch_unwind().await;
    ended.unwrap_or_else(|_panic| Err(DatabaseError::during("delete published events")(Error::WorkerCrashed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_delete_that_panics_has_failed() {
        let ended = failed_if_panicked(async { panic!("a defect") }).await;
        assert!(ended.is_err_and(|error| error.is_unavailable()));
        assert!(failed_if_panicked(async { Ok(1) }).await.is_ok_and(|deleted| deleted == 1));
    }
}
