//! What every test stands on: a database, a topic, instances of the service, and waits with a deadline.

use std::env;
use std::future::Future;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::{Duration, Instant};

use futures::FutureExt;
use order_service::catalogue::{Catalogue, CouponEntry, ProductEntry};
use order_service::config::{
    DatabaseConfig, HttpConfig, PartitionGrowth, RelayConfig, WriterConfig, WriterMode,
};
use order_service::{Config, Listeners, run};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use runtime::kafka::KafkaArgs;
use runtime::shutdown::CancellationToken;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::topic::{self, Record};

/// Longest wait for anything: far above what it takes, on a machine that does other things too.
pub(crate) const DEADLINE: Duration = Duration::from_secs(40);
/// Pause between looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What to do when a backend is missing.
const HINT: &str = "run lab/backends up";

/// Runs `test` in a database and a topic of its own, and removes both whatever happens.
pub(crate) async fn bench(partitions: Option<i32>, test: impl AsyncFnOnce(&Bench)) {
    runtime::tls::install_provider();
    let _ = tracing_subscriber_for_failures();
    let bench = Bench::set_up(partitions).await;
    let outcome = AssertUnwindSafe(test(&bench)).catch_unwind().await;
    bench.tear_down().await;
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

fn tracing_subscriber_for_failures() -> anyhow::Result<()> {
    let log = env::var("LOG").unwrap_or_else(|_| "off".to_owned());
    runtime::telemetry::init(&runtime::telemetry::LogArgs {
        log,
        log_format: runtime::telemetry::LogFormat::Text,
    })
}

/// A test's own database and topic.
pub(crate) struct Bench {
    pub(crate) pool: PgPool,
    pub(crate) topic: String,
    pub(crate) kafka: String,
    database: String,
    server: PgConnectOptions,
}

impl Bench {
    async fn set_up(partitions: Option<i32>) -> Self {
        let url = env::var("TEST_DATABASE_URL")
            .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:15433/postgres".to_owned());
        let kafka = env::var("TEST_KAFKA").unwrap_or_else(|_| "127.0.0.1:19094".to_owned());
        let server: PgConnectOptions = url.parse().expect("TEST_DATABASE_URL is a URL");
        let name = Uuid::new_v4().simple().to_string();
        let (database, topic) = (format!("it_{name}"), format!("it-{name}"));
        let mut connection = tokio::time::timeout(DEADLINE, server.connect())
            .await
            .ok()
            .and_then(Result::ok)
            .unwrap_or_else(|| panic!("PostgreSQL is unreachable at {url}: {HINT}"));
        sqlx::query(AssertSqlSafe(format!("create database {database}")))
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        let pool =
            PgPoolOptions::new().max_connections(4).connect_lazy_with(server.clone().database(&database));
        let bench = Self { pool, topic, kafka, database, server };
        if let Some(partitions) = partitions {
            bench.create_topic(partitions).await;
        }
        bench
    }

    async fn tear_down(self) {
        self.pool.close().await;
        let mut connection = self.server.connect().await.unwrap();
        let statement = format!("drop database {} with (force)", self.database);
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        // It may never have been made.
        let _ = self.admin().delete_topics(&[&self.topic], &options()).await;
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.kafka).set("allow.auto.create.topics", "false");
        config
    }

    pub(crate) fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().unwrap()
    }

    pub(crate) async fn create_topic(&self, partitions: i32) {
        self.create_topic_with(NewTopic::new(&self.topic, partitions, TopicReplication::Fixed(1))).await;
    }

    pub(crate) async fn create_topic_with(&self, topic: NewTopic<'_>) {
        let made = self.admin().create_topics([&topic], &options()).await;
        let made =
            made.unwrap_or_else(|error| panic!("Kafka is unreachable at {}: {error}; {HINT}", self.kafka));
        made.into_iter()
            .for_each(|topic| drop(topic.unwrap_or_else(|(name, code)| panic!("{name}: {code}; {HINT}"))));
    }

    pub(crate) async fn grow_topic(&self, partitions: usize) {
        let grown =
            self.admin().create_partitions([&NewPartitions::new(&self.topic, partitions)], &options()).await;
        grown.unwrap().into_iter().for_each(|topic| drop(topic.unwrap()));
    }

    /// The settings of an instance named `name`, with short leases; to be adjusted by the test.
    pub(crate) fn config(&self, name: &str) -> Config {
        let host = self.server.get_host();
        let port = self.server.get_port();
        let user = self.server.get_username();
        Config {
            http: HttpConfig { http_timeout: Duration::from_secs(10), http_max_concurrent: 2048 },
            database: DatabaseConfig {
                database_url: format!("postgres://{user}@{host}:{port}/{}", self.database).into(),
                database_max_connections: 8,
                database_acquire_timeout: Duration::from_secs(5),
            },
            writer: WriterConfig {
                writer_mode: WriterMode::Combining,
                writer_lanes: NonZeroU32::new(2).unwrap(),
                writer_batch: NonZeroU32::new(100).unwrap(),
                writer_linger: Duration::ZERO,
                writer_queue: 1000,
                // Of an order of magnitude above the default: a busy machine must not turn orders away.
                writer_max_wait: Duration::from_secs(5),
                // Tests hold locks to see what waits for them.
                writer_lock_timeout: Duration::from_secs(9),
                idempotency_ttl: Duration::from_hours(24),
            },
            kafka: KafkaArgs {
                kafka_bootstrap_servers: self.kafka.clone(),
                kafka_tls: false,
                kafka_tls_ca_file: None,
                kafka_sasl_mechanism: None,
                kafka_sasl_username: None,
                kafka_sasl_password: None,
            },
            relay: RelayConfig {
                topic: self.topic.clone(),
                pod_name: name.to_owned(),
                relay_lease: Duration::from_secs(2),
                relay_batch: 1000,
                relay_max_in_flight: 4000,
                relay_stall: Duration::from_secs(60),
                consumer_groups: None,
                partition_growth: PartitionGrowth::OrderSafe,
                growth_drain_timeout: Duration::from_secs(30),
            },
            currency: "EUR".to_owned(),
            shutdown_grace: Duration::from_secs(10),
        }
    }

    /// An instance that is ready.
    pub(crate) async fn start(&self, name: &str) -> Instance {
        self.start_with(self.config(name)).await
    }

    pub(crate) async fn start_with(&self, config: Config) -> Instance {
        let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listeners = Listeners { http: bind().await, admin: bind().await };
        let base = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let (http, admin) = (base(&listeners.http), base(&listeners.admin));
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(config, listeners, stop.clone()));
        let instance = Instance { http, admin, stop, task, client: Client::new() };
        until("the instance is ready", async || instance.is_ready().await).await;
        instance
    }

    /// Two replicas that lead half of the shards each. A lease that ended under its leader, on a busy machine, would be a
    /// legal repetition: here none does.
    pub(crate) async fn start_two(&self) -> (Instance, Instance) {
        let steady = |name| {
            let mut config = self.config(name);
            config.relay.relay_lease = Duration::from_secs(15);
            self.start_with(config)
        };
        let (a, b) = (steady("a").await, steady("b").await);
        let halves = async || a.shards_led().await == 8.0 && b.shards_led().await == 8.0;
        until("each leads half of the shards", halves).await;
        (a, b)
    }

    /// Runs an instance that is expected to end by itself.
    pub(crate) async fn run_to_its_end(&self, config: Config) -> anyhow::Result<()> {
        let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listeners = Listeners { http: bind().await, admin: bind().await };
        run(config, listeners, CancellationToken::new()).await
    }

    pub(crate) async fn outbox_rows(&self) -> i64 {
        self.number("select count(*) from outbox").await
    }

    pub(crate) async fn number(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }

    pub(crate) async fn until_published(&self) {
        until("the outbox is empty", async || self.outbox_rows().await == 0).await;
    }

    pub(crate) async fn until_someone_waits_for_a_lock(&self) {
        until("someone waits for a lock", async || {
            self.number(
                "select count(*) from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock'",
            )
            .await
                >= 1
        })
        .await;
    }

    /// Everything that an order or a refusal could change.
    pub(crate) async fn state(&self) -> (i64, i64, i64, i64) {
        sqlx::query_as(
            "select (select count(*) from orders), (select count(*) from outbox),
                    (select coalesce(sum(stock), 0) from products)::bigint,
                    (select coalesce(sum(used), 0) from coupons)::bigint",
        )
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    /// Every record that the topic holds now, partition by partition.
    pub(crate) async fn records(&self) -> Vec<Record> {
        self.records_at(&self.kafka).await
    }

    /// The same of another cluster, such as a mock.
    pub(crate) async fn records_at(&self, bootstrap_servers: &str) -> Vec<Record> {
        let (mut config, topic) = (self.client(), self.topic.clone());
        config.set("bootstrap.servers", bootstrap_servers);
        tokio::task::spawn_blocking(move || topic::read_all(config, &topic)).await.unwrap()
    }
}

