//! Which shards this replica leads: lease rows on the database's clock, a fair share of them per live replica.
//!
//! A lease keeps two replicas from doing the same work. The order of events does not hang on it (see [`super`]), but while a topic
//! grows: see [`super::growth`].

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sqlx::{PgConnection, PgPool};

use crate::store::DatabaseError;
use crate::store::error::bounded;
use crate::store::outbox::SHARDS;

/// Renewals within one lease: two may fail before it ends.
const RENEWALS_PER_LEASE: u32 = 3;
/// How long a silent member's row is kept for people to look at, in seconds.
const MEMBER_RETENTION_SECONDS: f64 = 3600.0;

/// The leases of one replica.
#[derive(Clone, Debug)]
pub struct Leases {
    owner: String,
    /// By which rules this replica would drive a growth: all must have the same.
    terms: String,
    ttl: Duration,
    held: BTreeSet<i16>,
    /// Held, but to be let go once nothing of them is in flight.
    surplus: BTreeSet<i16>,
    /// Until when the leases last at least, by this process's monotonic clock.
    valid_until: Instant,
    next_renewal: Instant,
}

impl Leases {
    /// No leases yet; the first [`keep`](Self::keep) asks for some.
    #[must_use]
    pub fn new(owner: String, terms: String, ttl: Duration) -> Self {
        let now = Instant::now();
        let (held, surplus) = (BTreeSet::new(), BTreeSet::new());
        Self { owner, terms, ttl, held, surplus, valid_until: now, next_renewal: now }
    }

    /// Leases that are known for `ttl` from now, of no shard.
    #[cfg(test)]
    pub(super) fn known_for(ttl: Duration) -> Self {
        Self { valid_until: Instant::now() + ttl, ..Self::new("a".to_owned(), String::new(), ttl) }
    }

    /// How long a lease lasts without renewal.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// True while it is known which shards are led.
    #[must_use]
    pub fn are_known(&self) -> bool {
        Instant::now() < self.valid_until
    }

    /// Shards to read from now: led, not to be let go, and surely still ours.
    #[must_use]
    pub fn readable(&self) -> Vec<i16> {
        if !self.are_known() {
            return Vec::new();
        }
        self.held.difference(&self.surplus).copied().collect()
    }

    /// Every shard led.
    #[must_use]
    pub fn held(&self) -> Vec<i16> {
        self.held.iter().copied().collect()
    }

    /// Shards that were led at `before` and are not any longer.
    #[must_use]
    pub fn lost_since(&self, before: &Self) -> Vec<i16> {
        before.held.difference(&self.held).copied().collect()
    }

    /// A shard may be led by another although its lease should last: they are to be renewed at once.
    pub fn renew_early(&mut self) {
        self.next_renewal = Instant::now();
    }

    /// When a renewal is due: says that this replica lives, renews what it leads, lets go what is above its share and
    /// idle (`busy` says which shards are not), and takes free shards up to its share.
    ///
    /// # Errors
    /// When the database fails; leases then run out by themselves.
    pub async fn keep(
        &mut self,
        connection: &mut PgConnection,
        busy: impl Fn(i16) -> bool,
    ) -> Result<(), DatabaseError> {
        // Before asking: the lease on the database's clock starts later, so ours ends first.
        let asked = Instant::now();
        if asked < self.next_renewal {
            return Ok(());
        }
        let members = self.announce(connection).await?;
        let before = std::mem::take(&mut self.held);
        self.held = self.renew(connection).await?;
        let share = fair_share(&members, &self.owner);

        self.surplus = surplus(&self.held, share);
        let idle: Vec<i16> = self.surplus.iter().copied().filter(|shard| !busy(*shard)).collect();
        if !idle.is_empty() {
            self.release(connection, &idle).await?;
        }
        if self.held.len() < share {
            let taken = self.take(connection, share - self.held.len()).await?;
            self.held.extend(taken);
        }
        if self.held != before {
            tracing::info!(owner = self.owner, shards = ?self.held, members = members.len(), "shards led");
        }
        self.valid_until = asked + self.ttl;
        self.next_renewal = asked + self.ttl / RENEWALS_PER_LEASE;
        Ok(())
    }

    /// Notes that what was sent of the shards led may come to the topic although nobody will hear of it: their events are in
    /// doubt up to the last id given out, which unlike the last row is found at once however many rows were deleted. Whoever takes
    /// a shard notes the same of the leader before.
    ///
    /// # Errors
    /// When the database fails; it is to be noted again then.
    pub async fn doubt(&self, connection: &mut PgConnection) -> Result<(), DatabaseError> {
        let statement = sqlx::query(
            "update relay_leases
             set takes = takes + 1, doubtful_to = (select last_value from outbox_id_seq)
             where owner = $1",
        );
        bounded("note which events are in doubt", statement.bind(&self.owner).execute(connection)).await?;
        Ok(())
    }

