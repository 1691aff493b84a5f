//! Who owns a topic or a consumer group that several pipelines name: exactly one of them.
//!
//! Whoever holds it keeps it: the status records what a pipeline holds, so a restart changes nothing. Of those that hold
//! nothing yet, the oldest gets it, and of those made in the same second the one with the least uid. Neither the order of
//! events nor that of passes matters.

mod cluster;
mod index;
mod state;
mod take;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use kube::ResourceExt;

use crate::crd::{Mode, OrderPipeline, TopicStatus};
use crate::observe;
use crate::poller::PipelineRef;
use crate::validate::Reason;

use cluster::Cluster;
pub use index::{Owners, Ruling};
pub(crate) use take::handed_over;
pub use take::take;

/// What only one pipeline of a cluster may have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// Topic or group.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

/// Kinds of [`Claim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A main or a dead-letter topic: one may not be the other's.
    Topic,
    /// The id of a consumer group.
    Group,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Topic => "topic",
            Kind::Group => "group",
        };
        write!(f, "{kind} {}", self.name)
    }
}

/// A claim of a pipeline that belongs to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What is claimed.
    pub claim: Claim,
    /// Whose it is.
    pub owner: PipelineRef,
}

/// A pipeline, as far as ownership is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// Namespace and name.
    pub pipeline: PipelineRef,
    /// Uid.
    pub uid: String,
    /// Where all its topics and groups are.
    cluster: Cluster,
    created: Option<Timestamp>,
    leaving: bool,
    /// Whether it only plans: what it does not have yet it does not take, and keeps from nobody.
    plans: bool,
    /// Whether it was last refused for what belongs to another.
    refused: bool,
    /// Whether its spec is another than the one that its status speaks of.
    changed: bool,
    /// What the spec names.
    named: BTreeSet<Claim>,
    /// Topics that its status records, whether or not the spec still names them.
    topics: BTreeMap<Claim, TopicStatus>,
    /// Groups whose pods its status reports.
    groups: BTreeSet<Claim>,
}

impl Claimant {
    /// What `pipeline` claims and holds.
    #[must_use]
    pub fn of(pipeline: &OrderPipeline) -> Self {
        let claim = |kind, name: &str| Claim { kind, name: name.to_owned() };
        let topics = observe::topic_names(pipeline);
        let groups = pipeline.spec.consumer_groups.iter().map(|group| claim(Kind::Group, &group.name));
        let status = pipeline.status.as_ref();
        let refused = status.is_some_and(|status| {
            let reasons = Reason::CONFLICTS.map(|reason| reason.to_string());
            status.conditions.iter().any(|condition| reasons.contains(&condition.reason))
        });
        let spoken_of = status.and_then(|status| status.observed_generation);
        let reported = status.iter().flat_map(|status| &status.consumer_groups);
        Self {
            pipeline: PipelineRef {
                namespace: pipeline.namespace().unwrap_or_default(),
                name: pipeline.name_any(),
            },
            uid: pipeline.uid().unwrap_or_default(),
            cluster: Cluster::of(&pipeline.spec.kafka.bootstrap_servers),
            created: pipeline.creation_timestamp().map(|time| time.0),
            leaving: pipeline.metadata.deletion_timestamp.is_some(),
            plans: pipeline.spec.mode == Mode::Plan,
            refused,
            changed: spoken_of != pipeline.metadata.generation,
            named: topics.iter().map(|topic| claim(Kind::Topic, topic)).chain(groups).collect(),
            topics: observe::records(pipeline)
                .into_iter()
                .map(|(name, record)| (claim(Kind::Topic, &name), record))
                .collect(),
            groups: reported.map(|group| claim(Kind::Group, &group.name)).collect(),
        }
    }

    /// Everything about which another pipeline may have to know.
    fn all(&self) -> BTreeSet<Claim> {
        self.named.iter().chain(self.topics.keys()).chain(&self.groups).cloned().collect()
    }

    fn records(&self, claim: &Claim) -> bool {
        self.topics.contains_key(claim) || self.groups.contains(claim)
    }

    /// What it knows of a topic that it has seen. That it once meant to create one does not make a topic its own.
    fn seen(&self, claim: &Claim) -> Option<&TopicStatus> {
        self.topics.get(claim).filter(|record| record.id.is_some())
    }

    /// Whether it is to be considered for `claim`. A group stays its pipeline's until its pods are gone, a topic only as long as
    /// the spec names it. Whoever is leaving, or only plans, takes nothing new.
    fn wants(&self, claim: &Claim) -> bool {
        let may_take = !self.leaving && !self.plans;
        (self.named.contains(claim) || self.groups.contains(claim)) && (may_take || self.records(claim))
    }

    /// Whether it is to be considered for `claim` when another leaves it. Under a plan nothing is written down: it must know the
    /// topic already.
    fn may_inherit(&self, claim: &Claim) -> bool {
        !self.leaving && (!self.plans || self.seen(claim).is_some())
    }

    /// The least of those who want `claim` owns it.
    fn rank(&self, claim: &Claim) -> impl Ord + use<> {
        let recorded = self.records(claim);
        // Both may have recorded it: one of them on another cluster before its spec named this one. It was refused since, or nobody
        // has looked at that spec yet.
        let displaced = recorded && self.refused;
        let moved = recorded && self.changed;
        (Reverse(recorded), displaced, moved, self.created, self.uid.clone())
    }
}

/// Who of `claimants`, all of one cluster, owns `claim`, as far as specs and statuses tell. Their order does not matter.
#[must_use]
pub fn owner<'a>(claim: &Claim, claimants: impl IntoIterator<Item = &'a Claimant>) -> Option<&'a Claimant> {
    claimants.into_iter().filter(|claimant| claimant.wants(claim)).min_by_key(|claimant| claimant.rank(claim))
}

#[cfg(test)]
mod tests;