pub(crate) fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(DEADLINE)).operation_timeout(Some(DEADLINE))
}

/// A running service.
pub(crate) struct Instance {
    pub(crate) http: String,
    pub(crate) admin: String,
    client: Client,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Instance {
    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.http))
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.http))
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.client.request(method.parse().unwrap(), format!("{}{path}", self.http))
    }

    pub(crate) async fn admin_get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.admin)).send().await.unwrap()
    }

    pub(crate) async fn put_catalogue(&self, body: impl serde::Serialize) -> Response {
        self.client.put(format!("{}/catalogue", self.admin)).json(&body).send().await.unwrap()
    }

    /// Loads products `(id, price, stock)` and coupons `(code, percent, uses)`.
    pub(crate) async fn load(&self, products: &[(&str, i64, i64)], coupons: &[(&str, u8, i64)]) {
        let products = products.iter().map(|(product_id, price_minor, stock)| ProductEntry {
            product_id: (*product_id).to_owned(),
            price_minor: *price_minor,
            stock: *stock,
        });
        let coupons = coupons.iter().map(|(code, percent, max_uses)| CouponEntry {
            code: (*code).to_owned(),
            percent_off: Some(*percent),
            amount_off_minor: None,
            max_uses: *max_uses,
        });
        let catalogue = Catalogue { products: products.collect(), coupons: coupons.collect() };
        assert_eq!(self.put_catalogue(catalogue).await.status(), StatusCode::OK);
    }

    /// Orders one line and answers the raw response.
    pub(crate) async fn order(&self, product: &str, quantity: i64, coupon: Option<&str>) -> Response {
        let mut body = json!({"userId": "u1", "items": [{"productId": product, "quantity": quantity}]});
        if let Some(code) = coupon {
            body["couponCode"] = code.into();
        }
        self.post("/orders").json(&body).send().await.unwrap()
    }

    /// Places an order of one unit of `product` that must be accepted, and answers its id.
    pub(crate) async fn placed(&self, product: &str) -> String {
        let response = self.order(product, 1, None).await;
        assert_eq!(response.status(), StatusCode::CREATED);
        let body: Value = response.json().await.unwrap();
        body["orderId"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn changed(&self, id: &str, verb: &str) {
        let response = self.post(&format!("/orders/{id}/{verb}")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{verb} {id}");
    }

    pub(crate) async fn is_ready(&self) -> bool {
        assert!(!self.task.is_finished(), "the instance ended by itself");
        self.admin_get("/readyz").await.status() == StatusCode::OK
    }

    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.admin_get("/metrics").await.text().await.unwrap();
        let line = text.lines().find(|line| line.split([' ', '{']).next() == Some(name));
        line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok()).unwrap_or(0.0)
    }

    pub(crate) async fn shards_led(&self) -> f64 {
        self.metric("orderflow_relay_shards_led").await
    }

    /// What SIGTERM does at first; [`stop`](Self::stop) waits for its end.
    pub(crate) fn begin_to_stop(&self) {
        self.stop.cancel();
    }

    /// Ends it as SIGTERM does.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(DEADLINE, self.task).await.expect("it stops in time").unwrap().unwrap();
    }

    /// Ends it at once: nothing is flushed or let go.
    pub(crate) async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, condition: impl FnMut() -> F) {
    until_within(DEADLINE, what, condition).await;
}

/// Waits at most `deadline` until `condition` holds.
pub(crate) async fn until_within<F: Future<Output = bool>>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> F,
) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < deadline, "waited {deadline:?} in vain until {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
