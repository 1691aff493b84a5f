//! Which of the events that a broker refused it refuses on their own: a batch is refused as a whole. Pure.
//!
//! What was refused is tried again in halves, with nothing else in the producer, until each event was taken or was refused
//! alone. So a neighbour is never parked, and one refusal among a thousand costs some twenty round trips.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::in_flight::RowId;

/// A trial of refused events. While it is on, nothing else goes to the producer.
#[derive(Default, Debug)]
pub struct Trial {
    /// Refused since the last try.
    refused: Vec<RowId>,
    /// To be tried, the last one first.
    groups: Vec<Vec<RowId>>,
    /// The only row of the last try.
    alone: Option<RowId>,
    reason: Option<KafkaError>,
    /// A refusal was for size.
    oversized: bool,
    /// A row was still there to be tried.
    tried: bool,
    parked: bool,
    on: bool,
}

/// What to do next, once nothing is with the producer.
#[derive(Debug)]
pub enum Next {
    /// Park this row's order.
    Park(RowId, String),
    /// Hand these rows over, and nothing else.
    Try(Vec<RowId>),
    /// Go on as usual.
    Over {
        /// Batches were too large, but none of their events: smaller ones are to be sent.
        batches_too_large: bool,
    },
}

impl Trial {
    /// True when an error is about what was sent, and sending the same again can't help. Everything else is about topic,
    /// cluster or producer, and may pass: among it a timestamp out of bounds, which is this machine's clock, and a wrong
    /// checksum, which librdkafka itself sends again.
    #[must_use]
    pub fn concerns(error: &KafkaError) -> bool {
        matches!(
            error.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::MessageSizeTooLarge
                    | RDKafkaErrorCode::MessageBatchTooLarge
                    | RDKafkaErrorCode::InvalidMessageSize
                    | RDKafkaErrorCode::InvalidRecord
                    | RDKafkaErrorCode::InvalidDifferentRecord
                    | RDKafkaErrorCode::PolicyViolation
            )
        )
    }

    /// The broker refused the row, perhaps for its neighbours' sake.
    pub fn refuse(&mut self, row: RowId, reason: KafkaError) {
        self.oversized |= matches!(
            reason.rdkafka_error_code(),
            Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge)
        );
        self.refused.push(row);
        self.reason = Some(reason);
        self.on = true;
    }

    /// True while refused rows are to be told apart.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// The next step, once nothing is with the producer any more.
    pub fn advance(&mut self) -> Next {
        let mut refused = std::mem::take(&mut self.refused);
        refused.sort_unstable();
        match (refused.as_slice(), self.alone.take()) {
            ([row], Some(alone)) if *row == alone => {
                self.parked = true;
                let reason = self.reason.as_ref().map_or_else(String::new, ToString::to_string);
                return Next::Park(alone, reason);
            }
            ([], _) => {}
            ([_], _) => self.groups.push(refused),
            (rows, _) => {
                let (first, second) = rows.split_at(rows.len() / 2);
                self.groups.extend([second.to_vec(), first.to_vec()]);
            }
        }
        let Some(group) = self.groups.pop() else {
            let batches_too_large = self.oversized && self.tried && !self.parked;
            *self = Self::default();
            return Next::Over { batches_too_large };
        };
        self.alone = if let [row] = group.as_slice() { Some(*row) } else { None };
        Next::Try(group)
    }

    /// Rows of the group were handed over. Others may have been let go meanwhile, as with their shard.
    pub fn tried(&mut self) {
        self.tried = true;
    }

    /// The step could not be taken: it is to be tried again.
    pub fn again(&mut self, rows: Vec<RowId>) {
        self.alone = None;
        self.groups.push(rows);
    }

    /// The producer is gone, and what it had of the last try with it.
    pub fn restart(&mut self) {
        self.alone = None;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn too_large() -> KafkaError {
        KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge)
    }

    fn rows(ids: impl IntoIterator<Item = i64>) -> Vec<RowId> {
        ids.into_iter().map(|id| RowId { shard: 0, id }).collect()
    }

    /// Runs a trial of `suspects` with a broker that refuses a batch if it holds one of `bad`, or more than `limit` rows.
    fn run(suspects: &[RowId], bad: &BTreeSet<i64>, limit: usize) -> (BTreeSet<i64>, BTreeSet<i64>, bool) {
        let (mut trial, mut taken, mut parked) = (Trial::default(), BTreeSet::new(), BTreeSet::new());
        suspects.iter().for_each(|row| trial.refuse(*row, too_large()));
        loop {
            trial.tried();
            match trial.advance() {
                Next::Park(row, _) => assert!(parked.insert(row.id)),
                Next::Try(group) if group.len() > limit || group.iter().any(|row| bad.contains(&row.id)) => {
                    group.into_iter().for_each(|row| trial.refuse(row, too_large()));
                }
                Next::Try(group) => taken.extend(group.into_iter().map(|row| row.id)),
                Next::Over { batches_too_large } => return (taken, parked, batches_too_large),
            }
        }
    }

    proptest! {
        #[test]
        fn exactly_what_is_refused_alone_is_parked(
            ids in prop::collection::btree_set(0..500_i64, 0..120),
            bad in prop::collection::btree_set(0..500_i64, 0..20),
            limit in 1..50_usize,
        ) {
            let bad: BTreeSet<i64> = ids.intersection(&bad).copied().collect();
            let (taken, parked, smaller) = run(&rows(ids.iter().copied()), &bad, limit);
            prop_assert_eq!(&parked, &bad);
            prop_assert_eq!(taken, ids.difference(&bad).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(smaller, bad.is_empty() && !ids.is_empty());
        }
    }

    #[test]
    fn a_step_that_failed_is_taken_again_before_anyone_is_parked() {
        let mut trial = Trial::default();
        trial.refuse(rows([1])[0], too_large());
        let Next::Try(group) = trial.advance() else { panic!("tried alone first") };
        trial.again(group);
        trial.restart();
        let Next::Try(group) = trial.advance() else { panic!("tried again") };
        trial.refuse(group[0], too_large());
        assert!(
            matches!(trial.advance(), Next::Park(row, reason) if row.id == 1 && reason.contains("large"))
        );
        assert!(matches!(trial.advance(), Next::Over { batches_too_large: false }) && !trial.is_on());
    }

    #[test]
    fn batches_are_not_too_large_for_rows_that_nobody_tried() {
        let mut trial = Trial::default();
        trial.refuse(rows([1])[0], too_large());
        assert!(matches!(trial.advance(), Next::Try(_)), "its shard is led by another by now");
        assert!(matches!(trial.advance(), Next::Over { batches_too_large: false }));
    }

    #[test]
    fn an_error_of_cluster_topic_or_clock_parks_nobody() {
        for code in [
            RDKafkaErrorCode::UnknownTopicOrPartition,
            RDKafkaErrorCode::TopicAuthorizationFailed,
            RDKafkaErrorCode::InvalidTimestamp,
            RDKafkaErrorCode::OutOfOrderSequenceNumber,
            RDKafkaErrorCode::MessageTimedOut,
            RDKafkaErrorCode::Fatal,
        ] {
            assert!(!Trial::concerns(&KafkaError::MessageProduction(code)), "{code:?}");
        }
        assert!(Trial::concerns(&too_large()));
    }
}
