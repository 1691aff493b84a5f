//! The rows this relay has in hand, and which of them may go to the producer now: of one order, one at a time. Pure.
//!
//! ```text
//! admit ─▶ waiting ─ next_due ─▶ sent ─ delivered ─▶ acknowledged ─ deleted ─▶ (gone)
//!             ▲                  │  ▲ │
//!             └──── put_back ────┘  │ └─ refused ─▶ refused ─ drop_order ─▶ (parked)
//!                                   └──── tried ───────┘
//! restart: what is waiting or sent is forgotten, to be read again
//! ```
//!
//! While an event of an order is with the producer, no later one of that order is: so nothing that a producer, a broker
//! or a network does to requests under way can make two events of one order change places.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Instant;

use sqlx::types::Uuid;

use super::read::OutboxRow;
use super::turns::Turns;

/// Rows of one order taken in hand at most. More of them stay in the outbox, the order being left out of reads until it
/// has caught up: one order with thousands of events must not fill the relay's hands.
const ROWS_PER_ORDER: usize = 16;

/// A row of the outbox.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RowId {
    /// Its shard.
    pub shard: i16,
    /// Its id, unique over all shards.
    pub id: i64,
}

/// A row that the broker has and the outbox still holds. An id alone is not enough to tell it from a later one: see
/// [`super::acknowledge`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acknowledged {
    /// Where it stands.
    pub row: RowId,
    /// Whose it is.
    pub order_id: Uuid,
}

/// What a read must leave out, as things stood when it began.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Skip {
    /// Rows in hand, from the floor of their shard on.
    pub ids: Vec<i64>,
    /// Orders that have enough rows in hand.
    pub orders: Vec<Uuid>,
    /// The shards of these orders: not all rows of theirs that precede what is read are in hand.
    pub crowded: Vec<i16>,
    generation: u64,
}

/// Everything in hand. A read skips exactly these rows.
#[derive(Debug)]
pub struct InFlight {
    rows_per_order: usize,
    rows: HashMap<i64, Held>,
    /// Orders of which a row is waiting or sent.
    orders: HashMap<Uuid, Lane>,
    /// Orders of which a row is waiting and none is sent.
    due: Turns,
    /// Orders that had more rows than may be in hand.
    crowded: HashSet<Uuid>,
    /// One of them has caught up since it was last asked.
    uncrowded: bool,
    acknowledged: Vec<Acknowledged>,
    sent: usize,
    /// Rises when rows that are still in the outbox are let go: a read that began before skipped them, so what it found
    /// of their orders begins too late.
    generation: u64,
}

/// A row in hand.
#[derive(Debug)]
struct Held {
    shard: i16,
    order_id: Uuid,
    recorded: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Waiting,
    Sent,
    Refused,
    Acknowledged,
}

/// An order's rows that the broker does not have.
#[derive(Debug)]
struct Lane {
    shard: i16,
    /// One of them is with the producer, or refused.
    busy: bool,
    waiting: VecDeque<OutboxRow>,
}

impl Default for InFlight {
    fn default() -> Self {
        Self::with_limit(ROWS_PER_ORDER)
    }
}

impl InFlight {
    /// Nothing in hand, and of one order never more than `rows_per_order` waiting.
    #[must_use]
    pub fn with_limit(rows_per_order: usize) -> Self {
        Self {
            rows_per_order,
            rows: HashMap::new(),
            orders: HashMap::new(),
            due: Turns::among(1),
            crowded: HashSet::new(),
            uncrowded: false,
            acknowledged: Vec::new(),
            sent: 0,
            generation: 0,
        }
    }

    /// From now on rows go to so many partitions. Nothing may be sent or due, as before the first read, after a restart, and once all
    /// that waits was let go.
    pub fn send_among(&mut self, partitions: i32) {
        debug_assert!(self.sent == 0 && self.due.is_empty(), "rows are dealt to other partitions already");
        self.due = Turns::among(partitions);
    }

    /// What a read that begins now, at each shard's `floor`, must leave out.
    #[must_use]
    pub fn skip(&self, floor: impl Fn(i16) -> i64) -> Skip {
        let in_reach = |(id, held): (&i64, &Held)| (*id >= floor(held.shard)).then_some(*id);
        Skip {
            ids: self.rows.iter().filter_map(in_reach).collect(),
            orders: self.crowded.iter().copied().collect(),
            crowded: self.crowded_shards(),
            generation: self.generation,
        }
    }

