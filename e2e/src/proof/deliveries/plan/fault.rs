//! What can go wrong for a group.

use std::ops::Range;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde::Serialize;

use super::{Guarantee, Kind};
use crate::proof::plan::Trouble;

/// How long troubles last, in milliseconds, where nothing else is said.
const LASTING: Range<u64> = 500..3_000;
/// Beyond the session's timeout of ten seconds: the group gives the member's partitions to others.
const BEYOND_SESSION: Range<u64> = 11_500..13_500;
/// The same of a cut, which may also last until a member that hears of no broker makes itself anew (15 s).
const CUT_BEYOND_SESSION: Range<u64> = BEYOND_SESSION.start..20_000;
/// Of so many cuts between members and Kafka, one lasts that long: such runs take a quarter of a minute more.
const CUT_ONE_IN: u32 = 4;
/// Of so many faults of a member, one freezes it beyond the session, but where the guarantee is exactly once: such runs take a
/// quarter of a minute more.
const FREEZE_ONE_IN: u32 = 4;

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
    /// A guest joins, has partitions and leaves, twice.
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

/// A fault and its time, in milliseconds from when the run is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Planned {
    /// When.
    pub at: u64,
    /// What.
    pub fault: Fault,
}

/// What decides which faults there can be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) guarantee: Guarantee,
    pub(super) members: usize,
    pub(super) partitions: i32,
    pub(super) sink: Kind,
}

impl Shape {
    /// Each member has a partition, and there is another member that it can go to.
    fn has_heirs(self) -> bool {
        self.members > 1 && self.partition_count() >= self.members
    }

    /// One member more would have a partition, too.
    fn has_room(self) -> bool {
        self.partition_count() > self.members
    }

    fn partition_count(self) -> usize {
        usize::try_from(self.partitions).unwrap_or_default()
    }
}

impl Fault {
    /// Any that this group can have.
    pub(super) fn any(rng: &mut StdRng, shape: Shape) -> Self {
        // Who wakes up and finds its partitions taken is what exactly once is put to the test by.
        let freeze_one_in = if shape.guarantee == Guarantee::ExactlyOnce { 1 } else { FREEZE_ONE_IN };
        let member = rng.random_range(0..shape.members);
        match rng.random_range(0..20) {
            0..=3 => Self::Kill(member),
            4..=6 if shape.has_heirs() && rng.random_ratio(1, freeze_one_in) => {
                Self::Freeze(member, rng.random_range(BEYOND_SESSION))
            }
            4..=6 => Self::Kill(member),
            7 => Self::Roll,
            8 if shape.has_room() => Self::Storm,
            8 => Self::Roll,
            9..=10 => Self::CutKafka(lasting(rng, Trouble::Cut)),
            11..=12 => {
                let trouble = trouble(rng);
                Self::Kafka(member, trouble, lasting(rng, trouble))
            }
            _ => Self::of_sink(rng, shape),
        }
    }

    /// Any that leaves members and Kafka alone.
    pub(super) fn of_sink(rng: &mut StdRng, Shape { members, sink, .. }: Shape) -> Self {
        let millis = rng.random_range(LASTING);
        match sink {
            Kind::Postgres if rng.random_bool(0.4) => Self::EndConnections,
            Kind::Postgres => Self::Sink(rng.random_range(0..members), trouble(rng), millis),
            Kind::Http => {
                let moods = [Mood::Slow, Mood::Mute, Mood::Lying, Mood::Busy, Mood::Down];
                Self::Mood(moods.choose(rng).copied().unwrap_or(Mood::Down), millis)
            }
        }
    }

    /// A word for the summary.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Kill(_) => "SIGKILL of a member",
            Self::Freeze(..) => "SIGSTOP beyond the session",
            Self::Roll => "rolling restart",
            Self::Storm => "rebalance storm",
            Self::CutKafka(_) | Self::Kafka(..) if self.outlasts_session() => "Kafka cut beyond the session",
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

    /// Whether it keeps a member from the group for so long that its session ends.
    #[must_use]
    pub const fn outlasts_session(self) -> bool {
        match self {
            Self::Freeze(_, millis) | Self::CutKafka(millis) | Self::Kafka(_, _, millis) => {
                millis >= BEYOND_SESSION.start
            }
            _ => false,
        }
    }

    /// Whether calls of Kafka or of the sink may take longer by it than a member that is told to stop waits for them.
    #[must_use]
    pub const fn holds_calls_up(self) -> bool {
        matches!(self, Self::CutKafka(_) | Self::Kafka(..) | Self::Sink(..) | Self::Mood(..))
    }
}

fn trouble(rng: &mut StdRng) -> Trouble {
    let troubles =
        [Trouble::Cut, Trouble::CutToBackend, Trouble::Delay, Trouble::Loss, Trouble::Reset, Trouble::Forget];
    troubles.choose(rng).copied().unwrap_or(Trouble::Cut)
}

/// How long a wire to Kafka has that trouble.
fn lasting(rng: &mut StdRng, trouble: Trouble) -> u64 {
    let is_cut = matches!(trouble, Trouble::Cut | Trouble::CutToBackend);
    let is_long = is_cut && rng.random_ratio(1, CUT_ONE_IN);
    rng.random_range(if is_long { CUT_BEYOND_SESSION } else { LASTING })
}
