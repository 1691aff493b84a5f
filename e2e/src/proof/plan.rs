//! What a run does, from its seed alone: the shop, the clients, the replicas' settings, and which fault comes when.

pub mod fault;
pub mod shop;

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use super::points::{Act, POINTS, Point, most_passes, needs_lanes};
pub use fault::{Fault, Route, Trouble};
use shop::CURRENCY;
pub use shop::{Coupon, Product, Shop, Taste, Terms};

/// Seeds from here on are sweeps: they kill at fail points for certain, a few in each.
pub const SWEEP: u64 = 1_000_000;
/// Sweeps that visit every fail point: about one for each replica of each, so that none waits for another.
pub const SWEEPS: u64 = 3;
/// Most replicas of a run.
pub const MAX_REPLICAS: usize = 3;
/// Seconds of a shard's lease in the campaign: the shortest that still outlives a slow statement.
pub const LEASE_SECONDS: u64 = 2;

/// Shortest workload, in milliseconds.
const MIN_WORKLOAD: u64 = 4_000;
/// The workload goes on for this long after the last fault ended, in milliseconds.
const AFTERMATH: u64 = 400;
/// Faults begin within this, in milliseconds from the start of the workload.
const FIRST_FAULT: u64 = 200;
const LAST_FAULT: u64 = 3_200;
/// Of a hundred seeds, this one has Kafka away for as long as made the tutorial's service lose events: every other time it is
/// not there, and in between it is frozen, so that connections stay.
const LONG_OUTAGE: u64 = 37;
const LONG_OUTAGE_EVERY: u64 = 100;
/// It begins so many milliseconds after the workload, when there are events in hand.
const LONG_OUTAGE_AT: u64 = 500;
/// What a relay may have in hand where a run does not say: the service's default.
const IN_HAND: usize = 4000;
/// Shards of an outbox (`order_service::store::outbox::SHARDS`): of each, a relay has one row in hand whatever it may.
const SHARDS: usize = 16;
/// The writer's mode in which orders that arrive together share a transaction.
const COMBINING: &str = "combining";
/// Of this many seeds, one fills the database's disk.
const DISK_FULL_EVERY: u64 = 16;
const DISK_FULL_AT: u64 = 13;

/// One run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// What it was made from.
    pub seed: u64,
    /// Replicas of the order service.
    pub replicas: usize,
    /// Partitions of the topic.
    pub partitions: i32,
    /// Settings of the replicas, as environment.
    pub settings: BTreeMap<&'static str, String>,
    /// Clients, each making one call at a time.
    pub clients: u32,
    /// Mean pause of a client between two calls, in milliseconds.
    pub think: u64,
    /// How long the clients go on, in milliseconds.
    pub workload: u64,
    /// What they like to buy.
    pub taste: Taste,
    /// What is there to buy.
    pub shop: Shop,
    /// Fail points by replica: each of its starts arms the next.
    pub points: Vec<Vec<Point>>,
    /// Faults by time.
    pub faults: Vec<Planned>,
}

/// A fault and its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Planned {
    /// Milliseconds from the start of the workload.
    pub at: u64,
    /// What happens.
    pub fault: Fault,
}

