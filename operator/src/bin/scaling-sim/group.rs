//! The group: pods that come and go, and which of them reads which partition.

use crate::trace::PARTITIONS;
use crate::world::Rebalance;

/// Seconds until a new pod joins the group.
pub(crate) const START: usize = 10;
/// Seconds for which a partition rests while the group deals it out.
pub(crate) const PAUSE: usize = 3;

/// Pods, the oldest first.
#[derive(Clone, Debug)]
struct Pod {
    id: u32,
    joins: usize,
    member: bool,
}

/// The consumer group with its pods.
pub(crate) struct Group {
    rebalance: Rebalance,
    pods: Vec<Pod>,
    next: u32,
    owners: [Option<u32>; PARTITIONS],
    rests_until: [usize; PARTITIONS],
    left: bool,
    now: usize,
    /// Rebalances so far.
    pub(crate) rebalances: u32,
}

impl Group {
    /// A group whose pods are up and have their partitions.
    pub(crate) fn new(rebalance: Rebalance, pods: u32) -> Self {
        let pod = |id| Pod { id, joins: 0, member: true };
        let mut group = Self {
            rebalance,
            pods: (0..pods).map(pod).collect(),
            next: pods,
            owners: [None; PARTITIONS],
            rests_until: [0; PARTITIONS],
            left: false,
            now: 0,
            rebalances: 0,
        };
        group.owners = group.dealt();
        group
    }

    /// Asks for so many pods. The youngest go first, and leave at once.
    pub(crate) fn scale(&mut self, replicas: u32) {
        while self.pods.len() > replicas as usize {
            self.left |= self.pods.pop().is_some_and(|pod| pod.member);
        }
        while self.pods.len() < replicas as usize {
            self.pods.push(Pod { id: self.next, joins: self.now + START, member: false });
            self.next += 1;
        }
    }

    /// Lets pods join whose time has come, and deals the partitions out anew if the members changed.
    pub(crate) fn settle(&mut self, second: usize) {
        self.now = second;
        let mut changed = std::mem::take(&mut self.left);
        for pod in &mut self.pods {
            changed |= !pod.member && pod.joins <= second;
            pod.member = pod.joins <= second;
        }
        if !changed {
            return;
        }
        self.rebalances += 1;
        let dealt = self.dealt();
        for (partition, owner) in dealt.iter().enumerate() {
            if self.rebalance == Rebalance::StopTheWorld || self.owners[partition] != *owner {
                self.rests_until[partition] = second + PAUSE;
            }
        }
        self.owners = dealt;
    }

    /// Members in a stable order.
    pub(crate) fn members(&self) -> Vec<u32> {
        self.pods.iter().filter(|pod| pod.member).map(|pod| pod.id).collect()
    }

    /// Pods that were asked for.
    pub(crate) fn replicas(&self) -> u32 {
        u32::try_from(self.pods.len()).unwrap_or(u32::MAX)
    }

    /// Who reads a partition.
    pub(crate) fn owner(&self, partition: usize) -> Option<u32> {
        self.owners[partition]
    }

    /// Whether a member reads a partition in a second.
    pub(crate) fn reads(&self, member: u32, partition: usize, second: usize) -> bool {
        self.owners[partition] == Some(member) && self.rests_until[partition] <= second
    }

    /// Whether partitions rest.
    pub(crate) fn rebalancing(&self) -> bool {
        self.rests_until.iter().any(|until| *until > self.now)
    }

    /// The sticky assignor: as even by count as can be, and who has a partition keeps it if that allows.
    fn dealt(&self) -> [Option<u32>; PARTITIONS] {
        let mut members = self.members();
        if members.is_empty() {
            return [None; PARTITIONS];
        }
        let has = |owners: &[Option<u32>; PARTITIONS], member| {
            owners.iter().filter(|owner| **owner == Some(member)).count()
        };
        members.sort_by_key(|member| std::cmp::Reverse(has(&self.owners, *member)));
        let (share, more) = (PARTITIONS / members.len(), PARTITIONS % members.len());
        let mut dealt = self.owners;
        for (index, member) in members.iter().enumerate() {
            let keeps = share + usize::from(index < more);
            let of = dealt.iter_mut().filter(|owner| **owner == Some(*member));
            of.skip(keeps).for_each(|owner| *owner = None);
        }
        for partition in 0..PARTITIONS {
            if dealt[partition].is_none_or(|owner| !members.contains(&owner)) {
                dealt[partition] = members.iter().copied().min_by_key(|member| has(&dealt, *member));
            }
        }
        dealt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(group: &Group) -> Vec<usize> {
        let of = |member: &u32| group.owners.iter().filter(|owner| **owner == Some(*member)).count();
        group.members().iter().map(of).collect()
    }

    #[test]
    fn partitions_are_spread_evenly_by_count_whatever_the_pods_do() {
        let mut group = Group::new(Rebalance::Cooperative, 1);
        for (index, replicas) in [5, 12, 7, 1, 3, 4, 12, 2].into_iter().enumerate() {
            group.scale(replicas);
            group.settle(20 * (index + 1));
            group.settle(20 * (index + 1) + START);
            let counts = counts(&group);
            assert_eq!((counts.len(), counts.iter().sum::<usize>()), (replicas as usize, PARTITIONS));
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        }
    }

    #[test]
    fn only_partitions_that_move_rest_in_a_cooperative_rebalance() {
        for (rebalance, rest) in [(Rebalance::Cooperative, 6), (Rebalance::StopTheWorld, 12)] {
            let mut group = Group::new(rebalance, 1);
            group.settle(100);
            group.scale(2);
            group.settle(100 + START);
            assert_eq!(group.rests_until.iter().filter(|until| **until > 0).count(), rest);
            assert_eq!(group.rebalances, 1);
        }
    }

    #[test]
    fn a_pod_joins_after_its_start_and_leaves_at_once() {
        let mut group = Group::new(Rebalance::Cooperative, 2);
        group.settle(50);
        group.scale(4);
        group.settle(50 + START - 1);
        assert_eq!((group.members().len(), group.replicas(), group.rebalances), (2, 4, 0));
        group.scale(1);
        group.settle(50 + START);
        assert_eq!((group.members(), group.rebalances), (vec![0], 1));
    }
}
