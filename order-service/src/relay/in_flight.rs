//! Which rows are on their way: sent, or acknowledged and not yet deleted. Pure bookkeeping.

use std::collections::BTreeSet;

use rdkafka::error::KafkaError;

/// A row of the outbox.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RowId {
    /// Its shard.
    pub shard: i16,
    /// Its id, unique over all shards.
    pub id: i64,
}

/// What became of a row that was sent.
#[derive(Debug)]
pub struct Delivery {
    /// The row.
    pub row: RowId,
    /// The broker has it, or why not.
    pub outcome: Result<(), KafkaError>,
}

/// The rows on their way. A read skips exactly these.
#[derive(Default, Debug)]
pub struct InFlight {
    sent: BTreeSet<RowId>,
    acknowledged: BTreeSet<RowId>,
}

impl InFlight {
    /// The row was handed to the producer.
    pub fn sent(&mut self, row: RowId) {
        self.sent.insert(row);
    }

    /// Takes deliveries in, and answers how many rows the broker now has, and the first failure.
    pub fn delivered(&mut self, deliveries: Vec<Delivery>) -> (u64, Option<(RowId, KafkaError)>) {
        let (mut count, mut failure) = (0, None);
        for Delivery { row, outcome } in deliveries {
            match outcome {
                Ok(()) => {
                    self.sent.remove(&row);
                    self.acknowledged.insert(row);
                    count += 1;
                }
                // It stays in flight until the producer is dropped: nothing of its order may be sent past it.
                Err(error) => failure = failure.or(Some((row, error))),
            }
        }
        (count, failure)
    }

    /// The producer is gone: what it had not delivered is to be read and sent again.
    pub fn restart(&mut self, last_deliveries: Vec<Delivery>) {
        self.delivered(last_deliveries);
        self.sent.clear();
    }

    /// Rows that the broker has and the outbox still holds.
    pub fn acknowledged(&self) -> impl Iterator<Item = RowId> {
        self.acknowledged.iter().copied()
    }

    /// The rows left the outbox.
    pub fn deleted(&mut self, rows: &[RowId]) {
        for row in rows {
            self.acknowledged.remove(row);
        }
    }

    /// Ids that a read must skip.
    #[must_use]
    pub fn ids(&self) -> Vec<i64> {
        self.sent.iter().chain(&self.acknowledged).map(|row| row.id).collect()
    }

    /// True while a row of the shard is on its way.
    #[must_use]
    pub fn holds(&self, shard: i16) -> bool {
        let rows = RowId { shard, id: i64::MIN }..=RowId { shard, id: i64::MAX };
        self.sent.range(rows.clone()).next().is_some() || self.acknowledged.range(rows).next().is_some()
    }

    /// True while the producer has rows that the broker has not acknowledged.
    #[must_use]
    pub fn awaits_broker(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Rows on their way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sent.len() + self.acknowledged.len()
    }

    /// True when none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaErrorCode;

    use super::*;

    fn row(shard: i16, id: i64) -> RowId {
        RowId { shard, id }
    }

    fn delivered(row: RowId) -> Delivery {
        Delivery { row, outcome: Ok(()) }
    }

    fn failed(row: RowId) -> Delivery {
        Delivery { row, outcome: Err(KafkaError::MessageProduction(RDKafkaErrorCode::Fatal)) }
    }

    #[test]
    fn a_row_is_skipped_from_its_sending_until_its_deletion() {
        let mut in_flight = InFlight::default();
        in_flight.sent(row(3, 7));
        assert_eq!(in_flight.ids(), [7]);
        in_flight.delivered(vec![delivered(row(3, 7))]);
        assert_eq!(in_flight.ids(), [7], "acknowledged, but still in the outbox");
        assert!(in_flight.holds(3) && !in_flight.holds(2) && !in_flight.awaits_broker());
        in_flight.deleted(&[row(3, 7)]);
        assert!(in_flight.is_empty() && !in_flight.holds(3));
    }

    #[test]
    fn a_restart_sends_again_what_was_not_acknowledged_and_nothing_else() {
        let mut in_flight = InFlight::default();
        for id in 1..=4 {
            in_flight.sent(row(0, id));
        }
        let (count, failure) =
            in_flight.delivered(vec![delivered(row(0, 1)), failed(row(0, 2)), failed(row(0, 3))]);
        assert_eq!((count, failure.map(|(row, _)| row.id)), (1, Some(2)));
        in_flight.restart(vec![delivered(row(0, 4))]);
        assert_eq!(in_flight.ids(), [1, 4], "these are only to be deleted; 2 and 3 are read again");
    }
}