impl Plan {
    /// The run of that seed, always the same.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let replicas = if seed >= SWEEP { MAX_REPLICAS } else { rng.random_range(1..=MAX_REPLICAS) };
        let mut settings = settings(&mut rng);
        if seed >= SWEEP {
            // A point that is never come by can't be swept.
            settings.insert("WRITER_MODE", COMBINING.to_owned());
        }
        let shop = Shop::any(&mut rng);
        let mut faults: Vec<Planned> = Vec::new();
        let count = rng.random_range(2..=4);
        while faults.len() < count {
            let at = rng.random_range(FIRST_FAULT..LAST_FAULT);
            let fault = Fault::any(&mut rng, replicas);
            // In a sweep a process that ends for another reason would take its fail point with it.
            if seed < SWEEP || fault.spares_processes() {
                faults.push(Planned { at, fault });
            }
        }
        if seed < SWEEP && seed % LONG_OUTAGE_EVERY == LONG_OUTAGE {
            let is_frozen = (seed / LONG_OUTAGE_EVERY).is_multiple_of(2);
            let outage = if is_frozen { Fault::FreezeKafka } else { Fault::KillKafka };
            faults.push(Planned { at: LONG_OUTAGE_AT, fault: outage(fault::LONG_OUTAGE_MILLIS) });
            // One event at a time would take as long again to catch up.
            settings.remove("RELAY_BATCH");
            settings.remove("RELAY_MAX_IN_FLIGHT");
        }
        if seed < SWEEP && seed % DISK_FULL_EVERY == DISK_FULL_AT {
            // The disk that can be filled belongs to a server of its own; what else happens to PostgreSQL would hide it.
            faults.retain(|planned| !planned.fault.stops_postgres());
            let millis = rng.random_range(800..2500);
            faults.push(Planned { at: rng.random_range(600..1500), fault: Fault::FillDisk(millis) });
        }
        let mut points = points(&mut rng, seed, replicas);
        if settings.get("WRITER_MODE").is_some_and(|mode| mode != COMBINING) {
            for armed in &mut points {
                // Each would be armed in vain, in the place of one that is come by.
                armed.retain(|point| !needs_lanes(point.name));
            }
        }
        faults.sort_by_key(|planned| planned.at);
        let last = faults.iter().map(|planned| planned.at + planned.fault.millis()).max().unwrap_or_default();
        Self {
            seed,
            replicas,
            partitions: rng.random_range(1..=6),
            settings,
            clients: rng.random_range(10..=32),
            think: rng.random_range(25..=110),
            workload: MIN_WORKLOAD.max(last + AFTERMATH),
            taste: Taste::any(&mut rng),
            shop,
            points,
            faults,
        }
    }

    /// Whether Kafka has to start again in it, which takes it a quarter of a minute, or is away for long.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        let kills = |planned: &Planned| matches!(planned.fault, Fault::KillKafka(_));
        self.faults.iter().any(kills) || self.workload > fault::LONG_OUTAGE_MILLIS
    }

    /// Most events that a relay may have in hand: one of each shard in any case.
    #[must_use]
    pub fn in_hand(&self) -> usize {
        let most = self.settings.get("RELAY_MAX_IN_FLIGHT").and_then(|most| most.parse().ok());
        most.unwrap_or(IN_HAND).max(SHARDS)
    }

    /// Whether the run needs the PostgreSQL whose disk can be filled.
    #[must_use]
    pub fn fills_disk(&self) -> bool {
        self.faults.iter().any(|planned| matches!(planned.fault, Fault::FillDisk(_)))
    }
}

/// Settings within what production may choose: small pages and little room in flight reach states that the defaults
/// hide behind one large batch.
fn settings(rng: &mut StdRng) -> BTreeMap<&'static str, String> {
    let mut settings = BTreeMap::from([
        ("RELAY_LEASE_SECONDS", LEASE_SECONDS.to_string()),
        ("HTTP_TIMEOUT_SECONDS", "3".to_owned()),
        ("SHUTDOWN_GRACE_SECONDS", "6".to_owned()),
        ("CURRENCY", CURRENCY.to_owned()),
    ]);
    let mut any = |name, values: &[&str]| {
        if let Some(value) = values.choose(rng) {
            settings.insert(name, (*value).to_owned());
        }
    };
    any("RELAY_BATCH", &["1", "7", "100", "1000"]);
    any("RELAY_MAX_IN_FLIGHT", &["1", "20", "400", "4000"]);
    any("RELAY_STALL_SECONDS", &["2", "5", "45"]);
    any("WRITER_MODE", &[COMBINING, COMBINING, COMBINING, "per-order"]);
    any("WRITER_LANES", &["1", "2", "4"]);
    any("WRITER_BATCH", &["1", "3", "100"]);
    any("WRITER_LINGER_MILLIS", &["0", "0", "2", "20"]);
    any("WRITER_QUEUE", &["20", "1000", "1000"]);
    any("WRITER_MAX_WAIT_MILLIS", &["100", "500", "500"]);
    any("HTTP_MAX_CONCURRENT", &["6", "256", "256", "256"]);
    any("DATABASE_MAX_CONNECTIONS", &["2", "8", "16"]);
    any("DATABASE_ACQUIRE_TIMEOUT_SECONDS", &["1", "2"]);
    settings
}

