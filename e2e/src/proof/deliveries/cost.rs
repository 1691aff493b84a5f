//! What the faults may have cost at most, counted from what was done around them. Pure.
//!
//! An event that comes again comes after an earlier application of it that nobody knew of by then. So there are no more
//! repetitions than applications that may have been unknown to who took over: those since the last commit before anything went
//! wrong, until commits reached the brokers again, and what was in hand each time that partitions moved or calls broke. Letters are
//! counted alike. Each of these times is meant for a slow and busy machine: a bound that is too tight says that a sound
//! consumer is not.

use std::collections::HashMap;

use super::check::Bound;
use super::plan::{Fault, Guarantee, Plan};
use super::record::{Event, Record};
use super::sink::Ledger;
use crate::proof::plan::Trouble;

/// How old the last commit may be while nothing is wrong: its interval of 200 ms, its way, and whatever a busy machine does
/// between. Also how long a statement of several rows may take, whose rows are there one by one and done together.
const UNCOMMITTED_MILLIS: i64 = 3_000;
/// Until a member that woke up has heard that its partitions are others', it goes on: its client sees at once that the session is
/// over, and the poll loop may be asking brokers something first, a second at a time.
const ZOMBIE_MILLIS: i64 = 8_000;
/// Until commits get through again after a trouble that left the connection, or made a new one necessary at once.
const RECONNECTED_MILLIS: i64 = 5_000;
/// The same after one that took the connection or the session: a connection that was forgotten keeps a commit waiting for
/// `socket.timeout.ms`, ten seconds, and so long a client may wait before it connects again.
const LOST_MILLIS: i64 = 20_000;
/// Until the group has given away what a member had that went without a word: the session's timeout, and a rebalance.
const SETTLED_MILLIS: i64 = 13_000;
/// A guest comes and goes twice: it gets partitions from others, and others get them back, each in two steps.
const STORM_MOVES: usize = 8;
/// At most once loses less than one in so many events, whatever the plan.
const LOSES_LESS_THAN_ONE_IN: usize = 4;

/// A fault that was tried, and when, in milliseconds since 1970. Whether it can be shown to have happened does not matter here: one
/// that can't may have happened all the same.
#[derive(Clone, Copy, Debug)]
pub struct Felt {
    /// Which.
    pub fault: Fault,
    /// Its begin.
    pub from: i64,
    /// Its end.
    pub until: i64,
}

/// What all of them may have cost. `letters` are the times at which letters were written, and `unknown` is what the function of that
/// name says.
#[must_use]
pub fn bound(plan: &Plan, tried: &[Felt], ledger: &Ledger, letters: &[i64], unknown: usize) -> Bound {
    let applied: Vec<i64> = ledger.applied.iter().map(|applied| applied.at_millis).collect();
    let (mut lost, mut repeated) = (0, 0);
    match plan.guarantee {
        Guarantee::AtMostOnce => lost = ledger.turned_away + most_lost(plan, tried),
        Guarantee::AtLeastOnce => {
            repeated = ledger.unacknowledged + unknown + again(plan, tried, &applied);
        }
        Guarantee::ExactlyOnce => {}
    }
    Bound { lost, repeated, letters: again(plan, tried, letters) }
}

/// Of an at-most-once group: each fault may end calls of what every partition has committed and not delivered, once, or once for
/// each member that it ends.
#[must_use]
pub fn most_lost(plan: &Plan, tried: &[Felt]) -> usize {
    let times = |felt: &Felt| if felt.fault == Fault::Roll { plan.members } else { 1 };
    let events = usize::try_from(plan.orders.iter().sum::<i64>()).unwrap_or_default();
    let lost = tried.iter().map(times).sum::<usize>() * partitions(plan) * plan.in_hand();
    lost.min(events.saturating_sub(1) / LOSES_LESS_THAN_ONE_IN)
}

/// Of what the topic has more than once and the sink got more than once, how much whoever read it may have taken for new: the first
/// was delivered before a partition was given to anybody for the last time, perhaps by somebody else.
#[must_use]
pub fn unknown(topic: &[Record], ledger: &Ledger, last_move: Option<i64>) -> usize {
    let mut applied = HashMap::<Event, (i64, usize)>::new();
    for one in &ledger.applied {
        let (first, times) = applied.entry(one.event).or_insert((one.at_millis, 0));
        *first = one.at_millis.min(*first);
        *times += 1;
    }
    let mut records = HashMap::<Event, usize>::new();
    for event in topic.iter().filter_map(|record| record.event.ok()) {
        *records.entry(event).or_default() += 1;
    }
    let excused = records.iter().map(|(event, records)| match applied.get(event) {
        Some((first, times)) if Some(*first) <= last_move => (*records).min(*times) - 1,
        Some(_) | None => 0,
    });
    excused.sum()
}