    /// Shards with an order of which rows were left in the outbox though they were found.
    #[must_use]
    pub fn crowded_shards(&self) -> Vec<i16> {
        self.crowded.iter().filter_map(|order_id| Some(self.orders.get(order_id)?.shard)).collect()
    }

    /// What a read finds that began before now is out of date.
    pub fn outdate_reads(&mut self) {
        self.generation += 1;
    }

    /// Rises whenever rows that are still in the outbox are let go.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Takes in hand what a read found, the rows of each order in their order. Rows of an order beyond
    /// its limit are left to a later read. False, and nothing is taken, when the read is out of date.
    pub fn admit(&mut self, skipped: &Skip, rows: Vec<OutboxRow>) -> bool {
        if skipped.generation != self.generation {
            return false;
        }
        for row in rows {
            let OutboxRow { row: RowId { shard, id }, order_id, recorded, .. } = row;
            let lane = match self.orders.entry(order_id) {
                Entry::Occupied(lane) => lane.into_mut(),
                Entry::Vacant(lane) => {
                    self.due.push(order_id);
                    lane.insert(Lane { shard, busy: false, waiting: VecDeque::new() })
                }
            };
            if lane.waiting.len() >= self.rows_per_order || self.crowded.contains(&order_id) {
                self.crowded.insert(order_id);
                continue;
            }
            self.rows.insert(id, Held { shard, order_id, recorded, stage: Stage::Waiting });
            lane.waiting.push_back(row);
        }
        true
    }

    /// Each partition of which the producer has nothing may have its next batch.
    pub fn open(&mut self) {
        self.due.open();
    }