/// A sweep kills at every point once; any other run arms a few, some of which delay instead of killing.
fn points(rng: &mut StdRng, seed: u64, replicas: usize) -> Vec<Vec<Point>> {
    let mut points = vec![Vec::new(); replicas];
    if let Some(sweep) = seed.checked_sub(SWEEP) {
        let step = usize::try_from(SWEEPS).unwrap_or(1);
        let first = usize::try_from(sweep % SWEEPS).unwrap_or_default();
        for (index, name) in POINTS.iter().skip(first).step_by(step).enumerate() {
            let after = rng.random_range(1..8).min(most_passes(name));
            points[index % replicas].push(Point { name, after, act: Act::Die });
        }
        return points;
    }
    for armed in &mut points {
        for _ in 0..rng.random_range(0..=2) {
            let name = POINTS.choose(rng).copied().unwrap_or(POINTS[0]);
            let act = if rng.random_bool(0.3) { Act::Sleep(rng.random_range(100..3500)) } else { Act::Die };
            let after = rng.random_range(0..60).min(most_passes(name));
            armed.push(Point { name, after, act });
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_run() {
        for seed in [0, 1, 37, SWEEP] {
            assert_eq!(Plan::of(seed), Plan::of(seed));
        }
        assert_ne!(Plan::of(1), Plan::of(2));
    }

    #[test]
    fn two_hundred_runs_have_every_fault_and_every_point() {
        let plans: Vec<Plan> = (1..=200).map(Plan::of).collect();
        let kinds: BTreeSet<_> =
            plans.iter().flat_map(|plan| &plan.faults).map(|planned| planned.fault.kind()).collect();
        assert_eq!(kinds.len(), 18, "{kinds:?}");
        let points: BTreeSet<_> =
            plans.iter().flat_map(|plan| plan.points.iter().flatten()).map(|point| point.name).collect();
        assert_eq!(points, BTreeSet::from(POINTS));
        let long = plans.iter().filter(|plan| plan.workload > 100_000).count();
        assert_eq!(long, 2, "a few runs have the long outage, and only a few: they take minutes");
    }

    #[test]
    fn every_run_has_faults_that_end_before_its_workload_does() {
        for seed in 0..500 {
            let plan = Plan::of(seed);
            assert!(plan.faults.len() >= 2 || plan.fills_disk(), "{plan:?}");
            let last = plan.faults.iter().map(|planned| planned.at + planned.fault.millis()).max();
            assert!(last.is_some_and(|last| last < plan.workload), "{plan:?}");
        }
    }

    #[test]
    fn the_sweeps_kill_at_every_point() {
        let killed: BTreeSet<_> = (0..SWEEPS)
            .flat_map(|sweep| Plan::of(SWEEP + sweep).points.into_iter().flatten())
            .filter(|point| point.act == Act::Die)
            .map(|point| point.name)
            .collect();
        assert_eq!(killed, BTreeSet::from(POINTS));
    }

    #[test]
    fn no_point_is_armed_that_the_writer_does_not_come_by() {
        let is_plain = |plan: &Plan| plan.settings["WRITER_MODE"] != COMBINING;
        let plans: Vec<Plan> = (1..=200).chain(SWEEP..SWEEP + 40).map(Plan::of).collect();
        assert!(plans.iter().all(|plan| plan.seed < SWEEP || !is_plain(plan)));
        let plain: Vec<&Plan> = plans.iter().filter(|plan| is_plain(plan)).collect();
        assert!(plain.len() > 20, "{} of 200 runs are plain", plain.len());
        let mut armed = plain.iter().flat_map(|plan| plan.points.iter().flatten());
        assert!(armed.all(|point| !needs_lanes(point.name)));
    }
}