/// How much of what was done at `times` may have come again.
fn again(plan: &Plan, tried: &[Felt], times: &[i64]) -> usize {
    let Some(first) = tried.iter().map(|felt| felt.from).min() else { return 0 };
    let before = first - UNCOMMITTED_MILLIS;
    let within = |until: i64| times.iter().filter(|at| (before..=until).contains(*at)).count();
    // The other guarantees commit what they do before or with it, one thing at a time.
    let (uncommitted, in_hand) = match plan.guarantee {
        Guarantee::AtLeastOnce => {
            (tried.iter().filter_map(uncommitted_until).max().map_or(0, within), plan.in_hand())
        }
        Guarantee::AtMostOnce | Guarantee::ExactlyOnce => (0, 1),
    };
    let moved = tried.iter().map(|felt| {
        let most = moves(plan, felt.fault) * partitions(plan) * in_hand;
        most.min(within(felt.until + SETTLED_MILLIS))
    });
    uncommitted + moved.sum::<usize>()
}

/// Until when what is done may not be committed by the time that another member begins; none where commits go on.
fn uncommitted_until(Felt { fault, until, .. }: &Felt) -> Option<i64> {
    let after = match fault {
        // Members that end in order commit first; but that may fail in the middle of a rebalance.
        Fault::Kill(_) | Fault::Roll | Fault::Storm => 0,
        Fault::Freeze(..) => ZOMBIE_MILLIS,
        Fault::Kafka(_, Trouble::Forget, _) => LOST_MILLIS,
        Fault::CutKafka(_) | Fault::Kafka(..) if fault.outlasts_session() => LOST_MILLIS,
        Fault::CutKafka(_) | Fault::Kafka(..) => RECONNECTED_MILLIS,
        Fault::Sink(..) | Fault::Mood(..) | Fault::EndConnections => return None,
    };
    Some(until + after)
}

/// How often it moves a partition or breaks its calls, at most: what is in hand then may have been done without anybody's knowing.
const fn moves(plan: &Plan, fault: Fault) -> usize {
    match fault {
        Fault::EndConnections => 1,
        // At its begin and at its end: calls break, or a member goes away and comes back.
        Fault::Sink(..)
        | Fault::Mood(..)
        | Fault::Kill(_)
        | Fault::Freeze(..)
        | Fault::CutKafka(_)
        | Fault::Kafka(..) => 2,
        Fault::Roll => 2 * plan.members,
        Fault::Storm => STORM_MOVES,
    }
}

