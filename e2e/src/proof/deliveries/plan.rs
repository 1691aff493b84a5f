//! What a run does, from its seed and its guarantee alone.

use std::collections::BTreeMap;

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use crate::proof::plan::Trouble;

/// Longest pause between two events of one order, in milliseconds: with at most eight of them, histories overlap.
const MOST_PAUSE: u64 = 400;
/// Faults begin within this, in milliseconds from the start of the load.
const FIRST_FAULT: u64 = 300;
const LAST_FAULT: u64 = 3_500;
/// The load goes on for at least this long, in milliseconds.
const LOAD_MILLIS: u64 = 5_000;
/// Beyond the session's timeout of ten seconds: the group gives the member's partitions to others.
const BEYOND_SESSION: std::ops::Range<u64> = 11_500..13_500;
/// Of so many faults of a member, one freezes it that long, but where the guarantee is exactly once: such runs take a quarter of a
/// minute more.
const FREEZE_ONE_IN: u32 = 4;

/// Of a hundred seeds, in this one the sink is away for five minutes, which is longer than any attempt or session lasts.
const LONG_OUTAGE: u64 = 37;
const LONG_OUTAGE_MILLIS: u64 = 300_000;

/// Statements that the PostgreSQL sink lets be under way at once for one partition.
const POSTGRES_LANES: usize = 2;

/// The guarantee under trial.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ValueEnum)]
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

/// How the HTTP sink treats what it gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Mood {
    /// It applies and says so.
    Fair,
    /// It takes 300 ms over everything.
    Slow,
    /// It applies and says nothing.
    Mute,
    /// It applies and answers 500.
    Lying,
    /// It applies nothing and answers 429 with a time.
    Busy,
    /// It applies nothing and answers 503.
    Down,
}

/// Something that goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// SIGKILL; it starts again.
    Kill(usize),
    /// SIGSTOP, and SIGCONT after the group gave its partitions away.
    Freeze(usize, u64),
    /// SIGTERM to one member after the other, as a new release does.
    Roll,
    /// A member joins and leaves, three times.
    Storm,
    /// Nothing passes between any member and Kafka, the group's coordinator included, for this long.
    CutKafka(u64),
    /// The wire of one member to Kafka.
    Kafka(usize, Trouble, u64),
    /// The wire of one member to PostgreSQL; with an HTTP sink, a mood.
    Sink(usize, Trouble, u64),
    /// PostgreSQL ends every connection of the members; with an HTTP sink, a mood.
    EndConnections,
    /// The HTTP sink's mood; with PostgreSQL, its wire.
    Mood(Mood, u64),
}

/// A fault and its time, in milliseconds from the start of the load.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Planned {
    /// When.
    pub at: u64,
    /// What.
    pub fault: Fault,
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
    pub poison: usize,
    /// Of a hundred orders, the events of so many are published once more, late, as by a relay that was frozen. The two guarantees
    /// that repeat nothing are shown on a topic that repeats nothing.
    pub doubled_percent: u32,
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
        let members = rng.random_range(1..=3);
        // At most once gives up what a sink does not take, so its loss is told by a sink that counts: the receiver.
        let is_http = guarantee == Guarantee::AtMostOnce || rng.random_bool(0.5);
        let sink = if is_http { Kind::Http } else { Kind::Postgres };
        let orders: Vec<i64> = (0..rng.random_range(60..300)).map(|_| rng.random_range(1..=8)).collect();
        let mut refused = BTreeMap::new();
        for _ in 0..rng.random_range(0..=4) {
            let order = rng.random_range(0..orders.len());
            refused.insert(order, rng.random_range(1..=orders[order]));
        }
        let count = rng.random_range(2..=4);
        let mut faults: Vec<Planned> = (0..count)
            .map(|_| Planned {
                at: rng.random_range(FIRST_FAULT..LAST_FAULT),
                fault: any(&mut rng, members, sink, guarantee),
            })
            .collect();
        faults.sort_by_key(|planned| planned.at);
        let is_long = seed % 100 == LONG_OUTAGE;
        if is_long {
            faults = vec![
                Planned { at: FIRST_FAULT, fault: Fault::Mood(Mood::Down, LONG_OUTAGE_MILLIS) },
                Planned { at: LAST_FAULT, fault: Fault::Kill(0) },
            ];
        }
        Self {
            seed,
            guarantee,
            members,
            partitions: rng.random_range(1..=6),
            sink: if is_long { Kind::Http } else { sink },
            settings: settings(&mut rng),
            orders,
            refused,
            poison: rng.random_range(0..=6),
            doubled_percent: if guarantee == Guarantee::AtLeastOnce { rng.random_range(0..30) } else { 0 },
            pause: rng.random_range(20..MOST_PAUSE),
            load: LOAD_MILLIS,
            faults,
        }
    }

    /// Records that a member has in hand at most of one partition, between its calls of the sink or in one of them: what the sink
    /// takes at once, in so many calls side by side.
    #[must_use]
    pub fn in_hand(&self) -> usize {
        let setting = |name: &str| self.settings.get(name).and_then(|value| value.parse().ok()).unwrap_or(1);
        let (batch, lanes) = match (self.sink, self.guarantee) {
            // One request for each event, but where the sink keeps the place.
            (Kind::Http, Guarantee::AtMostOnce | Guarantee::AtLeastOnce) => (1, setting("LANES")),
            (Kind::Http, Guarantee::ExactlyOnce) => (setting("BATCH_MAX_RECORDS"), 1),
            (Kind::Postgres, _) => (setting("BATCH_MAX_RECORDS"), setting("LANES").min(POSTGRES_LANES)),
        };
        match self.guarantee {
            Guarantee::AtLeastOnce => lanes * batch,
            Guarantee::AtMostOnce | Guarantee::ExactlyOnce => batch,
        }
    }
}

