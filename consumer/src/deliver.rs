//! What delivering needs, and its two smallest steps: one call of the sink, one write to the dead-letter topic.

use std::sync::Arc;

use crate::breaker::{Breaker, Permit};
use crate::config::Delivery;
use crate::dead_letter::tail::Stuck;
use crate::dead_letter::{Cause, DeadLetterError, DeadLetters};
use crate::metrics::{ConsumerMetrics, count};
use crate::record::{Record, Undecodable};
use crate::retry::RetryPolicy;
use crate::sink::{Decoded, Sink, SinkError};

/// What delivering needs; shared by the workers of all partitions.
pub struct Deliverer {
    /// Where events go.
    pub sink: Arc<dyn Sink>,
    /// Whether it is worth calling.
    pub breaker: Arc<Breaker>,
    /// Where the rest goes.
    pub dead_letters: DeadLetters,
    /// The keys whose records go there too.
    pub stuck: Stuck,
    /// How failures are retried.
    pub retry: RetryPolicy,
    /// The group's guarantee.
    pub delivery: Delivery,
    /// Where it is counted.
    pub metrics: ConsumerMetrics,
}

impl Deliverer {
    /// Gives `events` to the sink, once.
    ///
    /// # Errors
    /// [`SinkError`]; the breaker knows already.
    pub async fn call(&self, events: &[Decoded], permit: Permit) -> Result<(), SinkError> {
        let outcome = self.sink.deliver(events).await;
        match &outcome {
            Ok(()) => {
                permit.answered();
                self.count_delivered(events);
            }
            Err(error) => {
                count(&self.metrics.sink_errors, "kind", error.kind());
                match error {
                    SinkError::Rejected { .. } => permit.answered(),
                    SinkError::Unavailable { retry_after, .. } => permit.failed(error, *retry_after),
                }
            }
        }
        outcome
    }

    /// Writes `record` to the dead-letter topic, once.
    ///
    /// # Errors
    /// [`DeadLetterError`]; the record is then not dealt with.
    pub async fn bury(&self, record: &Record, cause: &Cause) -> Result<(), DeadLetterError> {
        let written = self.dead_letters.write(record, cause).await;
        match &written {
            Ok((letters, place)) => {
                // Before the tail has read it: the next record of the key must follow.
                if let Some(key) = &record.key {
                    self.stuck.keys().letter(key, *letters, *place);
                }
                let (partition, offset) = (record.partition, record.offset);
                count(&self.metrics.dead_lettered, "reason", cause.reason);
                tracing::warn!(partition, offset, reason = cause.reason, "record dead-lettered");
            }
            Err(error) => count(&self.metrics.dead_letter_errors, "kind", error.kind()),
        }
        written.map(|_place| ())
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
}

/// A record that waits because the dead-letter topic does not take it: logged once, and counted for as long as this lives.
#[derive(Debug)]
pub struct Blocked(ConsumerMetrics);

impl Blocked {
    /// From now on `record` waits, because of `error`.
    #[must_use]
    pub fn begin(metrics: &ConsumerMetrics, record: &Record, cause: &Cause, error: DeadLetterError) -> Self {
        let (partition, offset) = (record.partition, record.offset);
        tracing::error!(
            partition, offset, reason = cause.reason, error = %anyhow::Error::from(error),
            "dead letter refused; the record and those behind it wait until it is taken"
        );
        metrics.dead_letter_blocked.inc();
        Self(metrics.clone())
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        self.0.dead_letter_blocked.dec();
    }
}

/// Why an event is that the sink was not asked about.
#[must_use]
pub fn follows() -> Cause {
    Cause {
        reason: "Follows",
        class: "orderflow.consumer.KeyInDeadLetters",
        message: "an earlier record of this key is in the dead-letter topic, neither replayed nor released"
            .to_owned(),
    }
}

/// Why a record that is no event is dead-lettered.
#[must_use]
pub fn undecodable(error: &Undecodable) -> Cause {
    Cause { reason: error.reason(), class: "orderflow.consumer.Undecodable", message: error.to_string() }
}

/// Why an event that the sink refuses is.
#[must_use]
pub fn refused(error: &SinkError) -> Cause {
    Cause { reason: "Rejected", class: "orderflow.consumer.SinkRejected", message: error.to_string() }
}
