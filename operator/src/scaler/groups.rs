//! One group: from what brokers show of it to what is decided, and what is remembered of it between ticks.

use std::collections::{BTreeMap, BTreeSet};

use super::roster::{Job, Rule};
use crate::kafka::{FirstRecord, GroupLook, GroupState, Membership, PartitionLook};
use crate::metrics::Judged;
use crate::scaling::{
    Committed, Decision, Head, Memory, Observation, Policy, Reading, Seconds, Telling, Told, Verdict, decide,
};

/// Partitions whose first record is looked at in one tick: each costs a fetch, and a record that stands is looked at once.
const FIRST_RECORDS: usize = 32;

/// What is remembered of a group.
#[derive(Debug, Default)]
pub(super) struct Group {
    memory: Memory,
    pub(super) telling: Telling,
    heads: BTreeMap<usize, Known>,
}

/// What was found at the first offset still to be read of a partition.
#[derive(Clone, Copy, Debug)]
struct Known {
    position: i64,
    end: i64,
    head: Head,
}

/// What one tick saw of a group.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    readings: Vec<Reading>,
    ready: u32,
    rebalancing: bool,
}

impl Group {
    /// Partitions whose first record has to be looked at, with its offset.
    pub(super) fn unclear(&self, job: &Job, seen: &Seen) -> BTreeMap<i32, i64> {
        match &job.subject.rule {
            Rule::Group { policy, .. } => self.unclear_of(policy, seen, job.asked()),
            Rule::Service(_) => BTreeMap::new(),
        }
    }

    /// Decides on what was seen, and on what was found of the first records.
    pub(super) fn decide(
        &mut self,
        job: &Job,
        at: Seconds,
        mut seen: Seen,
        found: &BTreeMap<i32, FirstRecord>,
    ) -> (Decision, Judged) {
        let Rule::Group { policy, .. } = &job.subject.rule else { unreachable!("groups are scaled by age") };
        self.found(policy, &seen, found);
        self.fill_in(policy, &mut seen);
        let Seen { readings, ready, rebalancing } = seen;
        let observation = Observation {
            at,
            replicas: job.asked(),
            ready,
            rebalancing,
            growing: job.subject.growing,
            partitions: &readings,
        };
        let (decision, memory) = decide(policy, &observation, std::mem::take(&mut self.memory));
        self.memory = memory;
        let known = decision.verdict != Verdict::LagUnknown;
        let (records, lost) = self.memory.backlog();
        let judged = Judged {
            age: self.memory.oldest().filter(|_| known),
            target: policy.target_age,
            records: known.then_some(records),
            lost,
            replicas: job.asked(),
            wanted: decision.replicas,
            capacity: self.memory.capacity(),
            verdict: decision.verdict,
        };
        (decision, judged)
    }

    /// What is told, if it is told newly.
    pub(super) fn told(&self, changed: bool) -> Option<Told> {
        self.telling.told().filter(|_| changed).cloned()
    }

    /// A group at rest is woken by a record and not by a marker, so all that it seems to have is looked at.
    fn unclear_of(&self, policy: &Policy, seen: &Seen, replicas: u32) -> BTreeMap<i32, i64> {
        let all = if replicas == 0 { seen.readings.len() } else { 0 };
        let candidates: BTreeSet<usize> = self.memory.to_look_at().into_iter().chain(0..all).collect();
        let unclear = candidates.into_iter().filter_map(|partition| {
            let reading = seen.readings.get(partition)?;
            let backlog = reading.backlog(policy.start_from).filter(|backlog| backlog.records > 0)?;
            let known =
                self.heads.get(&partition).is_some_and(|known| known.holds(backlog.position, reading));
            (!known).then_some((i32::try_from(partition).ok()?, backlog.position))
        });
        unclear.take(FIRST_RECORDS).collect()
    }

    fn found(&mut self, policy: &Policy, seen: &Seen, found: &BTreeMap<i32, FirstRecord>) {
        for (partition, first) in found {
            let index = usize::try_from(*partition).unwrap_or(usize::MAX);
            let Some(reading) = seen.readings.get(index) else { continue };
            let Some(backlog) = reading.backlog(policy.start_from) else { continue };
            let head = match first {
                FirstRecord::Appended(millis) => Head::Record { appended: *millis as f64 / 1000.0 },
                FirstRecord::None => Head::Empty,
            };
            let end = reading.log_end.unwrap_or_default();
            self.heads.insert(index, Known { position: backlog.position, end, head });
        }
    }

    fn fill_in(&mut self, policy: &Policy, seen: &mut Seen) {
        self.heads.retain(|partition, known| {
            let Some(reading) = seen.readings.get_mut(*partition) else { return false };
            let backlog = reading.backlog(policy.start_from);
            let holds = backlog.is_some_and(|backlog| known.holds(backlog.position, reading));
            if holds {
                reading.head = known.head;
            }
            holds
        });
    }
}

impl Known {
    /// A record stays where it is; that there is none holds until the log goes on.
    fn holds(&self, position: i64, reading: &Reading) -> bool {
        let is_there = self.position == position;
        is_there && (self.head != Head::Empty || reading.log_end == Some(self.end))
    }
}

