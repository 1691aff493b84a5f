//! Deciding, tick by tick, over partitions whose arrivals and reads the test sets.

use proptest::prelude::*;

use super::{Committed, Decision, Head, Memory, Observation, Policy, Reading, Verdict, decide};
use crate::crd::StartFrom;

/// Distance of the ticks, in seconds.
const TICK: f64 = 5.0;
const POLICY: Policy = Policy {
    min: 1,
    max: 100,
    target_age: 5.0,
    catch_up: 30.0,
    start_from: StartFrom::Earliest,
    retention: None,
};

/// A group that is looked at every [`TICK`], and whose pods are up at once.
#[derive(Debug)]
struct Group {
    policy: Policy,
    memory: Option<Memory>,
    at: f64,
    replicas: u32,
    partitions: Vec<Reading>,
}

impl Group {
    /// Partitions with so many records each, read by pods that do 100 records/s.
    fn new(replicas: u32, backlog: &[i64]) -> Self {
        let reading = |records: &i64| Reading {
            log_start: Some(0),
            log_end: Some(1_000_000 + records),
            committed: Committed::At(1_000_000),
            head: Head::NotRead,
            owner: None,
        };
        let partitions = backlog.iter().map(reading).collect();
        Self { policy: POLICY, memory: Some(Memory::with_capacity(100.0)), at: 0.0, replicas, partitions }
    }

    fn look(&mut self, ready: u32, rebalancing: bool) -> Decision {
        let Self { at, replicas, ref partitions, .. } = *self;
        let seen = Observation { at, replicas, ready, rebalancing, growing: false, partitions };
        let (decision, memory) = decide(&self.policy, &seen, self.memory.take().unwrap());
        self.memory = Some(memory);
        self.at += TICK;
        decision
    }

    /// So many records arrive and are read per second and partition; then the group is looked at.
    fn tick(&mut self, arrivals: &[i64], drains: &[i64]) -> Decision {
        for ((reading, arrivals), drain) in self.partitions.iter_mut().zip(arrivals).zip(drains) {
            let end = reading.log_end.as_mut().unwrap();
            *end += 5 * arrivals;
            if let Committed::At(place) = &mut reading.committed {
                *place = (*place + 5 * drain).min(*end);
            }
        }
        self.look(self.replicas, false)
    }

    fn ticks(&mut self, count: usize, arrivals: &[i64], drains: &[i64]) -> Vec<Decision> {
        let mut decisions = Vec::new();
        for _ in 0..count {
            let decision = self.tick(arrivals, drains);
            self.replicas = decision.replicas;
            decisions.push(decision);
        }
        decisions
    }
}

#[test]
fn more_arrivals_than_a_pod_reads_bring_more_pods() {
    let mut group = Group::new(1, &[0; 4]);
    assert_eq!(group.tick(&[20; 4], &[20; 4]).verdict, Verdict::LagUnknown, "one look is no rate");
    assert_eq!(group.tick(&[20; 4], &[20; 4]).replicas, 1);
    let decision = group.tick(&[45; 4], &[25; 4]);
    assert_eq!(
        (decision.replicas, decision.verdict),
        (2, Verdict::CatchingUp),
        "two a pod are 90 and the backlog"
    );
    group.tick(&[80; 4], &[25; 4]);
    assert_eq!(group.tick(&[80; 4], &[25; 4]).replicas, 4);
}

#[test]
fn fewer_pods_are_asked_for_only_after_a_whole_window_in_one_step() {
    let mut group = Group::new(4, &[0; 4]);
    let decisions = group.ticks(15, &[10; 4], &[10; 4]);
    let replicas: Vec<_> = decisions.iter().map(|decision| decision.replicas).collect();
    assert_eq!(replicas[..12], [4; 12], "twice the time to catch up");
    assert_eq!(replicas.last(), Some(&1));
    assert!(replicas.iter().all(|replicas| [4, 1].contains(replicas)), "one rebalance and not three");
}

#[test]
fn a_gap_in_what_is_seen_begins_the_window_anew() {
    let mut group = Group::new(4, &[0; 4]);
    group.ticks(10, &[10; 4], &[10; 4]);
    let partitions = std::mem::take(&mut group.partitions);
    assert_eq!(group.look(4, false).verdict, Verdict::LagUnknown);
    group.partitions = partitions;
    assert!(group.ticks(10, &[10; 4], &[10; 4]).iter().all(|decision| decision.replicas == 4));
}

