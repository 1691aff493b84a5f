//! Settles by how many partitions keys are mapped: the count recorded when the topic was first used, or switched to since.

use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaErrorCode;
use runtime::shutdown::CancellationToken;
use sqlx::PgPool;

use super::error::RelayError;
use super::publish::Publisher;
use super::{HEARTBEAT, HEARTBEAT_BOUND, Relay};
use crate::store::DatabaseError;
use crate::store::error::bounded;

/// Longest wait for metadata: longer than a broker's restart of its connection, short against the heartbeat.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between looks for a topic that does not exist yet: whoever makes it does so once.
const TOPIC_POLL: Duration = Duration::from_millis(500);

/// Waits until the topic exists and answers the recorded count, recording the topic's own at first use; in a database that has
/// forgotten what was recorded, the count by which keys were `mapped` here. `None` when stopped while there is no topic; a look
/// under way is brought to its end all the same, since a service that is stopped right after its start has events to flush.
///
/// # Errors
/// When metadata or database can't be had, or the topic has fewer partitions than recorded: then nothing may be sent,
/// since keys would move.
pub(super) async fn settle(
    relay: &Relay,
    publisher: &Publisher,
    mapped: Option<i32>,
    stop: &CancellationToken,
) -> Result<Option<i32>, RelayError> {
    let topic = &relay.config.topic;
    let mut announced = false;
    loop {
        relay.health.beat(HEARTBEAT, HEARTBEAT_BOUND);
        if let Some(actual) = fetch(publisher, topic).await? {
            let recorded = record(&relay.pool, topic, mapped.unwrap_or(actual)).await?;
            if actual < recorded {
                return Err(RelayError::Shrunk { topic: topic.clone(), actual, recorded });
            }
            tracing::info!(topic, partitions = recorded, "relaying");
            return Ok(Some(recorded));
        }
        if !announced {
            tracing::info!(topic, "waiting for the topic to be created");
            announced = true;
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(TOPIC_POLL) => {}
        }
    }
}

/// Partitions that the topic has; `None` while it does not exist. The producer knows them all then.
async fn fetch(publisher: &Publisher, topic: &str) -> Result<Option<i32>, RelayError> {
    let (producer, name) = (publisher.producer(), topic.to_owned());
    let fetched = tokio::task::spawn_blocking(move || {
        use rdkafka::producer::Producer;
        count(producer.client(), &name, METADATA_TIMEOUT)
    });
    match fetched.await {
        Ok(fetched) => fetched.map_err(RelayError::Metadata),
        // The closure does not panic; it may be cancelled with the runtime.
        Err(_) => Err(RelayError::Metadata(KafkaError::Canceled)),
    }
}

/// Partitions that the topic has by what a broker says; `None` while it does not exist. Blocks for at most `timeout`.
///
/// # Errors
/// When no broker answers.
pub(super) fn count<C: ClientContext>(
    client: &Client<C>,
    name: &str,
    timeout: Duration,
) -> KafkaResult<Option<i32>> {
    let metadata = client.fetch_metadata(Some(name), timeout)?;
    let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
        return Ok(None);
    };
    match topic.error().map(RDKafkaErrorCode::from) {
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
        Some(code) => Err(KafkaError::MetadataFetch(code)),
        None => Ok(i32::try_from(topic.partitions().len()).ok().filter(|count| *count > 0)),
    }
}

async fn record(pool: &PgPool, topic: &str, partitions: i32) -> Result<i32, DatabaseError> {
    bounded("record the partition count", async {
        sqlx::query(
            "insert into topic_partitions (topic, partitions) values ($1, $2) on conflict (topic) do nothing",
        )
        .bind(topic)
        .bind(partitions)
        .execute(pool)
        .await?;
        sqlx::query_scalar("select partitions from topic_partitions where topic = $1")
            .bind(topic)
            .fetch_one(pool)
            .await
    })
    .await
}
