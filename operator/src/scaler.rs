//! Scaler: looks at every group and service that is scaled, decides, and wakes the pipelines for which something is new. It changes
//! nothing by itself: numbers of pods are set by the pass that it wakes, in one place with all else that is the operator's.

mod roster;
mod groups;
mod services;
mod exposition;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime};

use futures::{StreamExt, future, stream};
use runtime::health::Health;
use runtime::kafka::KafkaConnection;
use runtime::shutdown::CancellationToken;

use crate::context::Context;
use crate::kafka::{FirstRecord, GroupLook, GroupLooks, GroupQuery, first_records};
use crate::metrics::{Judged, WorkloadLabels};
use crate::poller::PipelineRef;
use crate::scaling::{Decision, Seconds, Told};
use crate::validate::Part;

use groups::{Group, Seen};
pub use roster::Roster;
use roster::{Job, Rule};
use services::Service;

/// Clusters that are asked at a time; one that is away must not keep the others waiting.
const CLUSTERS_AT_ONCE: usize = 8;
/// Topics of which first records are looked at at a time; each makes a client.
const TOPICS_AT_ONCE: usize = 4;
/// Services whose pods are asked at a time.
const SERVICES_AT_ONCE: usize = 16;
/// A tick is overdue after this many intervals, but no sooner than the least, and then the process counts as hung. The least lets
/// a tick wait in turn for the time-outs of many clusters that are away.
const OVERDUE_INTERVALS: u32 = 60;
const OVERDUE_LEAST: Duration = Duration::from_secs(600);
/// How the order service is called where groups are called by their names; none may have that one.
const ORDER_SERVICE: &str = "order-service";

/// Times that go with the records' own, and only ever go on.
struct Clock {
    epoch: Seconds,
    started: Instant,
}

impl Clock {
    fn start() -> Self {
        let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { epoch: epoch.as_secs_f64(), started: Instant::now() }
    }

    fn now(&self) -> Seconds {
        self.epoch + self.started.elapsed().as_secs_f64()
    }
}

/// What one workload is known by, whatever its pipeline is called: uid of the pipeline, name of the Deployment.
type Key = (String, String);

/// What is remembered between ticks. It may be lost: then everything is measured anew, and meanwhile nothing is taken away.
pub struct Scaler {
    clock: Clock,
    http: reqwest::Client,
    groups: HashMap<Key, Group>,
    services: HashMap<Key, Service>,
    told: HashSet<WorkloadLabels>,
}

impl Scaler {
    /// A scaler that has seen nothing.
    ///
    /// # Errors
    /// When there is no HTTP client to be had.
    pub fn new() -> reqwest::Result<Self> {
        let (groups, services, told) = (HashMap::new(), HashMap::new(), HashSet::new());
        Ok(Self { clock: Clock::start(), http: services::client()?, groups, services, told })
    }

    /// Looks at everything once; returns the pipelines for which another number of pods or another verdict is to be told.
    pub async fn tick(&mut self, context: &Context) -> Vec<PipelineRef> {
        let started = Instant::now();
        let jobs = context.roster.jobs();
        let known: HashSet<Key> = jobs.iter().map(Job::key).collect();
        self.groups.retain(|key, _| known.contains(key));
        self.services.retain(|key, _| known.contains(key));
        let (groups, services): (Vec<&Job>, Vec<&Job>) =
            jobs.iter().partition(|job| matches!(job.subject.rule, Rule::Group { .. }));
        let (looks, pods) = future::join(
            look_at_clusters(context, &groups),
            services::look_at_all(&self.http, context, &services, SERVICES_AT_ONCE),
        )
        .await;
        let seen: Vec<Seen> = groups.iter().zip(looks).map(|(job, look)| see(job, look)).collect();
        let found = self.first_records(context, &groups, &seen).await;
        let mut woken = Vec::new();
        for ((job, seen), found) in groups.iter().zip(seen).zip(found) {
            let group = self.groups.entry(job.key()).or_default();
            let (decision, judged) = group.decide(job, self.clock.now(), seen, &found);
            let changed = group.telling.hear(self.clock.now(), &decision, job.asked());
            woken.extend(settle(context, job, &decision, group.told(changed), judged));
        }
        for (job, look) in services.iter().zip(pods) {
            let service = self.services.entry(job.key()).or_default();
            let (decision, judged) = service.decide(job, self.clock.now(), look);
            let changed = service.telling.hear(self.clock.now(), &decision, job.asked());
            woken.extend(settle(context, job, &decision, service.told(changed), judged));
        }
        self.forget_figures(context, &jobs);
        context.metrics.scaling.looked(started.elapsed());
        woken
    }

    /// What is found at the first offsets that are still to be read, where that tells what nothing else does; for each group at its
    /// place.
    async fn first_records(
        &self,
        context: &Context,
        jobs: &[&Job],
        seen: &[Seen],
    ) -> Vec<BTreeMap<i32, FirstRecord>> {
        let unclear: Vec<BTreeMap<i32, i64>> = jobs
            .iter()
            .zip(seen)
            .map(|(job, seen)| {
                self.groups.get(&job.key()).map_or_else(BTreeMap::new, |group| group.unclear(job, seen))
            })
            .collect();
        let asked = jobs.iter().zip(unclear).map(|(job, from)| find(context, job, from));
        stream::iter(asked).buffered(TOPICS_AT_ONCE).collect().await
    }