#[test]
fn nothing_is_changed_while_the_group_rebalances() {
    let mut group = Group::new(2, &[0; 4]);
    group.ticks(3, &[20; 4], &[20; 4]);
    group.partitions.iter_mut().for_each(|reading| reading.log_end = Some(9_000_000));
    let decision = group.look(2, true);
    assert_eq!((decision.replicas, decision.verdict), (2, Verdict::Rebalancing));
}

#[test]
fn a_partition_that_nobody_gets_on_with_brings_no_pods_and_keeps_none() {
    let mut group = Group::new(1, &[0; 4]);
    group.ticks(3, &[20; 4], &[20; 4]);
    let stuck = group.ticks(60, &[20; 4], &[0, 20, 20, 20]);
    assert!(stuck.iter().all(|decision| decision.replicas == 1));
    let last = stuck.last().unwrap();
    assert_eq!(last.verdict, Verdict::PartitionStalled);
    assert!(last.reason.contains("partition 0"), "{}", last.reason);

    let mut many = Group::new(4, &[0; 4]);
    let decisions = many.ticks(60, &[20; 4], &[0, 20, 20, 20]);
    assert_eq!(decisions.last().unwrap().replicas, 1, "the others need but one");
}

#[test]
fn when_nothing_at_all_is_read_nothing_is_scaled() {
    let mut group = Group::new(3, &[0; 4]);
    group.ticks(3, &[20; 4], &[20; 4]);
    assert!(group.ticks(100, &[20; 4], &[0; 4]).iter().skip(4).all(|decision| decision.replicas >= 3));
    let last = group.tick(&[0; 4], &[0; 4]);
    assert_eq!(last.verdict, Verdict::PartitionStalled);
}

#[test]
fn a_partition_that_is_more_than_a_pod_counts_as_one_full_pod() {
    let mut group = Group::new(1, &[0; 8]);
    let mut arrivals = [1; 8];
    group.ticks(2, &arrivals, &arrivals);
    arrivals[3] = 200;
    let decision = group.ticks(3, &arrivals, &[1, 1, 1, 93, 1, 1, 1, 1]).pop().unwrap();
    assert_eq!((decision.replicas, decision.verdict), (1, Verdict::HotPartition));
    assert!(decision.reason.contains("partition 3"), "{}", decision.reason);
}

#[test]
fn a_partition_bound_by_one_key_brings_no_pods() {
    let mut group = Group::new(2, &[0; 4]);
    for (index, reading) in group.partitions.iter_mut().enumerate() {
        reading.owner = Some(u32::try_from(index % 2).unwrap());
    }
    group.ticks(3, &[10; 4], &[10; 4]);
    let decisions = group.ticks(40, &[80, 10, 10, 10], &[40, 10, 10, 10]);
    assert!(decisions.iter().all(|decision| decision.replicas <= 2), "{decisions:?}");
    assert_eq!(decisions.last().unwrap().verdict, Verdict::HotPartition);
}

#[test]
fn a_step_that_brings_nothing_is_taken_back() {
    let mut group = Group::new(2, &[0; 8]);
    group.ticks(3, &[20; 8], &[20; 8]);
    let out = group.ticks(3, &[60; 8], &[25; 8]);
    assert!(out.iter().any(|decision| decision.replicas > 2));
    let decisions = group.ticks(20, &[60; 8], &[24; 8]);
    let last = decisions.last().unwrap();
    assert_eq!((last.replicas, last.verdict), (2, Verdict::SinkSaturated));
    let later = group.ticks(20, &[60; 8], &[24; 8]);
    assert!(later.iter().all(|decision| decision.replicas == 2), "it holds");
}

