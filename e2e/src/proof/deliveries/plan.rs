//! What a run does, from its seed and its guarantee alone.

pub mod fault;
pub mod poison;

use std::collections::BTreeMap;
use std::ops::Range;

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

pub use fault::{Fault, Mood, Planned};
pub use poison::{Flaw, Poison};

use fault::Shape;

/// Orders of a run.
const ORDERS: Range<usize> = 60..300;
/// Longest pause between two events of one order, in milliseconds: with at most eight of them, histories overlap.
const MOST_PAUSE: u64 = 400;
/// Faults begin within this, in milliseconds from the start of the load.
const FAULTS: Range<u64> = 300..3_500;
/// The load goes on for at least this long, in milliseconds.
const LOAD_MILLIS: u64 = 5_000;

/// Of so many seeds, one has everything in the topic before the members get at it, and a sink that takes some ten seconds over it:
/// there is always something in hand, and much that is done beyond something that is not.
const BACKLOG_ONE_IN: u32 = 3;
/// Orders of such a run.
const BACKLOG_ORDERS: Range<usize> = 180..280;
/// Milliseconds that its sink takes over an event.
const DRAG: Range<u64> = 8..15;
/// Faults begin within this, in milliseconds from the first event at the sink: late enough for most of what was done to be
/// committed, early enough for much to be left.
const BACKLOG_FAULTS: Range<u64> = 4_000..8_000;
/// Settings that such a sink can bear: a call that takes longer than the client waits would be made for ever.
const BACKLOG_LANES: [&str; 2] = ["1", "4"];
const BACKLOG_BATCHES: [&str; 2] = ["1", "10"];

/// Of so many seeds, one leaves members and Kafka alone: what is repeated then has no excuse but the sink's.
const CALM_ONE_IN: u32 = 8;

/// Of a hundred seeds, in this one the sink is away for five minutes, which is longer than any attempt or session lasts.
const LONG_OUTAGE: u64 = 37;
const LONG_OUTAGE_MILLIS: u64 = 300_000;

/// Statements that the PostgreSQL sink lets be under way at once for one partition.
const POSTGRES_LANES: usize = 2;

/// The guarantee under trial.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ValueEnum)]
pub enum Guarantee {
    /// Nothing twice.
    #[value(name = "AtMostOnce")]
    AtMostOnce,
    /// Nothing lost.
    #[value(name = "AtLeastOnce")]
    AtLeastOnce,
    /// Neither.
    #[value(name = "ExactlyOnce")]
    ExactlyOnce,
}

/// Which sink the members deliver to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Kind {
    /// The campaign's own receiver, which has moods.
    Http,
    /// A table, whose server has faults.
    Postgres,
}

/// A run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// What it was made from.
    pub seed: u64,
    /// … and for.
    pub guarantee: Guarantee,
    /// Members of the group.
    pub members: usize,
    /// Partitions of the topic.
    pub partitions: i32,
    /// Where they deliver.
    pub sink: Kind,
    /// Their settings.
    pub settings: BTreeMap<&'static str, String>,
    /// Orders, each with the number of its versions.
    pub orders: Vec<i64>,
    /// Of these orders the sink refuses this version.
    pub refused: BTreeMap<usize, i64>,
    /// Records that are no events.
    pub poison: Vec<Poison>,
    /// Of a hundred orders, the events of so many are published once more, late, as by a relay that was frozen. The two guarantees
    /// that repeat nothing are shown on a topic that repeats nothing.
    pub doubled_percent: u32,
    /// Everything is in the topic at once, order by order.
    pub is_backlog: bool,
    /// Milliseconds that the sink takes over each event, one after another.
    pub drag: u64,
    /// Milliseconds between two events of an order.
    pub pause: u64,
    /// How long the load goes on, at least.
    pub load: u64,
    /// Faults by time.
    pub faults: Vec<Planned>,
}

