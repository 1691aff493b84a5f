//! What can go wrong from outside.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde::Serialize;

use super::LEASE_SECONDS;

/// As long as made the tutorial's service lose events.
pub(super) const LONG_OUTAGE_MILLIS: u64 = 150_000;

/// Something that goes wrong from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// SIGKILL; it starts again.
    Kill(usize),
    /// SIGSTOP, and SIGCONT after this many milliseconds: longer than the lease, so that it wakes as a leader of the past.
    Freeze(usize, u64),
    /// SIGTERM; it starts again.
    Terminate(usize),
    /// SIGTERM to one replica after the other, as a new release does.
    Roll,
    /// Kafka's process is stopped for this many milliseconds: connections stay open and nothing answers.
    FreezeKafka(u64),
    /// Kafka is killed, and started after this many milliseconds.
    KillKafka(u64),
    /// PostgreSQL is killed with all its processes, and started again.
    KillPostgres,
    /// One of PostgreSQL's processes is killed: the server throws everybody out and recovers.
    CrashPostgres,
    /// Every connection of the service is ended by PostgreSQL.
    TerminateBackends,
    /// The WAL's disk is full for this many milliseconds.
    FillDisk(u64),
    /// The network between replicas and a backend is bad for this many milliseconds.
    Network(Route, Trouble, u64),
}

/// Which traffic a network fault is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Route {
    /// One replica and PostgreSQL.
    Postgres(usize),
    /// All replicas and PostgreSQL.
    AllPostgres,
    /// One replica and Kafka.
    Kafka(usize),
    /// All replicas and Kafka.
    AllKafka,
}

/// What is wrong with a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Trouble {
    /// Nothing passes.
    Cut,
    /// Nothing passes from the service to the backend.
    CutToBackend,
    /// Nothing passes from the backend to the service.
    CutToService,
    /// Everything takes 200 ms longer, each way.
    Delay,
    /// One packet in twenty is lost and sent again.
    Loss,
    /// Every connection is broken at once; new ones are made as ever.
    Reset,
    /// Every open connection carries nothing from now on, and neither side is ever told: as when a host vanishes, or a
    /// firewall forgets. New ones are made as ever.
    Forget,
}

impl Fault {
    /// How long it lasts, in milliseconds.
    #[must_use]
    pub const fn millis(self) -> u64 {
        match self {
            Self::Freeze(_, millis)
            | Self::FreezeKafka(millis)
            | Self::KillKafka(millis)
            | Self::FillDisk(millis)
            | Self::Network(_, _, millis) => millis,
            Self::Kill(_)
            | Self::Terminate(_)
            | Self::Roll
            | Self::KillPostgres
            | Self::CrashPostgres
            | Self::TerminateBackends => 0,
        }
    }

    pub(super) const fn spares_processes(self) -> bool {
        matches!(self, Self::FreezeKafka(_) | Self::TerminateBackends | Self::Network(..))
    }

    pub(super) const fn stops_postgres(self) -> bool {
        matches!(self, Self::KillPostgres | Self::CrashPostgres)
    }

    /// A word for the summary.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Kill(_) => "SIGKILL of a replica",
            Self::Freeze(..) => "SIGSTOP longer than the lease",
            Self::Terminate(_) => "SIGTERM of a replica",
            Self::Roll => "rolling restart",
            Self::FreezeKafka(LONG_OUTAGE_MILLIS..) => "Kafka frozen for 150 s",
            Self::FreezeKafka(_) => "Kafka frozen",
            Self::KillKafka(LONG_OUTAGE_MILLIS..) => "Kafka not there for 150 s",
            Self::KillKafka(_) => "Kafka killed",
            Self::KillPostgres => "PostgreSQL killed",
            Self::CrashPostgres => "PostgreSQL crashed",
            Self::TerminateBackends => "connections ended by PostgreSQL",
            Self::FillDisk(_) => "disk full",
            Self::Network(_, Trouble::Cut, _) => "network cut",
            Self::Network(_, Trouble::CutToBackend | Trouble::CutToService, _) => "network cut one way",
            Self::Network(_, Trouble::Delay, _) => "200 ms delay",
            Self::Network(_, Trouble::Loss, _) => "5 % loss",
            Self::Network(_, Trouble::Reset, _) => "connections reset",
            Self::Network(_, Trouble::Forget, _) => "connections forgotten",
        }
    }

    /// A fault of one of the `replicas`, or of a backend.
    pub(super) fn any(rng: &mut StdRng, replicas: usize) -> Self {
        let replica = rng.random_range(0..replicas);
        // Longer than the lease and its renewal.
        let nap = rng.random_range(LEASE_SECONDS * 1000 + 300..LEASE_SECONDS * 1000 + 1800);
        match rng.random_range(0..30) {
            0..=4 => Self::Kill(replica),
            5..=7 => Self::Freeze(replica, nap),
            8..=9 => Self::Terminate(replica),
            10 => Self::Roll,
            11..=13 => Self::FreezeKafka(rng.random_range(1000..4000)),
            14 => Self::KillKafka(rng.random_range(100..3000)),
            15 => Self::KillPostgres,
            16..=17 => Self::CrashPostgres,
            18..=20 => Self::TerminateBackends,
            _ => any_network_fault(rng, replica),
        }
    }
}

fn any_network_fault(rng: &mut StdRng, replica: usize) -> Fault {
    let routes = [Route::Postgres(replica), Route::AllPostgres, Route::Kafka(replica), Route::AllKafka];
    let troubles = [
        Trouble::Cut,
        Trouble::CutToBackend,
        Trouble::CutToService,
        Trouble::Delay,
        Trouble::Loss,
        Trouble::Reset,
        Trouble::Forget,
    ];
    let route = routes.choose(rng).copied().unwrap_or(Route::AllKafka);
    let trouble = troubles.choose(rng).copied().unwrap_or(Trouble::Cut);
    let millis = match trouble {
        Trouble::Reset | Trouble::Forget => 0,
        Trouble::Delay | Trouble::Loss => rng.random_range(1500..3500),
        Trouble::Cut | Trouble::CutToBackend | Trouble::CutToService => rng.random_range(500..3000),
    };
    Fault::Network(route, trouble, millis)
}
