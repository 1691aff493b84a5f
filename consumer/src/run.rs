//! Puts the parts together and keeps them together until the stop signal.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use rdkafka::error::KafkaError;
use runtime::admin;
use runtime::health::Health;
use runtime::metrics::Metrics;
use runtime::shutdown::CancellationToken;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::assignment::{Assignment, WorkerSpawner};
use crate::breaker::Breaker;
use crate::config::{Config, Delivery, SinkConfig, Subscription};
use crate::connection::{self, Connection};
use crate::dead_letter::headers::Origin;
use crate::dead_letter::tail::{Stuck, Tail};
use crate::dead_letter::{DeadLetterError, DeadLetters};
use crate::deliver::Deliverer;
use crate::member::{Member, MemberError};
use crate::metrics::ConsumerMetrics;
use crate::oldest::Oldest;
use crate::poll_loop::{PollError, PollLoop};
use crate::sink::Sink;
use crate::sink::http::{BadHttpClient, HttpSink};
use crate::sink::postgres::{BadDatabaseUrl, PostgresSink};
use crate::start_offsets::Claimant;

/// Readiness condition that fails from the stop signal on.
const SHUTDOWN_CONDITION: &str = "shutdown";
/// Kept back from the grace for the last commit and for leaving the group.
const LEAVE_RESERVE: Duration = Duration::from_secs(5);
/// … but no more than one part in this of it.
const LEAVE_RESERVE_PART: u32 = 3;
/// A partition that goes to another member may finish what it has in hand for as long as a call of the sink takes, and this
/// much longer for a dead letter that may follow; …
const DRAIN_BEYOND_A_CALL: Duration = Duration::from_secs(5);
/// … but no longer, because the group waits meanwhile: the brokers' patience (`max.poll.interval.ms`) is five minutes.
const LONGEST_DRAIN: Duration = Duration::from_secs(60);
/// Why a consumer ended other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The `postgres` sink could not be set up.
    #[error("failed to start")]
    Postgres(#[from] BadDatabaseUrl),
    /// The `http` sink could not be set up.
    #[error("failed to start")]
    Http(#[from] BadHttpClient),
    /// The producer of dead letters could not be set up.
    #[error("failed to start")]
    DeadLetters(#[from] DeadLetterError),
    /// The reader of dead letters could not be set up.
    #[error("failed to start")]
    Tail(#[source] KafkaError),
    /// The group's member could not be set up.
    #[error("failed to start")]
    Member(#[from] MemberError),
    /// No thread to be had.
    #[error("failed to start a thread")]
    Thread(#[source] std::io::Error),
    /// The poll loop ended with an error.
    #[error("failed to consume")]
    Poll(#[from] PollError),
    /// The poll loop ended by a panic.
    #[error("failed to consume: the poll loop panicked")]
    Panicked,
    /// The admin server ended.
    #[error("failed to serve the admin port")]
    Admin(#[source] anyhow::Error),
    /// The grace was over before the group was left.
    #[error("failed to stop within {0:?}")]
    Overdue(Duration),
}

/// Consumes until `shutdown`, then drains, commits and leaves the group. `admin_listener` is served throughout.
///
/// # Errors
/// [`RunError`]; whatever is in flight is then repeated by the member that takes over.
pub async fn run(
    config: Config,
    admin_listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let Config {
        kafka,
        subscription,
        dead_letter_topic,
        sink,
        retry,
        lanes,
        batch_max_records,
        shutdown_grace,
    } = config;
    let (health, metrics) = (Health::waiting_for(&[connection::CONDITION]), Metrics::default());
    let consumer_metrics = metrics.register(ConsumerMetrics::registered);
    let origin = Origin { topic: subscription.topic.clone(), group: subscription.group.clone() };
    let stuck = Stuck::default();
    let reader = (subscription.client_id.as_str(), subscription.group.as_str(), dead_letter_topic.as_str());
    let tail = Tail::new(&kafka, reader, stuck.clone()).map_err(RunError::Tail)?;
    let deliverer = Arc::new(Deliverer {
        sink: open(&sink, &subscription)?,
        breaker: Breaker::new(retry, consumer_metrics.clone()),
        stuck: stuck.clone(),
        sticky: subscription.delivery != Delivery::AtMostOnce,
        dead_letters: DeadLetters::new(&kafka, &subscription.client_id, &dead_letter_topic, origin)?,
        retry,
        metrics: consumer_metrics.clone(),
    });
    let revoke_drain = (deliverer.sink.patience() + DRAIN_BEYOND_A_CALL).min(LONGEST_DRAIN);
    let claimant =
        Claimant { runtime: Handle::current(), deliverer: Arc::clone(&deliverer), health: health.clone() };
    let (report_sender, reports) = mpsc::channel();
    let batch_limit = match subscription.delivery {
        Delivery::ExactlyOnce => deliverer.sink.apply_limit(),
        Delivery::AtMostOnce | Delivery::AtLeastOnce => deliverer.sink.batch_limit(),
    };
    let spawner = WorkerSpawner {
        runtime: Handle::current(),
        lanes: lanes.min(deliverer.sink.lanes()),
        batch_max_records: batch_max_records.min(batch_limit),
        deliverer,
        reports: report_sender.clone(),
    };
    // Whoever drops this future stops the loop too.
    let stop = shutdown.child_token();
    let _stop_on_drop = stop.clone().drop_guard();
    let member = Member::new(&kafka, subscription.clone(), consumer_metrics.clone(), report_sender)?;
    tracing::info!(?subscription, dead_letter_topic, "starting");
    let poll_loop = PollLoop {
        member,
        tail,
        claimant,
        fenced: false,
        connection: Connection::unknown(health.clone(), subscription.topic.clone()),
        subscription,
        assignment: Assignment::new(spawner),
        oldest: Oldest::default(),
        reports,
        health: health.clone(),
        metrics: consumer_metrics,
        shutdown: stop,
        revoke_drain,
        shutdown_drain: shutdown_grace - LEAVE_RESERVE.min(shutdown_grace / LEAVE_RESERVE_PART),
    };
    let ended = spawn(poll_loop).map_err(RunError::Thread)?;
    // It serves to the end: while draining, the kubelet still asks whether the process lives.
    let admin = admin::serve(admin_listener, admin::routes(health.clone(), metrics), std::future::pending());
    tokio::select! {
        ended = ended => ended.map_err(|_dropped| RunError::Panicked)?.map_err(RunError::Poll),
        served = admin => served.map_err(RunError::Admin),
        () = overdue(&shutdown, &health, shutdown_grace) => Err(RunError::Overdue(shutdown_grace)),
    }
}

/// The sink that `sink` describes.
///
/// # Errors
/// When it can't be set up.
pub(crate) fn open(
    sink: &SinkConfig,
    Subscription { topic, group, .. }: &Subscription,
) -> Result<Arc<dyn Sink>, RunError> {
    Ok(match sink {
        SinkConfig::Postgres { url } => Arc::new(PostgresSink::new(url, group, topic)?),
        SinkConfig::Http { url, timeout } => Arc::new(HttpSink::new(url.clone(), *timeout, group, topic)?),
    })
}

fn spawn(poll_loop: PollLoop) -> std::io::Result<oneshot::Receiver<Result<(), PollError>>> {
    let (ended_sender, ended) = oneshot::channel();
    // The client library blocks in every call: it gets a thread of its own.
    thread::Builder::new().name("poll-loop".to_owned()).spawn(move || {
        // Nobody may be left to hear it.
        let _ = ended_sender.send(poll_loop.run());
    })?;
    Ok(ended)
}

/// Resolves when the grace after the stop signal is over.
async fn overdue(shutdown: &CancellationToken, health: &Health, grace: Duration) {
    shutdown.cancelled().await;
    health.unmet(SHUTDOWN_CONDITION, "draining");
    tokio::time::sleep(grace).await;
}