    /// This replica's name.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Lets every shard go and leaves the members.
    ///
    /// # Errors
    /// When the database fails; the leases then run out by themselves.
    pub async fn release_all(&mut self, pool: &PgPool) -> Result<(), DatabaseError> {
        self.held.clear();
        bounded("leave the relay", async {
            sqlx::query("update relay_leases set owner = null, expires_at = null where owner = $1")
                .bind(&self.owner)
                .execute(pool)
                .await?;
            sqlx::query("delete from relay_members where owner = $1").bind(&self.owner).execute(pool).await
        })
        .await?;
        Ok(())
    }

    async fn announce(&self, connection: &mut PgConnection) -> Result<Vec<String>, DatabaseError> {
        bounded("announce this replica", async {
            sqlx::query(
                // That it knows of fences, and by which terms: see [`super::growth`].
                "insert into relay_members (owner, expires_at, fence, terms)
                 values ($1, clock_timestamp() + make_interval(secs => $2), 0, $3)
                 on conflict (owner) do update set expires_at = excluded.expires_at, terms = excluded.terms,
                     fence = coalesce(relay_members.fence, 0)",
            )
            .bind(&self.owner)
            .bind(self.ttl.as_secs_f64())
            .bind(&self.terms)
            .execute(&mut *connection)
            .await?;
            sqlx::query(
                "delete from relay_members where expires_at < clock_timestamp() - make_interval(secs => $1)",
            )
            .bind(MEMBER_RETENTION_SECONDS)
            .execute(&mut *connection)
            .await?;
            sqlx::query_scalar("select owner from relay_members where expires_at > clock_timestamp()")
                .fetch_all(&mut *connection)
                .await
        })
        .await
    }

    async fn renew(&self, connection: &mut PgConnection) -> Result<BTreeSet<i16>, DatabaseError> {
        let statement = sqlx::query_scalar(
            "update relay_leases set expires_at = clock_timestamp() + make_interval(secs => $2)
             where owner = $1 returning shard",
        );
        let shards: Vec<i16> = bounded(
            "renew leases",
            statement.bind(&self.owner).bind(self.ttl.as_secs_f64()).fetch_all(connection),
        )
        .await?;
        Ok(shards.into_iter().collect())
    }

    async fn release(&mut self, connection: &mut PgConnection, shards: &[i16]) -> Result<(), DatabaseError> {
        let statement = sqlx::query(
            "update relay_leases set owner = null, expires_at = null where owner = $1 and shard = any($2)",
        );
        bounded("let shards go", statement.bind(&self.owner).bind(shards).execute(connection)).await?;
        for shard in shards {
            self.held.remove(shard);
            self.surplus.remove(shard);
        }
        Ok(())
    }

    async fn take(&self, connection: &mut PgConnection, count: usize) -> Result<Vec<i16>, DatabaseError> {
        let statement = sqlx::query_scalar(
            "update relay_leases set owner = $1, expires_at = clock_timestamp() + make_interval(secs => $2),
                    takes = takes + 1, doubtful_to = (select last_value from outbox_id_seq)
             where shard in (select shard from relay_leases where owner is null or expires_at < clock_timestamp()
                             order by shard limit $3 for update skip locked)
             returning shard",
        )
        .bind(&self.owner)
        .bind(self.ttl.as_secs_f64())
        .bind(i64::try_from(count).unwrap_or(i64::MAX));
        bounded("take shards", statement.fetch_all(connection)).await
    }
}

/// How many shards `owner` should lead: an even split, the remainder to the first names. All shares add up to all
/// shards, whoever computes them from the same members.
fn fair_share(members: &[String], owner: &str) -> usize {
    let others_before = members.iter().filter(|member| member.as_str() < owner).count();
    // This replica counts even if the database's clock says that its own announcement is over already.
    let count = members.len().max(1);
    let shards = usize::from(SHARDS);
    shards / count + usize::from(others_before < shards % count)
}

/// The shards beyond the first `share` of those held.
fn surplus(held: &BTreeSet<i16>, share: usize) -> BTreeSet<i16> {
    held.iter().copied().skip(share).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_are_even_and_cover_every_shard(names in prop::collection::btree_set("[a-z]{1,6}", 1..40)) {
            let members: Vec<String> = names.into_iter().collect();
            let shares: Vec<usize> = members.iter().map(|member| fair_share(&members, member)).collect();
            prop_assert_eq!(shares.iter().sum::<usize>(), usize::from(SHARDS));
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            prop_assert!(most - least <= 1);
        }
    }

    #[test]
    fn what_is_held_beyond_the_share_is_surplus() {
        let held: BTreeSet<i16> = (0..16).collect();
        assert_eq!(surplus(&held, 8), (8..16).collect());
        assert!(surplus(&held, 16).is_empty());
    }

    #[test]
    fn nothing_is_readable_before_a_lease_is_had() {
        assert!(Leases::new("a".to_owned(), String::new(), Duration::from_secs(10)).readable().is_empty());
    }
}
