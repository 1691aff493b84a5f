//! Starts the parts in order, and stops them in the reverse order within the grace.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use runtime::health::Health;
use runtime::metrics::Metrics;
use runtime::shutdown::CancellationToken;
use runtime::{admin, metrics};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::catalogue;
use crate::config::{Config, DatabaseConfig, HttpConfig, ListenConfig};
use crate::http::{self, Api};
use crate::metrics::{ApiMetrics, RelayMetrics};
use crate::monitor;
use crate::relay::Relay;
use crate::store::database;

/// Connections of the relay, which reads, deletes, keeps its leases, announces and listens at once, and of the monitor.
const RELAY_CONNECTIONS: u32 = 6;
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

/// Serves until `shutdown`, then drains: unready, no new connections, requests in flight answered, the relay flushed,
/// its shards let go. Dropping the future instead is like a crash.
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

    let out_of_time = async {
        shutdown.cancelled().await;
        health.unmet(SHUTDOWN, "draining");
        tokio::time::sleep(grace).await;
    };
    let work = async {
        tokio::select! {
            migrated = database::migrate(&options, &health) => migrated?,
            () = shutdown.cancelled() => return Ok(()),
        }
        database::claim(&pool, &config.relay.topic).await?;
        health.met(database::CONDITION);
        let parts = Parts { pool, relay_pool, health: health.clone(), metrics, shutdown: shutdown.clone() };
        parts.serve(config, listeners.http).await
    };
    tokio::select! {
        done = work => done,
        failed = admin::serve(listeners.admin, admin_router, std::future::pending()) => failed,
        () = out_of_time => {
            tracing::warn!(?grace, "stopping before everything was drained; the outbox keeps what is not published");
            Ok(())
        }
    }
}

/// What the parts share.
struct Parts {
    pool: PgPool,
    relay_pool: PgPool,
    health: Health,
    metrics: metrics::Metrics,
    shutdown: CancellationToken,
}

impl Parts {
    /// Serves requests and relays until shutdown; the relay ends after the last request, so that it sees its event.
    async fn serve(self, config: Config, listener: TcpListener) -> anyhow::Result<()> {
        let Self { pool, relay_pool, health, metrics, shutdown } = self;
        let Config { http, database: _, kafka, relay, currency, shutdown_grace } = config;
        let wake = Arc::new(Notify::new());
        let relay_metrics = RelayMetrics::register(&metrics);
        let api = Api {
            pool: pool.clone(),
            wake: wake.clone(),
            currency: currency.into(),
            metrics: ApiMetrics::register(&metrics),
        };
        let relay = Relay {
            pool: relay_pool.clone(),
            kafka: kafka.connection()?,
            config: relay,
            wake,
            metrics: relay_metrics.clone(),
            health: health.clone(),
        };
        // Half of the grace for requests, two fifths for the relay; the rest lets shards go and closes connections.
        let (requests_within, relay_within) = (shutdown_grace / 2, shutdown_grace * 2 / 5);
        let relay_stop = CancellationToken::new();
        let serving = async {
            let served = serve_requests(api, &http, listener, &shutdown, requests_within).await;
            relay_stop.cancel();
            served
        };
        health.met(LISTENING);
        let work = async { tokio::join!(serving, relay.run(relay_stop.clone(), relay_within)) };
        let (served, ()) = tokio::select! {
            ended = work => ended,
            () = monitor::watch(&relay_pool, &relay_metrics, &health) => (Ok(()), ()),
        };
        pool.close().await;
        relay_pool.close().await;
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
) -> anyhow::Result<()> {
    let server = axum::serve(listener, http::router(api, config))
        .with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let out_of_time = async {
        shutdown.cancelled().await;
        tokio::time::sleep(drain).await;
    };
    tokio::select! {
        served = server => served.context("failed to serve the public port"),
        () = out_of_time => {
            tracing::warn!(?drain, "connections were still open at the end of their time to drain");
            Ok(())
        }
    }
}
