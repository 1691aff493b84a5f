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
/// How often a ready one does: a client can lose its last broker without a word.
const READY_PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// How long it waits for an answer. The poll loop stands still meanwhile, which costs nothing without brokers.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// After so long without a broker's answer the member is made anew. The session (10 s) is over by then, so its
/// partitions are lost in any case; librdkafka's own attempts to reconnect are at most 10 s apart.
const DEAF_AFTER: Duration = Duration::from_secs(15);

/// Partitions that wait longer than this are worth a line in the log: reading a long dead-letter topic takes some seconds.
const WAITING_IS_SAID_AFTER: Duration = Duration::from_secs(5);

/// Readiness follows from the brokers knowing the topic, not from having partitions of it: with more members than
/// partitions some have none, and are ready to take over.
pub struct Connection {
    health: Health,
    topic: String,
    ready: bool,
    /// What was logged since all was well; a handful of librdkafka's texts.
    logged: BTreeSet<String>,
    last_probe: Option<Instant>,
    /// Since when no broker answers.
    silent_since: Option<Instant>,
    /// Since when partitions wait to be begun, and whether that was said.
    waiting: Option<(Instant, bool)>,
}

impl Connection {
    /// Nothing is known yet.
    #[must_use]
    pub const fn unknown(health: Health, topic: String) -> Self {
        Self {
            health,
            topic,
            ready: false,
            logged: BTreeSet::new(),
            last_probe: None,
            silent_since: None,
            waiting: None,
        }
    }

    /// Asks the brokers for the topic, unless they were asked just now.
    pub fn probe(&mut self, consumer: &BaseConsumer<GroupContext>) {
        let interval = if self.ready { READY_PROBE_INTERVAL } else { PROBE_INTERVAL };
        if self.last_probe.is_some_and(|last| last.elapsed() < interval) {
            return;
        }
        let answer = consumer.fetch_metadata(Some(&self.topic), PROBE_TIMEOUT);
        self.last_probe = Some(Instant::now());
        match answer {
            // A broker that is just starting knows its topics and names no broker, not even itself.
            Ok(metadata) if metadata.brokers().is_empty() => self.silent("no broker is ready".to_owned()),
            Ok(metadata) => {
                self.silent_since = None;
                match metadata.topics().first().and_then(|topic| topic.error()) {
                    None => self.well(),
                    Some(code) => {
                        self.problem(format!("topic {:?}: {}", self.topic, RDKafkaErrorCode::from(code)));
                    }
                }
            }
            Err(error) => self.silent(error.to_string()),
        }
    }

    /// Whether the client has heard of no broker for so long that a new one is worth a try.
    #[must_use]
    pub fn is_deaf(&self) -> bool {
        self.silent_since.is_some_and(|since| since.elapsed() >= DEAF_AFTER)
    }

    /// A new client took the old one's place: what is known of the old one is void, but for what was logged.
    pub fn replaced(&mut self) {
        self.silent_since = None;
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

    /// Partitions that the group gave this member wait, because of `problem`. Said once, if it is not over soon.
    pub fn waits(&mut self, problem: &str) {
        let (since, is_said) = self.waiting.get_or_insert_with(|| (Instant::now(), false));
        if !*is_said && since.elapsed() >= WAITING_IS_SAID_AFTER {
            *is_said = true;
            tracing::warn!(topic = self.topic, problem, "partitions wait to be begun; trying on");
        }
    }

    /// They do no more.
    pub fn waits_no_more(&mut self) {
        self.waiting = None;
    }

    fn silent(&mut self, problem: String) {
        self.silent_since.get_or_insert_with(Instant::now);
        self.problem(problem);
    }

    fn well(&mut self) {
        if self.ready {
            return;
        }
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
