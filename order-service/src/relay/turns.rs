//! Whose turn it is: orders with a row to send, by the partition that their events go to. Pure.
//!
//! Of a partition the producer gets about a request's worth, and no more before it has answered for it, but for a few. It would keep
//! what it gets beyond that to itself anyway, since an idempotent librdkafka sends a further request only while fewer than five
//! messages are under way (`RD_KAFKA_IDEMP_MAX_INFLIGHT - inflight` in `rd_kafka_toppar_producer_serve`, of 2.12, counts messages, not
//! requests), but with a busy thread: as long as something waits for longer than `linger.ms`, it asks again and again whether it may go.
//!
//! Behind a backlog it is the other way round. There the next request is worth being made ready while one is under way, and a turn
//! that was used up is followed by the next one at once, until nobody waits.

use std::collections::VecDeque;

use order_events::partition_for;
use sqlx::types::Uuid;

/// Bytes of a partition that the producer gets at a time: a little less than a request takes ([`BATCH_BYTES`]), since what does
/// not go out with the first would be waited for by a busy thread. A topic of smaller batches has that for a moment.
///
/// [`BATCH_BYTES`]: super::publish::BATCH_BYTES
const TURN_BYTES: usize = 900_000;
/// Rows without an answer below which the next ones need not wait: librdkafka sends them at once (its `RD_KAFKA_IDEMP_MAX_INFLIGHT`).
/// Where orders come one by one, none waits for the answer to the one before.
const SENT_AT_ONCE: usize = 5;
/// What a record has beyond its payload at most: key, headers, and what frames them.
const RECORD_OVERHEAD: usize = 400;

/// Orders that wait for their turn.
#[derive(Debug)]
pub(super) struct Turns {
    count: i32,
    partitions: Vec<Partition>,
}

#[derive(Clone, Default, Debug)]
struct Partition {
    /// In the order of their arrival.
    orders: VecDeque<Uuid>,
    /// Rows that the producer has not answered for.
    sent: usize,
    /// Bytes that may still go to the producer in this turn.
    room: usize,
    /// A turn was not enough, and somebody has waited ever since.
    behind: bool,
}

impl Turns {
    /// Nobody waits, and nothing is sent yet, to any of so many partitions. At least one, as every topic has.
    pub(super) fn among(partitions: i32) -> Self {
        let count = partitions.max(1);
        let each = Partition { room: TURN_BYTES, ..Partition::default() };
        Self { count, partitions: vec![each; usize::try_from(count).unwrap_or(1)] }
    }

    /// The same partitions, with nobody waiting and nothing sent.
    pub(super) fn anew(&self) -> Self {
        Self::among(self.count)
    }

    /// The order waits, behind those of its partition that wait already.
    pub(super) fn push(&mut self, order_id: Uuid) {
        self.of(&order_id).orders.push_back(order_id);
    }

    /// The producer did not take the order's row: it is the next one of its partition.
    pub(super) fn put_back(&mut self, order_id: Uuid) {
        let partition = self.of(&order_id);
        partition.sent = partition.sent.saturating_sub(1);
        partition.orders.push_front(order_id);
    }

    /// A turn begins in each partition of which next to nothing is sent, or which is behind, and ends in every other.
    pub(super) fn open(&mut self) {
        for partition in &mut self.partitions {
            partition.behind &= !partition.orders.is_empty();
            partition.room = if partition.sent < SENT_AT_ONCE || partition.behind { TURN_BYTES } else { 0 };
        }
    }

    /// The next order, of a partition that has its turn; one partition after another, so that what is sent together comes together.
    pub(super) fn next(&mut self) -> Option<Uuid> {
        let mut having = self.partitions.iter_mut().filter(|partition| partition.room > 0);
        having.find_map(|partition| partition.orders.pop_front())
    }

    /// A row of the order that was next is with the producer.
    pub(super) fn sent(&mut self, order_id: &Uuid, payload: usize) {
        let partition = self.of(order_id);
        partition.sent += 1;
        partition.room = partition.room.saturating_sub(payload + RECORD_OVERHEAD);
        partition.behind |= partition.room == 0;
    }

    /// A row of the order is with the producer again, out of turn.
    pub(super) fn tried(&mut self, order_id: &Uuid) {
        self.of(order_id).sent += 1;
    }

    /// The producer answered for the row of the order, one way or another.
    pub(super) fn answered(&mut self, order_id: &Uuid) {
        let partition = self.of(order_id);
        partition.sent = partition.sent.saturating_sub(1);
    }

