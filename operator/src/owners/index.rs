//! What the watches have shown of all pipelines, and what each holds while it is at work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use tokio::sync::watch;

use super::state::State;
use super::{Claimant, Conflict, Kind};
use crate::crd::{OrderPipeline, TopicStatus};
use crate::poller::PipelineRef;

/// A namespace that is watched, or all.
pub(super) type Scope = Option<String>;

/// A namespace that may not be listed for this long is done without: until then nothing is done in any other. A Role that is
/// made with the operator, or an API server that has just started, is there within seconds.
const FORBIDDEN: Duration = Duration::from_secs(300);

type Waker = Box<dyn Fn(PipelineRef) + Send + Sync>;

/// All pipelines that the operator watches, by what they claim.
pub struct Owners {
    state: Mutex<State>,
    /// Scopes whose pipelines are not all known yet.
    unlisted: watch::Sender<BTreeSet<Scope>>,
    waker: OnceLock<Waker>,
}

/// What a pipeline may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruling {
    /// What it names and another owns.
    pub conflicts: Vec<Conflict>,
    /// Topics that another leaves to it, by name: from whom, and what that one knows of the topic.
    pub inherited: BTreeMap<String, (PipelineRef, TopicStatus)>,
    /// Recorded topics that its spec no longer names and that another has taken.
    pub taken: BTreeMap<String, PipelineRef>,
}

impl std::fmt::Debug for Owners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owners").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Default for Owners {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            unlisted: watch::Sender::new(BTreeSet::new()),
            waker: OnceLock::new(),
        }
    }
}

impl Owners {
    /// No ruling before the pipelines of all `scopes` are known.
    pub fn expect(&self, scopes: impl IntoIterator<Item = Scope>) {
        self.unlisted.send_replace(scopes.into_iter().collect());
    }

    /// How pipelines are woken whose case may stand otherwise now. Only the first call counts.
    pub fn wake_by(&self, waker: impl Fn(PipelineRef) + Send + Sync + 'static) {
        let _ = self.waker.set(Box::new(waker));
    }

    /// Waits until the pipelines of every scope are known.
    pub async fn listed(&self) {
        // The sender lives as long as this does.
        let _ = self.unlisted.subscribe().wait_for(BTreeSet::is_empty).await;
    }

    /// Whose pipelines are not known yet, in words; `None` when all are.
    #[must_use]
    pub fn unlisted(&self) -> Option<String> {
        in_words(&self.unlisted.borrow())
    }

    /// Calls `tell` with [`Owners::unlisted`], now and whenever it changes, until all are known.
    pub async fn tell_unlisted(&self, tell: impl Fn(Option<String>)) {
        let mut unlisted = self.unlisted.subscribe();
        loop {
            let words = in_words(&unlisted.borrow_and_update());
            let all_known = words.is_none();
            tell(words);
            if all_known || unlisted.changed().await.is_err() {
                return;
            }
        }
    }

    /// The pipelines of `scope` may not be listed, says the API server at `now`. One of which it has said so for long is not
    /// waited for.
    pub fn forbidden(&self, scope: &Scope, now: Instant) {
        let since = *self.lock().forbidden.entry(scope.clone()).or_insert(now);
        if now.saturating_duration_since(since) < FORBIDDEN {
            return;
        }
        if self.unlisted.send_if_modified(|unlisted| unlisted.remove(scope)) {
            let scope = in_words(&BTreeSet::from([scope.clone()]));
            tracing::warn!(scope, bound = ?FORBIDDEN, "pipelines may not be listed: done without them");
        }
    }

    /// Takes in what the watch of `scope` showed.
    pub fn saw(&self, scope: &Scope, event: &Event<DeserializeGuard<OrderPipeline>>) {
        let mut state = self.lock();
        // A list begins with this, whatever comes of it.
        if !matches!(event, Event::Init) {
            state.forbidden.remove(scope);
        }
        let woken = match event {
            Event::Init => {
                state.listing.insert(scope.clone(), BTreeMap::new());
                BTreeSet::new()
            }
            Event::InitApply(object) => {
                if let Some(claimant) = claimant(&state, object) {
                    let listing = state.listing.entry(scope.clone()).or_default();
                    listing.insert(claimant.pipeline.clone(), claimant);
                }
                BTreeSet::new()
            }
            Event::InitDone => {
                let listed = state.listing.remove(scope).unwrap_or_default();
                let woken = state.replace(scope, listed);
                self.unlisted.send_if_modified(|unlisted| unlisted.remove(scope));
                woken
            }
            Event::Apply(object) => match claimant(&state, object) {
                Some(claimant) => state.learn(claimant),
                None => BTreeSet::new(),
            },
            Event::Delete(object) => state.forget(&reference(object)),
        };
        drop(state);
        self.wake(woken);
    }

