//! Whatever the interleaving of commits, reads, acknowledgements, failures and restarts, events leave in order and none stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use proptest::prelude::*;

use super::tests::row;
use super::*;
use crate::relay::floor::{Floors, Sample, Start};

const SHARDS: i16 = 2;
const PAGE: usize = 3;
const ROOM: usize = 12;

struct Reading {
    skip: Skip,
    start: Start,
    rows: Vec<OutboxRow>,
    /// Each shard's last row, if its page was full.
    ends: Vec<Option<i64>>,
}

/// A transaction that has taken its outbox id.
struct Open {
    xid: i64,
    id: i64,
    version: i64,
}

/// An outbox, a producer that acknowledges in any order, and a relay between them.
struct World {
    in_flight: InFlight,
    floors: Floors,
    /// Stands still: the read from the head that comes every minute would hide what a floor left out.
    now: Instant,
    next_id: i64,
    /// Begun transactions by order; an order's next one begins after its last has ended.
    open: BTreeMap<u128, Open>,
    outbox: BTreeMap<i64, (u128, i64)>,
    versions: BTreeMap<u128, i64>,
    reading: Option<Reading>,
    /// The oldest running transaction as a sample saw it that is not answered yet.
    sampling: Option<i64>,
    next_xid: i64,
    parked: BTreeSet<u128>,
    refused: BTreeSet<i64>,
    producer: BTreeSet<i64>,
    events: BTreeMap<i64, (u128, i64)>,
    acknowledged: BTreeMap<u128, i64>,
    deleting: Vec<Acknowledged>,
}

#[derive(Clone, Debug)]
enum Step {
    Begin(u128),
    Commit(u128),
    StartSample,
    EndSample,
    StartRead,
    EndRead,
    HandOver(usize),
    QueueFull,
    Acknowledge(usize),
    Refuse(usize),
    TryRefused,
    Park,
    Release,
    Discard,
    StartDelete,
    EndDelete(bool),
    Restart,
    LoseShard(i16),
    Grow(i32),
}

fn step() -> impl Strategy<Value = Step> {
    let order = 0..5_u128;
    prop_oneof![
        4 => order.clone().prop_map(Step::Begin),
        4 => order.prop_map(Step::Commit),
        3 => Just(Step::StartSample),
        3 => Just(Step::EndSample),
        4 => Just(Step::StartRead),
        4 => Just(Step::EndRead),
        4 => (1..4_usize).prop_map(Step::HandOver),
        1 => Just(Step::QueueFull),
        6 => any::<usize>().prop_map(Step::Acknowledge),
        2 => any::<usize>().prop_map(Step::Refuse),
        2 => Just(Step::TryRefused),
        1 => Just(Step::Park),
        1 => Just(Step::Release),
        1 => Just(Step::Discard),
        2 => Just(Step::StartDelete),
        2 => any::<bool>().prop_map(Step::EndDelete),
        1 => Just(Step::Restart),
        1 => (0..SHARDS).prop_map(Step::LoseShard),
        1 => (1..4_i32).prop_map(Step::Grow),
    ]
}

fn of_two_partitions() -> InFlight {
    let mut in_flight = InFlight::with_limit(1);
    in_flight.send_among(2);
    in_flight
}