    /// Who does not stay waits no longer.
    pub(super) fn retain(&mut self, stays: impl Fn(&Uuid) -> bool) {
        for partition in &mut self.partitions {
            partition.orders.retain(&stays);
        }
    }

    /// True while a partition is behind.
    pub(super) fn is_behind(&self) -> bool {
        self.partitions.iter().any(|partition| partition.behind)
    }

    /// True when nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.partitions.iter().all(|partition| partition.orders.is_empty())
    }

    fn of(&mut self, order_id: &Uuid) -> &mut Partition {
        let mut buffer = Uuid::encode_buffer();
        let key: &str = order_id.hyphenated().encode_lower(&mut buffer);
        let number = usize::try_from(partition_for(key.as_bytes(), self.count)).unwrap_or_default();
        &mut self.partitions[number]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Orders of the partition, of three.
    fn orders(partition: i32) -> impl Iterator<Item = Uuid> {
        (0..)
            .map(Uuid::from_u128)
            .filter(move |order| partition_for(order.hyphenated().to_string().as_bytes(), 3) == partition)
    }

    fn hand_over(turns: &mut Turns) -> Vec<Uuid> {
        let mut handed = Vec::new();
        while let Some(order) = turns.next() {
            turns.sent(&order, 100);
            handed.push(order);
        }
        handed
    }

    #[test]
    fn a_partition_has_its_next_turn_once_the_producer_has_answered_for_all_but_a_few_of_the_last() {
        let mut turns = Turns::among(3);
        let of: Vec<Uuid> = orders(1).take(SENT_AT_ONCE + 2).collect();
        let (first, last) = of.split_at(SENT_AT_ONCE + 1);
        first.iter().for_each(|order| turns.push(*order));
        assert_eq!(hand_over(&mut turns), first);
        turns.push(last[0]);
        turns.open();
        assert!(hand_over(&mut turns).is_empty(), "too many are with the producer");
        turns.answered(&first[0]);
        turns.open();
        assert!(hand_over(&mut turns).is_empty(), "one too many is");
        turns.answered(&first[1]);
        turns.open();
        assert_eq!(hand_over(&mut turns), last);
    }

    #[test]
    fn a_partition_without_answers_holds_up_no_other() {
        let mut turns = Turns::among(3);
        let (stuck, free) = (orders(0).take(2 * SENT_AT_ONCE), orders(2).next().unwrap());
        stuck.for_each(|order| turns.push(order));
        hand_over(&mut turns);
        turns.push(orders(0).next().unwrap());
        turns.push(free);
        turns.open();
        assert_eq!(hand_over(&mut turns), [free]);
    }

    #[test]
    fn who_is_behind_has_turn_after_turn_until_nobody_waits() {
        let mut turns = Turns::among(3);
        let turn = TURN_BYTES.div_ceil(100 + RECORD_OVERHEAD);
        let of: Vec<Uuid> = orders(1).take(2 * turn + 2).collect();
        of[..=2 * turn].iter().for_each(|order| turns.push(*order));
        assert_eq!(hand_over(&mut turns).len(), turn, "about a request");
        turns.open();
        assert_eq!(hand_over(&mut turns).len(), turn, "unanswered though the first is");
        turns.open();
        assert_eq!(hand_over(&mut turns).len(), 1);
        turns.open();
        turns.push(of[2 * turn + 1]);
        turns.open();
        assert!(hand_over(&mut turns).is_empty(), "nobody waited");
    }

    #[test]
    fn who_is_tried_out_of_turn_is_not_behind_and_holds_up_the_next_turn() {
        let mut turns = Turns::among(3);
        let of: Vec<Uuid> = orders(1).take(SENT_AT_ONCE + 1).collect();
        of[..SENT_AT_ONCE].iter().for_each(|order| turns.push(*order));
        hand_over(&mut turns);
        turns.open();
        turns.answered(&of[0]);
        turns.tried(&of[0]);
        assert!(!turns.is_behind());
        turns.push(of[SENT_AT_ONCE]);
        turns.open();
        assert!(hand_over(&mut turns).is_empty(), "as many as may be are with the producer");
    }

    #[test]
    fn what_the_producer_did_not_take_is_the_next_one() {
        let mut turns = Turns::among(3);
        let of: Vec<Uuid> = orders(1).take(2).collect();
        of.iter().for_each(|order| turns.push(*order));
        let first = turns.next().unwrap();
        turns.sent(&first, 100);
        turns.put_back(first);
        assert_eq!(hand_over(&mut turns), of);
    }
}
