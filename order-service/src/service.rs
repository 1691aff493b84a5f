//! Starts the parts in order, and stops them in the reverse order within the grace.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use runtime::health::Health;
use runtime::metrics::Metrics;
use runtime::shutdown::CancellationToken;
use runtime::{admin, metrics};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::catalogue;
use crate::config::{Config, DatabaseConfig, HttpConfig, ListenConfig};
use crate::http::{self, Api, serve};
use crate::metrics::{ApiMetrics, RelayMetrics, WriterMetrics};
use crate::monitor;
use crate::relay::Relay;
use crate::store::orders::PlaceSettings;
use crate::store::{database, idempotency};
use crate::writer::{Connections, Writer};

/// Connections of the relay, which reads, deletes, keeps its leases, announces and sees to growth at once, and of the monitor.
/// What it listens on is one more.
const RELAY_CONNECTIONS: u32 = 6;
/// Longest wait for connections to be given back at the end.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// Name of the readiness condition that the public listener meets.
const LISTENING: &str = "http";
/// Name of the readiness condition that a shutdown ends.
const SHUTDOWN: &str = "shutdown";

/// Sockets to serve on, bound before anything is started.
#[derive(Debug)]
pub struct Listeners {
    /// The public API.
    pub http: TcpListener,
    /// `/livez`, `/readyz`, `/metrics` and the catalogue.
    pub admin: TcpListener,
}

impl Listeners {
    /// Binds both addresses.
    ///
    /// # Errors
    /// When one can't be bound.
    pub async fn bind(config: &ListenConfig) -> anyhow::Result<Self> {
        let ListenConfig { http_addr, admin_addr } = config;
        let bind =
            async |addr| TcpListener::bind(addr).await.with_context(|| format!("failed to listen on {addr}"));
        Ok(Self { http: bind(*http_addr).await?, admin: bind(*admin_addr).await? })
    }
}

/// Serves until `shutdown`, then drains: unready, no new connections, requests in flight answered, the writer's queue empty,
/// the relay flushed, its shards let go. Dropping the future instead is like a crash.
///
/// # Errors
/// When the settings are wrong, the schema can't be used, or a listener fails.
pub async fn run(config: Config, listeners: Listeners, shutdown: CancellationToken) -> anyhow::Result<()> {
    let grace = config.shutdown_grace;
    let DatabaseConfig { database_url, database_max_connections, database_acquire_timeout } =
        &config.database;
    let options = database::connect_options(database_url)?;
    let pool = database::pool(&options, *database_max_connections, *database_acquire_timeout);
    let relay_pool = database::relay_pool(&options, RELAY_CONNECTIONS, *database_acquire_timeout);
    let health = Health::waiting_for(&[database::CONDITION, LISTENING]);
    let metrics = Metrics::default();
    let admin_router = admin::routes(health.clone(), metrics.clone()).merge(catalogue::routes(pool.clone()));

    let draining = async {
        shutdown.cancelled().await;
        health.unmet(SHUTDOWN, "draining");
        tokio::time::sleep(grace).await;
    };
    let work = async {
        let prepared = async {
            database::migrate(&options, &health).await?;
            database::claim(&pool, &config.relay.topic).await
        };
        tokio::select! {
            prepared = prepared => prepared?,
            () = shutdown.cancelled() => return Ok(()),
        }
        health.met(database::CONDITION);
        let (health, shutdown) = (health.clone(), shutdown.clone());
        let parts = Parts { pool, options: options.clone(), relay_pool, health, metrics, shutdown };
        parts.serve(config, listeners.http).await
    };
    tokio::select! {
        done = work => done,
        failed = admin::serve(listeners.admin, admin_router, std::future::pending()) => failed,
        () = draining => {
            tracing::warn!(?grace, "stopping before everything was drained; the outbox keeps what is not published");
            Ok(())
        }
    }
}

/// What the parts share.
struct Parts {
    pool: PgPool,
    options: PgConnectOptions,
    relay_pool: PgPool,
    health: Health,
    metrics: metrics::Metrics,
    shutdown: CancellationToken,
}

impl Parts {
    /// Serves requests and relays until shutdown; the writer ends after the last request, and the relay after the writer, so
    /// that it sees its events.
    async fn serve(self, config: Config, listener: TcpListener) -> anyhow::Result<()> {
        let Self { pool, options, relay_pool, health, metrics, shutdown } = self;
        let Config { http, database, writer, kafka, relay, currency, shutdown_grace } = config;
        let wake = Arc::new(Notify::new());
        let relay_metrics = RelayMetrics::register(&metrics);
        let settings = PlaceSettings { currency: currency.into(), key_lifetime: writer.idempotency_ttl };
        let connections =
            Connections { pool: pool.clone(), options, timeout: database.database_acquire_timeout };
        let writer_metrics = WriterMetrics::register(&metrics);
        let (orders, lanes) = Writer::new(&writer, connections, settings, wake.clone(), writer_metrics);
        let api = Api {
            pool: pool.clone(),
            writer: orders,
            wake: wake.clone(),
            metrics: ApiMetrics::register(&metrics),
        };
        let relay = Relay {
            pool: relay_pool.clone(),
            kafka: kafka.connection()?,
            config: Arc::new(relay),
            wake,
            metrics: relay_metrics.clone(),
            health: health.clone(),
        };
        // Two fifths of the grace for requests, which includes the orders that wait, one tenth for the writer to end what is
        // left of them, two fifths for the relay; the rest lets shards go and closes connections.
        let (requests_within, writer_within, relay_within) =
            (shutdown_grace * 2 / 5, shutdown_grace / 10, shutdown_grace * 2 / 5);
        let (writer_stop, relay_stop) = (CancellationToken::new(), CancellationToken::new());
        let serving = async {
            serve_requests(api, &http, listener, &shutdown, requests_within).await;
            writer_stop.cancel();
            anyhow::Ok(())
        };
        let writing = async {
            let written = tokio::select! {
                written = lanes.run(writer_stop.clone()) => written,
                () = out_of_time(&writer_stop, writer_within) => {
                    tracing::warn!(?writer_within, "orders were still being written at the end of their time to drain");
                    anyhow::Ok(())
                }
            };
            relay_stop.cancel();
            written
        };
        health.met(LISTENING);
        let relaying = async {
            relay.run(relay_stop.clone(), relay_within).await;
            anyhow::Ok(())
        };
        let work = async { tokio::try_join!(serving, writing, relaying).map(drop) };
        let served = tokio::select! {
            ended = work => ended,
            () = monitor::watch(&relay_pool, &relay_metrics, &health) => Ok(()),
            () = idempotency::keep_swept(&pool, writer.idempotency_ttl) => Ok(()),
        };
        for pool in [pool, relay_pool] {
            // What leads to a server that vanished is never given back.
            let _ = tokio::time::timeout(CLOSE_WITHIN, pool.close()).await;
        }
        served
    }
}

/// Serves the public API until `shutdown`, and then at most `drain` for the requests in flight.
async fn serve_requests(
    api: Api,
    config: &HttpConfig,
    listener: TcpListener,
    shutdown: &CancellationToken,
    drain: Duration,
) {
    tokio::select! {
        () = serve::serve(listener, http::router(api, config), serve::LIMITS, shutdown) => {}
        () = out_of_time(shutdown, drain) => {
            tracing::warn!(?drain, "connections were still open at the end of their time to drain");
        }
    }
}

/// Ends `within` after `stop`.
async fn out_of_time(stop: &CancellationToken, within: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(within).await;
}