#[test]
fn at_the_maximum_it_says_which_maximum() {
    let mut group = Group::new(3, &[90_000; 4]);
    group.policy.max = 3;
    group.ticks(2, &[50; 4], &[50; 4]);
    let decision = group.tick(&[50; 4], &[50; 4]);
    assert_eq!((decision.replicas, decision.verdict), (3, Verdict::AtMaximum));
    assert!(decision.reason.contains("maxReplicas"), "{}", decision.reason);

    let mut group = Group::new(4, &[90_000; 4]);
    let decision = group.ticks(3, &[50; 4], &[50; 4]).pop().unwrap();
    assert_eq!((decision.replicas, decision.verdict), (4, Verdict::AtMaximum));
    assert!(decision.reason.contains("partitions"), "{}", decision.reason);
}

#[test]
fn records_near_their_deletion_and_lost_ones_are_told_of() {
    let mut group = Group::new(1, &[10; 2]);
    group.policy.retention = Some(3600.0);
    group.ticks(2, &[1; 2], &[0; 2]);
    let place = 1_000_000;
    group.partitions[1].head = Head::Record { appended: group.at - 2000.0 };
    let decision = group.tick(&[1; 2], &[0; 2]);
    assert_eq!(decision.verdict, Verdict::RetentionRisk);
    assert!(decision.reason.contains("partition 1 "), "{}", decision.reason);
    group.partitions[1].head = Head::NotRead;
    group.partitions[1].log_start = Some(place + 5);
    assert!(group.tick(&[1; 2], &[0; 2]).reason.contains("deleted"));
}

#[test]
fn a_group_rests_at_zero_and_wakes_for_the_first_record() {
    let mut group = Group::new(1, &[0; 4]);
    group.policy.min = 0;
    let resting = group.ticks(30, &[0; 4], &[0; 4]);
    assert_eq!(resting.last().unwrap().replicas, 0);
    assert_eq!(group.tick(&[0, 0, 1, 0], &[0; 4]).replicas, 1);
}

#[test]
fn a_group_at_rest_is_woken_by_the_age_of_its_first_record() {
    let mut group = Group::new(0, &[0; 4]);
    group.policy = Policy { min: 0, target_age: 120.0, ..POLICY };
    group.ticks(2, &[0; 4], &[0; 4]);
    group.tick(&[0, 0, 1, 0], &[0; 4]);
    // Half the target is a minute, and a pod is taken to need a quarter of it to start.
    let waiting = group.ticks(7, &[0; 4], &[0; 4]);
    assert!(waiting.iter().all(|decision| decision.replicas == 0), "{waiting:?}");
    assert_eq!(waiting.last().unwrap().verdict, Verdict::WithinTarget);
    assert_eq!(group.ticks(3, &[0; 4], &[0; 4]).pop().unwrap().replicas, 1);
}

#[test]
fn while_the_topic_grows_nothing_is_changed_and_a_group_at_rest_gets_a_place_in_it() {
    for (replicas, then) in [(2, 2), (0, 1)] {
        let mut group = Group::new(replicas, &[0; 4]);
        group.policy.min = 0;
        group.ticks(2, &[90; 4], &[90; 4]);
        group.replicas = replicas;
        let fresh = Reading { log_end: Some(0), committed: Committed::Nothing, ..group.partitions[0] };
        group.partitions.push(fresh);
        let decision = group.tick(&[90; 5], &[10; 5]);
        assert_eq!((decision.replicas, decision.verdict), (then, Verdict::Growing));
        group.partitions[4].committed = Committed::At(0);
        assert_ne!(group.tick(&[90; 5], &[10; 5]).verdict, Verdict::Growing, "it has a place everywhere");
    }
}

#[test]
fn a_group_that_starts_at_the_end_and_never_committed_gets_its_first_pod() {
    let mut group = Group::new(0, &[0; 4]);
    group.policy = Policy { min: 0, start_from: StartFrom::Latest, ..POLICY };
    group.partitions.iter_mut().for_each(|reading| reading.committed = Committed::Nothing);
    assert_eq!(group.ticks(3, &[0; 4], &[0; 4]).pop().unwrap().replicas, 1);
}

#[test]
fn after_the_memory_was_lost_it_finds_out_with_one_pod_fewer_at_a_time() {
    let mut group = Group::new(3, &[0; 4]);
    group.memory = Some(Memory::default());
    let decisions = group.ticks(130, &[2; 4], &[2; 4]);
    assert_eq!(decisions.last().unwrap().replicas, 1);
    for pair in decisions.windows(2) {
        assert!(pair[0].replicas.abs_diff(pair[1].replicas) <= 1);
    }
}

