//! What the watches have shown of all pipelines, and what each holds while it is at work.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use tokio::sync::watch;

use super::{Claim, Claimant, Conflict, Kind, owner};
use crate::crd::{OrderPipeline, TopicStatus};
use crate::poller::PipelineRef;

/// A namespace that is watched, or all.
type Scope = Option<String>;

type Waker = Box<dyn Fn(PipelineRef) + Send + Sync>;

/// All pipelines that the operator watches, by what they claim.
pub struct Owners {
    state: Mutex<State>,
    /// Scopes whose pipelines are not all known yet.
    unlisted: watch::Sender<HashSet<Scope>>,
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

#[derive(Debug, Default)]
struct State {
    pipelines: BTreeMap<PipelineRef, Claimant>,
    by_claim: HashMap<Claim, BTreeSet<PipelineRef>>,
    /// What a pass found to be its pipeline's. It stays so until that pipeline lets it go, whatever the watches show meanwhile:
    /// two passes never both act on one claim.
    held: HashMap<Claim, PipelineRef>,
    /// What a pipeline that is leaving has left to its heir.
    left: HashSet<(PipelineRef, Claim)>,
    /// Lists that are being read.
    listing: HashMap<Scope, BTreeMap<PipelineRef, Claimant>>,
}

impl std::fmt::Debug for Owners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owners").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Default for Owners {
    fn default() -> Self {
        Self { state: Mutex::default(), unlisted: watch::Sender::new(HashSet::new()), waker: OnceLock::new() }
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
        let _ = self.unlisted.subscribe().wait_for(HashSet::is_empty).await;
    }