impl Plan {
    /// The run of that seed, always the same.
    #[must_use]
    pub fn of(seed: u64, guarantee: Guarantee) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let is_long = seed % 100 == LONG_OUTAGE;
        let is_backlog = rng.random_ratio(1, BACKLOG_ONE_IN) && !is_long;
        // At most once gives up what a sink does not take, so its loss is told by a sink that counts: the receiver.
        let is_http = rng.random_bool(0.5) || guarantee == Guarantee::AtMostOnce || is_long;
        let shape = Shape {
            guarantee,
            members: rng.random_range(1..=3),
            partitions: rng.random_range(1..=6),
            sink: if is_http { Kind::Http } else { Kind::Postgres },
        };
        let count = rng.random_range(if is_backlog { BACKLOG_ORDERS } else { ORDERS });
        let orders: Vec<i64> = (0..count).map(|_| rng.random_range(1..=8)).collect();
        let faults = if is_long { long_outage() } else { faults(&mut rng, shape, is_backlog) };
        Self {
            seed,
            guarantee,
            members: shape.members,
            partitions: shape.partitions,
            sink: shape.sink,
            settings: settings(&mut rng, is_backlog),
            refused: refused(&mut rng, &orders),
            poison: (0..rng.random_range(0..=6)).map(|_| Poison::any(&mut rng, &orders)).collect(),
            orders,
            doubled_percent: if guarantee == Guarantee::AtLeastOnce { rng.random_range(0..30) } else { 0 },
            is_backlog,
            drag: if is_backlog { rng.random_range(DRAG) } else { 0 },
            pause: rng.random_range(20..MOST_PAUSE),
            load: LOAD_MILLIS,
            faults,
        }
    }

    /// Records that a member has in hand at most of one partition, between its calls of the sink or in one of them: what the sink
    /// takes at once, in so many calls side by side.
    #[must_use]
    pub fn in_hand(&self) -> usize {
        let batch = match (self.sink, self.guarantee) {
            // One request for each event, but where the sink keeps the place.
            (Kind::Http, Guarantee::AtMostOnce | Guarantee::AtLeastOnce) => 1,
            (Kind::Http, Guarantee::ExactlyOnce) | (Kind::Postgres, _) => self.setting("BATCH_MAX_RECORDS"),
        };
        batch * self.calls()
    }

    /// Calls of the sink that there are at most at once for one partition.
    fn calls(&self) -> usize {
        match (self.guarantee, self.sink) {
            (Guarantee::AtMostOnce | Guarantee::ExactlyOnce, _) => 1,
            (Guarantee::AtLeastOnce, Kind::Http) => self.setting("LANES"),
            (Guarantee::AtLeastOnce, Kind::Postgres) => self.setting("LANES").min(POSTGRES_LANES),
        }
    }

    /// Milliseconds that PostgreSQL takes over a row, so that all calls side by side come to one event in each `drag`: they don't
    /// wait for one another there, as a statement that waits too long is given up and carried out all the same.
    #[must_use]
    pub fn drag_of_row(&self) -> u64 {
        let side_by_side = self.calls() * usize::try_from(self.partitions).unwrap_or(1);
        self.drag * u64::try_from(side_by_side).unwrap_or(1)
    }

    fn setting(&self, name: &str) -> usize {
        self.settings.get(name).and_then(|value| value.parse().ok()).unwrap_or(1)
    }
}

fn faults(rng: &mut StdRng, shape: Shape, is_backlog: bool) -> Vec<Planned> {
    let (count, is_calm) = (rng.random_range(2..=4), rng.random_ratio(1, CALM_ONE_IN));
    let mut faults = Vec::new();
    for _ in 0..count {
        let at = rng.random_range(if is_backlog { BACKLOG_FAULTS } else { FAULTS });
        let fault = if is_calm { Fault::of_sink(rng, shape) } else { Fault::any(rng, shape) };
        faults.push(Planned { at, fault });
    }
    faults.sort_by_key(|planned| planned.at);
    faults
}

fn long_outage() -> Vec<Planned> {
    vec![
        Planned { at: FAULTS.start, fault: Fault::Mood(Mood::Down, LONG_OUTAGE_MILLIS) },
        Planned { at: FAULTS.end, fault: Fault::Kill(0) },
    ]
}

fn refused(rng: &mut StdRng, orders: &[i64]) -> BTreeMap<usize, i64> {
    let mut refused = BTreeMap::new();
    for _ in 0..rng.random_range(0..=4) {
        let order = rng.random_range(0..orders.len());
        refused.insert(order, rng.random_range(1..=orders[order]));
    }
    refused
}