    /// What `pipeline` may have; from here on it holds that. `None` when the watches do not know it, or not any more.
    pub fn rule(&self, pipeline: &OrderPipeline) -> Option<Ruling> {
        let claimant = Claimant::of(pipeline);
        let mut state = self.lock();
        if !state.knows(&claimant) {
            return None;
        }
        let woken = state.learn(claimant.clone());
        let ruling = state.rule(&claimant);
        drop(state);
        self.wake(woken);
        Some(ruling)
    }

    /// The pipeline was made as its spec says, and its status says what it has now: it lets go groups that the spec no longer
    /// names and that have no pods, and such topics once all pods are those of the spec (`rolled_out`).
    pub fn settle(&self, pipeline: &OrderPipeline, rolled_out: bool) {
        let claimant = Claimant::of(pipeline);
        let mut state = self.lock();
        let mut woken = state.release(&claimant, |claim| {
            let in_use = match claim.kind {
                Kind::Topic => !rolled_out,
                Kind::Group => claimant.groups.contains(claim),
            };
            in_use || claimant.named.contains(claim)
        });
        if rolled_out {
            woken.extend(state.leave_other_clusters(&claimant));
        }
        drop(state);
        self.wake(woken);
    }

    /// Nothing is made of what the spec says: the pipeline lets go what its status does not say that it has.
    pub fn withdraw(&self, pipeline: &OrderPipeline) {
        let claimant = Claimant::of(pipeline);
        let woken = self.lock().release(&claimant, |claim| claimant.records(claim));
        self.wake(woken);
    }

    /// Who else is to have the recorded topics of a pipeline that is leaving, by topic.
    #[must_use]
    pub fn heirs(&self, pipeline: &OrderPipeline) -> BTreeMap<String, PipelineRef> {
        let claimant = Claimant::of(pipeline);
        let state = self.lock();
        let heirs = claimant.topics.keys().filter_map(|claim| {
            claimant.seen(claim)?;
            Some((claim.name.clone(), state.heir(claim, &claimant)?.pipeline.clone()))
        });
        heirs.collect()
    }

    /// Leaves those topics to their heirs, and wakes them. All else stays the pipeline's until it is gone.
    #[must_use]
    pub fn hand_over(&self, pipeline: &OrderPipeline) -> BTreeMap<String, PipelineRef> {
        let claimant = Claimant::of(pipeline);
        let mut state = self.lock();
        let known = state.knows(&claimant);
        let mut heirs = BTreeMap::new();
        // Heirs may have gone since the last time.
        state.left.remove(&claimant.pipeline);
        for claim in claimant.topics.keys().filter(|claim| claimant.seen(claim).is_some()) {
            let heir = state.heir(claim, &claimant).map(|heir| heir.pipeline.clone());
            if let Some(heir) = heir {
                heirs.insert(claim.name.clone(), heir);
                if known {
                    state.left.entry(claimant.pipeline.clone()).or_default().insert(claim.clone());
                    state.let_go(claim, &claimant.pipeline);
                }
            }
        }
        drop(state);
        self.wake(heirs.values().cloned().collect());
        heirs
    }

    fn wake(&self, pipelines: BTreeSet<PipelineRef>) {
        if let Some(waker) = self.waker.get() {
            pipelines.into_iter().for_each(waker);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn in_words(scopes: &BTreeSet<Scope>) -> Option<String> {
    let word = |scope: &Scope| match scope {
        Some(namespace) => format!("namespace {namespace}"),
        None => "all namespaces".to_owned(),
    };
    (!scopes.is_empty()).then(|| scopes.iter().map(word).collect::<Vec<_>>().join(", "))
}

/// What an object says; of one that does not parse, what it last said.
fn claimant(state: &State, object: &DeserializeGuard<OrderPipeline>) -> Option<Claimant> {
    match &object.0 {
        Ok(pipeline) => Some(Claimant::of(pipeline)),
        Err(_) => state.pipelines.get(&reference(object)).cloned(),
    }
}

fn reference(object: &DeserializeGuard<OrderPipeline>) -> PipelineRef {
    let namespace = object.meta().namespace.clone().unwrap_or_default();
    PipelineRef { namespace, name: object.name_any() }
}
