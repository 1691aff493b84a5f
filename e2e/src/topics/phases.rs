//! Creating, altering and deleting many pipelines at once, and seeing when each is done.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{AT_ONCE, DEADLINE, name};
use crate::names::NAMESPACE;

/// Events of the watch that may wait to be looked at: more than a run has.
const SEEN: usize = 65_536;

/// What the benchmark does to every pipeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Create it with its topic.
    Create,
    /// Change a key of the topic's configuration.
    Alter,
    /// Delete it, and its topic.
    Delete,
}

/// How long each took from the request to the last step.
#[derive(Clone, Debug)]
pub struct Timed {
    /// From each one's request, ascending.
    pub each: Vec<Duration>,
    /// From the first request to the last one done.
    pub all: Duration,
}

/// What the watch saw of a pipeline.
enum Seen {
    /// Its generation, the generation observed, and whether it is ready.
    Live(String, Option<i64>, Option<i64>, bool),
    /// It is gone.
    Gone(String),
}

/// Access to the pipelines.
#[derive(Clone)]
pub struct Pipelines {
    api: Api<DynamicObject>,
    kafka: String,
}

impl Pipelines {
    /// Pipelines whose topics are in the Kafka that the cluster knows as `kafka`.
    #[must_use]
    pub fn new(client: Client, kafka: String) -> Self {
        let kind = GroupVersionKind::gvk("orderflow.dev", "v1alpha1", "OrderPipeline");
        let api = Api::namespaced_with(client, NAMESPACE, &ApiResource::from_gvk(&kind));
        Self { api, kafka }
    }

    /// Does `phase` to `count` pipelines and waits until all are done.
    ///
    /// # Errors
    /// When the API server refuses, or not all are done within [`DEADLINE`].
    pub async fn run(&self, phase: Phase, count: usize) -> anyhow::Result<Timed> {
        let (sender, seen) = mpsc::channel(SEEN);
        let watching = tokio::spawn(watch(self.api.clone(), sender));
        let began = Instant::now();
        let asked: HashMap<String, (Instant, i64)> = stream::iter(0..count)
            .map(|n| async move {
                let asked = Instant::now();
                Ok::<_, anyhow::Error>((name(n), (asked, self.ask(phase, &name(n)).await?)))
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        let done = tokio::time::timeout(DEADLINE, all_done(phase, &asked, seen)).await;
        watching.abort();
        let done = done.with_context(|| format!("not all were done within {DEADLINE:?}"))??;
        let mut each: Vec<Duration> =
            done.iter().map(|(name, at)| at.duration_since(asked[name].0)).collect();
        each.sort();
        let last = done.values().max().copied().unwrap_or(began);
        Ok(Timed { each, all: last - began })
    }

    /// Asks for one change; returns the generation that it makes.
    async fn ask(&self, phase: Phase, name: &str) -> anyhow::Result<i64> {
        let object = match phase {
            Phase::Create => {
                let object = serde_json::from_value(self.manifest(name))?;
                self.api.create(&PostParams::default(), &object).await?
            }
            Phase::Alter => {
                let patch = json!({"spec": {"topic": {"config": {"retention.ms": "7200000"}}}});
                self.api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?
            }
            Phase::Delete => {
                self.api.delete(name, &DeleteParams::background()).await?;
                return Ok(0);
            }
        };
        Ok(object.metadata.generation.unwrap_or_default())
    }

    fn manifest(&self, name: &str) -> Value {
        json!({
            "apiVersion": "orderflow.dev/v1alpha1",
            "kind": "OrderPipeline",
            "metadata": {"name": name},
            "spec": {
                "kafka": {"bootstrapServers": self.kafka},
                "topic": {"partitions": 3, "replicationFactor": 1, "deletionPolicy": "Delete",
                          "config": {"retention.ms": "3600000"}},
            },
        })
    }

    /// Deletes what an earlier run has left, without waiting for it.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn sweep(&self, count: usize) -> anyhow::Result<()> {
        for n in 0..count {
            match self.api.delete(&name(n), &DeleteParams::background()).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// When each was done, from what the watch saw.
async fn all_done(
    phase: Phase,
    asked: &HashMap<String, (Instant, i64)>,
    mut seen: mpsc::Receiver<(Instant, Seen)>,
) -> anyhow::Result<HashMap<String, Instant>> {
    let mut done = HashMap::new();
    while done.len() < asked.len() {
        let Some((at, seen)) = seen.recv().await else { bail!("the watch ended") };
        let finished = match (phase, seen) {
            (Phase::Delete, Seen::Gone(name)) => Some(name),
            (Phase::Create | Phase::Alter, Seen::Live(name, generation, observed, true))
                if observed == generation
                    && asked.get(&name).is_some_and(|(_, wanted)| observed >= Some(*wanted)) =>
            {
                Some(name)
            }
            _ => None,
        };
        if let Some(name) = finished.filter(|name| asked.contains_key(name)) {
            done.entry(name).or_insert(at);
        }
    }
    Ok(done)
}

async fn watch(api: Api<DynamicObject>, seen: mpsc::Sender<(Instant, Seen)>) {
    let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
    while let Some(event) = events.next().await {
        let what = match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => live(&object),
            Ok(watcher::Event::Delete(object)) => Seen::Gone(object.name_any()),
            Ok(watcher::Event::Init | watcher::Event::InitDone) | Err(_) => continue,
        };
        if seen.send((Instant::now(), what)).await.is_err() {
            return;
        }
    }
}

fn live(object: &DynamicObject) -> Seen {
    let status = &object.data["status"];
    let is_ready = status["conditions"].as_array().is_some_and(|conditions| {
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    });
    Seen::Live(object.name_any(), object.metadata.generation, status["observedGeneration"].as_i64(), is_ready)
}