fn settings(rng: &mut StdRng, is_backlog: bool) -> BTreeMap<&'static str, String> {
    let mut settings = BTreeMap::from([
        ("RETRY_INITIAL_BACKOFF_MILLIS", "20".to_owned()),
        ("RETRY_MAX_BACKOFF_SECONDS", "1".to_owned()),
        // Longer than a busy machine takes over a call that nothing is wrong with: one that is given up and yet carried out is
        // nobody's fault, and would count as one.
        ("SINK_HTTP_TIMEOUT_SECONDS", "2".to_owned()),
        ("SHUTDOWN_GRACE_SECONDS", "6".to_owned()),
    ]);
    let mut any = |name, values: &[&str]| {
        if let Some(value) = values.choose(rng) {
            settings.insert(name, (*value).to_owned());
        }
    };
    if is_backlog {
        any("LANES", &BACKLOG_LANES);
        any("BATCH_MAX_RECORDS", &BACKLOG_BATCHES);
    } else {
        any("LANES", &["1", "4", "16"]);
        any("BATCH_MAX_RECORDS", &["1", "10", "200"]);
    }
    any("RETRY_MAX_ATTEMPTS", &["1", "2", "3"]);
    settings
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn plans(guarantee: Guarantee, count: u64) -> impl Iterator<Item = Plan> {
        (1..=count).map(move |seed| Plan::of(seed, guarantee))
    }

    fn faults_of(guarantee: Guarantee, count: u64) -> impl Iterator<Item = (Plan, Fault)> {
        plans(guarantee, count).flat_map(|plan| {
            let faults: Vec<Fault> = plan.faults.iter().map(|planned| planned.fault).collect();
            faults.into_iter().map(move |fault| (plan.clone(), fault))
        })
    }

    #[test]
    fn a_seed_always_gives_the_same_run() {
        assert_eq!(Plan::of(7, Guarantee::AtLeastOnce), Plan::of(7, Guarantee::AtLeastOnce));
        assert_ne!(Plan::of(7, Guarantee::AtLeastOnce), Plan::of(8, Guarantee::AtLeastOnce));
    }

    #[test]
    fn two_hundred_runs_have_every_fault() {
        let kinds = |guarantee| -> BTreeSet<&str> {
            faults_of(guarantee, 200).map(|(_, fault)| fault.kind()).collect()
        };
        assert_eq!(kinds(Guarantee::AtLeastOnce).len(), 14, "{:?}", kinds(Guarantee::AtLeastOnce));
        assert_eq!(kinds(Guarantee::AtMostOnce).len(), 12, "{:?}", kinds(Guarantee::AtMostOnce));
    }

    #[test]
    fn a_third_of_the_runs_begin_behind_a_backlog_that_its_sink_takes_seconds_over() {
        let backlogs: Vec<Plan> = plans(Guarantee::AtLeastOnce, 600).filter(|plan| plan.is_backlog).collect();
        assert!((150..250).contains(&backlogs.len()), "{}", backlogs.len());
        for plan in backlogs {
            let millis = plan.drag * plan.orders.iter().sum::<i64>().unsigned_abs();
            assert!((4_000..25_000).contains(&millis), "seed {}: {millis} ms", plan.seed);
            let longest_call = plan.drag_of_row() * u64::try_from(plan.in_hand()).unwrap();
            assert!(longest_call < 5_000, "seed {}: {longest_call} ms", plan.seed);
        }
    }

    #[test]
    fn who_sleeps_has_an_heir_and_a_guest_gets_a_partition() {
        for guarantee in [Guarantee::AtMostOnce, Guarantee::AtLeastOnce, Guarantee::ExactlyOnce] {
            for (plan, fault) in faults_of(guarantee, 500) {
                let partitions = usize::try_from(plan.partitions).unwrap();
                match fault {
                    Fault::Freeze(..) => assert!(plan.members > 1 && partitions >= plan.members, "{plan:?}"),
                    Fault::Storm => assert!(partitions > plan.members, "{plan:?}"),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn some_cuts_outlast_the_session_and_most_do_not() {
        let cuts: Vec<Fault> = faults_of(Guarantee::AtLeastOnce, 1_000)
            .map(|(_, fault)| fault)
            .filter(|fault| matches!(fault, Fault::CutKafka(_)))
            .collect();
        let long = cuts.iter().filter(|fault| fault.outlasts_session()).count();
        assert!(long * 10 > cuts.len() && long * 2 < cuts.len(), "{long} of {}", cuts.len());
    }

    #[test]
    fn poison_is_of_every_kind_and_some_of_it_has_the_key_of_an_order() {
        let all: Vec<Poison> = plans(Guarantee::ExactlyOnce, 200).flat_map(|plan| plan.poison).collect();
        for flaw in Flaw::ALL {
            let of_order: Vec<bool> = all
                .iter()
                .filter(|poison| poison.flaw == flaw)
                .map(|poison| poison.behind.is_some())
                .collect();
            assert!(of_order.contains(&false), "{flaw:?}");
            assert_eq!(of_order.contains(&true), flaw != Flaw::NoKey, "{flaw:?}");
        }
    }

    #[test]
    fn in_hand_is_what_the_sink_takes_at_once_whatever_the_settings_ask_for() {
        let in_hand = |sink, guarantee| {
            let mut plan = Plan { sink, ..Plan::of(1, guarantee) };
            plan.settings.extend([("LANES", "16".to_owned()), ("BATCH_MAX_RECORDS", "200".to_owned())]);
            plan.in_hand()
        };
        assert_eq!(in_hand(Kind::Http, Guarantee::AtMostOnce), 1);
        assert_eq!(in_hand(Kind::Http, Guarantee::AtLeastOnce), 16);
        assert_eq!(in_hand(Kind::Http, Guarantee::ExactlyOnce), 200);
        assert_eq!(in_hand(Kind::Postgres, Guarantee::AtLeastOnce), 400);
    }
}
