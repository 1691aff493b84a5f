//! Kafka has no watch: one poller looks at every pipeline's topics and wakes those whose topics changed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use runtime::health::Health;
use runtime::kafka::KafkaConnection;
use runtime::shutdown::CancellationToken;

use crate::context::Context;
use crate::kafka::{Error, ObservedTopic};
use crate::observe::{KafkaView, Observed};

/// Clusters that are asked at a time; one that is away must not keep the others waiting.
const CLUSTERS_AT_ONCE: usize = 8;

/// A poll is overdue after this many intervals, but no sooner than the least, and then the process counts as hung. The
/// least lets a poll wait in turn for the time-outs of many clusters that are away.
const OVERDUE_INTERVALS: u32 = 20;
const OVERDUE_LEAST: Duration = Duration::from_secs(600);

/// A poll's look is as good as a reconciliation's own for this long: three of the polls at their usual pace.
const RECENT: Duration = Duration::from_secs(90);

/// Namespace and name of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PipelineRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for PipelineRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[derive(Clone, Debug)]
struct Watched {
    connection: KafkaConnection,
    topics: BTreeSet<String>,
    /// As the last reconciliation or poll saw them; `None` while Kafka was away.
    seen: Option<BTreeMap<String, ObservedTopic>>,
    /// When a poll last saw them; `None` after a reconciliation looked for itself, which it does to change something.
    polled: Option<Instant>,
}

/// What each pipeline last saw of its topics.
#[derive(Debug, Default)]
pub struct Watchlist {
    pipelines: Mutex<HashMap<PipelineRef, Watched>>,
}

impl Watchlist {
    /// Records what a reconciliation of `pipeline` saw of `topics`.
    pub fn saw(&self, pipeline: PipelineRef, topics: BTreeSet<String>, observed: &Observed) {
        let seen = match &observed.kafka {
            KafkaView::Topics(present) => Some(present.clone()),
            KafkaView::Unavailable { .. } => None,
        };
        let mut pipelines = self.lock();
        match observed.connection.clone() {
            Some(connection) => {
                let polled = None;
                pipelines.insert(pipeline, Watched { connection, topics, seen, polled })
            }
            None => pipelines.remove(&pipeline),
        };
    }

    /// What a recent poll saw of the topics of `pipeline`, if it was about these and this cluster.
    #[must_use]
    pub fn recent(
        &self,
        pipeline: &PipelineRef,
        connection: &KafkaConnection,
        topics: &BTreeSet<String>,
    ) -> Option<BTreeMap<String, ObservedTopic>> {
        let pipelines = self.lock();
        let watched = pipelines.get(pipeline)?;
        let is_recent = watched.polled.is_some_and(|polled| polled.elapsed() < RECENT);
        let is_it = watched.connection == *connection && watched.topics == *topics;
        watched.seen.clone().filter(|_| is_recent && is_it)
    }

    /// The pipeline is gone.
    pub fn forget(&self, pipeline: &PipelineRef) {
        self.lock().remove(pipeline);
    }

    /// Every connection in use, with the topics of all its pipelines.
    fn clusters(&self) -> HashMap<KafkaConnection, BTreeSet<String>> {
        let mut clusters: HashMap<KafkaConnection, BTreeSet<String>> = HashMap::new();
        for watched in self.lock().values() {
            clusters.entry(watched.connection.clone()).or_default().extend(watched.topics.iter().cloned());
        }
        clusters
    }

    /// Pipelines whose topics are not as they were last seen; they now count as seen. Of one that has a topic which Kafka
    /// refuses to show nothing is known.
    fn changed(
        &self,
        connection: &KafkaConnection,
        described: &BTreeMap<String, Result<ObservedTopic, Error>>,
    ) -> Vec<PipelineRef> {
        let mut changed = Vec::new();
        for (pipeline, watched) in
            self.lock().iter_mut().filter(|(_, watched)| watched.connection == *connection)
        {
            let found = watched.topics.iter().filter_map(|name| Some((name, described.get(name)?)));
            let seen: Result<BTreeMap<_, _>, &Error> =
                found.map(|(name, topic)| Ok((name.clone(), topic.as_ref()?.clone()))).collect();
            let Ok(now) = seen else { continue };
            watched.polled = Some(Instant::now());
            if watched.seen.as_ref() != Some(&now) {
                watched.seen = Some(now);
                changed.push(pipeline.clone());
            }
        }
        changed
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PipelineRef, Watched>> {
        self.pipelines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Polls every `interval` and calls `wake` for each pipeline whose topics changed, until `shutdown`.
pub async fn poll(
    context: &Context,
    interval: Duration,
    health: &Health,
    shutdown: CancellationToken,
    wake: impl Fn(PipelineRef),
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        health.beat("poller", (interval * OVERDUE_INTERVALS).max(OVERDUE_LEAST));
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = ticks.tick() => {}
        }
        // It only reads, and clusters that are away take it longer than a stop may take.
        let Some(changed) = shutdown.run_until_cancelled(poll_once(context)).await else { break };
        for pipeline in changed {
            tracing::info!(namespace = %pipeline.namespace, pipeline = %pipeline.name, "topics changed in Kafka");
            wake(pipeline);
        }
    }
    health.retire("poller");
}

/// Looks at every cluster once; returns the pipelines whose topics are not as they were.
pub async fn poll_once(context: &Context) -> Vec<PipelineRef> {
    let clusters = context.watchlist.clusters();
    context.kafka.retain(&clusters.keys().cloned().collect::<HashSet<_>>());
    let changed: Vec<Vec<PipelineRef>> = stream::iter(clusters)
        .map(|(connection, topics)| async move {
            let described = match context.kafka.get(&connection) {
                Ok(admin) => admin.describe_each(&topics).await,
                Err(error) => Err(error),
            };
            match described {
                Ok(described) => context.watchlist.changed(&connection, &described),
                Err(error) => {
                    tracing::warn!(servers = %connection.bootstrap_servers, error = %error, "failed to poll Kafka");
                    Vec::new()
                }
            }
        })
        .buffer_unordered(CLUSTERS_AT_ONCE)
        .collect()
        .await;
    changed.into_iter().flatten().collect()
}
