//! Who claims, holds and leaves what. Pure; one look-up for each claim of the pipeline in question, however many others there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use super::cluster::Cluster;
use super::index::{Ruling, Scope};
use super::{Claim, Claimant, Conflict, Kind, owner};
use crate::crd::TopicStatus;
use crate::poller::PipelineRef;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) pipelines: BTreeMap<PipelineRef, Claimant>,
    /// Who has to do with a claim, on whatever cluster: names rarely meet on several.
    by_claim: HashMap<Claim, BTreeSet<PipelineRef>>,
    /// What a pass found to be its pipeline's, and where. It stays so until that pipeline lets it go, whatever the watches show
    /// meanwhile: two passes never both act on one claim.
    held: HashMap<Claim, BTreeMap<PipelineRef, Cluster>>,
    /// The same by holder.
    held_by: HashMap<PipelineRef, BTreeSet<Claim>>,
    /// What pipelines that are leaving have left to their heirs.
    pub(super) left: HashMap<PipelineRef, BTreeSet<Claim>>,
    /// Lists that are being read.
    pub(super) listing: HashMap<Scope, BTreeMap<PipelineRef, Claimant>>,
    /// Since when nothing else was heard of a scope but that it may not be listed.
    pub(super) forbidden: HashMap<Scope, Instant>,
}

impl State {
    pub(super) fn knows(&self, claimant: &Claimant) -> bool {
        self.pipelines.get(&claimant.pipeline).is_some_and(|known| known.uid == claimant.uid)
    }

    /// Takes a claimant in; returns who may be concerned.
    pub(super) fn learn(&mut self, claimant: Claimant) -> BTreeSet<PipelineRef> {
        let before = self.pipelines.get(&claimant.pipeline);
        if before == Some(&claimant) {
            return BTreeSet::new();
        }
        let same = before.is_some_and(|before| before.uid == claimant.uid);
        let mut woken =
            if before.is_some() && !same { self.forget(&claimant.pipeline) } else { BTreeSet::new() };
        let before = self.pipelines.get(&claimant.pipeline);
        let had = before.map(Claimant::all).unwrap_or_default();
        let cluster = before.map_or_else(Cluster::default, |before| before.cluster.clone());
        let cluster = cluster.with(&claimant.cluster);
        let has = claimant.all();
        let pipeline = claimant.pipeline.clone();
        for claim in had.difference(&has) {
            self.unlink(claim, &pipeline);
        }
        for claim in &has {
            self.by_claim.entry(claim.clone()).or_default().insert(pipeline.clone());
        }
        self.pipelines.insert(pipeline.clone(), claimant);
        woken.extend(had.union(&has).flat_map(|claim| self.sharers(claim, &cluster, &pipeline)));
        woken
    }

