//! Whatever the interleaving of commits, reads, acknowledgements, failures and restarts, events leave in order.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rdkafka::message::OwnedHeaders;

use super::*;

const SHARDS: i16 = 2;
const PAGE: usize = 3;
const ROOM: usize = 12;

fn row(shard: i16, id: i64, order: u128) -> OutboxRow {
    OutboxRow {
        row: RowId { shard, id },
        order_id: Uuid::from_u128(order),
        headers: OwnedHeaders::new(),
        payload: Vec::new(),
    }
}

fn admit(in_flight: &mut InFlight, rows: Vec<OutboxRow>) {
    assert!(in_flight.admit(&in_flight.skip(), rows));
}

fn skipped(in_flight: &InFlight) -> Vec<i64> {
    let mut ids = in_flight.skip().ids;
    ids.sort_unstable();
    ids
}

fn next_id(in_flight: &mut InFlight) -> Option<i64> {
    in_flight.next_due().map(|row| row.row.id)
}

#[test]
fn of_one_order_one_event_is_with_the_producer_at_a_time() {
    let mut in_flight = InFlight::default();
    admit(&mut in_flight, vec![row(0, 1, 7), row(0, 2, 7), row(0, 3, 8)]);
    assert_eq!((next_id(&mut in_flight), next_id(&mut in_flight)), (Some(1), Some(3)));
    assert_eq!(next_id(&mut in_flight), None, "2 waits for 1");
    assert!(in_flight.delivered(1));
    assert_eq!(next_id(&mut in_flight), Some(2), "due as soon as 1 is acknowledged, before it is deleted");
}

#[test]
fn a_row_is_skipped_from_its_admission_until_its_deletion() {
    let mut in_flight = InFlight::default();
    admit(&mut in_flight, vec![row(1, 7, 7)]);
    assert_eq!(skipped(&in_flight), [7]);
    next_id(&mut in_flight);
    assert!(in_flight.awaits_broker());
    in_flight.delivered(7);
    assert_eq!(skipped(&in_flight), [7], "acknowledged, but still in the outbox");
    assert!(in_flight.shards() == [1] && in_flight.acknowledged() == 1 && !in_flight.awaits_broker());
    let done = in_flight.take_acknowledged();
    assert!(in_flight.take_acknowledged().is_empty(), "given out once");
    in_flight.not_deleted(done);
    let done = in_flight.take_acknowledged();
    in_flight.deleted(&done);
    assert!(in_flight.is_empty() && in_flight.shards().is_empty());
}

#[test]
fn a_row_that_the_producer_did_not_take_is_the_next_one_due() {
    let mut in_flight = InFlight::default();
    admit(&mut in_flight, vec![row(0, 1, 7), row(0, 2, 8)]);
    let first = in_flight.next_due().unwrap();
    in_flight.put_back(first);
    assert!(!in_flight.awaits_broker());
    assert_eq!(next_id(&mut in_flight), Some(1));
}

#[test]
fn a_restart_sends_again_what_was_not_acknowledged_and_nothing_else() {
    let mut in_flight = InFlight::default();
    admit(&mut in_flight, (1..=4).map(|id| row(0, id, id.unsigned_abs().into())).collect());
    while next_id(&mut in_flight).is_some() {}
    in_flight.delivered(1);
    in_flight.restart();
    assert_eq!(skipped(&in_flight), [1], "this is only to be deleted; the others are read again");
    assert!(!in_flight.delivered(2), "a report of the producer before is none of this one's");
}

#[test]
fn an_order_with_very_many_events_leaves_room_for_others() {
    let mut in_flight = InFlight::default();
    let many = i64::try_from(ROWS_PER_ORDER).unwrap() + 5;
    admit(&mut in_flight, (1..=many).map(|id| row(0, id, 7)).chain([row(0, 100, 8)]).collect());
    assert_eq!(in_flight.len(), ROWS_PER_ORDER + 1);
    assert_eq!(in_flight.skip().orders, [Uuid::from_u128(7)], "left out of reads");
    while let Some(id) = next_id(&mut in_flight) {
        in_flight.delivered(id);
    }
    assert!(in_flight.skip().orders.is_empty() && in_flight.take_uncrowded(), "to be read on at once");
}

