//! Hands rows to one idempotent producer, in order, and collects what becomes of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fail::fail_point;
use order_events::partition_for;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientContext, Message};
use runtime::kafka::KafkaConnection;
use sqlx::types::Uuid;
use tokio::sync::Notify;

use super::error::RelayError;
use super::in_flight::InFlight;
use super::read::OutboxRow;
use super::trial::Trial;
use crate::config::RelayConfig;

/// Milliseconds a batch waits for company: as long as it takes to hand over what goes together, and no longer, since whatever else
/// comes waits for its turn ([`super::turns`]).
const LINGER_MILLIS: &str = "1";
/// Events handed over before others get their turn on the thread: about a millisecond's work.
const AT_A_TIME: usize = 256;
/// Largest batch, in bytes before compression: librdkafka's default, a little below what a topic takes by default.
pub const BATCH_BYTES: u32 = 1_000_000;
/// Size below which batches are not made smaller, whatever the topic refuses.
const BATCH_BYTES_MIN: u32 = 4096;
/// Longest pause between attempts to reach a broker: one that is back is noticed within this.
const RECONNECT_MAX_MILLIS: &str = "2000";
/// A request without an answer for so long has lost its connection: a broker answers within milliseconds, and this is far below
/// librdkafka's default of a minute, in which nothing would be published.
const SOCKET_TIMEOUT_MILLIS: &str = "10000";
/// What a broker may wait for its followers before it says that they are late: before the connection is given up.
const FOLLOWERS_TIMEOUT_MILLIS: &str = "8000";
/// Why an id and what librdkafka carries for it are one another's equal.
const IDS: &str = "ids count up from 1, and a pointer has 64 bits";
/// Why there is a producer.
const TAKEN: &str = "the producer is taken only by drop";
/// Memory for unsent events in librdkafka, in KiB; beyond it a round ends early.
const QUEUE_KBYTES: &str = "131072";

/// A producer and what came of its events. Dropped when it fails: everything unacknowledged is then sent anew.
pub struct Publisher {
    producer: Option<Arc<RelayProducer>>,
    reports: Arc<Reports>,
    topic: String,
    stall: Duration,
}

type RelayProducer = ThreadedProducer<ReportTo>;

/// What the producer's thread tells the relay.
#[derive(Debug)]
struct Reports {
    inner: Mutex<Inner>,
    arrived: Arc<Notify>,
    unreachable: AtomicBool,
}

#[derive(Debug)]
struct Inner {
    deliveries: Vec<Delivery>,
    outstanding: HashMap<i32, Outstanding>,
    /// There is a backlog.
    behind: bool,
    fatal: Option<String>,
}

/// What was sent to a partition and not reported.
#[derive(Debug)]
struct Outstanding {
    rows: usize,
    /// When the broker last answered for one of them, or the first of them was sent.
    since: Instant,
}

/// The next smaller size of a batch, for a topic that refuses larger ones.
#[must_use]
pub fn smaller_batch(bytes: u32) -> u32 {
    (bytes / 2).max(BATCH_BYTES_MIN)
}

/// What became of a row that was sent.
#[derive(Debug)]
pub struct Delivery {
    /// The row's id.
    pub id: i64,
    /// What became of it.
    pub outcome: Outcome,
}

/// What the producer says of a row.
#[derive(Debug)]
pub enum Outcome {
    /// The broker has it.
    Delivered,
    /// librdkafka takes it for delivered since a later request was; the broker did not say so. Where a broker knows nothing
    /// of the producer it takes a later request though it refused the one before, which would be lost
    /// (confluent-kafka-go#921). Such a report names no offset.
    Unconfirmed,
    /// It is not delivered.
    Failed(KafkaError),
}

/// What came of handing rows over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sent {
    /// Everything that was due.
    All,
    /// As many as are handed over at a time; more are due.
    Some,
    /// As many as the producer's memory holds; the next ones are due once some are delivered.
    Full,
}