    /// A pipeline is gone; returns who may be concerned.
    pub(super) fn forget(&mut self, pipeline: &PipelineRef) -> BTreeSet<PipelineRef> {
        let Some(gone) = self.pipelines.remove(pipeline) else { return BTreeSet::new() };
        self.left.remove(pipeline);
        let mut freed: Vec<(Claim, Cluster)> = Vec::new();
        for claim in self.held_by.get(pipeline).cloned().unwrap_or_default() {
            freed.extend(self.let_go(&claim, pipeline).map(|cluster| (claim, cluster)));
        }
        for claim in gone.all() {
            self.unlink(&claim, pipeline);
            freed.push((claim, gone.cluster.clone()));
        }
        freed.iter().flat_map(|(claim, cluster)| self.sharers(claim, cluster, pipeline)).collect()
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
    pub(super) fn replace(
        &mut self,
        scope: &Scope,
        listed: BTreeMap<PipelineRef, Claimant>,
    ) -> BTreeSet<PipelineRef> {
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

    pub(super) fn rule(&mut self, claimant: &Claimant) -> Ruling {
        let mut ruling = Ruling::default();
        for claim in &claimant.named {
            let owner = self.owner(claim, claimant).filter(|owner| owner.uid != claimant.uid);
            if let Some(owner) = owner {
                let owner = owner.pipeline.clone();
                ruling.conflicts.push(Conflict { claim: claim.clone(), owner });
                continue;
            }
            if let Some((from, record)) = self.inheritance(claim, claimant) {
                ruling.inherited.insert(claim.name.clone(), (from, record));
            }
            if claimant.wants(claim) {
                self.hold(claim, claimant);
            }
        }
        for (claim, record) in claimant.topics.iter().filter(|(claim, _)| !claimant.named.contains(claim)) {
            let heir = self.owner(claim, claimant).filter(|owner| owner.uid != claimant.uid);
            // An intention says nothing of whose the topic is, once another has seen it.
            let is_it = |has: &TopicStatus| record.id.is_none() || has.id == record.id;
            if let Some(heir) = heir.filter(|heir| heir.seen(claim).is_some_and(is_it)) {
                ruling.taken.insert(claim.name.clone(), heir.pipeline.clone());
            }
        }
        ruling
    }

    /// A pipeline that moves to other addresses holds the claim at the old ones too, until it is done.
    fn hold(&mut self, claim: &Claim, claimant: &Claimant) {
        let holders = self.held.entry(claim.clone()).or_default();
        let cluster = holders.entry(claimant.pipeline.clone()).or_default();
        *cluster = cluster.with(&claimant.cluster);
        self.held_by.entry(claimant.pipeline.clone()).or_default().insert(claim.clone());
    }

    /// The pipeline holds `claim` no more; returns where it did.
    pub(super) fn let_go(&mut self, claim: &Claim, pipeline: &PipelineRef) -> Option<Cluster> {
        let holders = self.held.get_mut(claim)?;
        let cluster = holders.remove(pipeline);
        if holders.is_empty() {
            self.held.remove(claim);
        }
        if let Some(claims) = self.held_by.get_mut(pipeline) {
            claims.remove(claim);
            if claims.is_empty() {
                self.held_by.remove(pipeline);
            }
        }
        cluster
    }

    /// Lets go what a pipeline holds and does not keep; returns who may be concerned.
    pub(super) fn release(
        &mut self,
        claimant: &Claimant,
        keeps: impl Fn(&Claim) -> bool,
    ) -> BTreeSet<PipelineRef> {
        if !self.knows(claimant) {
            return BTreeSet::new();
        }
        let held = self.held_by.get(&claimant.pipeline).into_iter().flatten();
        let released: Vec<Claim> = held.filter(|claim| !keeps(claim)).cloned().collect();
        let mut woken = BTreeSet::new();
        for claim in released {
            if let Some(cluster) = self.let_go(&claim, &claimant.pipeline) {
                woken.extend(self.sharers(&claim, &cluster, &claimant.pipeline));
            }
        }
        woken
    }

    /// What the pipeline holds it holds where it is now and nowhere else; returns who may be concerned.
    pub(super) fn leave_other_clusters(&mut self, claimant: &Claimant) -> BTreeSet<PipelineRef> {
        let mut woken = BTreeSet::new();
        if !self.knows(claimant) {
            return woken;
        }
        for claim in self.held_by.get(&claimant.pipeline).into_iter().flatten() {
            let holders = self.held.get_mut(claim);
            let Some(cluster) = holders.and_then(|holders| holders.get_mut(&claimant.pipeline)) else {
                continue;
            };
            if *cluster != claimant.cluster {
                let before = std::mem::replace(cluster, claimant.cluster.clone());
                woken.extend(self.sharers(claim, &before, &claimant.pipeline));
            }
        }
        woken
    }

    /// Who owns `claim` on the cluster of `asker`. Of two that hold it on clusters that turn out to be one, each is told of the
    /// other.
    fn owner(&self, claim: &Claim, asker: &Claimant) -> Option<&Claimant> {
        // Whoever holds it may have stopped naming it a moment ago, and is still at work on letting it go.
        let holders = || {
            let holders = self.held.get(claim).into_iter().flatten();
            let here = holders.filter(|(_, cluster)| cluster.meets(&asker.cluster));
            here.filter_map(|(holder, _)| self.pipelines.get(holder))
        };
        let holder = holders().find(|holder| holder.uid != asker.uid).or_else(|| holders().next());
        holder
            .or_else(|| owner(claim, self.sharing(claim, asker).filter(|other| !self.has_left(other, claim))))
    }

    /// Who else is to have `claim` when `leaver` is gone.
    pub(super) fn heir(&self, claim: &Claim, leaver: &Claimant) -> Option<&Claimant> {
        let others = || {
            self.sharing(claim, leaver)
                .filter(|other| other.pipeline != leaver.pipeline && other.may_inherit(claim))
        };
        let holders = self.held.get(claim);
        let holds = |other: &&Claimant| holders.is_some_and(|held| held.contains_key(&other.pipeline));
        others().find(holds).or_else(|| owner(claim, others()))
    }

    /// What another that has left `claim` has seen of the topic, if `heir` has not.
    fn inheritance(&self, claim: &Claim, heir: &Claimant) -> Option<(PipelineRef, TopicStatus)> {
        if claim.kind != Kind::Topic || heir.plans || heir.seen(claim).is_some() {
            return None;
        }
        let leavers = self.sharing(claim, heir).filter(|other| {
            other.uid != heir.uid && (self.has_left(other, claim) || !other.named.contains(claim))
        });
        let known = leavers.filter_map(|other| Some((other, other.seen(claim)?)));
        let (from, record) = known.min_by_key(|(other, _)| other.rank(claim))?;
        // What the heir does not declare stays as it is: to reset a retention could cost records.
        let record = TopicStatus { owned_configs: BTreeSet::new(), ..record.clone() };
        Some((from.pipeline.clone(), record))
    }

    fn has_left(&self, claimant: &Claimant, claim: &Claim) -> bool {
        self.left.get(&claimant.pipeline).is_some_and(|left| left.contains(claim))
    }

    /// Who names or records `claim` on the cluster of `asker`.
    fn sharing(&self, claim: &Claim, asker: &Claimant) -> impl Iterator<Item = &Claimant> {
        let pipelines = self.by_claim.get(claim).into_iter().flatten();
        let claimants = pipelines.filter_map(|pipeline| self.pipelines.get(pipeline));
        let cluster = asker.cluster.clone();
        claimants.filter(move |other| other.cluster.meets(&cluster))
    }

    /// Who else has to do with `claim` on that cluster.
    fn sharers(&self, claim: &Claim, cluster: &Cluster, but: &PipelineRef) -> BTreeSet<PipelineRef> {
        let sharers = self.by_claim.get(claim).into_iter().flatten().filter(|sharer| *sharer != but);
        let is_here = |sharer: &&PipelineRef| {
            self.pipelines.get(*sharer).is_some_and(|other| other.cluster.meets(cluster))
        };
        sharers.filter(is_here).cloned().collect()
    }
}
