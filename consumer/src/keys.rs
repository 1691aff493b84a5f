//! Which records of one partition may be worked on now: of one key one after another, different keys side by side. Pure.
//!
//! ```text
//! admit ─▶ waiting ─ take ─▶ at work ─ settle ─▶ (gone)
//!             ▲                             │
//!             └────── wake ◀─ parked ◀──────┘
//! ```
//!
//! A key that is at work or parked gives nothing out, so no two records of it are ever worked on at once, and none passes one
//! that failed. Everything else about a record (its offset, whether it is done) is the caller's.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;

/// What keeps records in order among themselves.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Key {
    /// The record's key.
    Of(Bytes),
    /// A record without one, by its offset: it is in nobody's order.
    None(i64),
}

/// The records of a partition that are not done, by key.
#[derive(Debug)]
pub struct Keys<T> {
    queues: HashMap<Key, Queue<T>>,
    /// Keys that wait to be worked on, in the order in which they became so.
    ready: VecDeque<Key>,
    /// Parked keys by when they go on; the number parts those of one moment.
    parked: BTreeMap<(Instant, u64), Key>,
    parkings: u64,
}

#[derive(Debug)]
struct Queue<T> {
    waiting: VecDeque<T>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Ready,
    AtWork,
    Parked,
}

impl<T> Default for Keys<T> {
    fn default() -> Self {
        Self { queues: HashMap::new(), ready: VecDeque::new(), parked: BTreeMap::new(), parkings: 0 }
    }
}

impl<T> Keys<T> {
    /// A record of `key` arrived, behind all that did before.
    pub fn admit(&mut self, key: Key, record: T) {
        if let Some(queue) = self.queues.get_mut(&key) {
            queue.waiting.push_back(record);
            return;
        }
        let queue = Queue { waiting: VecDeque::from([record]), state: State::Ready };
        self.queues.insert(key.clone(), queue);
        self.ready.push_back(key);
    }

