//! The fence in the database: goes up, is acknowledged by every member, and comes down with the new count or the old one.

use std::time::Duration;

use sqlx::types::Uuid;
use sqlx::{PgConnection, PgExecutor, PgPool};

use super::{Mapping, Obstacle};
use crate::store::DatabaseError;
use crate::store::error::bounded;

/// How a fence stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It is not up any longer.
    Gone,
    /// A shard changed hands or has no leader: what its last leader had sent may come at any time. Or the fence went up on
    /// another server: what was acknowledged there may have ended there as well.
    Broken,
    /// So many have not acknowledged it.
    Awaits(i64),
    /// Nothing is under way anywhere.
    Acknowledged,
}

/// Bits of a fence's name, in which no two fences are alike, and room above it for the names of their ends.
const NAME_BITS: u32 = 62;

/// A name that no fence had before. After a failover that lost one, the next must not be taken for it: members may have
/// acknowledged that one here, and published again since.
fn new_name() -> i64 {
    let random = Uuid::new_v4().as_u128() >> (u128::BITS - NAME_BITS);
    i64::try_from(random).expect("it has fewer bits than that")
}

/// By which count keys are mapped, and whether it is about to change. A fence whose time is over is taken down.
///
/// # Errors
/// When the database fails.
pub(crate) async fn mapping(
    connection: &mut PgConnection,
    topic: &str,
) -> Result<Option<Mapping>, DatabaseError> {
    let Some((mapping, overdue)) = look(connection, topic).await? else { return Ok(None) };
    if overdue {
        // By an update, which waits for a switch under way: whoever only looked at the clock could miss that.
        take_down(&mut *connection, topic, mapping.epoch, "the groups did not reach the end in time").await?;
        return Ok(look(connection, topic).await?.map(|(mapping, _)| mapping));
    }
    Ok(Some(mapping))
}

async fn look(connection: &mut PgConnection, topic: &str) -> Result<Option<(Mapping, bool)>, DatabaseError> {
    let statement = sqlx::query_as(
        "select partitions, epoch, growing_to, coalesce(fenced_until < clock_timestamp(), false)
         from topic_partitions where topic = $1",
    )
    .bind(topic);
    let found: Option<(i32, i64, Option<i32>, bool)> =
        bounded("read the partition count", statement.fetch_optional(connection)).await?;
    Ok(found.map(|(partitions, epoch, growing_to, overdue)| {
        let mapping = Mapping { partitions, epoch, growing_to };
        (mapping, overdue && growing_to.is_some())
    }))
}

/// Why no fence may go up, as far as the database tells; what concerns other members comes first. `terms` are those of who asks.
///
/// # Errors
/// When the database fails.
pub(super) async fn obstacle(pool: &PgPool, terms: &str) -> Result<Option<Obstacle>, DatabaseError> {
    let statement = sqlx::query_as(
        "select (select min(owner) from relay_members where fence is null),
                (select min(owner) from relay_members where expires_at > clock_timestamp() and terms is distinct from $1),
                (select count(*) from relay_leases as lease where exists (
                     select from outbox where outbox.shard = lease.shard and outbox.id <= lease.doubtful_to
                     and not exists (select from relay_parked where relay_parked.order_id = outbox.order_id)))",
    );
    let (old, other, doubtful): (Option<String>, Option<String>, i64) =
        bounded("look what is in the way of growth", statement.bind(terms).fetch_one(pool)).await?;
    let member = old.map(Obstacle::OldReplica).or_else(|| other.map(Obstacle::OtherTerms));
    Ok(member.or_else(|| (doubtful > 0).then_some(Obstacle::Doubtful)))
}

/// Puts the fence up for at most `within`, if all who live have these `terms`. False when something came in the way.
///
/// # Errors
/// When the database fails; it may be up then.
pub(super) async fn put_up(
    pool: &PgPool,
    topic: &str,
    (epoch, to): (i64, i32),
    terms: &str,
    within: Duration,
) -> Result<bool, DatabaseError> {
    // One snapshot: a shard that is taken after it raises the sum, one taken before it is in the look at doubtful rows.
    let statement = sqlx::query(
        "update topic_partitions
         set growing_to = $3, epoch = $5, fenced_until = clock_timestamp() + make_interval(secs => $4),
             fenced_on = pg_postmaster_start_time(),
             takes = (select sum(relay_leases.takes)::bigint from relay_leases)
         where topic = $1 and epoch = $2 and growing_to is null and partitions < $3
           and not exists (select from relay_members where fence is null
                           or (expires_at > clock_timestamp() and terms is distinct from $6))
           and not exists (
               select from relay_leases as lease
               join outbox on outbox.shard = lease.shard and outbox.id <= lease.doubtful_to
               where not exists (select from relay_parked where relay_parked.order_id = outbox.order_id))",
    );
    let statement = statement.bind(topic).bind(epoch).bind(to).bind(within.as_secs_f64()).bind(new_name());
    let statement = statement.bind(terms);
    Ok(bounded("put up the fence", statement.execute(pool)).await?.rows_affected() == 1)
}

