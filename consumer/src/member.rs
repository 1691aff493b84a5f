//! This process's membership of the consumer group: the client that polls, and the thread that commits for it.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use runtime::kafka::KafkaConnection;

use crate::commits::Commits;
use crate::config::Subscription;
use crate::metrics::ConsumerMetrics;
use crate::queues::{Queues, wake};
use crate::rebalance::GroupContext;
use crate::worker::Report;

/// A member that died without leaving is missed after this. librdkafka's default of 45 s would leave its partitions
/// alone for as long; less than the broker's least (6 s) is refused, and too near it a garbage collection evicts.
pub(crate) const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
/// Three heartbeats may be missed.
const HEARTBEAT_MILLIS: &str = "3000";
/// Bounds a commit that is waited for, and with it the poll loop's longest step. librdkafka's default is 60 s.
const SOCKET_TIMEOUT_MILLIS: &str = "10000";
/// A topic that is created, or grown, after the start is found this soon. The default is 5 minutes.
const METADATA_REFRESH_MILLIS: &str = "5000";
/// What librdkafka fetches ahead, in KiB of each partition, and up to one answer of a broker (1 MiB) beyond: some batches, so that
/// a worker that made room never waits for a broker. Its default is 64 MiB.
const FETCH_QUEUE_KIB: &str = "1024";
/// A full queue is looked at again after this. The default of 1 s would leave workers idle after they emptied it.
const FETCH_QUEUE_BACKOFF_MILLIS: &str = "20";

/// Why there is no member.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// librdkafka refuses the settings.
    #[error("failed to set up the Kafka consumer")]
    Client(#[source] KafkaError),
    /// The topic's name is not one.
    #[error("failed to subscribe")]
    Subscribe(#[source] KafkaError),
    /// No thread to be had.
    #[error("failed to start a thread")]
    Thread(#[source] std::io::Error),
}

/// A member of the group.
pub struct Member {
    settings: ClientConfig,
    subscription: Subscription,
    metrics: ConsumerMetrics,
    waker: mpsc::Sender<Report>,
    /// Its client.
    pub client: Arc<BaseConsumer<GroupContext>>,
    /// What the client fetched of each partition.
    pub queues: Queues,
    /// How it commits.
    pub commits: Commits,
}

impl Member {
    /// Subscribes to the topic. The group is joined by polling. `waker` is told when there is something to poll.
    ///
    /// # Errors
    /// [`MemberError`].
    pub fn new(
        kafka: &KafkaConnection,
        subscription: Subscription,
        metrics: ConsumerMetrics,
        waker: mpsc::Sender<Report>,
    ) -> Result<Self, MemberError> {
        let settings = settings(kafka, &subscription);
        let (client, commits) = join(&settings, &subscription, &metrics, &waker)?;
        let queues = Queues::new(subscription.topic.clone(), waker.clone());
        Ok(Self { settings, subscription, metrics, waker, client, queues, commits })
    }

    /// Leaves the group and joins it with a new client, which knows no more than the bootstrap servers.
    ///
    /// librdkafka can forget its brokers for ever (librdkafka#5301): a broker that is just starting names no broker at
    /// all, not even itself, whereupon the client drops every connection and has nobody left to ask.
    ///
    /// # Errors
    /// [`MemberError`]; the old member then stays.
    pub fn replace(&mut self) -> Result<(), MemberError> {
        let (client, commits) = join(&self.settings, &self.subscription, &self.metrics, &self.waker)?;
        self.queues.clear();
        let old =
            (std::mem::replace(&mut self.client, client), std::mem::replace(&mut self.commits, commits));
        leave(old.0, old.1);
        self.metrics.members_replaced.inc();
        Ok(())
    }

    /// Leaves the group, so that the others take over at once.
    pub fn leave(mut self) {
        self.queues.clear();
        leave(self.client, self.commits);
    }
}

fn join(
    settings: &ClientConfig,
    subscription: &Subscription,
    metrics: &ConsumerMetrics,
    waker: &mpsc::Sender<Report>,
) -> Result<(Arc<BaseConsumer<GroupContext>>, Commits), MemberError> {
    let mut client: BaseConsumer<_> =
        settings.create_with_context(GroupContext::default()).map_err(MemberError::Client)?;
    let waker = waker.clone();
    client.set_nonempty_callback(move || wake(&waker));
    client.subscribe(&[&subscription.topic]).map_err(MemberError::Subscribe)?;
    let client = Arc::new(client);
    let commits =
        Commits::start(Arc::clone(&client), subscription, metrics.clone()).map_err(MemberError::Thread)?;
    Ok((client, commits))
}

/// Dropping the client leaves the group.
fn leave(client: Arc<BaseConsumer<GroupContext>>, commits: Commits) {
    commits.end();
    client.context().close();
    drop(client);
}

fn settings(kafka: &KafkaConnection, Subscription { group, client_id, .. }: &Subscription) -> ClientConfig {
    let mut config = kafka.client_config(client_id);
    config
        .set("group.id", group)
        // The classic protocol: librdkafka 2.12's error handling in the new one (KIP-848) is unfinished.
        .set("group.protocol", "classic")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Also for groups that start at the latest: theirs is looked up once, and if retention overtakes a group, it
        // goes on at the oldest record there is instead of skipping everything.
        .set("auto.offset.reset", "earliest")
        .set("session.timeout.ms", SESSION_TIMEOUT.as_millis().to_string())
        .set("heartbeat.interval.ms", HEARTBEAT_MILLIS)
        .set("socket.timeout.ms", SOCKET_TIMEOUT_MILLIS)
        .set("topic.metadata.refresh.interval.ms", METADATA_REFRESH_MILLIS)
        .set("queued.max.messages.kbytes", FETCH_QUEUE_KIB)
        .set("fetch.queue.backoff.ms", FETCH_QUEUE_BACKOFF_MILLIS);
    config
}
