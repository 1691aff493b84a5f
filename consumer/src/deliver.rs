//! A batch of one partition, delivered in order: sink first, dead letters for what it can't or won't take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use runtime::shutdown::CancellationToken;

use crate::config::Delivery;
use crate::dead_letter::{Cause, DeadLetters};
use crate::metrics::{ConsumerMetrics, count};
use crate::record::{Record, Undecodable};
use crate::retry::RetryPolicy;
use crate::sink::{Decoded, Sink, SinkError};

/// What delivering needs; shared by the workers of all partitions.
pub struct Deliverer {
    /// Where events go.
    pub sink: Arc<dyn Sink>,
    /// Where the rest goes.
    pub dead_letters: DeadLetters,
    /// How failures are retried.
    pub retry: RetryPolicy,
    /// The group's guarantee.
    pub delivery: Delivery,
    /// Where it is counted.
    pub metrics: ConsumerMetrics,
    /// Whether the last call of the sink met an outage, so that its begin and end are logged once.
    pub sink_down: AtomicBool,
}

/// The worker was told to stop while a record could not be dealt with; that record and those after it are not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stopped;

/// A stretch of a batch with one fate.
#[derive(Debug)]
pub enum Stretch {
    /// Neighbours that are events, for the sink.
    Events(Vec<Decoded>),
    /// A record that is none.
    Undecodable(Record, Undecodable),
}

/// `batch` in its order, as stretches of at most `limit` events. Pure.
#[must_use]
pub fn stretches(batch: Vec<Record>, limit: usize) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    for record in batch {
        match record.decode() {
            Ok(event) => match stretches.last_mut() {
                Some(Stretch::Events(events)) if events.len() < limit => {
                    events.push(Decoded { record, event })
                }
                _ => stretches.push(Stretch::Events(vec![Decoded { record, event }])),
            },
            Err(error) => stretches.push(Stretch::Undecodable(record, error)),
        }
    }
    stretches
}

/// What became of events that were given to the sink.
enum Outcome {
    Applied,
    Refused(SinkError),
    /// Tried once, as promised, and not known to be applied.
    GivenUp(SinkError),
}

impl Deliverer {
    /// Deals with `batch` in order and calls `done` with offsets as soon as their records are delivered,
    /// dead-lettered or, at most once, given up.
    ///
    /// # Errors
    /// [`Stopped`] when `stop` was cancelled and what is in hand can't be dealt with now.
    pub async fn deliver(
        &self,
        batch: Vec<Record>,
        stop: &CancellationToken,
        mut done: impl FnMut(Vec<i64>),
    ) -> Result<(), Stopped> {
        for stretch in stretches(batch, self.sink.batch_limit()) {
            match stretch {
                Stretch::Undecodable(record, error) => {
                    self.bury(&record, &undecodable(&error), stop).await?;
                    done(vec![record.offset]);
                }
                Stretch::Events(events) => match self.settle(&events, stop).await? {
                    Settled::Together => done(offsets(&events)),
                    Settled::NotTogether => {
                        for event in events.chunks(1) {
                            self.settle(event, stop).await?;
                            done(offsets(event));
                        }
                    }
                },
            }
        }
        Ok(())
    }

    /// Brings `events` to their end together, unless the sink refuses several at once: then it is told so that
    /// each goes alone and only the bad one is affected.
    async fn settle(&self, events: &[Decoded], stop: &CancellationToken) -> Result<Settled, Stopped> {
        match self.offer(events, stop).await? {
            Outcome::Applied => self.count_delivered(events),
            Outcome::Refused(_) if events.len() > 1 => return Ok(Settled::NotTogether),
            Outcome::Refused(error) if self.delivery == Delivery::AtLeastOnce => {
                for Decoded { record, .. } in events {
                    self.bury(record, &refused(&error), stop).await?;
                }
            }
            Outcome::Refused(error) | Outcome::GivenUp(error) => self.count_lost(events, &error),
        }
        Ok(Settled::Together)
    }

    /// Calls the sink until it takes or finally refuses `events`; at most once, a single time.
    async fn offer(&self, events: &[Decoded], stop: &CancellationToken) -> Result<Outcome, Stopped> {
        let mut waits = self.retry.waits();
        let mut attempts = 0;
        loop {
            let error = match self.sink.deliver(events).await {
                Ok(()) => {
                    self.note_sink_up();
                    return Ok(Outcome::Applied);
                }
                Err(error) => error,
            };
            count(&self.metrics.sink_errors, "kind", error.kind());
            let asked = match error {
                SinkError::Rejected { .. } => {
                    self.note_sink_up();
                    attempts += 1;
                    // A refused batch is not tried again as a whole: alone, each spends attempts of its own.
                    if events.len() > 1
                        || self.delivery == Delivery::AtMostOnce
                        || attempts >= self.retry.max_attempts
                    {
                        return Ok(Outcome::Refused(error));
                    }
                    None
                }
                SinkError::Unavailable { .. } if self.delivery == Delivery::AtMostOnce => {
                    return Ok(Outcome::GivenUp(error));
                }
                SinkError::Unavailable { retry_after, .. } => {
                    self.note_sink_down(&error);
                    retry_after
                }
            };
            pause(waits.next(asked), stop).await?;
            self.metrics.retries.inc();
        }
    }

