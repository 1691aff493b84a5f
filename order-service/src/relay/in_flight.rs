//! The rows this relay has in hand, and which of them may go to the producer now: of one order, one at a time. Pure.
//!
//! ```text
//! admit ─▶ waiting ─ next_due ─▶ sent ─ delivered ─▶ acknowledged ─ deleted ─▶ (gone)
//!             ▲                    │
//!             └── put_back ────────┘        restart: waiting and sent are forgotten, to be read again
//! ```
//!
//! While an event of an order is with the producer, no later one of that order is: so nothing that a producer, a broker
//! or a network does to requests under way can make two events of one order change places.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};

use sqlx::types::Uuid;

use super::read::OutboxRow;

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

/// Everything in hand. A read skips exactly these rows.
#[derive(Default, Debug)]
pub struct InFlight {
    rows: HashMap<i64, Held>,
    /// Orders of which a row is waiting or sent.
    orders: HashMap<Uuid, Lane>,
    /// Orders of which a row is waiting and none is sent, in the order of their arrival.
    due: VecDeque<Uuid>,
    /// Orders that had more rows than may be in hand.
    crowded: HashSet<Uuid>,
    /// One of them has caught up since it was last asked.
    uncrowded: bool,
    acknowledged: Vec<RowId>,
    sent: usize,
}

/// A row in hand.
#[derive(Debug)]
struct Held {
    shard: i16,
    order_id: Uuid,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Waiting,
    Sent,
    Acknowledged,
}

/// An order's rows that the broker does not have.
#[derive(Default, Debug)]
struct Lane {
    /// One of them is with the producer.
    busy: bool,
    waiting: VecDeque<OutboxRow>,
}

impl InFlight {
    /// Takes rows in hand, those of one order in their order. Rows of an order beyond [`ROWS_PER_ORDER`] are left to a
    /// later read.
    pub fn admit(&mut self, rows: Vec<OutboxRow>) {
        for row in rows {
            let lane = match self.orders.entry(row.order_id) {
                Entry::Occupied(lane) => lane.into_mut(),
                Entry::Vacant(lane) => {
                    self.due.push_back(row.order_id);
                    lane.insert(Lane::default())
                }
            };
            if lane.waiting.len() >= ROWS_PER_ORDER || self.crowded.contains(&row.order_id) {
                self.crowded.insert(row.order_id);
                continue;
            }
            let held = Held { shard: row.row.shard, order_id: row.order_id, stage: Stage::Waiting };
            self.rows.insert(row.row.id, held);
            lane.waiting.push_back(row);
        }
    }

    /// The next row to hand to the producer; it counts as sent from now.
    pub fn next_due(&mut self) -> Option<OutboxRow> {
        let order_id = self.due.pop_front()?;
        let lane = self.orders.get_mut(&order_id)?;
        let row = lane.waiting.pop_front()?;
        lane.busy = true;
        self.stage(row.row.id, Stage::Sent);
        self.sent += 1;
        Some(row)
    }

    /// The producer did not take the row: it is the next one due again.
    pub fn put_back(&mut self, row: OutboxRow) {
        self.stage(row.row.id, Stage::Waiting);
        self.sent -= 1;
        self.due.push_front(row.order_id);
        let lane = self.orders.entry(row.order_id).or_default();
        lane.busy = false;
        lane.waiting.push_front(row);
    }

    /// The broker has the row; the next one of its order is due. False when no such row was sent.
    pub fn delivered(&mut self, id: i64) -> bool {
        let Some(held) = self.rows.get_mut(&id).filter(|held| held.stage == Stage::Sent) else {
            return false;
        };
        held.stage = Stage::Acknowledged;
        self.acknowledged.push(RowId { shard: held.shard, id });
        self.sent -= 1;
        let order_id = held.order_id;
        if let Entry::Occupied(mut lane) = self.orders.entry(order_id) {
            lane.get_mut().busy = false;
            if lane.get().waiting.is_empty() {
                lane.remove();
                self.uncrowded |= self.crowded.remove(&order_id);
            } else {
                self.due.push_back(order_id);
            }
        }
        true
    }

    /// The producer is gone: whatever the broker did not acknowledge is to be read and sent again.
    pub fn restart(&mut self) {
        self.rows.retain(|_, held| held.stage == Stage::Acknowledged);
        self.orders.clear();
        self.due.clear();
        self.crowded.clear();
        self.sent = 0;
    }

    /// Forgets the waiting rows of shards that are led no longer: their new leader reads them.
    pub fn keep_shards(&mut self, led: impl Fn(i16) -> bool) {
        let lost = |held: &Held| held.stage == Stage::Waiting && !led(held.shard);
        if !self.rows.values().any(lost) {
            return;
        }
        self.rows.retain(|_, held| !lost(held));
        let rows = &self.rows;
        self.orders.retain(|_, lane| {
            lane.waiting.retain(|row| rows.contains_key(&row.row.id));
            lane.busy || !lane.waiting.is_empty()
        });
        let orders = &self.orders;
        self.due.retain(|order_id| orders.contains_key(order_id));
        self.crowded.retain(|order_id| orders.contains_key(order_id));
    }

    /// Rows that the broker has and the outbox still holds, to be deleted; each is given out once.
    pub fn take_acknowledged(&mut self) -> Vec<RowId> {
        std::mem::take(&mut self.acknowledged)
    }

    /// The rows could not be deleted: they are to be tried again.
    pub fn not_deleted(&mut self, rows: Vec<RowId>) {
        self.acknowledged.extend(rows);
    }

    /// The rows left the outbox.
    pub fn deleted(&mut self, rows: &[RowId]) {
        for row in rows {
            self.rows.remove(&row.id);
        }
    }

    /// Ids that a read must skip.
    #[must_use]
    pub fn ids(&self) -> Vec<i64> {
        self.rows.keys().copied().collect()
    }

    /// Orders that a read must leave out: they have enough rows in hand.
    #[must_use]
    pub fn crowded(&self) -> Vec<Uuid> {
        self.crowded.iter().copied().collect()
    }

    /// True when an order that was left out of reads has caught up since the last call: a read is due.
    pub fn take_uncrowded(&mut self) -> bool {
        std::mem::take(&mut self.uncrowded)
    }

    /// True while a row of the shard is in hand.
    #[must_use]
    pub fn holds(&self, shard: i16) -> bool {
        self.rows.values().any(|held| held.shard == shard)
    }

    /// True while the producer has rows that the broker has not acknowledged.
    #[must_use]
    pub fn awaits_broker(&self) -> bool {
        self.sent > 0
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

    fn stage(&mut self, id: i64, stage: Stage) {
        if let Some(held) = self.rows.get_mut(&id) {
            held.stage = stage;
        }
    }
}

#[cfg(test)]
mod tests;
