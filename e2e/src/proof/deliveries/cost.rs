//! What the faults that happened may have cost at most, counted from what the sink applied around each of them. Pure.

use super::check::Bound;
use super::plan::{Fault, Plan};
use super::sink::Ledger;
use crate::proof::plan::Trouble;

/// What was done since the last commit when a member ends: the commit's interval of 200 ms, its way, and two busy cores.
const UNCOMMITTED_MILLIS: i64 = 1_000;
/// A connection that was forgotten keeps a commit waiting for `socket.timeout.ms`, and then goes its way anew.
const FORGOTTEN_MILLIS: i64 = 11_000;
/// Until a member that woke up hears that its partitions are others', it goes on: a heartbeat's interval, and its way.
const ZOMBIE_MILLIS: i64 = 5_000;
/// Until the group has given away what a member had that went without a word: the session's timeout, and a rebalance.
const SESSION_MILLIS: i64 = 13_000;
/// Until a call that was under way at a fault's end has ended, one way or another.
const CALL_MILLIS: i64 = 2_000;
/// A guest comes and goes three times; each moves partitions.
const STORM_MOVES: usize = 6;

/// A fault that happened, and when, in milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Felt {
    /// Which.
    pub fault: Fault,
    /// Its begin.
    pub from: i64,
    /// Its end.
    pub until: i64,
}

/// What all of them may have cost; `doubled` records of the topic are repetitions themselves.
#[must_use]
pub fn bound(plan: &Plan, felt: &[Felt], ledger: &Ledger, doubled: usize) -> Bound {
    let mut bound =
        Bound { lost: ledger.turned_away + most_lost(plan, felt.len()), repeated: ledger.unacknowledged };
    // What the topic has twice is known to be so only to who has seen the first.
    if felt.iter().any(|felt| felt.fault.moves_partitions()) {
        bound.repeated += doubled;
    }
    bound.repeated += felt.iter().map(|felt| repeated(plan, *felt, ledger)).sum::<usize>();
    bound
}

/// Of an at-most-once group: each fault may end calls of what every partition has committed and not delivered, once.
#[must_use]
pub fn most_lost(plan: &Plan, faults: usize) -> usize {
    faults * partitions(plan) * plan.in_hand()
}

/// What was in hand at each time that partitions move or calls break, and what was done while nothing could be committed: neither
/// can be more than was applied then.
fn repeated(plan: &Plan, Felt { fault, from, until }: Felt, ledger: &Ledger) -> usize {
    let applied = |from: i64, until: i64| {
        ledger.applied.iter().filter(|applied| (from..=until).contains(&applied.at_millis)).count()
    };
    let before = from - UNCOMMITTED_MILLIS;
    let (times, settled, uncommitted) = match fault {
        Fault::Kill(_) => (2, until + SESSION_MILLIS, applied(before, from)),
        Fault::Freeze(..) => {
            (2, until + SESSION_MILLIS, applied(before, from) + applied(until, until + ZOMBIE_MILLIS))
        }
        // Members that end in order commit first; that commit may fail in the middle of a rebalance.
        Fault::Roll => (plan.members, until + CALL_MILLIS, applied(before, from)),
        Fault::Storm => (STORM_MOVES, until + CALL_MILLIS, applied(before, from)),
        Fault::CutKafka(_) => (2, until + SESSION_MILLIS, applied(before, until + UNCOMMITTED_MILLIS)),
        Fault::Kafka(_, trouble, _) => {
            let lasting = if trouble == Trouble::Forget { FORGOTTEN_MILLIS } else { UNCOMMITTED_MILLIS };
            (2, until + SESSION_MILLIS, applied(before, until + lasting))
        }
        // Commits go on. Each retry of what is in hand may be one of something that was applied.
        Fault::Sink(..) | Fault::Mood(..) => (2, until + CALL_MILLIS, 0),
        Fault::EndConnections => (1, until + CALL_MILLIS, 0),
    };
    uncommitted + (times * partitions(plan) * plan.in_hand()).min(applied(before, settled))
}

fn partitions(plan: &Plan) -> usize {
    usize::try_from(plan.partitions).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::plan::{Guarantee, Kind, Mood};
    use super::super::sink::Applied;
    use super::*;

    /// Three partitions, one record in hand in each; ten events a second are applied for ten seconds.
    fn steady() -> (Plan, Ledger) {
        let mut plan = Plan { partitions: 3, sink: Kind::Http, ..Plan::of(1, Guarantee::AtLeastOnce) };
        plan.settings.insert("LANES", "1".to_owned());
        let applied = (0..100).map(|nth: i64| Applied {
            event: (Uuid::from_u128(1), nth + 1),
            payload: Vec::new(),
            at_millis: nth * 100,
        });
        (plan, Ledger { applied: applied.collect(), ..Ledger::default() })
    }

    fn cost(fault: Fault, from: i64, until: i64) -> usize {
        let (plan, ledger) = steady();
        bound(&plan, &[Felt { fault, from, until }], &ledger, 0).repeated
    }

    #[test]
    fn a_kill_costs_the_second_before_it_and_what_was_in_hand() {
        assert_eq!(cost(Fault::Kill(0), 5_000, 5_000), 11 + 2 * 3);
    }

    #[test]
    fn a_sink_that_is_away_hinders_no_commit() {
        assert_eq!(cost(Fault::Mood(Mood::Down, 3_000), 5_000, 8_000), 2 * 3);
        assert_eq!(cost(Fault::EndConnections, 5_000, 5_000), 3);
    }

    #[test]
    fn where_kafka_is_away_all_that_was_applied_meanwhile_may_come_again() {
        assert_eq!(cost(Fault::CutKafka(1_000), 5_000, 6_000), 31 + 2 * 3);
        let forgotten = Fault::Kafka(0, Trouble::Forget, 1_000);
        assert_eq!(
            cost(forgotten, 5_000, 6_000),
            60 + 2 * 3,
            "the commit waits for longer than the fault lasts"
        );
    }

    #[test]
    fn nothing_comes_again_that_was_not_applied_by_then() {
        assert_eq!(cost(Fault::Kill(0), 60_000, 60_000), 0);
    }

    #[test]
    fn what_a_sleeper_does_before_it_hears_that_it_is_out_may_be_repetitions() {
        assert_eq!(cost(Fault::Freeze(0, 4_000), 1_000, 5_000), 11 + 50 + 2 * 3);
    }

    #[test]
    fn what_the_topic_has_twice_counts_only_where_partitions_moved() {
        let (plan, ledger) = steady();
        let felt = |fault| [Felt { fault, from: 60_000, until: 60_000 }];
        assert_eq!(bound(&plan, &felt(Fault::Kill(0)), &ledger, 7).repeated, 7);
        assert_eq!(bound(&plan, &felt(Fault::EndConnections), &ledger, 7).repeated, 0);
    }

    #[test]
    fn at_most_once_may_lose_less_than_a_quarter_of_any_run_to_its_faults() {
        for seed in 1..=2_000 {
            let plan = Plan::of(seed, Guarantee::AtMostOnce);
            let events = usize::try_from(plan.orders.iter().sum::<i64>()).unwrap();
            assert!(most_lost(&plan, plan.faults.len()) * 4 < events, "seed {seed}");
        }
    }
}
