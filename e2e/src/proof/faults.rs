//! How each fault is done, and what shows that it happened.

pub mod processes;
pub mod network;
pub mod servers;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::plan::{Fault, Planned};
use super::points::{Act, Point};
use super::replica::Replica;
use super::world::World;

/// What became of a fault.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Happening {
    /// Its kind, or the fail point's name.
    pub kind: String,
    /// It can be shown to have happened.
    pub happened: bool,
    /// What shows it, or why it did not.
    pub detail: String,
}

/// Lets every fault of the plan come at its time; ends when the last is over.
pub async fn inject_all(world: &Arc<World>, faults: &[Planned]) -> Vec<Happening> {
    let start = Instant::now();
    let mut under_way = JoinSet::new();
    for planned in faults {
        let (world, Planned { at, fault }) = (Arc::clone(world), *planned);
        under_way.spawn(async move {
            tokio::time::sleep_until(start + Duration::from_millis(at)).await;
            inject(&world, fault).await
        });
    }
    under_way.join_all().await
}

async fn inject(world: &World, fault: Fault) -> Happening {
    let felt = match fault {
        Fault::Kill(replica) => processes::kill(&world.replicas[replica]).await,
        Fault::Freeze(replica, millis) => processes::freeze(&world.replicas[replica], lasting(millis)).await,
        Fault::Terminate(replica) => processes::terminate(&world.replicas[replica]).await,
        Fault::Roll => processes::roll(&world.replicas).await,
        Fault::FreezeKafka(millis) => servers::freeze(&world.kafka, lasting(millis)).await,
        Fault::KillKafka(millis) => servers::kill(&world.kafka, lasting(millis)).await,
        Fault::KillPostgres => servers::kill(&world.postgres.container, Duration::ZERO).await,
        Fault::CrashPostgres => servers::crash_postgres(world).await,
        Fault::TerminateBackends => servers::terminate_backends(world).await,
        Fault::FillDisk(millis) => servers::fill_disk(world, lasting(millis)).await,
        Fault::Network(route, trouble, millis) => {
            network::disturb(world, route, trouble, lasting(millis)).await
        }
    };
    let (happened, detail) = match felt {
        Ok(Some(detail)) => (true, detail),
        Ok(None) => (false, "nothing was there to feel it".to_owned()),
        Err(error) => (false, format!("{error:#}")),
    };
    Happening { kind: fault.kind().to_owned(), happened, detail }
}

/// What became of the fail points that were armed in the replica's starts.
///
/// # Errors
/// When its log can't be read.
pub fn points(replica: &Replica, log: &str) -> Vec<Happening> {
    let mut deaths: Vec<Point> = replica.ends().iter().filter_map(super::end::End::by_point).collect();
    let armed = replica.armed().into_iter();
    armed
        .map(|point| {
            let happened = match point.act {
                Act::Die => {
                    let death = deaths.iter().position(|death| *death == point);
                    death.map(|index| deaths.remove(index)).is_some()
                }
                Act::Sleep(_) => log.contains(&point.trace()),
            };
            let act = match point.act {
                Act::Die => "died".to_owned(),
                Act::Sleep(millis) => format!("slept {millis} ms"),
            };
            let detail = format!("{} {act} after {} visits", replica.name, point.after);
            Happening { kind: point.name.to_owned(), happened, detail }
        })
        .collect()
}

const fn lasting(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