fn partitions(plan: &Plan) -> usize {
    usize::try_from(plan.partitions).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::plan::{Kind, Mood};
    use super::super::sink::Applied;
    use super::*;

    /// Three partitions, one record in hand in each; ten events a second are applied for a minute.
    fn steady(guarantee: Guarantee) -> (Plan, Ledger) {
        let mut plan = Plan { partitions: 3, members: 2, sink: Kind::Http, ..Plan::of(1, guarantee) };
        plan.settings.insert("LANES", "1".to_owned());
        let applied = (0..600).map(|nth: i64| Applied {
            event: (Uuid::from_u128(1), nth + 1),
            payload: Vec::new(),
            at_millis: nth * 100,
        });
        (plan, Ledger { applied: applied.collect(), ..Ledger::default() })
    }

    fn felt(fault: Fault, from: i64, until: i64) -> Felt {
        Felt { fault, from, until }
    }

    fn cost(tried: &[Felt]) -> usize {
        let (plan, ledger) = steady(Guarantee::AtLeastOnce);
        bound(&plan, tried, &ledger, &[], 0).repeated
    }

    #[test]
    fn a_kill_costs_what_was_done_just_before_it_and_what_was_in_hand() {
        assert_eq!(cost(&[felt(Fault::Kill(0), 10_000, 10_000)]), 31 + 2 * 3);
    }

    #[test]
    fn a_sink_that_is_away_hinders_no_commit() {
        assert_eq!(cost(&[felt(Fault::Mood(Mood::Down, 3_000), 10_000, 13_000)]), 2 * 3);
        assert_eq!(cost(&[felt(Fault::EndConnections, 10_000, 10_000)]), 3);
        assert_eq!(cost(&[]), 0);
    }

    #[test]
    fn where_kafka_is_away_all_that_was_applied_until_it_is_back_may_come_again() {
        assert_eq!(cost(&[felt(Fault::CutKafka(1_000), 10_000, 11_000)]), 91 + 2 * 3);
        assert_eq!(cost(&[felt(Fault::CutKafka(12_000), 10_000, 22_000)]), 351 + 2 * 3, "with the session");
        let forgotten = Fault::Kafka(0, Trouble::Forget, 1_000);
        assert_eq!(cost(&[felt(forgotten, 10_000, 11_000)]), 241 + 2 * 3, "a commit waits for its answer");
    }

    #[test]
    fn what_a_sleeper_does_before_it_hears_that_it_is_out_may_be_repetitions() {
        assert_eq!(cost(&[felt(Fault::Freeze(0, 12_000), 10_000, 22_000)]), 231 + 2 * 3);
    }

    #[test]
    fn nothing_comes_again_that_was_not_applied_around_the_fault() {
        assert_eq!(cost(&[felt(Fault::Kill(0), 100_000, 100_000)]), 0);
    }

    #[test]
    fn of_two_faults_the_first_counts_for_both_and_nothing_counts_twice_but_what_was_in_hand() {
        let kill = felt(Fault::Kill(0), 20_000, 20_000);
        let down = felt(Fault::Mood(Mood::Down, 1_000), 10_000, 11_000);
        assert_eq!(cost(&[kill, down]), 131 + 2 * 2 * 3, "a drain may hold commits up behind a sink");
        assert_eq!(cost(&[kill, kill]), 31 + 2 * 2 * 3);
    }

    #[test]
    fn where_commits_come_first_or_with_the_event_only_letters_come_again() {
        let kill = [felt(Fault::Kill(0), 10_000, 10_000)];
        let letters: Vec<i64> = (0..200).map(|nth| nth * 100).collect();
        for (guarantee, again) in [
            (Guarantee::AtMostOnce, 2 * 3),
            (Guarantee::ExactlyOnce, 2 * 3),
            (Guarantee::AtLeastOnce, 31 + 2 * 3),
        ] {
            let (plan, ledger) = steady(guarantee);
            let bound = bound(&plan, &kill, &ledger, &letters, 5);
            assert_eq!(bound.letters, again, "{guarantee:?}");
            assert_eq!(bound.repeated > 0, guarantee == Guarantee::AtLeastOnce, "{guarantee:?}");
            assert_eq!(bound.lost > 0, guarantee == Guarantee::AtMostOnce, "{guarantee:?}");
        }
    }

    #[test]
    fn what_the_topic_has_twice_may_be_new_to_who_got_its_partition_after_the_first() {
        let (_, mut ledger) = steady(Guarantee::AtLeastOnce);
        let record = |version| Record {
            place: (0, 0),
            key: None,
            value: None,
            headers: Vec::new(),
            event: Ok((Uuid::from_u128(1), version)),
            at_millis: 0,
        };
        let topic: Vec<Record> = [1, 2, 3, 30, 700, 1, 2, 30, 700].into_iter().map(record).collect();
        assert_eq!(unknown(&topic, &ledger, Some(200)), 0, "nothing came twice");
        for version in [1, 1, 3, 30] {
            let again = ledger.applied[version - 1].clone();
            ledger.applied.push(again);
        }
        assert_eq!(unknown(&topic, &ledger, Some(200)), 1, "the topic has 3 once, and 30 came later");
        assert_eq!(unknown(&topic, &ledger, None), 0, "nothing moved");
    }

    #[test]
    fn at_most_once_may_lose_less_than_a_quarter_of_any_run_to_its_faults() {
        for seed in 1..=2_000 {
            let plan = Plan::of(seed, Guarantee::AtMostOnce);
            let tried: Vec<Felt> = plan.faults.iter().map(|planned| felt(planned.fault, 0, 0)).collect();
            let events = usize::try_from(plan.orders.iter().sum::<i64>()).unwrap();
            assert!(most_lost(&plan, &tried) * 4 < events, "seed {seed}");
        }
    }
}