    /// Takes away the figures of what is scaled no more.
    fn forget_figures(&mut self, context: &Context, jobs: &[Job]) {
        let now: HashSet<WorkloadLabels> = jobs.iter().map(labels).collect();
        for gone in self.told.difference(&now) {
            context.metrics.scaling.forget(gone);
        }
        self.told = now;
    }
}

/// Looks every `interval` and calls `wake` for each pipeline for which something is new, until `shutdown`.
pub async fn scale(
    context: &Context,
    mut scaler: Scaler,
    interval: Duration,
    health: &Health,
    shutdown: CancellationToken,
    wake: impl Fn(PipelineRef),
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        health.beat("scaler", (interval * OVERDUE_INTERVALS).max(OVERDUE_LEAST));
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = ticks.tick() => {}
        }
        // It only reads, and clusters that are away take it longer than a stop may take.
        let Some(woken) = shutdown.run_until_cancelled(scaler.tick(context)).await else { break };
        woken.into_iter().for_each(&wake);
    }
    health.retire("scaler");
}

/// Nothing, where the group could not be read.
fn see(job: &Job, look: Option<GroupLook>) -> Seen {
    let Rule::Group { query, .. } = &job.subject.rule else { return Seen::default() };
    look.and_then(|look| Seen::of(&look, &query.topic, &job.deployment)).unwrap_or_default()
}

async fn find(context: &Context, job: &Job, from: BTreeMap<i32, i64>) -> BTreeMap<i32, FirstRecord> {
    let (Rule::Group { query, .. }, Some(connection)) = (&job.subject.rule, &job.connection) else {
        return BTreeMap::new();
    };
    if from.is_empty() {
        return BTreeMap::new();
    }
    let timeout = context.options.kafka_timeout;
    first_records(connection, timeout, &query.topic, from).await.unwrap_or_else(|error| {
        tracing::warn!(topic = %query.topic, error = %error, "failed to look at records");
        BTreeMap::new()
    })
}

/// Notes what was decided; returns the pipeline if it is to be looked at for that.
fn settle(
    context: &Context,
    job: &Job,
    decision: &Decision,
    told: Option<Told>,
    judged: Judged,
) -> Option<PipelineRef> {
    context.metrics.scaling.judged(&labels(job), &judged);
    let is_new = context.roster.settle(job, decision.replicas, told);
    if decision.replicas != job.asked() {
        let (pipeline, part) = (&job.pipeline, &job.subject.part);
        let (from, to, verdict) = (job.asked(), decision.replicas, decision.verdict);
        tracing::info!(%pipeline, %part, from, to, %verdict, acts = job.subject.acts, "decided on another number of pods");
    }
    is_new.then(|| job.pipeline.clone())
}

fn labels(job: &Job) -> WorkloadLabels {
    let group = match &job.subject.part {
        Part::Group(group) => group.clone(),
        Part::OrderService | Part::Topic(_) => ORDER_SERVICE.to_owned(),
    };
    WorkloadLabels { namespace: job.pipeline.namespace.clone(), pipeline: job.pipeline.name.clone(), group }
}

/// What was read of each group, at its place; nothing where its cluster can't be asked.
async fn look_at_clusters(context: &Context, jobs: &[&Job]) -> Vec<Option<GroupLook>> {
    let mut queries: HashMap<KafkaConnection, Vec<GroupQuery>> = HashMap::new();
    for job in jobs {
        if let (Some(connection), Rule::Group { query, .. }) = (&job.connection, &job.subject.rule) {
            queries.entry(connection.clone()).or_default().push(query.clone());
        }
    }
    let looks: HashMap<KafkaConnection, GroupLooks> = stream::iter(queries)
        .map(|(connection, mut queries)| async move {
            queries.sort();
            queries.dedup();
            let looks = look_at_cluster(context, &connection, &queries).await;
            (connection, looks)
        })
        .buffer_unordered(CLUSTERS_AT_ONCE)
        .collect()
        .await;
    let look = |job: &&Job| match &job.subject.rule {
        Rule::Group { query, .. } => looks.get(job.connection.as_ref()?)?.get(query).cloned(),
        Rule::Service(_) => None,
    };
    jobs.iter().map(look).collect()
}

async fn look_at_cluster(
    context: &Context,
    connection: &KafkaConnection,
    queries: &[GroupQuery],
) -> GroupLooks {
    let admin = match context.kafka.get(connection) {
        Ok(admin) => admin,
        Err(error) => {
            tracing::warn!(servers = %connection.bootstrap_servers, error = %error, "failed to look at groups");
            return GroupLooks::new();
        }
    };
    let looks = admin.look_at_groups(queries).await;
    let failure = looks.values().find_map(|look| look.membership.as_ref().err());
    if let Some(error) = failure {
        tracing::warn!(servers = %connection.bootstrap_servers, error = %error, "failed to look at groups");
        if error.is_silence() {
            context.kafka.forget(connection);
        }
    }
    looks
}
