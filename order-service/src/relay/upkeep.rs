//! What the relay looks after beside its work: its leases, the partition count, who is parked, and which ids are settled.

use fail::fail_point;
use sqlx::PgPool;

use super::floor::Sample;
use super::growth::{Mapping, fence};
use super::lease::Leases;
use super::park::{self, Parked};
use crate::store::DatabaseError;
use crate::store::error::bounded;

/// What to look after.
#[derive(Debug)]
pub(super) struct Request {
    /// The leases as they are.
    pub(super) leases: Leases,
    /// Shards of which something is in hand.
    pub(super) busy: Vec<i16>,
    /// How many orders this relay has parked by itself: what it parks from now on may not be in what is found.
    pub(super) as_of: u64,
    /// The topic.
    pub(super) topic: String,
    /// Which of this relay's producers failed with events under way, if that was not noted yet.
    pub(super) doubt: Option<u64>,
    /// The fence behind which nothing is under way.
    pub(super) drained: Option<i64>,
    /// A fence that has to come down, because this replica is to stop and has events to publish.
    pub(super) take_down: Option<i64>,
}

/// How things stand.
#[derive(Debug)]
pub(super) struct Upkeep {
    /// The shards led.
    pub(super) leases: Leases,
    /// The orders parked in them.
    pub(super) parked: Parked,
    /// As of which of this relay's own parkings.
    pub(super) as_of: u64,
    /// The sequence and the running transactions; none where the server does not tell.
    pub(super) sample: Option<Sample>,
    /// By which count keys are mapped; none when nobody has recorded one.
    pub(super) mapping: Option<Mapping>,
    /// What was noted of [`Request::doubt`].
    pub(super) doubt: Option<u64>,
}

/// Renews leases when that is due, looks who is parked in the shards then led, and takes a sample for the floors. The count
/// is looked at after the leases: whoever has just got one must not go by what was read before.
pub(super) async fn upkeep(pool: PgPool, request: Request) -> Result<Upkeep, DatabaseError> {
    let Request { mut leases, busy, as_of, topic, doubt, drained, take_down } = request;
    leases.keep(&pool, |shard| busy.contains(&shard)).await?;
    fail_point!("relay::after_lease");
    if doubt.is_some() {
        leases.doubt(&pool).await?;
    }
    if let Some(epoch) = drained {
        fence::acknowledge(&pool, leases.owner(), epoch).await?;
    }
    if let Some(epoch) = take_down {
        fence::take_down(&pool, &topic, epoch, "a replica stops and publishes what it has").await?;
    }
    let mapping = fence::mapping(&pool, &topic).await?;
    let parked = park::load(&pool, &leases.held()).await?;
    let sample = sample(&pool).await?;
    Ok(Upkeep { leases, parked, as_of, sample, mapping, doubt })
}

/// Takes a transaction id, four times a second: a snapshot alone does not say which ids were given out.
async fn sample(pool: &PgPool) -> Result<Option<Sample>, DatabaseError> {
    let statement = sqlx::query_as(
        "select case when is_called then last_value else last_value - 1 end,
                pg_current_xact_id()::text::bigint, pg_snapshot_xmin(pg_current_snapshot())::text::bigint
         from outbox_id_seq",
    );
    match bounded("look at the sequence", statement.fetch_one(pool)).await {
        Ok((last_id, next_xid, oldest_xid)) => Ok(Some(Sample { last_id, next_xid, oldest_xid })),
        // A server that speaks PostgreSQL's protocol but has no such functions: reads begin at the head there.
        Err(error) if error.is_unsupported() => Ok(None),
        Err(error) => Err(error),
    }
}