    /// Up to `most` records to be worked on together, those of a key in their order; none of these keys gives out more before it
    /// is [settled](Self::settle). The key that waits longest comes first, so that a key with
    /// many records keeps no other waiting for more than a turn.
    pub fn take(&mut self, most: usize) -> Vec<(Key, T)> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(key) = self.ready.pop_front()
        {
            let Some(queue) = self.queues.get_mut(&key) else { continue };
            queue.state = State::AtWork;
            let count = queue.waiting.len().min(most - taken.len());
            taken.extend(queue.waiting.drain(..count).map(|record| (key.clone(), record)));
        }
        taken
    }

    /// The turn of what was taken of `key` is over: `back`, in its order, is not done and goes before what waits. With `until` the
    /// key gives out nothing before then.
    pub fn settle(&mut self, key: Key, back: impl DoubleEndedIterator<Item = T>, until: Option<Instant>) {
        let Some(queue) = self.queues.get_mut(&key) else { return };
        back.rev().for_each(|record| queue.waiting.push_front(record));
        if queue.waiting.is_empty() {
            self.queues.remove(&key);
        } else if let Some(until) = until {
            queue.state = State::Parked;
            self.parkings += 1;
            self.parked.insert((until, self.parkings), key);
        } else {
            queue.state = State::Ready;
            self.ready.push_back(key);
        }
    }

    /// Keys whose time has come wait to be worked on again.
    pub fn wake(&mut self, now: Instant) {
        while let Some(((until, _), _)) = self.parked.first_key_value()
            && *until <= now
            && let Some((_, key)) = self.parked.pop_first()
        {
            if let Some(queue) = self.queues.get_mut(&key) {
                queue.state = State::Ready;
                self.ready.push_back(key);
            }
        }
    }

    /// When the next parked key goes on.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        self.parked.first_key_value().map(|((until, _), _)| *until)
    }

    /// Keys that wait for another attempt.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// True when a record may be taken.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn key(name: u8) -> Key {
        Key::Of(Bytes::from(vec![name]))
    }

    #[test]
    fn a_key_at_work_gives_out_nothing_and_keeps_no_other_waiting() {
        let mut keys = Keys::default();
        for (name, record) in [(1, 10), (1, 11), (2, 20)] {
            keys.admit(key(name), record);
        }
        assert_eq!(keys.take(1), [(key(1), 10)]);
        assert_eq!(keys.take(9), [(key(2), 20)]);
        assert!(keys.take(9).is_empty() && !keys.has_work());
        keys.settle(key(1), std::iter::empty(), None);
        assert_eq!(keys.take(9), [(key(1), 11)]);
    }

    #[test]
    fn a_parked_key_goes_on_with_what_failed_when_its_time_has_come() {
        let (mut keys, now) = (Keys::default(), Instant::now());
        keys.admit(key(1), 10);
        keys.admit(key(1), 11);
        assert_eq!(keys.take(1).len(), 1);
        keys.settle(key(1), [10].into_iter(), Some(now + Duration::from_secs(1)));
        keys.admit(key(1), 12);
        keys.wake(now);
        assert!(keys.take(9).is_empty() && keys.parked() == 1);
        assert_eq!(keys.next_wake(), Some(now + Duration::from_secs(1)));
        keys.wake(now + Duration::from_secs(1));
        assert_eq!(keys.take(9), [(key(1), 10), (key(1), 11), (key(1), 12)]);
        assert_eq!(keys.next_wake(), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Admit(u8),
        Take(usize),
        Finish(usize),
        Park(usize, u64),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..6_u8).prop_map(Step::Admit),
            3 => (1..5_usize).prop_map(Step::Take),
            3 => (0..8_usize).prop_map(Step::Finish),
            1 => ((0..8_usize), (0..5_u64)).prop_map(|(nth, pause)| Step::Park(nth, pause)),
            1 => (0..5_u64).prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn each_record_is_done_once_and_those_of_a_key_in_order_and_one_at_a_time(
            steps in prop::collection::vec(step(), 0..300),
        ) {
            let begin = Instant::now();
            let (mut keys, mut now) = (Keys::default(), begin);
            let mut admitted: BTreeMap<Key, Vec<u64>> = BTreeMap::new();
            let mut done: BTreeMap<Key, Vec<u64>> = BTreeMap::new();
            let mut at_work: Vec<(Key, Vec<u64>)> = Vec::new();
            let mut next = 0;
            let end = [Step::Pass(1000)].into_iter().chain((0..2000).flat_map(|_| [Step::Take(9), Step::Finish(0)]));
            for step in steps.into_iter().chain(end) {
                match step {
                    Step::Admit(name) => {
                        keys.admit(key(name), next);
                        admitted.entry(key(name)).or_default().push(next);
                        next += 1;
                    }
                    Step::Take(most) => {
                        let taken = keys.take(most);
                        prop_assert!(taken.len() <= most);
                        for (key, record) in taken {
                            match at_work.last_mut() {
                                Some((last, records)) if *last == key => records.push(record),
                                _ => {
                                    prop_assert!(at_work.iter().all(|(busy, _)| *busy != key), "two at once");
                                    at_work.push((key, vec![record]));
                                }
                            }
                        }
                    }
                    Step::Finish(nth) if nth < at_work.len() => {
                        let (key, records) = at_work.remove(nth);
                        keys.settle(key.clone(), std::iter::empty(), None);
                        done.entry(key).or_default().extend(records);
                    }
                    Step::Park(nth, pause) if nth < at_work.len() => {
                        let (key, records) = at_work.remove(nth);
                        let until = (pause > 0).then(|| now + Duration::from_secs(pause));
                        keys.settle(key, records.into_iter(), until);
                    }
                    Step::Pass(seconds) => {
                        now += Duration::from_secs(seconds);
                        keys.wake(now);
                    }
                    Step::Finish(_) | Step::Park(..) => {}
                }
            }
            prop_assert_eq!(admitted, done);
            prop_assert!(keys.queues.is_empty(), "what is done is forgotten");
        }
    }
}