    /// True while a partition has a backlog.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.due.is_behind()
    }

    /// The next row to hand to the producer; it counts as sent from now. None when no partition that may have rows has any.
    pub fn next_due(&mut self) -> Option<OutboxRow> {
        let order_id = self.due.next()?;
        let lane = self.orders.get_mut(&order_id)?;
        let row = lane.waiting.pop_front()?;
        lane.busy = true;
        self.due.sent(&order_id, row.payload.len());
        self.stage(row.row.id, Stage::Sent);
        self.sent += 1;
        Some(row)
    }

    /// The producer did not take the row: it is the next one due again.
    pub fn put_back(&mut self, row: OutboxRow) {
        self.stage(row.row.id, Stage::Waiting);
        self.sent -= 1;
        self.due.put_back(row.order_id);
        if let Some(lane) = self.orders.get_mut(&row.order_id) {
            lane.busy = false;
            lane.waiting.push_front(row);
        }
    }

    /// The broker has the row; the next one of its order is due. Answers when it was recorded; none when no such row was
    /// sent.
    pub fn delivered(&mut self, id: i64) -> Option<Instant> {
        let held = self.rows.get_mut(&id).filter(|held| held.stage == Stage::Sent)?;
        held.stage = Stage::Acknowledged;
        let (shard, order_id, recorded) = (held.shard, held.order_id, held.recorded);
        self.acknowledged.push(Acknowledged { row: RowId { shard, id }, order_id });
        self.sent -= 1;
        self.due.answered(&order_id);
        self.proceed(order_id);
        Some(recorded)
    }

    /// The broker did not take the row: its order waits until it is tried again or parked. None when no such row was sent.
    pub fn refused(&mut self, id: i64) -> Option<RowId> {
        let held = self.rows.get_mut(&id).filter(|held| held.stage == Stage::Sent)?;
        held.stage = Stage::Refused;
        self.sent -= 1;
        self.due.answered(&held.order_id);
        Some(RowId { shard: held.shard, id })
    }

    /// True while the row is refused and neither tried again nor parked.
    #[must_use]
    pub fn is_refused(&self, row: &RowId) -> bool {
        self.rows.get(&row.id).is_some_and(|held| held.stage == Stage::Refused)
    }

    /// A refused row was handed to the producer again.
    pub fn tried(&mut self, row: RowId) {
        let Some(held) = self.rows.get_mut(&row.id) else { return };
        held.stage = Stage::Sent;
        self.due.tried(&held.order_id);
        self.sent += 1;
    }

    /// A refused row is no longer in the outbox; its order goes on with the next one.
    pub fn forget(&mut self, row: RowId) {
        if let Some(held) = self.rows.remove(&row.id) {
            self.proceed(held.order_id);
        }
    }

    /// The order of the row is parked: what is in hand of it is let go. Answers the order.
    pub fn drop_order(&mut self, row: RowId) -> Option<Uuid> {
        let order_id = self.rows.get(&row.id)?.order_id;
        self.rows.retain(|_, held| held.order_id != order_id || held.stage == Stage::Acknowledged);
        self.orders.remove(&order_id);
        self.crowded.remove(&order_id);
        self.generation += 1;
        Some(order_id)
    }

    /// The producer is gone: whatever the broker neither acknowledged nor refused is to be read and sent again.
    pub fn restart(&mut self) {
        self.rows.retain(|_, held| matches!(held.stage, Stage::Acknowledged | Stage::Refused));
        self.orders.clear();
        for held in self.rows.values().filter(|held| held.stage == Stage::Refused) {
            let lane = Lane { shard: held.shard, busy: true, waiting: VecDeque::new() };
            self.orders.insert(held.order_id, lane);
        }
        self.due = self.due.anew();
        self.crowded.clear();
        self.sent = 0;
        self.generation += 1;
    }

    /// Lets go of shards that are led no longer: their new leader reads them. What is sent stays in hand until the broker
    /// answers.
    pub fn drop_shards(&mut self, lost: &[i16]) {
        if lost.is_empty() {
            return;
        }
        self.rows.retain(|_, held| {
            matches!(held.stage, Stage::Sent | Stage::Acknowledged) || !lost.contains(&held.shard)
        });
        let sent = self.rows.values().filter(|held| held.stage == Stage::Sent);
        let sent: HashSet<Uuid> = sent.map(|held| held.order_id).collect();
        self.orders.retain(|order_id, lane| {
            let lost = lost.contains(&lane.shard);
            if lost {
                lane.waiting.clear();
            }
            !lost || sent.contains(order_id)
        });
        let orders = &self.orders;
        self.due.retain(|order_id| orders.get(order_id).is_some_and(|lane| !lane.waiting.is_empty()));
        self.crowded.retain(|order_id| orders.contains_key(order_id));
        self.generation += 1;
    }

    /// Rows that the broker has and the outbox still holds, to be deleted; each is given out once.
    pub fn take_acknowledged(&mut self) -> Vec<Acknowledged> {
        std::mem::take(&mut self.acknowledged)
    }

    /// The rows could not be deleted: they are to be tried again.
    pub fn not_deleted(&mut self, rows: Vec<Acknowledged>) {
        self.acknowledged.extend(rows);
    }

    /// The rows left the outbox.
    pub fn deleted(&mut self, rows: &[Acknowledged]) {
        for Acknowledged { row, .. } in rows {
            self.rows.remove(&row.id);
        }
    }

    /// True when an order that was left out of reads has caught up since the last call: a read is due.
    pub fn take_uncrowded(&mut self) -> bool {
        std::mem::take(&mut self.uncrowded)
    }

    /// Shards of which a row is in hand.
    #[must_use]
    pub fn shards(&self) -> Vec<i16> {
        let shards: BTreeSet<i16> = self.rows.values().map(|held| held.shard).collect();
        shards.into_iter().collect()
    }

    /// Acknowledged rows that were not given out to be deleted.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// True while the producer has rows that the broker has not acknowledged.
    #[must_use]
    pub fn awaits_broker(&self) -> bool {
        self.sent > 0
    }

    /// True while a row was handed over and is not deleted yet: it is with the producer, or in the topic.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.rows.values().any(|held| matches!(held.stage, Stage::Sent | Stage::Acknowledged))
    }

    /// Rows in hand.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True when none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The order's row ahead is done with: the next one is due.
    fn proceed(&mut self, order_id: Uuid) {
        let Entry::Occupied(mut lane) = self.orders.entry(order_id) else { return };
        lane.get_mut().busy = false;
        if lane.get().waiting.is_empty() {
            lane.remove();
            self.uncrowded |= self.crowded.remove(&order_id);
        } else {
            self.due.push(order_id);
        }
    }

    fn stage(&mut self, id: i64, stage: Stage) {
        if let Some(held) = self.rows.get_mut(&id) {
            held.stage = stage;
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
