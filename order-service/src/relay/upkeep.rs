//! What the relay looks after beside its work: its leases, the partition count, who is parked, and which ids are settled.

use std::io;

use fail::fail_point;
use sqlx::{Error, PgConnection, PgPool};

use super::floor::Sample;
use super::growth::{Mapping, fence};
use super::lease::Leases;
use super::park::{self, Parked};
use crate::store::DatabaseError;
use crate::store::error::bounded;

/// How many upkeeps fit into a lease, which bounds each in all, however many statements it takes. One that gets nowhere began
/// a third into the lease at the latest, when a renewal is due, and ends while there is time for another attempt.
const UPKEEPS_PER_LEASE: u32 = 2;
/// What is being done.
const STEP: &str = "look after the shards led";

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
    /// A fence that has to come down, and why.
    pub(super) take_down: Option<(i64, &'static str)>,
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

/// Renews leases when that is due, looks by which count keys are mapped and who is parked in the shards then led, and takes a
/// sample for the floors: on one connection, and in good time before a lease that it renews can be over.
pub(super) async fn upkeep(pool: PgPool, request: Request) -> Result<Upkeep, DatabaseError> {
    let longest = request.leases.ttl() / UPKEEPS_PER_LEASE;
    let kept = tokio::time::timeout(longest, keep(&pool, request)).await;
    kept.unwrap_or_else(|_| Err(DatabaseError::during(STEP)(Error::Io(io::ErrorKind::TimedOut.into()))))
}

async fn keep(pool: &PgPool, request: Request) -> Result<Upkeep, DatabaseError> {
    let Request { mut leases, busy, as_of, topic, doubt, drained, take_down } = request;
    let mut connection = pool.acquire().await.map_err(DatabaseError::during(STEP))?;
    leases.keep(&mut connection, |shard| busy.contains(&shard)).await?;
    fail_point!("relay::after_lease");
    if doubt.is_some() {
        leases.doubt(&mut connection).await?;
    }
    if let Some(epoch) = drained {
        fence::acknowledge(&mut connection, leases.owner(), epoch).await?;
    }
    if let Some((epoch, why)) = take_down {
        fence::take_down(&mut *connection, &topic, epoch, why).await?;
    }
    // After the leases: whoever has just got one must not go by a count that was read before.
    let mapping = fence::mapping(&mut connection, &topic).await?;
    let parked = park::load(&mut connection, &leases.held()).await?;
    let sample = sample(&mut connection).await?;
    Ok(Upkeep { leases, parked, as_of, sample, mapping, doubt })
}

/// Takes a transaction id, four times a second: a snapshot alone does not say which ids were given out.
async fn sample(connection: &mut PgConnection) -> Result<Option<Sample>, DatabaseError> {
    let statement = sqlx::query_as(
        "select case when is_called then last_value else last_value - 1 end,
                pg_current_xact_id()::text::bigint, pg_snapshot_xmin(pg_current_snapshot())::text::bigint
         from outbox_id_seq",
    );
    match bounded("look at the sequence", statement.fetch_one(connection)).await {
        Ok((last_id, next_xid, oldest_xid)) => Ok(Some(Sample { last_id, next_xid, oldest_xid })),
        // A server that speaks PostgreSQL's protocol but has no such functions: reads begin at the head there.
        Err(error) if error.is_unsupported() => Ok(None),
        Err(error) => Err(error),
    }
}