impl Publisher {
    /// A producer for the topic of `config` that sends batches of up to `batch_bytes` and notifies `arrived` when everything that was sent to
    /// a partition is answered for, behind a backlog as soon as anything is.
    ///
    /// # Errors
    /// When librdkafka refuses the settings. An unreachable cluster is no error: events wait.
    pub fn connect(
        kafka: &KafkaConnection,
        config: &RelayConfig,
        batch_bytes: u32,
        arrived: Arc<Notify>,
    ) -> Result<Self, RelayError> {
        let reports = Arc::new(Reports {
            inner: Mutex::new(Inner {
                deliveries: Vec::new(),
                outstanding: HashMap::new(),
                behind: false,
                fatal: None,
            }),
            arrived,
            unreachable: AtomicBool::new(false),
        });
        let mut settings = kafka.client_config(&format!("order-service-relay-{}", config.pod_name));
        settings
            .set("acks", "all")
            .set("enable.idempotence", "true")
            // As many as idempotence allows. Requests may change places, as where a broker knows nothing of a producer yet
            // and takes whichever comes first (KAFKA-15591): they hold no two events of one order.
            .set("max.in.flight.requests.per.connection", "5")
            // For the same reason an event that is refused needs not stop the producer before the next one: no later
            // event of its order is there to pass it.
            .set("enable.gapless.guarantee", "false")
            // Never give up on an event: a timed-out one would leave a gap that later ones pass through.
            .set("message.timeout.ms", "0")
            // A connection that carries nothing any more, as after a host vanished, is given up this soon and the same
            // batch sent over another; a broker that only waits for its followers says so earlier.
            .set("socket.timeout.ms", SOCKET_TIMEOUT_MILLIS)
            .set("request.timeout.ms", FOLLOWERS_TIMEOUT_MILLIS)
            .set("compression.type", "lz4")
            .set("batch.size", batch_bytes.to_string())
            .set("linger.ms", LINGER_MILLIS)
            .set("reconnect.backoff.max.ms", RECONNECT_MAX_MILLIS)
            .set("queue.buffering.max.messages", config.relay_max_in_flight.max(1).to_string())
            .set("queue.buffering.max.kbytes", QUEUE_KBYTES);
        let producer = RelayProducer::from_config_and_context(&settings, ReportTo(reports.clone()))
            .map_err(RelayError::Connect)?;
        let (topic, stall) = (config.topic.clone(), config.relay_stall);
        Ok(Self { producer: Some(Arc::new(producer)), reports, topic, stall })
    }

    /// Hands over what is due, about a thread's fair share of it, each event to the partition that its key maps to among `partitions`.
    ///
    /// # Errors
    /// When the producer does not take an event; it and those after it are due still.
    pub(super) fn publish(
        &self,
        partitions: i32,
        in_flight: &mut InFlight,
        trial: &mut Trial,
    ) -> Result<Sent, RelayError> {
        self.reports.lock().behind = in_flight.is_behind();
        for _ in 0..AT_A_TIME {
            let Some(row) = in_flight.next_due() else { return Ok(Sent::All) };
            let id = row.row.id;
            match self.send(row, partitions) {
                Ok(()) => {}
                // It does not fit any request, and was never sent.
                Err((source, _)) if Trial::concerns(&source) => {
                    if let Some(row) = in_flight.refused(id) {
                        trial.refuse(row, source);
                    }
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), row)) => {
                    in_flight.put_back(row);
                    return Ok(Sent::Full);
                }
                Err((source, row)) => {
                    in_flight.put_back(row);
                    return Err(RelayError::Produce { id, source });
                }
            }
        }
        Ok(Sent::Some)
    }

    /// Hands over rows that were refused before, and nothing else.
    ///
    /// # Errors
    /// When the producer does not take one for a reason that is not the event's.
    pub(super) fn retry(
        &self,
        rows: Vec<OutboxRow>,
        partitions: i32,
        in_flight: &mut InFlight,
        trial: &mut Trial,
    ) -> Result<(), RelayError> {
        for row in rows {
            let row_id = row.row;
            match self.send(row, partitions) {
                Ok(()) => in_flight.tried(row_id),
                Err((source, _)) if Trial::concerns(&source) => trial.refuse(row_id, source),
                Err((source, _)) => return Err(RelayError::Produce { id: row_id.id, source }),
            }
        }
        Ok(())
    }

    #[expect(clippy::result_large_err, reason = "the row goes back to where it came from")]
    fn send(&self, row: OutboxRow, partitions: i32) -> Result<(), (KafkaError, OutboxRow)> {
        let OutboxRow { row, order_id, recorded, headers, payload } = row;
        let mut buffer = Uuid::encode_buffer();
        let key: &str = order_id.hyphenated().encode_lower(&mut buffer);
        let partition = partition_for(key.as_bytes(), partitions);
        let record = BaseRecord::with_opaque_to(&self.topic, opaque(row.id))
            .key(key)
            .partition(partition)
            .headers(headers)
            .payload(&payload);
        // Before the report can come.
        self.reports.sent(partition);
        let (source, headers) = match self.producer.as_ref().expect(TAKEN).send(record) {
            Ok(()) => {
                fail_point!("relay::after_produce");
                return Ok(());
            }
            Err((source, refused)) => {
                (source, refused.headers.expect("a record not taken keeps its headers"))
            }
        };
        self.reports.not_sent(partition);
        Err((source, OutboxRow { row, order_id, recorded, headers, payload }))
    }

    /// What became of rows since the last call.
    pub fn take_deliveries(&self) -> Vec<Delivery> {
        std::mem::take(&mut self.reports.lock().deliveries)
    }

    /// Whether the producer can go on.
    ///
    /// # Errors
    /// [`RelayError::Fatal`], or [`RelayError::Stalled`] when rows of a partition wait for the broker and it answered for none of them
    /// for long: a client that is deaf to one broker must not go unnoticed because others answer.
    pub fn check(&self) -> Result<(), RelayError> {
        let inner = self.reports.lock();
        if let Some(reason) = &inner.fatal {
            return Err(RelayError::Fatal(reason.clone()));
        }
        let mut waiting = inner.outstanding.iter().filter(|(_, outstanding)| outstanding.rows > 0);
        match waiting.find(|(_, outstanding)| outstanding.since.elapsed() > self.stall) {
            Some((partition, _)) => Err(RelayError::Stalled { partition: *partition, waited: self.stall }),
            None => Ok(()),
        }
    }

    /// The producer, for its metadata.
    pub(super) fn producer(&self) -> Arc<RelayProducer> {
        self.producer.clone().expect(TAKEN)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // Joining librdkafka's threads takes up to half a second: not on a thread that serves requests.
        if let Some(producer) = self.producer.take() {
            let dropping = thread::Builder::new().name("relay-producer-drop".to_owned());
            if let Err(error) = dropping.spawn(move || drop(producer)) {
                tracing::debug!(%error, "dropped the producer on this thread");
            }
        }
    }
}

