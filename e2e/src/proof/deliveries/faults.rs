//! How each fault is done, and what shows that it happened.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::cost::Felt;
use super::plan::{Fault, Mood, Planned};
use super::world::World;
use crate::proof::faults::{Happening, network, processes, servers};
use crate::proof::plan::Trouble;
use crate::proof::proxy::Link;

/// How often a guest joins and leaves in a storm.
const STORM_VISITS: u32 = 2;
/// Longest wait for a guest to get a partition: a member that went without a word is missed after a session of ten seconds, and the
/// others hear of each step of a rebalance with their next heartbeat, within three.
const GETS_WITHIN: Duration = Duration::from_secs(25);
/// Pause between looks at what it has got.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long it stays when it has, and stays away: it works on some records, and so does who gets the partition back.
const STORM_PAUSE: Duration = Duration::from_millis(700);

/// Lets every fault of the plan come at its time; ends when the last is over. What became of each, and when each was tried.
pub async fn inject_all(world: &Arc<World>, faults: &[Planned]) -> (Vec<Happening>, Vec<Felt>) {
    let start = Instant::now();
    let mut under_way = JoinSet::new();
    for planned in faults {
        let (world, Planned { at, fault }) = (Arc::clone(world), *planned);
        under_way.spawn(async move {
            tokio::time::sleep_until(start + Duration::from_millis(at)).await;
            let from = Timestamp::now().as_millisecond();
            let (happened, detail) = match inject(&world, fault).await {
                Ok(Some(detail)) => (true, detail),
                Ok(None) => (false, "nothing was there to feel it".to_owned()),
                Err(error) => (false, format!("{error:#}")),
            };
            let tried = Felt { fault, from, until: Timestamp::now().as_millisecond() };
            (Happening { kind: fault.kind().to_owned(), happened, detail }, tried)
        });
    }
    under_way.join_all().await.into_iter().unzip()
}

async fn inject(world: &World, fault: Fault) -> anyhow::Result<Option<String>> {
    let lasting = Duration::from_millis;
    match fault {
        Fault::Kill(member) => processes::kill(&world.members[member]).await,
        Fault::Freeze(member, millis) => processes::freeze(&world.members[member], lasting(millis)).await,
        Fault::Roll => processes::roll(&world.members).await,
        Fault::Storm => storm(world).await,
        Fault::CutKafka(millis) => {
            let links: Vec<&Link> = world.to_kafka.iter().collect();
            network::disturb_links(&links, "Kafka", Trouble::Cut, lasting(millis)).await
        }
        Fault::Kafka(member, trouble, millis) => {
            network::disturb_links(&[&world.to_kafka[member]], "Kafka", trouble, lasting(millis)).await
        }
        Fault::Sink(member, trouble, millis) => {
            network::disturb_links(&[&world.to_postgres[member]], "PostgreSQL", trouble, lasting(millis))
                .await
        }
        Fault::EndConnections => servers::end_connections(&world.pool, &world.group).await,
        Fault::Mood(mood, millis) => be(world, mood, lasting(millis)).await,
    }
}

async fn be(world: &World, mood: Mood, lasting: Duration) -> anyhow::Result<Option<String>> {
    let before = world.sink.ledger().moody;
    world.sink.mood(mood);
    tokio::time::sleep(lasting).await;
    world.sink.mood(Mood::Fair);
    let felt = world.sink.ledger().moody - before;
    Ok((felt > 0).then(|| format!("{felt} requests met the sink's mood {mood:?} within {lasting:?}")))
}

async fn storm(world: &World) -> anyhow::Result<Option<String>> {
    let mut visits = 0;
    for _ in 0..STORM_VISITS {
        let guest = world.invite().await?;
        let deadline = Instant::now() + GETS_WITHIN;
        while !guest.got_partitions()? && Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        tokio::time::sleep(STORM_PAUSE).await;
        visits += u32::from(guest.got_partitions()?);
        world.see_off(guest).await;
        tokio::time::sleep(STORM_PAUSE).await;
    }
    Ok((visits > 0).then(|| format!("a guest got partitions and left, {visits} times")))
}
