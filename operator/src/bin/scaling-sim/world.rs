//! The world: queues by partition, pods that start and read, rebalances; one second at a time and without any chance.

use operator::scaling::{Committed, Head, Reading};

use crate::group::Group;
use crate::trace::{CAPACITY, FIRST_OFFSET, PARTITIONS, Trace, Trouble};

/// How partitions rest in a rebalance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rebalance {
    /// Those that move.
    Cooperative,
    /// All of them.
    StopTheWorld,
}

/// Consumers commit every 200 ms: so much of a second's reading is not committed when somebody looks.
const UNCOMMITTED: f64 = 0.2;
/// Less than half a record is none.
const NONE: f64 = 0.5;

/// One partition; amounts in records.
#[derive(Clone, Debug, Default)]
struct Queue {
    /// What had arrived by the end of each second.
    arrived: Vec<f64>,
    read: f64,
    /// What was read in the last second.
    just_read: f64,
    /// Second in which the first record that is still to be read arrived, or earlier.
    oldest: usize,
}

impl Queue {
    fn total(&self) -> f64 {
        self.arrived.last().copied().unwrap_or(0.0)
    }

    fn left(&self) -> f64 {
        self.total() - self.read
    }

    /// How long the first record that is still to be read has been waiting, in seconds.
    fn age(&mut self) -> f64 {
        if self.left() < NONE {
            return 0.0;
        }
        let before = |second: usize, arrived: &[f64]| second.checked_sub(1).map_or(0.0, |last| arrived[last]);
        while self.arrived[self.oldest] <= self.read {
            self.oldest += 1;
        }
        let (from, to) = (before(self.oldest, &self.arrived), self.arrived[self.oldest]);
        self.arrived.len() as f64 - self.oldest as f64 - (self.read - from) / (to - from)
    }
}

/// Everything at one second.
pub(crate) struct World<'a> {
    trace: &'a Trace,
    queues: Vec<Queue>,
    /// What waits for the broker, in records by partition.
    held_back: [f64; PARTITIONS],
    pub(crate) group: Group,
    pub(crate) second: usize,
}

impl<'a> World<'a> {
    /// A world before its first second, with so many pods up.
    pub(crate) fn new(trace: &'a Trace, rebalance: Rebalance, pods: u32) -> Self {
        Self {
            trace,
            queues: vec![Queue::default(); PARTITIONS],
            held_back: [0.0; PARTITIONS],
            group: Group::new(rebalance, pods),
            second: 0,
        }
    }

    /// Whether the broker is away.
    pub(crate) fn away(&self) -> bool {
        matches!(self.trace.trouble, Trouble::Away { from, until, .. } if (from..until).contains(&self.second))
    }

    /// Lets a second pass.
    pub(crate) fn step(&mut self) {
        self.group.settle(self.second);
        for partition in 0..PARTITIONS {
            let arrives = self.arrives(partition);
            let queue = &mut self.queues[partition];
            queue.arrived.push(queue.total() + arrives);
            queue.just_read = 0.0;
        }
        if !self.away() {
            self.read();
        }
        self.second += 1;
    }

    fn arrives(&mut self, partition: usize) -> f64 {
        let offered = (self.trace.arrivals)(partition, self.second);
        let waiting = &mut self.held_back[partition];
        match self.trace.trouble {
            Trouble::Away { from, until, .. } if (from..until).contains(&self.second) => {
                *waiting += offered;
                0.0
            }
            Trouble::Away { after, .. } => {
                let more = waiting.min(after / PARTITIONS as f64);
                *waiting -= more;
                offered + more
            }
            _ => offered,
        }
    }

    /// Each pod shares what it can do among its partitions: none gets less than it needs while another gets more than it.
    fn read(&mut self) {
        let members = self.group.members();
        let each = match self.trace.trouble {
            Trouble::Sink { total, loss } => {
                let beyond = members.len().saturating_sub(3) as f64;
                CAPACITY.min(total * (1.0 - loss * beyond) / members.len().max(1) as f64)
            }
            _ => CAPACITY,
        };
        for member in members {
            let mut wanted: Vec<_> = (0..PARTITIONS)
                .filter(|partition| self.group.reads(member, *partition, self.second))
                .map(|partition| (self.wants(partition), partition))
                .collect();
            wanted.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (mut left, mut sharers) = (each, wanted.len());
            for (wants, partition) in wanted {
                let gets = wants.min(left / sharers as f64);
                self.queues[partition].read += gets;
                self.queues[partition].just_read = gets;
                left -= gets;
                sharers -= 1;
            }
        }
    }