fn settings(rng: &mut StdRng) -> BTreeMap<&'static str, String> {
    let mut settings = BTreeMap::from([
        ("RETRY_INITIAL_BACKOFF_MILLIS", "20".to_owned()),
        ("RETRY_MAX_BACKOFF_SECONDS", "1".to_owned()),
        ("SINK_HTTP_TIMEOUT_SECONDS", "1".to_owned()),
        ("SHUTDOWN_GRACE_SECONDS", "6".to_owned()),
    ]);
    let mut any = |name, values: &[&str]| {
        if let Some(value) = values.choose(rng) {
            settings.insert(name, (*value).to_owned());
        }
    };
    any("LANES", &["1", "4", "16"]);
    any("BATCH_MAX_RECORDS", &["1", "10", "200"]);
    any("RETRY_MAX_ATTEMPTS", &["1", "2", "3"]);
    settings
}

fn any(rng: &mut StdRng, members: usize, sink: Kind, guarantee: Guarantee) -> Fault {
    // Who wakes up and finds its partitions taken is what exactly once is put to the test by.
    let freeze_one_in = if guarantee == Guarantee::ExactlyOnce { 1 } else { FREEZE_ONE_IN };
    let member = rng.random_range(0..members);
    let lasting = rng.random_range(500..3000);
    match rng.random_range(0..20) {
        0..=3 => Fault::Kill(member),
        4..=6 if rng.random_ratio(1, freeze_one_in) => {
            Fault::Freeze(member, rng.random_range(BEYOND_SESSION))
        }
        4..=6 => Fault::Kill(member),
        7 => Fault::Roll,
        8 => Fault::Storm,
        9..=10 => Fault::CutKafka(lasting),
        11..=12 => Fault::Kafka(member, trouble(rng), lasting),
        _ => match sink {
            Kind::Postgres if rng.random_bool(0.4) => Fault::EndConnections,
            Kind::Postgres => Fault::Sink(member, trouble(rng), lasting),
            Kind::Http => {
                let moods = [Mood::Slow, Mood::Mute, Mood::Lying, Mood::Busy, Mood::Down];
                Fault::Mood(moods.choose(rng).copied().unwrap_or(Mood::Down), lasting)
            }
        },
    }
}

fn trouble(rng: &mut StdRng) -> Trouble {
    let troubles =
        [Trouble::Cut, Trouble::CutToBackend, Trouble::Delay, Trouble::Loss, Trouble::Reset, Trouble::Forget];
    troubles.choose(rng).copied().unwrap_or(Trouble::Cut)
}

impl Fault {
    /// A word for the summary.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Kill(_) => "SIGKILL of a member",
            Self::Freeze(..) => "SIGSTOP beyond the session",
            Self::Roll => "rolling restart",
            Self::Storm => "rebalance storm",
            Self::CutKafka(_) => "coordinator unreachable",
            Self::Kafka(..) => "a member's wire to Kafka",
            Self::Sink(..) => "a member's wire to PostgreSQL",
            Self::EndConnections => "connections ended by PostgreSQL",
            Self::Mood(Mood::Fair | Mood::Slow, _) => "sink slow",
            Self::Mood(Mood::Mute, _) => "sink applies and hangs",
            Self::Mood(Mood::Lying, _) => "sink applies and answers 500",
            Self::Mood(Mood::Busy, _) => "sink answers 429",
            Self::Mood(Mood::Down, _) => "sink answers 503",
        }
    }

    /// Whether members may end or lose partitions by it.
    #[must_use]
    pub const fn moves_partitions(self) -> bool {
        !matches!(self, Self::Mood(..) | Self::EndConnections | Self::Sink(..))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_run() {
        assert_eq!(Plan::of(7, Guarantee::AtLeastOnce), Plan::of(7, Guarantee::AtLeastOnce));
        assert_ne!(Plan::of(7, Guarantee::AtLeastOnce), Plan::of(8, Guarantee::AtLeastOnce));
    }

    #[test]
    fn two_hundred_runs_have_every_fault() {
        let kinds = |guarantee| -> BTreeSet<&str> {
            let plans = (1..=200).map(|seed| Plan::of(seed, guarantee));
            plans.flat_map(|plan| plan.faults).map(|planned| planned.fault.kind()).collect()
        };
        assert_eq!(kinds(Guarantee::AtLeastOnce).len(), 13, "{:?}", kinds(Guarantee::AtLeastOnce));
        assert_eq!(kinds(Guarantee::AtMostOnce).len(), 11, "{:?}", kinds(Guarantee::AtMostOnce));
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