    /// Takes in what the watch of `scope` showed.
    pub fn saw(&self, scope: &Scope, event: &Event<DeserializeGuard<OrderPipeline>>) {
        let mut state = self.lock();
        let woken = match event {
            Event::Init => {
                state.listing.insert(scope.clone(), BTreeMap::new());
                BTreeSet::new()
            }
            Event::InitApply(object) => {
                if let Some(claimant) = state.claimant(object) {
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
            Event::Apply(object) => match state.claimant(object) {
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
        self.release(&claimant, |claim| {
            let in_use = match claim.kind {
                Kind::Topic => !rolled_out,
                Kind::Group => claimant.groups.contains(claim),
            };
            in_use || claimant.named.contains(claim)
        });
    }

    /// Nothing is made of what the spec says: the pipeline lets go what its status does not say that it has.
    pub fn withdraw(&self, pipeline: &OrderPipeline) {
        let claimant = Claimant::of(pipeline);
        self.release(&claimant, |claim| claimant.records(claim));
    }

    /// Who else is to have the recorded topics of a pipeline that is leaving, by topic.
    #[must_use]
    pub fn heirs(&self, pipeline: &OrderPipeline) -> BTreeMap<String, PipelineRef> {
        let claimant = Claimant::of(pipeline);
        let state = self.lock();
        let heirs = claimant.topics.keys().filter_map(|claim| {
            claimant.seen(claim)?;
            Some((claim.name.clone(), state.heir(claim, &claimant.pipeline)?.pipeline.clone()))
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
        for claim in claimant.topics.keys().filter(|claim| claimant.seen(claim).is_some()) {
            let left = (claimant.pipeline.clone(), claim.clone());
            // Heirs may have gone since the last time.
            state.left.remove(&left);
            let heir = state.heir(claim, &claimant.pipeline).map(|heir| heir.pipeline.clone());
            if let Some(heir) = heir {
                heirs.insert(claim.name.clone(), heir);
                if known {
                    state.left.insert(left);
                    if state.held.get(claim) == Some(&claimant.pipeline) {
                        state.held.remove(claim);
                    }
                }
            }
        }
        drop(state);
        self.wake(heirs.values().cloned().collect());
        heirs
    }

    fn release(&self, claimant: &Claimant, keeps: impl Fn(&Claim) -> bool) {
        let mut state = self.lock();
        if !state.knows(claimant) {
            return;
        }
        let goes = |claim: &Claim, holder: &PipelineRef| *holder == claimant.pipeline && !keeps(claim);
        let released: Vec<Claim> =
            state.held.extract_if(|claim, holder| goes(claim, holder)).map(|(claim, _)| claim).collect();
        let woken = state.sharers(&released, &claimant.pipeline);
        drop(state);
        self.wake(woken);
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

impl State {
    fn knows(&self, claimant: &Claimant) -> bool {
        self.pipelines.get(&claimant.pipeline).is_some_and(|known| known.uid == claimant.uid)
    }

    /// What an object says; of one that does not parse, what it last said.
    fn claimant(&self, object: &DeserializeGuard<OrderPipeline>) -> Option<Claimant> {
        match &object.0 {
            Ok(pipeline) => Some(Claimant::of(pipeline)),
            Err(_) => self.pipelines.get(&reference(object)).cloned(),
        }
    }

    /// Takes a claimant in; returns who may be concerned.
    fn learn(&mut self, claimant: Claimant) -> BTreeSet<PipelineRef> {
        let before = self.pipelines.get(&claimant.pipeline);
        if before == Some(&claimant) {
            return BTreeSet::new();
        }
        let same = before.is_some_and(|before| before.uid == claimant.uid);
        let mut woken =
            if before.is_some() && !same { self.forget(&claimant.pipeline) } else { BTreeSet::new() };
        let had = self.pipelines.get(&claimant.pipeline).map(Claimant::all).unwrap_or_default();
        let has = claimant.all();
        let pipeline = claimant.pipeline.clone();
        for claim in had.difference(&has) {
            self.unlink(claim, &pipeline);
        }
        for claim in &has {
            self.by_claim.entry(claim.clone()).or_default().insert(pipeline.clone());
        }
        self.pipelines.insert(pipeline.clone(), claimant);
        woken.extend(self.sharers(had.union(&has), &pipeline));
        woken
    }

    /// A pipeline is gone; returns who may be concerned.
    fn forget(&mut self, pipeline: &PipelineRef) -> BTreeSet<PipelineRef> {
        let Some(gone) = self.pipelines.remove(pipeline) else { return BTreeSet::new() };
        let held: Vec<Claim> =
            self.held.extract_if(|_, holder| holder == pipeline).map(|(claim, _)| claim).collect();
        self.left.retain(|(leaver, _)| leaver != pipeline);
        let claims = gone.all();
        for claim in &claims {
            self.unlink(claim, pipeline);
        }
        self.sharers(claims.iter().chain(&held), pipeline)
    }

    fn unlink(&mut self, claim: &Claim, pipeline: &PipelineRef) {
        if let Some(pipelines) = self.by_claim.get_mut(claim) {
            pipelines.remove(pipeline);
            if pipelines.is_empty() {
                self.by_claim.remove(claim);
            }
        }
    }

    /// Puts a whole list in the place of what was known of its scope; returns who may be concerned.
    fn replace(&mut self, scope: &Scope, listed: BTreeMap<PipelineRef, Claimant>) -> BTreeSet<PipelineRef> {
        let within = |pipeline: &PipelineRef| scope.as_ref().is_none_or(|scope| *scope == pipeline.namespace);
        let gone: Vec<PipelineRef> = self
            .pipelines
            .keys()
            .filter(|pipeline| within(pipeline) && !listed.contains_key(pipeline))
            .cloned()
            .collect();
        let mut woken: BTreeSet<PipelineRef> = gone.iter().flat_map(|gone| self.forget(gone)).collect();
        for claimant in listed.into_values() {
            woken.extend(self.learn(claimant));
        }
        woken
    }

    fn rule(&mut self, claimant: &Claimant) -> Ruling {
        let mut ruling = Ruling::default();
        for claim in &claimant.named {
            let owner = self.owner(claim).filter(|owner| owner.uid != claimant.uid);
            if let Some(owner) = owner {
                let owner = owner.pipeline.clone();
                ruling.conflicts.push(Conflict { claim: claim.clone(), owner });
                continue;
            }
            if let Some((from, record)) = self.inheritance(claim, claimant) {
                ruling.inherited.insert(claim.name.clone(), (from, record));
            }
            if claimant.wants(claim) {
                self.held.insert(claim.clone(), claimant.pipeline.clone());
            }
        }
        for (claim, record) in claimant.topics.iter().filter(|(claim, _)| !claimant.named.contains(claim)) {
            let heir = self.owner(claim).filter(|owner| owner.uid != claimant.uid);
            // An intention says nothing of whose the topic is, once another has seen it.
            let is_it = |has: &TopicStatus| record.id.is_none() || has.id == record.id;
            if let Some(heir) = heir.filter(|heir| heir.seen(claim).is_some_and(is_it)) {
                ruling.taken.insert(claim.name.clone(), heir.pipeline.clone());
            }
        }
        ruling
    }

    fn owner(&self, claim: &Claim) -> Option<&Claimant> {
        // Whoever holds it may have stopped naming it a moment ago, and is still at work on letting it go.
        let holder = self.held.get(claim).and_then(|holder| self.pipelines.get(holder));
        holder.or_else(|| owner(claim, self.sharing(claim).filter(|other| !self.has_left(other, claim))))
    }

    /// Who else is to have `claim` when `leaver` is gone.
    fn heir(&self, claim: &Claim, leaver: &PipelineRef) -> Option<&Claimant> {
        let others =
            || self.sharing(claim).filter(|other| other.pipeline != *leaver && other.may_inherit(claim));
        let holder = self.held.get(claim);
        others().find(|other| Some(&other.pipeline) == holder).or_else(|| owner(claim, others()))
    }

    /// What another that has left `claim` has seen of the topic, if `heir` has not.
    fn inheritance(&self, claim: &Claim, heir: &Claimant) -> Option<(PipelineRef, TopicStatus)> {
        if claim.kind != Kind::Topic || heir.plans || heir.seen(claim).is_some() {
            return None;
        }
        let leavers = self.sharing(claim).filter(|other| {
            other.uid != heir.uid && (self.has_left(other, claim) || !other.named.contains(claim))
        });
        let known = leavers.filter_map(|other| Some((other, other.seen(claim)?)));
        let (from, record) = known.min_by_key(|(other, _)| other.rank(claim))?;
        // What the heir does not declare stays as it is: to reset a retention could cost records.
        let record = TopicStatus { owned_configs: BTreeSet::new(), ..record.clone() };
        Some((from.pipeline.clone(), record))
    }

    fn has_left(&self, claimant: &Claimant, claim: &Claim) -> bool {
        !self.left.is_empty() && self.left.contains(&(claimant.pipeline.clone(), claim.clone()))
    }

    /// Who names or records `claim`.
    fn sharing(&self, claim: &Claim) -> impl Iterator<Item = &Claimant> {
        let pipelines = self.by_claim.get(claim).into_iter().flatten();
        pipelines.filter_map(|pipeline| self.pipelines.get(pipeline))
    }

    fn sharers<'a>(
        &self,
        claims: impl IntoIterator<Item = &'a Claim>,
        but: &PipelineRef,
    ) -> BTreeSet<PipelineRef> {
        let sharers = claims.into_iter().filter_map(|claim| self.by_claim.get(claim)).flatten();
        sharers.filter(|pipeline| *pipeline != but).cloned().collect()
    }
}

fn reference(object: &DeserializeGuard<OrderPipeline>) -> PipelineRef {
    let namespace = object.meta().namespace.clone().unwrap_or_default();
    PipelineRef { namespace, name: object.name_any() }
}