/// `owner` has nothing under way behind the fence of `epoch`, and will not have until it has seen that one come down.
///
/// # Errors
/// When the database fails.
pub(crate) async fn acknowledge(
    connection: &mut PgConnection,
    owner: &str,
    epoch: i64,
) -> Result<(), DatabaseError> {
    let statement =
        sqlx::query("update relay_members set fence = $2 where owner = $1").bind(owner).bind(epoch);
    bounded("acknowledge the fence", statement.execute(connection)).await?;
    Ok(())
}

/// How the fence of `epoch` stands.
///
/// # Errors
/// When the database fails.
pub(super) async fn standing(pool: &PgPool, topic: &str, epoch: i64) -> Result<Standing, DatabaseError> {
    let statement = sqlx::query_as(
        "select coalesce(
                    growing.fenced_on = pg_postmaster_start_time()
                    and growing.takes = (select sum(relay_leases.takes) from relay_leases)
                    and not exists (select from relay_leases where owner is null or expires_at <= clock_timestamp()),
                    false),
                (select count(*) from relay_members
                 where fence is null or (expires_at > clock_timestamp() and fence <> growing.epoch))
                + (select count(*) from relay_leases as lease where not exists (
                       select from relay_members where owner = lease.owner and fence = growing.epoch))
         from topic_partitions as growing where topic = $1 and epoch = $2 and growing_to is not null",
    )
    .bind(topic)
    .bind(epoch);
    let found: Option<(bool, i64)> =
        bounded("look who has acknowledged the fence", statement.fetch_optional(pool)).await?;
    Ok(match found {
        None => Standing::Gone,
        Some((false, _)) => Standing::Broken,
        Some((true, 0)) => Standing::Acknowledged,
        Some((true, missing)) => Standing::Awaits(missing),
    })
}

/// Switches the count if the fence of `epoch` stands and all have acknowledged it, in one statement.
///
/// # Errors
/// When the database fails; it may be switched then.
pub(super) async fn switch(pool: &PgPool, topic: &str, epoch: i64) -> Result<bool, DatabaseError> {
    let statement = sqlx::query(
        "update topic_partitions as growing
         set partitions = growing_to, growing_to = null, fenced_until = null, fenced_on = null, takes = null, epoch = epoch + 1
         where topic = $1 and epoch = $2 and growing_to is not null and fenced_until > clock_timestamp()
           and growing.fenced_on = pg_postmaster_start_time()
           and growing.takes = (select sum(relay_leases.takes) from relay_leases)
           and not exists (select from relay_leases where owner is null or expires_at <= clock_timestamp())
           and not exists (select from relay_members
                           where fence is null or (expires_at > clock_timestamp() and fence <> growing.epoch))
           and not exists (select from relay_leases as lease where not exists (
                               select from relay_members where owner = lease.owner and fence = growing.epoch))",
    );
    let switched = bounded("switch the partition count", statement.bind(topic).bind(epoch).execute(pool));
    Ok(switched.await?.rows_affected() == 1)
}

/// Switches the count at once, whatever is under way, unless a member lives that would go on by the old one or has other `terms`.
///
/// # Errors
/// When the database fails; it may be switched then.
pub(super) async fn switch_at_once(
    pool: &PgPool,
    topic: &str,
    (epoch, to): (i64, i32),
    terms: &str,
) -> Result<bool, DatabaseError> {
    let statement = sqlx::query(
        "update topic_partitions set partitions = $3, epoch = epoch + 1
         where topic = $1 and epoch = $2 and growing_to is null and partitions < $3
           and not exists (select from relay_members where fence is null
                           or (expires_at > clock_timestamp() and terms is distinct from $4))",
    );
    let statement = statement.bind(topic).bind(epoch).bind(to).bind(terms);
    Ok(bounded("switch the partition count", statement.execute(pool)).await?.rows_affected() == 1)
}

/// Takes the fence of `epoch` down, the count staying as it is. False when it was down already.
///
/// # Errors
/// When the database fails.
pub(crate) async fn take_down(
    executor: impl PgExecutor<'_>,
    topic: &str,
    epoch: i64,
    why: &str,
) -> Result<bool, DatabaseError> {
    let statement = sqlx::query(
        "update topic_partitions
         set growing_to = null, fenced_until = null, fenced_on = null, takes = null, epoch = epoch + 1
         where topic = $1 and epoch = $2 and growing_to is not null",
    );
    let taken = bounded("take down the fence", statement.bind(topic).bind(epoch).execute(executor)).await?;
    let taken = taken.rows_affected() == 1;
    if taken {
        tracing::warn!(topic, why, "the partition count stays as it is for now; publishing goes on");
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_fences_have_the_same_name_and_none_that_of_no_fence() {
        let names: std::collections::BTreeSet<i64> = (0..1000).map(|_| new_name()).collect();
        assert!(names.len() == 1000 && names.iter().all(|name| *name > 0), "{names:?}");
    }
}
