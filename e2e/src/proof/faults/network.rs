//! Bad networks between replicas and backends.

use std::time::Duration;

use crate::proof::plan::{Route, Trouble};
use crate::proof::proxy::{Link, Weather};
use crate::proof::world::World;

/// What `Trouble::Delay` adds each way.
const DELAY: Duration = Duration::from_millis(200);
/// Of a hundred pieces, how many `Trouble::Loss` loses.
const LOSS_PERCENT: u32 = 5;

/// Makes the network of that route bad for a while. Felt when a piece was held back or made late, or a connection broke.
pub async fn disturb(
    world: &World,
    route: Route,
    trouble: Trouble,
    lasting: Duration,
) -> anyhow::Result<Option<String>> {
    let links: Vec<&Link> = match route {
        Route::Postgres(replica) => vec![&world.to_postgres[replica]],
        Route::AllPostgres => world.to_postgres.iter().collect(),
        Route::Kafka(replica) => vec![&world.to_kafka[replica]],
        Route::AllKafka => world.to_kafka.iter().collect(),
    };
    disturb_links(&links, &format!("{route:?}"), trouble, lasting).await
}

/// The same on these wires, which are called `name`.
///
/// # Errors
/// None so far.
pub async fn disturb_links(
    links: &[&Link],
    name: &str,
    trouble: Trouble,
    lasting: Duration,
) -> anyhow::Result<Option<String>> {
    // Always in the order of the replicas, so that no two faults wait for each other.
    let mut claims = Vec::new();
    for link in links {
        claims.push(link.claim().await);
    }
    let before = touched(links);
    for link in links {
        match trouble {
            Trouble::Cut => link.set(Weather::Cut, Weather::Cut),
            Trouble::CutToBackend => link.set(Weather::Cut, Weather::Fair),
            Trouble::CutToService => link.set(Weather::Fair, Weather::Cut),
            Trouble::Delay => link.set(Weather::Late(DELAY), Weather::Late(DELAY)),
            Trouble::Loss => link.set(Weather::Lossy(LOSS_PERCENT), Weather::Lossy(LOSS_PERCENT)),
            Trouble::Reset => link.reset(),
            Trouble::Forget => link.forget(),
        }
    }
    tokio::time::sleep(lasting).await;
    if !matches!(trouble, Trouble::Reset | Trouble::Forget) {
        links.iter().for_each(|link| link.heal());
    } else {
        // The connections' tasks count themselves.
        tokio::task::yield_now().await;
    }
    let felt = touched(links) - before;
    Ok((felt > 0).then(|| format!("{name} {trouble:?} for {lasting:?}: {felt} pieces or connections")))
}

fn touched(links: &[&Link]) -> u64 {
    links.iter().map(|link| link.touched()).sum()
}
