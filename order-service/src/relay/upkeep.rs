//! What the relay looks after beside its work: its leases, and who is parked.

use fail::fail_point;
use sqlx::PgPool;

use super::lease::Leases;
use super::park::{self, Parked};
use crate::store::DatabaseError;

/// How things stand.
#[derive(Debug)]
pub(super) struct Upkeep {
    /// The shards led.
    pub(super) leases: Leases,
    /// The orders parked in them.
    pub(super) parked: Parked,
    /// How many orders this relay had parked by itself when the look began: what it parked since is not in it.
    pub(super) as_of: u64,
}

/// Renews leases when that is due, and looks who is parked in the shards then led. `busy` are shards of which something is
/// in hand.
pub(super) async fn upkeep(
    pool: PgPool,
    mut leases: Leases,
    busy: Vec<i16>,
    as_of: u64,
) -> Result<Upkeep, DatabaseError> {
    leases.keep(&pool, |shard| busy.contains(&shard)).await?;
    fail_point!("relay::after_lease");
    let parked = park::load(&pool, &leases.held()).await?;
    Ok(Upkeep { leases, parked, as_of })
}