fn shard_of(order: u128) -> i16 {
    i16::try_from(order % 2).unwrap()
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            in_flight: of_two_partitions(),
            floors: Floors::new(now),
            now,
            next_id: 0,
            next_xid: 0,
            open: BTreeMap::new(),
            outbox: BTreeMap::new(),
            versions: BTreeMap::new(),
            reading: None,
            sampling: None,
            parked: BTreeSet::new(),
            refused: BTreeSet::new(),
            producer: BTreeSet::new(),
            events: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            deleting: Vec::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Begin(order) => {
                if !self.open.contains_key(&order) {
                    (self.next_id, self.next_xid) = (self.next_id + 1, self.next_xid + 1);
                    let version = self.versions.get(&order).unwrap_or(&0) + 1;
                    self.open.insert(order, Open { xid: self.next_xid, id: self.next_id, version });
                }
            }
            Step::Commit(order) => {
                if let Some(Open { id, version, .. }) = self.open.remove(&order) {
                    self.outbox.insert(id, (order, version));
                    self.events.insert(id, (order, version));
                    self.versions.insert(order, version);
                }
            }
            // A statement's snapshot is older than what its functions answer.
            Step::StartSample => self.sampling = Some(self.oldest_xid()),
            Step::EndSample => {
                if let Some(oldest_xid) = self.sampling.take() {
                    self.next_xid += 1;
                    self.floors.see(Sample { last_id: self.next_id, next_xid: self.next_xid, oldest_xid });
                }
            }
            Step::StartRead => self.start_read(),
            Step::EndRead => self.end_read(),
            Step::HandOver(count) => {
                self.in_flight.open();
                (0..count).for_each(|_| self.hand_over());
            }
            Step::QueueFull => {
                self.in_flight.open();
                if let Some(row) = self.in_flight.next_due() {
                    self.in_flight.put_back(row);
                }
            }
            Step::Acknowledge(nth) => {
                if let Some(id) = self.take_from_producer(nth) {
                    let (order, version) = self.events[&id];
                    let seen = self.acknowledged.entry(order).or_default();
                    *seen = version.max(*seen);
                    assert!(self.in_flight.delivered(id).is_some());
                }
            }
            Step::Refuse(_) | Step::TryRefused | Step::Park | Step::Release | Step::Discard => {
                self.take_refusal(step);
            }
            Step::StartDelete => {
                if self.deleting.is_empty() {
                    self.deleting = self.in_flight.take_acknowledged();
                }
            }
            Step::EndDelete(known) => {
                let rows = std::mem::take(&mut self.deleting);
                for Acknowledged { row, .. } in &rows {
                    self.outbox.remove(&row.id);
                }
                // A statement that was given up may have taken effect.
                if known { self.in_flight.deleted(&rows) } else { self.in_flight.not_deleted(rows) }
            }
            Step::Restart => {
                self.producer.clear();
                self.in_flight.restart();
            }
            Step::LoseShard(shard) => self.in_flight.drop_shards(&[shard]),
            Step::Grow(partitions) => self.grow(partitions),
        }
    }

    /// Rows are dealt to other partitions, which is done only while the producer has none.
    fn grow(&mut self, partitions: i32) {
        if self.in_flight.awaits_broker() {
            return;
        }
        let shards = self.in_flight.shards();
        self.in_flight.drop_shards(&shards);
        self.in_flight.send_among(partitions);
    }

    fn take_refusal(&mut self, step: &Step) {
        match *step {
            Step::Refuse(nth) => {
                if let Some(id) = self.take_from_producer(nth) {
                    assert!(self.in_flight.refused(id).is_some_and(|row| self.in_flight.is_refused(&row)));
                    self.refused.insert(id);
                }
            }
            Step::TryRefused => {
                if let Some(row) = self.pop_refused() {
                    self.assert_may_go(row.id);
                    self.in_flight.tried(row);
                    self.producer.insert(row.id);
                }
            }
            Step::Park => {
                if let Some(row) = self.pop_refused() {
                    self.in_flight.drop_order(row);
                    self.parked.insert(self.events[&row.id].0);
                }
            }
            Step::Release => {
                self.parked.pop_first();
                self.floors.lower();
            }
            // Someone else, such as an operator, deleted the refused row; a gap by intention.
            Step::Discard => {
                if let Some(row) = self.pop_refused() {
                    let (order, version) = self.events[&row.id];
                    self.outbox.remove(&row.id);
                    self.acknowledged.insert(order, version);
                    self.in_flight.forget(row);
                }
            }
            _ => unreachable!("{step:?} is no step of a refusal"),
        }
    }

    fn start_read(&mut self) {
        if self.reading.is_some() || self.in_flight.len() >= ROOM {
            return;
        }
        let shards: Vec<i16> = (0..SHARDS).collect();
        let start = self.floors.start(&shards, self.in_flight.generation(), self.now);
        let floor = |shard: i16| start.floors[usize::try_from(shard).unwrap()];
        let skip = self.in_flight.skip(floor);
        let left_out = |id: &i64, order: u128| {
            skip.ids.contains(id)
                || skip.orders.contains(&Uuid::from_u128(order))
                || self.parked.contains(&order)
                || *id < floor(shard_of(order))
        };
        let (mut rows, mut ends) = (Vec::new(), Vec::new());
        for shard in shards {
            let due = self
                .outbox
                .iter()
                .filter(|(id, (order, _))| shard_of(*order) == shard && !left_out(id, *order));
            let page: Vec<OutboxRow> =
                due.take(PAGE).map(|(id, (order, _))| row(shard, *id, *order)).collect();
            ends.push(page.last().filter(|_| page.len() == PAGE).map(|row| row.row.id));
            rows.extend(page);
        }
        self.reading = Some(Reading { skip, start, rows, ends });
    }

    fn end_read(&mut self) {
        if let Some(Reading { skip, start, rows, ends }) = self.reading.take()
            && self.in_flight.admit(&skip, rows)
        {
            let crowded = self.in_flight.crowded_shards();
            for (shard, last) in (0..SHARDS).zip(ends) {
                if !skip.crowded.contains(&shard) && !crowded.contains(&shard) {
                    self.floors.raise(&start, shard, last);
                }
            }
        }
    }

    fn oldest_xid(&self) -> i64 {
        self.open.values().map(|open| open.xid).min().unwrap_or(self.next_xid + 1)
    }

    fn take_from_producer(&mut self, nth: usize) -> Option<i64> {
        let id = self.producer.iter().nth(nth % self.producer.len().max(1)).copied()?;
        self.producer.remove(&id).then_some(id)
    }

    /// A row that is refused and, unless its shard was lost meanwhile, still in hand.
    fn pop_refused(&mut self) -> Option<RowId> {
        let id = self.refused.pop_first()?;
        let row = RowId { shard: shard_of(self.events[&id].0), id };
        self.in_flight.is_refused(&row).then_some(row)
    }

    fn assert_may_go(&self, id: i64) {
        let (order, version) = self.events[&id];
        let others = self.producer.iter().filter(|id| self.events[id].0 == order).count();
        assert_eq!(others, 0, "order {order} is with the producer already");
        let seen = *self.acknowledged.get(&order).unwrap_or(&0);
        assert!(version <= seen + 1, "order {order}: version {version} after {seen}");
        assert!(!self.parked.contains(&order), "order {order} is parked");
    }

    fn hand_over(&mut self) {
        let Some(row) = self.in_flight.next_due() else { return };
        self.assert_may_go(row.row.id);
        self.producer.insert(row.row.id);
    }

    /// Everything committed, without further trouble: nothing may stay behind.
    fn settle(&mut self) {
        for order in 0..5 {
            self.take(&Step::Commit(order));
        }
        for _ in 0..10 * (self.events.len() + 1) {
            for step in
                [Step::Release, Step::TryRefused, Step::StartRead, Step::EndRead, Step::HandOver(ROOM)]
            {
                self.take(&step);
            }
            while !self.producer.is_empty() {
                self.take(&Step::Acknowledge(0));
            }
            for step in [Step::StartDelete, Step::EndDelete(true)] {
                self.take(&step);
            }
        }
        assert!(self.outbox.is_empty(), "left behind: {:?}", self.outbox);
        assert!(self.in_flight.is_empty() && !self.in_flight.awaits_broker());
        assert_eq!(self.acknowledged, self.versions);
    }
}

proptest! {
    #[test]
    fn events_of_an_order_leave_one_by_one_in_order_and_none_stays(steps in prop::collection::vec(step(), 0..200)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        world.settle();
    }
}