fn opaque(id: i64) -> usize {
    usize::try_from(id).expect(IDS)
}

impl Reports {
    // Plain data: a panic elsewhere can't leave it half-written.
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent(&self, partition: i32) {
        self.lock().sent(partition);
    }

    fn not_sent(&self, partition: i32) {
        self.lock().answered(partition);
    }
}

impl Inner {
    fn sent(&mut self, partition: i32) {
        let now = Instant::now();
        let outstanding = self.outstanding.entry(partition).or_insert(Outstanding { rows: 0, since: now });
        if outstanding.rows == 0 {
            outstanding.since = now;
        }
        outstanding.rows += 1;
    }

    /// One row less is outstanding. True when it was the partition's last.
    fn answered(&mut self, partition: i32) -> bool {
        let Some(outstanding) = self.outstanding.get_mut(&partition) else { return true };
        outstanding.rows = outstanding.rows.saturating_sub(1);
        outstanding.since = Instant::now();
        outstanding.rows == 0
    }
}

/// librdkafka's callbacks.
#[derive(Debug)]
pub(super) struct ReportTo(Arc<Reports>);

impl ClientContext for ReportTo {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        // One line per attempt to connect is too many for a log that people read; what matters arrives in `error`.
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Self(reports) = self;
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) => {
                reports.lock().fatal = Some(reason.to_owned());
                reports.arrived.notify_one();
            }
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                if !reports.unreachable.swap(true, Ordering::Relaxed) {
                    tracing::warn!(reason, "Kafka is unreachable; events wait in the outbox");
                }
            }
            _ => tracing::debug!(reason, "librdkafka"),
        }
    }
}

impl ProducerContext for ReportTo {
    // The row's id itself: no allocation for each event.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, id: usize) {
        let Self(reports) = self;
        let id = i64::try_from(id).expect(IDS);
        let partition = match result {
            Ok(message) | Err((_, message)) => message.partition(),
        };
        let outcome = match result {
            Ok(message) if message.offset() >= 0 => Outcome::Delivered,
            Ok(_) => Outcome::Unconfirmed,
            Err((error, _)) => Outcome::Failed(error.clone()),
        };
        if matches!(outcome, Outcome::Delivered) && reports.unreachable.swap(false, Ordering::Relaxed) {
            tracing::info!("Kafka is back");
        }
        let mut inner = reports.lock();
        let first = inner.deliveries.is_empty();
        inner.deliveries.push(Delivery { id, outcome });
        // They come in runs. What waits for them is the partition's next turn, or, behind a backlog, room for more rows: that
        // looks a little later, and takes all that have come by then.
        let wanted = inner.answered(partition) || (first && inner.behind);
        drop(inner);
        if wanted {
            reports.arrived.notify_one();
        }
    }
}