    /// Most that could be read of a partition in this second.
    fn wants(&self, partition: usize) -> f64 {
        let left = self.queues[partition].left();
        match self.trace.trouble {
            Trouble::Key { partition: hot, rate } if hot == partition => left.min(rate),
            Trouble::Poison { partition: stuck, from, until }
                if stuck == partition && (from..until).contains(&self.second) =>
            {
                0.0
            }
            _ => left,
        }
    }

    /// Age of the oldest record that is still to be read, in seconds.
    pub(crate) fn oldest(&mut self) -> f64 {
        self.queues.iter_mut().map(Queue::age).fold(0.0, f64::max)
    }

    /// What anybody may read of the partitions, while the broker is there.
    pub(crate) fn readings(&self) -> Vec<Reading> {
        if self.away() {
            return Vec::new();
        }
        let reading = |(partition, queue): (usize, &Queue)| {
            let committed = whole(queue.read - UNCOMMITTED * queue.just_read);
            // A commit needs a record that was read.
            let none = matches!(self.trace.trouble, Trouble::New) && queue.read < 1.0;
            Reading {
                log_start: Some(FIRST_OFFSET),
                log_end: Some(FIRST_OFFSET + whole(queue.total())),
                committed: if none { Committed::Nothing } else { Committed::At(FIRST_OFFSET + committed) },
                head: Head::NotRead,
                owner: self.group.owner(partition),
            }
        };
        self.queues.iter().enumerate().map(reading).collect()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a trace has some millions of records")]
fn whole(records: f64) -> i64 {
    // Sums of fractions err in the last digits, and a record that is read but for them is read.
    (records + 1e-6).floor() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEADY: Trace = Trace { name: "", title: "", arrivals: |_, _| 50.0, trouble: Trouble::Nothing };

    #[test]
    fn nothing_is_lost_and_nothing_is_read_that_has_not_arrived() {
        let mut world = World::new(&STEADY, Rebalance::Cooperative, 1);
        for second in 1..=100 {
            world.step();
            for queue in &world.queues {
                assert!((queue.total() - 50.0 * f64::from(second)).abs() < 1e-6);
                assert!(queue.left() > -1e-9);
            }
        }
        // 600 arrive and one pod reads 400, from the first second on.
        let left: f64 = world.queues.iter().map(Queue::left).sum();
        assert!((left - 20_000.0).abs() < 1e-6, "{left}");
    }

    #[test]
    fn the_age_is_that_of_the_first_record_that_is_still_to_be_read() {
        let mut world = World::new(&STEADY, Rebalance::Cooperative, 1);
        for _ in 0..90 {
            world.step();
        }
        // After 90 s it has read what came in the first 60.
        assert!((world.oldest() - 30.0).abs() < 1e-6, "{}", world.oldest());
    }

    #[test]
    fn enough_pods_keep_the_queues_empty() {
        let mut world = World::new(&STEADY, Rebalance::Cooperative, 2);
        for _ in 0..100 {
            world.step();
        }
        assert!(world.oldest() < 1e-6);
        let lag: i64 = world
            .readings()
            .iter()
            .map(|reading| match reading.committed {
                Committed::At(place) => reading.log_end.unwrap() - place,
                _ => panic!("it has committed"),
            })
            .sum();
        assert_eq!(lag, 120, "what is not committed yet");
    }

    #[test]
    fn what_waited_for_the_broker_comes_after_it() {
        let trouble = Trouble::Away { from: 10, until: 20, after: 1200.0 };
        let trace = Trace { trouble, ..STEADY };
        let mut world = World::new(&trace, Rebalance::Cooperative, 2);
        for _ in 0..15 {
            world.step();
        }
        assert!(world.readings().is_empty());
        for _ in 15..40 {
            world.step();
        }
        assert!((world.queues[0].total() - 2000.0).abs() < 1e-6);
    }
}
