//! What is known of the connection to Kafka: readiness, and one log line per change.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use runtime::health::Health;

use crate::rebalance::GroupContext;

/// Name of the readiness condition.
pub const CONDITION: &str = "kafka";
/// How often an unready member asks the brokers for the topic.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// How long it waits for an answer. The poll loop stands still meanwhile, which costs nothing without brokers.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Readiness follows from the brokers knowing the topic, not from having partitions of it: with more members than
/// partitions some have none, and are ready to take over.
pub struct Connection {
    health: Health,
    topic: String,
    ready: bool,
    /// What was logged since all was well; a handful of librdkafka's texts.
    logged: BTreeSet<String>,
    last_probe: Option<Instant>,
}

impl Connection {
    /// Nothing is known yet.
    #[must_use]
    pub const fn unknown(health: Health, topic: String) -> Self {
        Self { health, topic, ready: false, logged: BTreeSet::new(), last_probe: None }
    }

    /// Asks the brokers for the topic, unless all is well or they were asked just now.
    pub fn probe(&mut self, consumer: &BaseConsumer<GroupContext>) {
        if self.ready || self.last_probe.is_some_and(|last| last.elapsed() < PROBE_INTERVAL) {
            return;
        }
        let answer = consumer.fetch_metadata(Some(&self.topic), PROBE_TIMEOUT);
        self.last_probe = Some(Instant::now());
        match answer {
            Ok(metadata) => match metadata.topics().first().and_then(|topic| topic.error()) {
                None => self.well(),
                Some(code) => {
                    self.problem(format!("topic {:?}: {}", self.topic, RDKafkaErrorCode::from(code)));
                }
            },
            Err(error) => self.problem(error.to_string()),
        }
    }

    /// `poll` returned an error that librdkafka goes on after. Most of them concern one broker's connection, which it
    /// mends alone; the rest stop the member.
    pub fn poll_failed(&mut self, error: &KafkaError) {
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::PollExceeded,
            ) => self.problem(error.to_string()),
            // Bytes that librdkafka can't take apart (a codec it was built without, say) come again and again, and stop
            // their partition: who looks at the growing lag must find why.
            Some(
                RDKafkaErrorCode::BadMessage
                | RDKafkaErrorCode::BadCompression
                | RDKafkaErrorCode::NotImplemented
                | RDKafkaErrorCode::InvalidMessage
                | RDKafkaErrorCode::MessageSizeTooLarge,
            ) => self.stuck(error.to_string()),
            _ => tracing::debug!(topic = self.topic, %error, "polling failed; librdkafka goes on"),
        }
    }

    fn well(&mut self) {
        self.ready = true;
        self.logged.clear();
        self.health.met(CONDITION);
        tracing::info!(topic = self.topic, "connected to Kafka");
    }

    fn stuck(&mut self, problem: String) {
        if !self.logged.contains(&problem) {
            tracing::error!(topic = self.topic, problem, "a partition can't be read on");
            self.logged.insert(problem);
        }
    }

    fn problem(&mut self, problem: String) {
        self.ready = false;
        self.health.unmet(CONDITION, problem.clone());
        if !self.logged.contains(&problem) {
            tracing::warn!(topic = self.topic, problem, "no connection to Kafka; trying on");
            self.logged.insert(problem);
        }
    }
}