#[test]
fn what_to_look_at_is_what_stands_still_and_what_is_older_than_the_memory() {
    let mut group = Group::new(1, &[10, 0, 0, 0]);
    group.ticks(4, &[0, 1, 0, 1], &[0, 1, 0, 0]);
    assert_eq!(group.memory.unwrap().to_look_at(), [0, 3]);
}

/// A group at any point: partitions with backlog and rates, pods, bounds.
fn groups() -> impl Strategy<Value = (Group, Vec<i64>, Vec<i64>)> {
    let partition = (0_i64..5000, 0_i64..150, 0_i64..150);
    (prop::collection::vec(partition, 1..16), 0_u32..16, 0_u32..4, 1_u32..16).prop_map(
        |(partitions, replicas, min, max)| {
            let backlog: Vec<_> = partitions.iter().map(|partition| partition.0).collect();
            let mut group = Group::new(0, &backlog);
            group.policy.min = min.min(max);
            group.policy.max = max;
            group.replicas = replicas.clamp(group.policy.min, max);
            let arrivals = partitions.iter().map(|partition| partition.1).collect();
            (group, arrivals, partitions.iter().map(|partition| partition.2).collect())
        },
    )
}

proptest! {
    #[test]
    fn more_backlog_never_asks_for_fewer_pods((group, arrivals, drains) in groups(), more in prop::collection::vec(0_i64..5000, 16)) {
        let mut partitions = group.partitions.clone();
        for (reading, more) in partitions.iter_mut().zip(more) {
            reading.log_end = reading.log_end.map(|end| end + more);
        }
        let mut grown = Group { partitions, memory: group.memory.clone(), ..group };
        let mut group = group;
        for _ in 0..3 {
            group.tick(&arrivals, &drains);
            grown.tick(&arrivals, &drains);
        }
        // The rates stay the same only where both had enough to read.
        let drains: Vec<_> = drains.iter().map(|_| 0).collect();
        let (less, more) = (group.tick(&arrivals, &drains), grown.tick(&arrivals, &drains));
        prop_assert!(less.replicas <= more.replicas, "{less:?} {more:?}");
    }

    #[test]
    fn there_are_never_more_pods_than_partitions_nor_beyond_the_bounds((mut group, arrivals, drains) in groups()) {
        let partitions = u32::try_from(group.partitions.len()).unwrap();
        for decision in group.ticks(4, &arrivals, &drains).iter().skip(1) {
            let most = group.policy.max.min(partitions);
            prop_assert!(decision.replicas <= most && decision.replicas >= group.policy.min.min(most), "{decision:?}");
        }
    }

    #[test]
    fn it_never_acts_on_what_is_unknown((mut group, arrivals, drains) in groups(), which in any::<prop::sample::Index>(), what in 0..3) {
        for _ in 0..3 {
            group.tick(&arrivals, &drains);
        }
        let unknown = which.index(group.partitions.len());
        let reading = &mut group.partitions[unknown];
        match what {
            0 => reading.log_end = None,
            1 => reading.log_start = None,
            _ => reading.committed = Committed::Unknown,
        }
        let decision = group.look(group.replicas, false);
        prop_assert_eq!((decision.replicas, decision.verdict), (group.replicas, Verdict::LagUnknown));
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Arrivals and reads stay the same for 200 ticks: the replicas come to rest, and turn at most once.
    #[test]
    fn a_constant_input_does_not_make_it_swing((mut group, arrivals, _) in groups(), known in any::<bool>()) {
        if !known {
            group.memory = Some(Memory::default());
        }
        // A backlog that stays however many pods there are is a saturated sink, and another test.
        group.partitions.iter_mut().for_each(|reading| reading.log_end = Some(1_000_000));
        let decisions = group.ticks(200, &arrivals, &arrivals);
        let replicas: Vec<_> = decisions.iter().map(|decision| decision.replicas).collect();
        let steps: Vec<_> = replicas.windows(2).map(|pair| i64::from(pair[1]) - i64::from(pair[0])).filter(|step| *step != 0).collect();
        let turns = steps.windows(2).filter(|pair| pair[0].signum() != pair[1].signum()).count();
        prop_assert!(turns <= 1, "{replicas:?}");
    }
}