impl Seen {
    /// Nothing when the members are unknown: who reads what, and whether anybody is about to, is not known then.
    pub(super) fn of(look: &GroupLook, topic: &str, deployment: &str) -> Option<Self> {
        let membership = look.membership.as_ref().ok()?;
        if membership.state == GroupState::Unknown {
            return None;
        }
        let (owners, ready) = owners(membership, topic, deployment);
        let reading = |(partition, look): (usize, &PartitionLook)| Reading {
            log_start: look.first.as_ref().ok().copied(),
            log_end: look.last.as_ref().ok().copied(),
            committed: match look.committed {
                Ok(Some(offset)) => Committed::At(offset),
                Ok(None) => Committed::Nothing,
                Err(_) => Committed::Unknown,
            },
            head: Head::NotRead,
            owner: i32::try_from(partition).ok().and_then(|partition| owners.get(&partition).copied()),
        };
        Some(Self {
            readings: look.partitions.iter().enumerate().map(reading).collect(),
            ready,
            rebalancing: membership.state == GroupState::Rebalancing,
        })
    }
}

/// Which pod reads which partition, and how many pods there are. Our consumers call themselves like their pod; of others each
/// member counts as one.
fn owners(membership: &Membership, topic: &str, deployment: &str) -> (BTreeMap<i32, u32>, u32) {
    let prefix = format!("{deployment}-");
    let mut pods: BTreeMap<&str, u32> = BTreeMap::new();
    let mut owners = BTreeMap::new();
    for member in &membership.members {
        let pod = if member.client.starts_with(&prefix) { &member.client } else { &member.id };
        let next = u32::try_from(pods.len()).unwrap_or(u32::MAX);
        let number = *pods.entry(pod.as_str()).or_insert(next);
        let partitions = member.reads.iter().filter(|(read, _)| read == topic);
        owners.extend(partitions.map(|(_, partition)| (*partition, number)));
    }
    (owners, u32::try_from(pods.len()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::StartFrom;
    use crate::kafka::Member;

    const POLICY: Policy = Policy {
        min: 0,
        max: 3,
        target_age: 5.0,
        catch_up: 30.0,
        start_from: StartFrom::Earliest,
        retention: None,
    };

    fn member(id: &str, client: &str, partitions: &[i32]) -> Member {
        let reads = partitions.iter().map(|partition| ("orders".to_owned(), *partition)).collect();
        Member { id: id.into(), client: client.into(), reads }
    }

    fn look(ends: &[(i64, i64)], state: GroupState, members: Vec<Member>) -> GroupLook {
        let partition = |(end, committed): &(i64, i64)| PartitionLook {
            first: Ok(0),
            last: Ok(*end),
            committed: Ok(Some(*committed)),
        };
        let partitions = ends.iter().map(partition).collect();
        GroupLook { membership: Ok(Membership { state, members }), partitions }
    }

    fn seen(ends: &[(i64, i64)]) -> Seen {
        Seen::of(&look(ends, GroupState::Empty, Vec::new()), "orders", "orders-a").unwrap()
    }

    #[test]
    fn members_of_one_pod_count_as_one_and_strangers_each_for_themselves() {
        let members = vec![
            member("m1", "orders-a-6d5-x", &[0]),
            member("m2", "orders-a-6d5-x", &[1]),
            member("m3", "rdkafka", &[2]),
            member("m4", "rdkafka", &[3]),
        ];
        let seen = Seen::of(&look(&[(9, 9); 4], GroupState::Stable, members), "orders", "orders-a").unwrap();
        let owners: Vec<_> = seen.readings.iter().map(|reading| reading.owner).collect();
        assert_eq!((seen.ready, owners), (3, vec![Some(0), Some(0), Some(1), Some(2)]));
    }

    #[test]
    fn what_the_broker_does_not_say_is_unknown() {
        let unknown = look(&[(9, 9)], GroupState::Unknown, Vec::new());
        assert!(Seen::of(&unknown, "orders", "orders-a").is_none());
        let error = crate::kafka::Error::Aborted { action: "look".into() };
        let mut unread = look(&[(9, 9)], GroupState::Stable, Vec::new());
        unread.partitions[0].committed = Err(error.clone());
        let seen = Seen::of(&unread, "orders", "orders-a").unwrap();
        assert_eq!(seen.readings[0].committed, Committed::Unknown);
        unread.membership = Err(error);
        assert!(Seen::of(&unread, "orders", "orders-a").is_none());
    }

    #[test]
    fn a_group_at_rest_is_looked_at_once_for_each_marker() {
        let mut group = Group::default();
        let mut marker = seen(&[(7, 7), (101, 100)]);
        let wanted = group.unclear_of(&POLICY, &marker, 0);
        assert_eq!(wanted, BTreeMap::from([(1, 100)]));
        group.found(&POLICY, &marker, &BTreeMap::from([(1, FirstRecord::None)]));
        assert!(group.unclear_of(&POLICY, &marker, 0).is_empty());
        group.fill_in(&POLICY, &mut marker);
        assert_eq!(marker.readings[1].head, Head::Empty);

        let mut more = seen(&[(7, 7), (102, 100)]);
        assert_eq!(group.unclear_of(&POLICY, &more, 0), BTreeMap::from([(1, 100)]), "the log went on");
        group.fill_in(&POLICY, &mut more);
        assert_eq!(more.readings[1].head, Head::NotRead);
    }

    #[test]
    fn a_record_that_stands_is_looked_at_once_however_long_the_log_grows() {
        let mut group = Group::default();
        let first = seen(&[(101, 100)]);
        assert_eq!(group.unclear_of(&POLICY, &first, 0), BTreeMap::from([(0, 100)]));
        group.found(&POLICY, &first, &BTreeMap::from([(0, FirstRecord::Appended(1_500))]));
        let mut later = seen(&[(900, 100)]);
        assert!(group.unclear_of(&POLICY, &later, 0).is_empty());
        group.fill_in(&POLICY, &mut later);
        assert_eq!(later.readings[0].head, Head::Record { appended: 1.5 });
        let mut read = seen(&[(900, 101)]);
        group.fill_in(&POLICY, &mut read);
        assert_eq!(read.readings[0].head, Head::NotRead);
    }
}
