//! Wakes the relay that leads a shard when a request of whichever replica has recorded an event.
//!
//! In this process a commit notifies. Other replicas are told by NOTIFY, from a statement of its own and at most one in a few
//! milliseconds: within the order's transaction it would make all commits of the database take turns. Where LISTEN does not
//! work, as behind a transaction pooler, the poll remains.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::Notify;

use super::pace::Backoff;
use crate::metrics::RelayMetrics;
use crate::store::error::bounded;

/// The channel on which replicas announce events; a database has one outbox.
const CHANNEL: &str = "orderflow_outbox";
/// Shortest time from one announcement to the next: what is recorded within it shares one.
const COALESCE: Duration = Duration::from_millis(5);

/// After so long without an announcement the listener asks for a sign of life: a connection that leads nowhere is as silent as
/// one on which nothing is said.
const SILENCE: Duration = Duration::from_secs(10);
/// Longest wait for that, and for a connection.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

async fn in_time<T>(asked: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    tokio::time::timeout(ANSWER_WITHIN, asked).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// One replica's share in waking.
#[derive(Clone, Debug)]
pub(super) struct Wake {
    /// The database.
    pub(super) pool: PgPool,
    /// This replica's name: its own announcements are no news to it.
    pub(super) owner: String,
    /// Notified after a commit of this replica.
    pub(super) committed: Arc<Notify>,
    /// To be notified when an event was recorded anywhere.
    pub(super) recorded: Arc<Notify>,
    /// This replica leads every shard: there is nobody to tell.
    pub(super) leads_all: Arc<AtomicBool>,
    /// Counters.
    pub(super) metrics: RelayMetrics,
}

impl Wake {
    /// Passes announcements on until dropped.
    pub(super) async fn run(&self) {
        let peers = Notify::new();
        tokio::join!(self.forward(&peers), self.announce(&peers), self.listen());
    }

    async fn forward(&self, peers: &Notify) {
        loop {
            self.committed.notified().await;
            self.recorded.notify_one();
            if !self.leads_all.load(Ordering::Relaxed) {
                peers.notify_one();
            }
        }
    }

    async fn announce(&self, peers: &Notify) {
        loop {
            peers.notified().await;
            let statement = sqlx::query("select pg_notify($1, $2)").bind(CHANNEL).bind(&self.owner);
            if let Err(error) = bounded("announce events", statement.execute(&self.pool)).await {
                // The other replicas poll; that the database is away is said by whoever needs it.
                tracing::debug!(%error, "failed to announce events");
            }
            tokio::time::sleep(COALESCE).await;
        }
    }

    async fn listen(&self) {
        let mut backoff = Backoff::default();
        loop {
            match self.hear(&mut backoff).await {
                Ok(never) => match never {},
                Err(error) => {
                    tracing::debug!(%error, "failed to listen for events of other replicas; polling")
                }
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    async fn hear(&self, backoff: &mut Backoff) -> sqlx::Result<std::convert::Infallible> {
        // A connection apart: a listener that is dropped says goodbye, and keeps its place until that is answered.
        let options = PgConnectOptions::clone(&self.pool.connect_options());
        let apart = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
        let mut listener = in_time(PgListener::connect_with(&apart.connect_lazy_with(options))).await?;
        in_time(listener.listen(CHANNEL)).await?;
        loop {
            let Ok(heard) = tokio::time::timeout(SILENCE, listener.try_recv()).await else {
                in_time(sqlx::query("select 1").execute(&mut listener)).await?;
                continue;
            };
            // None when the connection was lost and made anew: what was said meanwhile is unknown, so it counts as news.
            let heard = heard?;
            backoff.reset();
            if heard.is_none_or(|heard| heard.payload() != self.owner) {
                self.metrics.announced.inc();
                self.recorded.notify_one();
            }
        }
    }
}
