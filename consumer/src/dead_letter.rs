//! Where records go that can't be delivered: the group's dead-letter topic, bytes untouched.

pub mod headers;
pub mod letter;
pub mod mark;
pub mod shelf;
pub mod reader;
pub mod stuck;
pub mod tail;

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use runtime::kafka::KafkaConnection;
use tokio::sync::Mutex;

use crate::record::Record;
use headers::{Detail, Origin};
use mark::Mark;

/// The broker has a dead letter within this or the write counts as failed, is counted, logged and tried again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a write waits for room in the producer's queue, which holds one record per assigned partition.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
/// The topic's own limit decides what is too large, not the client's: this is the highest that librdkafka takes.
const MESSAGE_MAX_BYTES: &str = "1000000000";

/// Why a record is dead-lettered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cause {
    /// A short, stable word.
    pub reason: &'static str,
    /// What kind of failure it was, in the manner of a class name.
    pub class: &'static str,
    /// What happened, for people.
    pub message: String,
}

/// Writes dead letters.
pub struct DeadLetters {
    config: ClientConfig,
    producer: Mutex<Made>,
    topic: String,
    origin: Origin,
}

/// A producer, and when it was made.
struct Made(FutureProducer<QuietContext>, Instant);

/// Why a dead letter was not written. Its record stays where it is.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// The topic takes no record of that size, not even with the fewest headers.
    #[error("failed to write dead letter: it is over the topic's max.message.bytes; raise that")]
    TooLarge,
    /// The broker did not take it.
    #[error("failed to write dead letter")]
    Write(#[source] KafkaError),
    /// A mark can't be written as JSON.
    #[error("failed to write mark")]
    Mark(#[source] serde_json::Error),
    /// No producer could be made.
    #[error("failed to set up the producer of dead letters")]
    Producer(#[source] KafkaError),
}

impl DeadLetterError {
    /// A short, stable word for metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::TooLarge => "TooLarge",
            Self::Write(_) => "Write",
            Self::Mark(_) => "Mark",
            Self::Producer(_) => "Producer",
        }
    }
}

impl DeadLetters {
    /// A writer to `topic` of letters from `origin`. It connects in the background.
    ///
    /// # Errors
    /// [`DeadLetterError::Producer`] when librdkafka refuses the settings.
    pub fn new(
        kafka: &KafkaConnection,
        client_id: &str,
        topic: &str,
        origin: Origin,
    ) -> Result<Self, DeadLetterError> {
        let mut config = kafka.client_config(client_id);
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            // The partition that Java's default partitioner chooses for the key; records without one are spread.
            .set("partitioner", "murmur2_random")
            .set("message.max.bytes", MESSAGE_MAX_BYTES)
            // The topic's limit counts what is sent: a record that fitted because its producer compressed it fits here
            // only if we compress it too. What gains nothing is sent as it is.
            .set("compression.type", "gzip")
            .set("message.timeout.ms", WRITE_TIMEOUT.as_millis().to_string())
            // Each letter is awaited before its partition goes on: waiting for company would only cost time.
            .set("linger.ms", "0");
        let producer = create(&config)?;
        Ok(Self { config, producer: Mutex::new(producer), topic: topic.to_owned(), origin })
    }

    /// Writes `record` once and waits until every in-sync replica has it. Returns the letter's partition and offset.
    ///
    /// # Errors
    /// [`DeadLetterError`]; the record is then not dealt with, and the caller stays on it.
    pub async fn write(&self, record: &Record, cause: &Cause) -> Result<(i32, i64), DeadLetterError> {
        let full = headers::headers(record, &self.origin, cause, Detail::Full);
        match self.send(record, full).await {
            // Our own headers may be what takes it over the limit: leave out those that tools can do without.
            Err(DeadLetterError::TooLarge) => {
                let minimal = headers::headers(record, &self.origin, cause, Detail::Minimal);
                self.send(record, minimal).await
            }
            written => written,
        }
    }

    /// Writes `mark` for `key` to the partition that has the letters it is about.
    ///
    /// # Errors
    /// [`DeadLetterError`]; the letters are open still.
    pub async fn mark(&self, key: &[u8], partition: i32, mark: &Mark) -> Result<(), DeadLetterError> {
        let payload = serde_json::to_vec(mark).map_err(DeadLetterError::Mark)?;
        let record = FutureRecord::<[u8], [u8]> {
            topic: &self.topic,
            partition: Some(partition),
            payload: Some(&payload),
            key: Some(key),
            timestamp: None,
            headers: Some(mark.headers()),
        };
        let producer = self.producer.lock().await.0.clone();
        match producer.send(record, QUEUE_TIMEOUT).await {
            Ok(_delivery) => Ok(()),
            Err((error, _record)) => Err(DeadLetterError::Write(error)),
        }
    }

    async fn send(&self, record: &Record, headers: OwnedHeaders) -> Result<(i32, i64), DeadLetterError> {
        let letter = FutureRecord::<[u8], [u8]> {
            topic: &self.topic,
            partition: None,
            payload: record.value.as_deref(),
            key: record.key.as_deref(),
            timestamp: None,
            headers: Some(headers),
        };
        // A clone shares the client, so that partitions write side by side.
        let producer = self.producer.lock().await.0.clone();
        match producer.send(letter, QUEUE_TIMEOUT).await {
            Ok(delivery) => Ok((delivery.partition, delivery.offset)),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), _letter)) => {
                Err(DeadLetterError::TooLarge)
            }
            Err((error, _letter)) => {
                self.replace_if_useless(&error).await?;
                Err(DeadLetterError::Write(error))
            }
        }
    }

    /// After a fatal error an idempotent producer refuses everything, for ever; one that heard of no broker for a whole
    /// write may have forgotten all it knew (librdkafka#5301). A new one takes its place.
    async fn replace_if_useless(&self, error: &KafkaError) -> Result<(), DeadLetterError> {
        let mut made = self.producer.lock().await;
        let Made(producer, since) = &*made;
        let fatal = producer.client().fatal_error();
        if let Some((code, reason)) = &fatal {
            tracing::warn!(%code, reason, "dead-letter producer failed for good; replacing it");
        }
        // Letters that wait together fail together: the first one's failure replaces it for all.
        let deaf = error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageTimedOut)
            && since.elapsed() >= WRITE_TIMEOUT;
        if fatal.is_some() || deaf {
            *made = create(&self.config)?;
        }
        Ok(())
    }
}

fn create(config: &ClientConfig) -> Result<Made, DeadLetterError> {
    let producer = config.create_with_context(QuietContext).map_err(DeadLetterError::Producer)?;
    Ok(Made(producer, Instant::now()))
}

/// librdkafka repeats its connection troubles every second; they are debugging detail here, because what fails
/// because of them is logged once where it is handled.
#[derive(Clone, Copy, Debug)]
pub struct QuietContext;

impl ClientContext for QuietContext {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for QuietContext {}
