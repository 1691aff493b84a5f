//! How much of a topic is still to be consumed. Asked only at a deletion: each question makes a consumer of its own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use runtime::kafka::KafkaConnection;

use super::error::Error;

/// How Kafka's logs and quotas name the operator.
const CLIENT_ID: &str = "orderflow-operator";

/// A topic has thousands of partitions at most, each asked for its bounds in turn; a whole answer takes this many request
/// time-outs at most.
const REQUESTS: u32 = 6;

/// Records of `topic` that `group` has not committed, or, without a group, that the topic holds.
///
/// A group that never joins is made by nobody here: it is only asked for.
///
/// # Errors
/// When Kafka can't be reached or refuses.
pub async fn backlog(
    connection: &KafkaConnection,
    timeout: Duration,
    topic: &str,
    partitions: i32,
    group: Option<&str>,
) -> Result<i64, Error> {
    let (connection, topic, group) = (connection.clone(), topic.to_owned(), group.map(str::to_owned));
    let ask = move || ask(&connection, timeout, &topic, partitions, group.as_deref());
    tokio::task::spawn_blocking(ask)
        .await
        .unwrap_or_else(|_| Err(Error::Aborted { action: "look at a topic's backlog".to_owned() }))
}

fn ask(
    connection: &KafkaConnection,
    timeout: Duration,
    topic: &str,
    partitions: i32,
    group: Option<&str>,
) -> Result<i64, Error> {
    let action = format!("look at the backlog of topic {topic}");
    let failed = |source| Error::client(&action, source);
    let deadline = Instant::now() + timeout * REQUESTS;
    let mut config = connection.client_config(CLIENT_ID);
    config.set("enable.auto.commit", "false");
    if let Some(group) = group {
        config.set("group.id", group);
    }
    let consumer: BaseConsumer = config.create().map_err(failed)?;
    let committed = match group {
        Some(_) => committed(&consumer, topic, partitions, timeout).map_err(failed)?,
        None => BTreeMap::new(),
    };
    let mut backlog = 0;
    for partition in 0..partitions {
        let wait = timeout.min(deadline.saturating_duration_since(Instant::now()));
        let (low, high) = consumer.fetch_watermarks(topic, partition, wait).map_err(failed)?;
        backlog += left(committed.get(&partition).copied(), low, high);
    }
    Ok(backlog)
}

fn committed(
    consumer: &BaseConsumer,
    topic: &str,
    partitions: i32,
    timeout: Duration,
) -> Result<BTreeMap<i32, i64>, rdkafka::error::KafkaError> {
    let mut wanted = TopicPartitionList::new();
    wanted.add_partition_range(topic, 0, partitions - 1);
    let mut committed = BTreeMap::new();
    for element in consumer.committed_offsets(wanted, timeout)?.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            committed.insert(element.partition(), offset);
        }
    }
    Ok(committed)
}

/// Records between what was committed and the end; those that the broker removed since are not waited for. A commit beyond the
/// end is one on another topic of that name: of this one nothing is known to be consumed.
fn left(committed: Option<i64>, low: i64, high: i64) -> i64 {
    let committed = committed.filter(|committed| *committed <= high);
    (high - committed.unwrap_or(low).max(low)).max(0)
}

#[cfg(test)]
mod tests {
    use super::left;

    #[test]
    fn what_is_left_is_what_is_there_and_not_committed() {
        assert_eq!(left(Some(7), 0, 10), 3);
        assert_eq!(left(Some(10), 0, 10), 0);
        assert_eq!(left(None, 0, 10), 10, "a group that never committed has all to go");
        assert_eq!(left(None, 10, 10), 0, "but of an empty topic");
    }

    #[test]
    fn records_that_the_broker_removed_are_not_waited_for() {
        assert_eq!(left(Some(3), 8, 10), 2);
        assert_eq!(left(Some(3), 10, 10), 0);
    }

    #[test]
    fn a_commit_beyond_the_end_is_none() {
        assert_eq!(left(Some(12), 0, 10), 10, "committed on a topic that was longer");
        assert_eq!(left(Some(12), 7, 10), 3);
        assert_eq!(left(Some(12), 10, 10), 0);
    }
}