/// An outbox, a producer that acknowledges in any order, and a relay between them.
#[derive(Default)]
struct World {
    in_flight: InFlight,
    next_id: i64,
    /// Begun transactions: order → (id, version); an order's next one begins after its last has ended.
    open: BTreeMap<u128, (i64, i64)>,
    outbox: BTreeMap<i64, (u128, i64)>,
    versions: BTreeMap<u128, i64>,
    reading: Option<(Skip, Vec<OutboxRow>)>,
    parked: BTreeSet<u128>,
    refused: BTreeSet<i64>,
    producer: BTreeSet<i64>,
    events: BTreeMap<i64, (u128, i64)>,
    acknowledged: BTreeMap<u128, i64>,
    deleting: Vec<RowId>,
}

#[derive(Clone, Debug)]
enum Step {
    Begin(u128),
    Commit(u128),
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
}

fn step() -> impl Strategy<Value = Step> {
    let order = 0..5_u128;
    prop_oneof![
        4 => order.clone().prop_map(Step::Begin),
        4 => order.prop_map(Step::Commit),
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
    ]
}

fn shard_of(order: u128) -> i16 {
    i16::try_from(order % 2).unwrap()
}

impl World {
    fn take(&mut self, step: &Step) {
        match *step {
            Step::Begin(order) => {
                if !self.open.contains_key(&order) {
                    self.next_id += 1;
                    self.open.insert(order, (self.next_id, self.versions.get(&order).unwrap_or(&0) + 1));
                }
            }
            Step::Commit(order) => {
                if let Some((id, version)) = self.open.remove(&order) {
                    self.outbox.insert(id, (order, version));
                    self.events.insert(id, (order, version));
                    self.versions.insert(order, version);
                }
            }
            Step::StartRead => self.start_read(),
            Step::EndRead => {
                if let Some((skip, read)) = self.reading.take() {
                    self.in_flight.admit(&skip, read);
                }
            }
            Step::HandOver(count) => (0..count).for_each(|_| self.hand_over()),
            Step::QueueFull => {
                if let Some(row) = self.in_flight.next_due() {
                    self.in_flight.put_back(row);
                }
            }
            Step::Acknowledge(nth) => {
                if let Some(id) = self.take_from_producer(nth) {
                    let (order, version) = self.events[&id];
                    let seen = self.acknowledged.entry(order).or_default();
                    *seen = version.max(*seen);
                    assert!(self.in_flight.delivered(id));
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
                for row in &rows {
                    self.outbox.remove(&row.id);
                }
                // A statement that was given up may have taken effect.
                if known { self.in_flight.deleted(&rows) } else { self.in_flight.not_deleted(rows) }
            }
            Step::Restart => {
                self.producer.clear();
                self.in_flight.restart();
            }
            Step::LoseShard(shard) => {
                self.in_flight.keep_shards(|led| led != shard);
            }
        }
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
            Step::Release => drop(self.parked.pop_first()),
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
        let skip = self.in_flight.skip();
        let left_out = |id: &i64, order: u128| {
            skip.ids.contains(id)
                || skip.orders.contains(&Uuid::from_u128(order))
                || self.parked.contains(&order)
        };
        let mut rows = Vec::new();
        for shard in 0..SHARDS {
            let due = self
                .outbox
                .iter()
                .filter(|(id, (order, _))| shard_of(*order) == shard && !left_out(id, *order));
            rows.extend(due.take(PAGE).map(|(id, (order, _))| row(shard, *id, *order)));
        }
        self.reading = Some((skip, rows));
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
        let mut world = World::default();
        for step in &steps {
            world.take(step);
        }
        world.settle();
    }
}