    /// Writes `record` to the dead-letter topic, and stays on it until that is done.
    async fn bury(&self, record: &Record, cause: &Cause, stop: &CancellationToken) -> Result<(), Stopped> {
        let (partition, offset) = (record.partition, record.offset);
        let mut waits = self.retry.waits();
        let mut blocked = None;
        while let Err(error) = self.dead_letters.write(record, cause).await {
            count(&self.metrics.dead_letter_errors, "kind", error.kind());
            if blocked.is_none() {
                tracing::error!(
                    partition, offset, reason = cause.reason, error = %anyhow::Error::from(error),
                    "dead letter refused; the partition waits until it is taken"
                );
                blocked = Some(Blocked::new(&self.metrics));
            }
            pause(waits.next(None), stop).await?;
            self.metrics.retries.inc();
        }
        count(&self.metrics.dead_lettered, "reason", cause.reason);
        tracing::warn!(partition, offset, reason = cause.reason, "record dead-lettered");
        Ok(())
    }

    fn count_delivered(&self, events: &[Decoded]) {
        self.metrics.delivered.inc_by(events.len() as u64);
        let now = jiff::Timestamp::now();
        for Decoded { event, .. } in events {
            // Clocks of two machines differ: an event from the future is as young as can be.
            self.metrics
                .event_age_seconds
                .observe(now.duration_since(event.occurred_at).as_secs_f64().max(0.0));
        }
    }

    fn count_lost(&self, events: &[Decoded], error: &SinkError) {
        self.metrics.lost.inc_by(events.len() as u64);
        let (first, last) = (events.first(), events.last());
        tracing::warn!(
            partition = first.map(|event| event.record.partition),
            first_offset = first.map(|event| event.record.offset),
            last_offset = last.map(|event| event.record.offset),
            records = events.len(), %error,
            "delivery failed; an at-most-once group gives the records up"
        );
    }

    fn note_sink_down(&self, error: &SinkError) {
        if !self.sink_down.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "sink unavailable; waiting for it");
        }
    }

    fn note_sink_up(&self) {
        if self.sink_down.swap(false, Ordering::Relaxed) {
            tracing::info!("sink available again");
        }
    }
}

enum Settled {
    Together,
    NotTogether,
}

/// Counted among the blocked for as long as it lives, however the wait ends.
struct Blocked<'a>(&'a ConsumerMetrics);

impl<'a> Blocked<'a> {
    fn new(metrics: &'a ConsumerMetrics) -> Self {
        metrics.dead_letter_blocked.inc();
        Self(metrics)
    }
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        self.0.dead_letter_blocked.dec();
    }
}

async fn pause(wait: Duration, stop: &CancellationToken) -> Result<(), Stopped> {
    // A worker that is told to stop has no use for waiting: whoever gets the partition next tries again at once.
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(Stopped),
        () = tokio::time::sleep(wait) => Ok(()),
    }
}

fn offsets(events: &[Decoded]) -> Vec<i64> {
    events.iter().map(|decoded| decoded.record.offset).collect()
}

fn undecodable(error: &Undecodable) -> Cause {
    Cause { reason: error.reason(), class: "orderflow.consumer.Undecodable", message: error.to_string() }
}

fn refused(error: &SinkError) -> Cause {
    Cause { reason: "Rejected", class: "orderflow.consumer.SinkRejected", message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::record::tests::{event, record};

    fn shape(stretches: &[Stretch]) -> Vec<Vec<i64>> {
        stretches
            .iter()
            .map(|stretch| match stretch {
                Stretch::Events(events) => offsets(events),
                Stretch::Undecodable(record, _) => vec![-record.offset],
            })
            .collect()
    }

    #[test]
    fn a_bad_record_parts_its_neighbours_and_nothing_changes_places() {
        let mut batch: Vec<Record> = (1..=6).map(|offset| record(&event(1), offset)).collect();
        batch[2].value = Some(Bytes::from("hello-1"));
        assert_eq!(shape(&stretches(batch, 100)), [vec![1, 2], vec![-3], vec![4, 5, 6]]);
    }

    #[test]
    fn a_stretch_holds_no_more_than_the_sink_takes() {
        let batch = (1..=5).map(|offset| record(&event(1), offset)).collect();
        assert_eq!(shape(&stretches(batch, 2)), [vec![1, 2], vec![3, 4], vec![5]]);
    }
}
