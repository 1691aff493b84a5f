//! Kafka and PostgreSQL stopped, killed, and out of disk.

use std::time::Duration;

use anyhow::Context;
use sqlx::PgPool;
use tokio::time::Instant;

use crate::proof::backends::{Container, SMALL_DISK_HOLDER};
use crate::proof::world::World;

/// Where the ballast lies on the small disk.
const BALLAST: &str = "/var/lib/pg/ballast";
/// Pause between two attempts to make PostgreSQL ask for more disk, or to freeze a container.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Attempts to freeze a container; the engine takes up to a second over each that fails.
const PAUSE_ATTEMPTS: u32 = 5;
/// What PostgreSQL logs when it has no disk.
const NO_SPACE: &str = "No space left on device";

/// Stops its processes for a while: connections stay, nothing answers.
pub async fn freeze(container: &Container, lasting: Duration) -> anyhow::Result<Option<String>> {
    let _claimed = container.claim().await;
    pause(container).await?;
    tokio::time::sleep(lasting).await;
    container.docker(&["unpause"]).await?;
    Ok(Some(format!("{} frozen for {lasting:?}", container.name)))
}

/// The kernel stops the threads one by one, and the engine gives up soon where one of them won't: while it starts a process,
/// say. Nothing is frozen then.
async fn pause(container: &Container) -> anyhow::Result<()> {
    let mut left = PAUSE_ATTEMPTS;
    loop {
        left -= 1;
        match container.docker(&["pause"]).await {
            Err(_) if left > 0 => tokio::time::sleep(ASK_EVERY).await,
            result => return result.map(drop),
        }
    }
}

/// SIGKILL to all its processes, and a start after a while.
pub async fn kill(container: &Container, down: Duration) -> anyhow::Result<Option<String>> {
    let _claimed = container.claim().await;
    container.docker(&["kill"]).await?;
    tokio::time::sleep(down).await;
    container.docker(&["start"]).await?;
    Ok(Some(format!("{} killed, and started after {down:?}", container.name)))
}

/// SIGKILL to one server process: PostgreSQL then ends all others and recovers from its WAL.
pub async fn crash_postgres(world: &World) -> anyhow::Result<Option<String>> {
    let container = &world.postgres.container;
    let _claimed = container.claim().await;
    let victim: Option<i32> = sqlx::query_scalar(
        "select pid from pg_stat_activity where datname = current_database() and application_name = 'order-service'
         order by state = 'active' desc, pid limit 1",
    )
    .fetch_optional(&world.pool)
    .await?;
    let Some(victim) = victim else { return Ok(None) };
    container.sh(&format!("kill -9 {victim}")).await?;
    Ok(Some(format!("server process {victim} killed")))
}

/// Ends every connection of the service.
pub async fn terminate_backends(world: &World) -> anyhow::Result<Option<String>> {
    end_connections(&world.pool, "order-service").await
}

/// Ends every connection of those who call themselves so.
///
/// # Errors
/// When the server does not answer.
pub async fn end_connections(pool: &PgPool, name: &str) -> anyhow::Result<Option<String>> {
    let ended: i64 = sqlx::query_scalar(
        // In two steps: the order of conditions is the planner's, and one that ends connections must not try them all.
        "with theirs as materialized (
             select pid from pg_stat_activity where datname = current_database()
             and application_name = $1 and pid <> pg_backend_pid())
         select count(*) from theirs where pg_terminate_backend(pid)",
    )
    .bind(name)
    .fetch_one(pool)
    .await?;
    Ok((ended > 0).then(|| format!("{ended} connections ended")))
}

/// Fills the disk and makes PostgreSQL ask for more of it, again and again; then frees it and starts the server if it
/// gave up.
pub async fn fill_disk(world: &World, lasting: Duration) -> anyhow::Result<Option<String>> {
    let container = &world.postgres.container;
    let _claimed = container.claim().await;
    let since = docker_time()?;
    let holder = Container::named(SMALL_DISK_HOLDER);
    // dd ends with an error: that the disk is full is what is wanted.
    holder.sh(&format!("dd if=/dev/zero of={BALLAST} bs=1M 2> /dev/null || true")).await?;
    let until = Instant::now() + lasting;
    while Instant::now() < until {
        // Each new segment of the WAL takes 16 MB; the server may be down already.
        let _ =
            tokio::time::timeout(lasting, sqlx::query("select pg_switch_wal()").execute(&world.pool)).await;
        tokio::time::sleep(ASK_EVERY).await;
    }
    holder.sh(&format!("rm -f {BALLAST}")).await?;
    if container.state().await? != "running" {
        container.docker(&["start"]).await?;
    }
    let refusals = container.logged(&since, NO_SPACE).await?;
    Ok((refusals > 0).then(|| format!("disk full for {lasting:?}: PostgreSQL said so {refusals} times")))
}

/// The time now, as docker reads it.
///
/// # Errors
/// When the clock is before 1970.
pub fn docker_time() -> anyhow::Result<String> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let since = since.context("the clock is before 1970")?;
    Ok(format!("{}.{:09}", since.as_secs(), since.subsec_nanos()))
}
