//! What delivering needs, and its two smallest steps: one call of the sink, one write to the dead-letter topic.

use std::sync::Arc;
use std::time::Duration;

use order_events::OrderId;

use crate::breaker::{Breaker, Permit};
use crate::dead_letter::tail::Stuck;
use crate::dead_letter::{Cause, DeadLetterError, DeadLetters};
use crate::metrics::{ConsumerMetrics, count};
use crate::record::{Record, Undecodable};
use crate::retry::RetryPolicy;
use crate::sink::{Applied, Claimed, Decoded, Sink, SinkError};
use crate::versions::{Seen, Versions};

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
    /// Whether they do: not in an at-most-once group, which does not look whether a key was let go.
    pub sticky: bool,
    /// How failures are retried.
    pub retry: RetryPolicy,
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
        if self.tell(permit, &outcome) {
            self.count_delivered(events);
        }
        outcome
    }

    /// Gives `events` to the sink, once, and has it move the partition's place.
    ///
    /// # Errors
    /// [`SinkError`]; the breaker knows already.
    pub async fn apply(
        &self,
        claimed: &Claimed,
        events: &[Decoded],
        until: i64,
        permit: Permit,
    ) -> Result<Applied, SinkError> {
        let outcome = self.sink.apply(claimed, events, until).await;
        self.tell(permit, &outcome);
        if let Ok(Applied::Moved) = outcome {
            self.count_delivered(events);
        }
        outcome
    }

    /// Claims `partition` at the sink, once, and waits no longer than `patience` for it.
    ///
    /// # Errors
    /// [`SinkError`]; the breaker knows already.
    pub async fn claim(
        &self,
        partition: i32,
        begin: i64,
        permit: Permit,
        patience: Duration,
    ) -> Result<Claimed, SinkError> {
        let asked = tokio::time::timeout(patience, self.sink.claim(partition, begin)).await;
        let outcome = asked.unwrap_or_else(|_elapsed| {
            Err(SinkError::unavailable("Timeout", format!("no answer within {patience:?}")))
        });
        self.tell(permit, &outcome);
        outcome
    }

    /// Says to the breaker and to the metrics what came of a call; whether the sink did what it was asked for.
    fn tell<T>(&self, permit: Permit, outcome: &Result<T, SinkError>) -> bool {
        match outcome {
            Ok(_) => permit.answered(),
            Err(error) => {
                count(&self.metrics.sink_errors, "kind", error.kind());
                match error {
                    SinkError::Rejected { .. } => permit.answered(),
                    SinkError::Unavailable { retry_after, .. } => permit.failed(error, *retry_after),
                }
            }
        }
        outcome.is_ok()
    }

    /// Says so where `event` shows that versions of its order are missing.
    pub fn count_missing(&self, versions: &Versions, partition: i32, (order, version): (OrderId, i64)) {
        if let Seen::Missing { from } = versions.look(order, version) {
            self.metrics.missing.inc();
            tracing::error!(
                partition, order_id = %order, version, missing_from = from,
                "versions of the order are missing before this one"
            );
        }
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
                if let Some(key) = record.key.as_ref().filter(|_| self.sticky) {
                    self.stuck.keys().written(key, *letters, *place);
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

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::VecDeque;
    use std::sync::{Mutex, PoisonError};

    use clap::Parser;
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use prometheus_client::registry::Registry;
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

    use super::*;
    use crate::dead_letter::headers::Origin;
    use crate::{Args, Config};

    /// A sink that answers in turn, and then no more.
    pub(crate) struct Scripted {
        answers: Mutex<VecDeque<Result<(), SinkError>>>,
        calls: UnboundedSender<Vec<i64>>,
    }

    impl Scripted {
        /// One with these answers, and the offsets of each of its calls.
        pub(crate) fn answering(
            answers: impl IntoIterator<Item = Result<(), SinkError>>,
        ) -> (Self, UnboundedReceiver<Vec<i64>>) {
            let (calls, called) = unbounded_channel();
            (Self { answers: Mutex::new(answers.into_iter().collect()), calls }, called)
        }
    }

    impl Sink for Scripted {
        fn batch_limit(&self) -> usize {
            10
        }

        fn lanes(&self) -> usize {
            1
        }

        fn patience(&self) -> Duration {
            Duration::from_secs(10)
        }

        fn deliver<'a>(&'a self, batch: &'a [Decoded]) -> BoxFuture<'a, Result<(), SinkError>> {
            let answer = self.answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let _ = self.calls.send(batch.iter().map(|decoded| decoded.record.offset).collect());
            match answer {
                Some(answer) => async { answer }.boxed(),
                None => futures::future::pending().boxed(),
            }
        }
    }

    /// Nobody listens where it leads.
    pub(crate) fn config() -> Config {
        let flags = ["consumer", "--kafka-bootstrap-servers=127.0.0.1:1", "--topic=t", "--group=g"];
        let others = ["--dead-letter-topic=d", "--sink=http", "--sink-http-url=http://127.0.0.1:1"];
        Args::parse_from(flags.iter().chain(&others)).validate().expect("valid")
    }

    /// What delivers to `sink`, with three attempts. Letters are not taken.
    pub(crate) fn deliverer(sink: impl Sink) -> Deliverer {
        let config = config();
        let origin = Origin { topic: "t".to_owned(), group: "g".to_owned() };
        let metrics = ConsumerMetrics::registered(&mut Registry::default());
        let retry = RetryPolicy {
            max_attempts: 3,
            initial_backoff: Duration::from_millis(2),
            max_backoff: Duration::from_secs(1),
        };
        Deliverer {
            sink: Arc::new(sink),
            breaker: Breaker::new(retry, metrics.clone()),
            dead_letters: DeadLetters::new(&config.kafka, "c", "d", origin).expect("a producer"),
            stuck: Stuck::default(),
            sticky: true,
            retry,
            metrics,
        }
    }
}
