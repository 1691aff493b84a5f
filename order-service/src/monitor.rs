//! Looks at the outbox every few seconds: for the metrics, and to know whether the database is there.

use std::time::{Duration, Instant};

use runtime::health::Health;
use sqlx::PgPool;

use crate::metrics::RelayMetrics;
use crate::store::database::{self, CONDITION};
use crate::store::outbox;

/// Time from one look to the next: a scraper comes every 15 s or so, and a count of the outbox is not free.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// Longest look at the outbox: a little above what the server itself allows a statement.
const LOOK_DEADLINE: Duration = Duration::from_secs(12);
/// How long the database may be away before the service says it is not ready. A failover or restart passes within
/// this, requests being answered with 503 meanwhile; taking every pod out of the Service would only add to it.
const UNREADY_AFTER: Duration = Duration::from_secs(15);

/// Looks until dropped.
pub async fn watch(pool: &PgPool, metrics: &RelayMetrics, health: &Health) {
    let mut last_answer = Instant::now();
    let mut away = false;
    loop {
        match tokio::time::timeout(SAMPLE_EVERY, database::ping(pool)).await {
            Ok(Ok(())) => {
                if away {
                    tracing::info!("the database answers again");
                    health.met(CONDITION);
                }
                // Apart from the ping: an outbox that takes long to look at is a lag of Kafka's, and no unreadiness.
                if let Ok(Ok(backlog)) = tokio::time::timeout(LOOK_DEADLINE, outbox::backlog(pool)).await {
                    metrics.backlog(backlog);
                }
                (last_answer, away) = (Instant::now(), false);
            }
            Ok(Err(_)) | Err(_) if !away && last_answer.elapsed() > UNREADY_AFTER => {
                away = true;
                tracing::warn!(silent_for = ?last_answer.elapsed(), "the database does not answer; not ready");
                health.unmet(CONDITION, "does not answer");
            }
            // A blip, or known already: whoever needed the database meanwhile has said so.
            Ok(Err(_)) | Err(_) => {}
        }
        tokio::time::sleep(SAMPLE_EVERY).await;
    }
}
