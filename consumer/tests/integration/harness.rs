//! A world of one's own for each test: topics, a database, a group, and consumers in it.

mod groups;
mod running;

use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use consumer::Args;
use futures::FutureExt;
use order_events::{EventType, OrderEvent, OrderId, OrderSnapshot, OrderStatus};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{Header, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use runtime::shutdown::CancellationToken;
use runtime::telemetry::{self, LogArgs, LogFormat};
use sqlx::{Connection, Executor, PgConnection, PgPool};
use tokio::net::TcpListener;
use uuid::Uuid;

pub(crate) use running::{Member, Process};

/// Everything that should happen happens within this; a member's death is noticed after 10 s.
pub(crate) const DEADLINE: Duration = Duration::from_secs(45);
/// Large enough for the 2 MB poison.
const MAX_MESSAGE_BYTES: &str = "4000000";
const UNREACHABLE: &str = "backend unreachable: run lab/backends up";
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// One test's own part of the backends.
pub(crate) struct World {
    pub(crate) topic: String,
    pub(crate) dead_letter_topic: String,
    pub(crate) database: String,
    pub(crate) producer: FutureProducer,
    pub(crate) kafka: String,
    admin: AdminClient<DefaultClientContext>,
}

/// Runs `test` in a world with a topic of `partitions`, and takes the world down whatever comes of it.
pub(crate) async fn in_world<F: Future<Output = ()>>(partitions: i32, test: impl FnOnce(Arc<World>) -> F) {
    let world = Arc::new(World::made(partitions).await);
    let outcome = AssertUnwindSafe(test(Arc::clone(&world))).catch_unwind().await;
    world.unmake().await;
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

fn kafka() -> String {
    std::env::var("TEST_KAFKA").unwrap_or_else(|_| "127.0.0.1:19094".to_owned())
}

fn admin_database_url() -> String {
    let default = || "postgres://postgres@127.0.0.1:15433/postgres".to_owned();
    std::env::var("TEST_DATABASE_URL").unwrap_or_else(|_| default())
}

fn client(kafka: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka).set("allow.auto.create.topics", "false");
    config.set("message.max.bytes", MAX_MESSAGE_BYTES);
    // Tests make and delete topics: what is known of them must not be old.
    config.set("topic.metadata.refresh.interval.ms", "500").set("topic.metadata.propagation.max.ms", "500");
    config
}

impl World {
    async fn made(partitions: i32) -> Self {
        runtime::tls::install_provider();
        if let Ok(log) = std::env::var("TEST_LOG") {
            // The first test of the process installs it for all.
            let _ = telemetry::init(&LogArgs { log, log_format: LogFormat::Text });
        }
        let id = Uuid::new_v4().simple().to_string();
        let world = Self {
            topic: format!("it-{id}"),
            dead_letter_topic: format!("it-{id}.dlt"),
            database: format!("it_{id}"),
            producer: client(&kafka()).create().expect("producer"),
            admin: client(&kafka()).create().expect("admin client"),
            kafka: kafka(),
        };
        if partitions > 0 {
            world.create_topic(&world.topic, partitions).await;
        }
        world.create_topic(&world.dead_letter_topic, 1).await;
        world.administer(&format!("CREATE DATABASE {}", world.database)).await;
        world
    }

    /// The same names on another cluster, whose topics are its maker's own affair.
    pub(crate) fn on(&self, kafka: &str) -> Self {
        Self {
            topic: self.topic.clone(),
            dead_letter_topic: self.dead_letter_topic.clone(),
            database: self.database.clone(),
            producer: client(kafka).create().expect("producer"),
            admin: client(kafka).create().expect("admin client"),
            kafka: kafka.to_owned(),
        }
    }

    async fn unmake(&self) {
        let options = AdminOptions::new().operation_timeout(Some(ANSWER_TIMEOUT));
        let _ = self.admin.delete_topics(&[&self.topic, &self.dead_letter_topic], &options).await;
        self.administer(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database)).await;
    }

    pub(crate) async fn create_topic(&self, name: &str, partitions: i32) {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1))
            .set("max.message.bytes", MAX_MESSAGE_BYTES);
        let options =
            AdminOptions::new().operation_timeout(Some(ANSWER_TIMEOUT)).request_timeout(Some(ANSWER_TIMEOUT));
        let created = self.admin.create_topics([&topic], &options).await.expect(UNREACHABLE);
        created.into_iter().for_each(|topic| {
            topic.expect("a topic of one's own");
        });
    }

    pub(crate) async fn delete_topic(&self, name: &str) {
        let options = AdminOptions::new().operation_timeout(Some(ANSWER_TIMEOUT));
        self.admin.delete_topics(&[name], &options).await.expect("deleted");
    }

    /// Runs one statement outside of the test's database.
    pub(crate) async fn administer(&self, statement: &str) {
        let mut connection = PgConnection::connect(&admin_database_url()).await.expect(UNREACHABLE);
        connection.execute(sqlx::AssertSqlSafe(statement.to_owned())).await.expect("administered");
    }

    pub(crate) fn database_url(&self) -> String {
        let base = admin_database_url();
        let (server, _database) = base.rsplit_once('/').expect("a URL with a database");
        format!("{server}/{}", self.database)
    }

    pub(crate) async fn database(&self) -> PgPool {
        PgPool::connect(&self.database_url()).await.expect(UNREACHABLE)
    }

    /// Sends `bytes` as a record of `partition` and returns its offset.
    pub(crate) async fn send(
        &self,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: OwnedHeaders,
    ) -> i64 {
        // A producer that knows a topic's past needs a moment to see that it was made anew.
        let delivery = eventually("the broker takes a record", async || {
            let record = FutureRecord::<[u8], [u8]> {
                topic: &self.topic,
                partition: Some(partition),
                payload: value,
                key,
                timestamp: None,
                headers: Some(headers.clone()),
            };
            self.producer.send(record, ANSWER_TIMEOUT).await.ok()
        });
        delivery.await.offset
    }

    /// Sends `event` as the relay does.
    pub(crate) async fn send_event(&self, partition: i32, event: &OrderEvent) -> i64 {
        let encoded = event.encode().expect("encodes");
        let headers = headers_of(event);
        self.send(partition, Some(encoded.key.as_bytes()), Some(&encoded.payload), headers).await
    }

    /// Sends one new order's event to each of `partitions` in turn, `count` in all, and returns them.
    pub(crate) async fn send_orders(&self, partitions: i32, count: i32) -> Vec<OrderEvent> {
        let events: Vec<OrderEvent> = (0..count).map(|_| order_created()).collect();
        let sent = events.iter().zip(0..).map(|(event, index)| self.send_event(index % partitions, event));
        futures::future::join_all(sent).await;
        events
    }

    /// Sends `versions` events of each of `orders` orders, orders by turns, each to one of `partitions`; returns them as sent.
    pub(crate) async fn send_histories(
        &self,
        partitions: i32,
        orders: i32,
        versions: i64,
    ) -> Vec<OrderEvent> {
        let first: Vec<OrderEvent> = (0..orders).map(|_| order_created()).collect();
        let mut events = Vec::new();
        for version in 1..=versions {
            let sent: Vec<OrderEvent> = first.iter().map(|event| at_version(event, version)).collect();
            let sending =
                sent.iter().zip(0..).map(|(event, order)| self.send_event(order % partitions, event));
            futures::future::join_all(sending).await;
            events.extend(sent);
        }
        events
    }

    /// Flags of a consumer in this world; `extra` come last, in place of those of the same name.
    pub(crate) fn flags(&self, group: &str, extra: &[&str]) -> Vec<String> {
        let base = [
            "consumer".to_owned(),
            format!("--kafka-bootstrap-servers={}", self.kafka),
            format!("--topic={}", self.topic),
            format!("--group={}", self.group(group)),
            format!("--dead-letter-topic={}", self.dead_letter_topic),
            format!("--sink-database-url={}", self.database_url()),
            "--retry-initial-backoff-millis=10".to_owned(),
            "--retry-max-backoff-seconds=1".to_owned(),
            "--shutdown-grace-seconds=10".to_owned(),
        ];
        let is_given = |flag: &String| {
            let name = flag.split('=').next();
            extra.iter().any(|given| given.split('=').next() == name)
        };
        base.into_iter()
            .filter(|flag| !is_given(flag))
            .chain(extra.iter().map(|flag| (*flag).to_owned()))
            .collect()
    }

    pub(crate) fn group(&self, name: &str) -> String {
        format!("{}-{name}", self.topic)
    }

    /// A consumer in this process.
    pub(crate) async fn start(&self, group: &str, extra: &[&str]) -> Member {
        let config = Args::parse_from(self.flags(group, extra)).validate().expect("valid flags");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let admin = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        Member { admin, stop: stop.clone(), task: tokio::spawn(consumer::run(config, listener, stop)) }
    }

    /// A consumer as a process of its own, which can be killed.
    pub(crate) async fn spawn(&self, group: &str, extra: &[&str]) -> Process {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let admin = listener.local_addr().expect("bound");
        drop(listener);
        let child = Command::new(env!("CARGO_BIN_EXE_consumer"))
            .args(&self.flags(group, extra)[1..])
            .arg(format!("--admin-addr={admin}"))
            .env("LOG", "warn")
            .spawn()
            .expect("the consumer starts");
        Process { admin, child }
    }

    /// What `consumer … dead-letters COMMAND` prints, and whether it ended well.
    pub(crate) fn dead_letters_command(
        &self,
        group: &str,
        extra: &[&str],
        command: &[&str],
    ) -> (bool, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_consumer"))
            .args(&self.flags(group, extra)[1..])
            .arg("dead-letters")
            .args(command)
            .env("LOG", "warn")
            .output()
            .expect("the consumer starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), text + &String::from_utf8_lossy(&output.stderr))
    }

    /// Every record of `topic`, partition by partition.
    pub(crate) fn dump(&self, topic: &str) -> Vec<OwnedMessage> {
        // librdkafka assigns only within a group; this one commits nothing.
        let reader: BaseConsumer = client(&self.kafka).set("group.id", "it-reader").create().expect("reader");
        let metadata = reader.fetch_metadata(Some(topic), ANSWER_TIMEOUT).expect(UNREACHABLE);
        let mut records = Vec::new();
        for partition in metadata.topics()[0].partitions() {
            let (low, high) =
                reader.fetch_watermarks(topic, partition.id(), ANSWER_TIMEOUT).expect("watermarks");
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition.id(), Offset::Offset(low)).expect("valid offset");
            reader.assign(&list).expect("assigned");
            let mut next = low;
            while next < high {
                let message =
                    reader.poll(ANSWER_TIMEOUT).expect("a record before the watermark").expect("readable");
                next = message.offset() + 1;
                records.push(message.detach());
            }
        }
        records
    }

    pub(crate) fn dead_letters(&self) -> Vec<OwnedMessage> {
        self.dump(&self.dead_letter_topic)
    }

    /// Records of the topic that `group` has not committed, over all partitions.
    pub(crate) fn lag(&self, group: &str) -> i64 {
        let reader: BaseConsumer =
            client(&self.kafka).set("group.id", self.group(group)).create().expect("reader");
        let metadata = reader.fetch_metadata(Some(&self.topic), ANSWER_TIMEOUT).expect(UNREACHABLE);
        let mut list = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            list.add_partition(&self.topic, partition.id());
        }
        let committed = reader.committed_offsets(list, ANSWER_TIMEOUT).expect("committed offsets");
        let lags = committed.elements().into_iter().map(|element| {
            let (low, high) = reader
                .fetch_watermarks(&self.topic, element.partition(), ANSWER_TIMEOUT)
                .expect("watermarks");
            high - element.offset().to_raw().filter(|offset| *offset >= 0).unwrap_or(low)
        });
        lags.sum()
    }

    /// What `group`'s commits say beside offsets, over all partitions.
    pub(crate) fn committed_metadata(&self, group: &str) -> Vec<String> {
        let reader: BaseConsumer =
            client(&self.kafka).set("group.id", self.group(group)).create().expect("reader");
        let metadata = reader.fetch_metadata(Some(&self.topic), ANSWER_TIMEOUT).expect(UNREACHABLE);
        let mut list = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            list.add_partition(&self.topic, partition.id());
        }
        let committed = reader.committed_offsets(list, ANSWER_TIMEOUT).expect("committed offsets");
        committed.elements().iter().map(|element| element.metadata().to_owned()).collect()
    }

    /// What `kafka-consumer-groups.sh --reset-offsets` does.
    pub(crate) fn commit(&self, group: &str, partition: i32, offset: i64) {
        let reader: BaseConsumer =
            client(&self.kafka).set("group.id", self.group(group)).create().expect("reader");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, Offset::Offset(offset)).expect("valid offset");
        reader.commit(&list, CommitMode::Sync).expect("committed");
    }

    pub(crate) async fn lag_is_zero(&self, group: &str) {
        eventually("the group's lag is zero", async || (self.lag(group) == 0).then_some(())).await;
    }
}

/// Waits until `look` finds something.
pub(crate) async fn eventually<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begin.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn order_created() -> OrderEvent {
    OrderEvent {
        event_id: Uuid::now_v7(),
        order_id: OrderId::generate(),
        version: 1,
        event_type: EventType::OrderCreated,
        occurred_at: jiff::Timestamp::now(),
        order: OrderSnapshot {
            user_id: "u1".to_owned(),
            status: OrderStatus::Pending,
            items: Vec::new(),
            coupon_code: None,
            currency: "EUR".to_owned(),
            subtotal_minor: 0,
            discount_minor: 0,
            total_minor: 0,
        },
    }
}

/// The event of another version of the order of `event`.
pub(crate) fn at_version(event: &OrderEvent, version: i64) -> OrderEvent {
    let mut next = event.clone();
    if version != event.version {
        next.event_id = Uuid::now_v7();
        next.version = version;
        next.event_type = EventType::OrderConfirmed;
        next.order.status = OrderStatus::Confirmed;
    }
    next
}

pub(crate) fn headers_of(event: &OrderEvent) -> OwnedHeaders {
    let encoded = event.encode().expect("encodes");
    encoded
        .headers
        .iter()
        .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }))
}
