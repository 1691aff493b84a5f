//! Whether what the watch shows of a pipeline is the newest that matters, so that it need not be read again.
//!
//! The watch may lag behind our own writes, and a pass over a copy that lacks our last status takes our own topic for a
//! stranger's. Versions are opaque, so they are compared for equality alone; but a watch shows an object's versions in their
//! order. Once it has shown the one that our last pass ended with, all that it shows later has what that pass wrote.
//!
//! That it lacks what another operator wrote is no more likely than of a read: this process watches only once it leads, its
//! lists are of then, and whoever led before writes nothing more by then. A pipeline with a status that no pass of this process
//! has ended is read all the same.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};

use crate::crd::OrderPipeline;
use crate::names::FINALIZER;

/// What is known of the versions of each pipeline that the watches show, by uid.
#[derive(Debug, Default)]
pub struct Freshness {
    pipelines: Mutex<HashMap<String, Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// The version that a watch showed last.
    shown: Option<String>,
    last: LastPass,
    /// Whether it was ever shown with our finalizer.
    claimed: bool,
}

/// How the last pass of this process left a pipeline.
#[derive(Debug, Default, PartialEq, Eq)]
enum LastPass {
    /// There was none.
    #[default]
    None,
    /// It is under way, or failed: what it wrote is not known.
    Open,
    /// In this version, which the watch has not shown yet.
    Awaited(String),
    /// In a version that the watch has shown since.
    Shown,
}

impl Freshness {
    /// Takes in what a watch showed.
    pub fn saw(&self, event: &Event<DeserializeGuard<OrderPipeline>>) {
        match event {
            Event::Apply(object) | Event::InitApply(object) => self.shown(object.meta()),
            Event::Delete(object) => self.forget(object.meta()),
            Event::Init | Event::InitDone => {}
        }
    }

    fn shown(&self, metadata: &ObjectMeta) {
        let Some(uid) = &metadata.uid else { return };
        let mut pipelines = self.lock();
        let known = pipelines.entry(uid.clone()).or_default();
        known.shown.clone_from(&metadata.resource_version);
        known.claimed |= has_finalizer(metadata);
        let is_awaited = |version: &String| metadata.resource_version.as_ref() == Some(version);
        if matches!(&known.last, LastPass::Awaited(version) if is_awaited(version)) {
            known.last = LastPass::Shown;
        }
    }

    /// The pipeline is gone.
    pub fn forget(&self, metadata: &ObjectMeta) {
        if let Some(uid) = &metadata.uid {
            self.lock().remove(uid);
        }
    }

    /// A pass begins over what a watch showed. Returns whether that is the newest.
    pub fn begin(&self, pipeline: &OrderPipeline) -> bool {
        let mut pipelines = self.lock();
        let known = pipeline.metadata.uid.as_ref().and_then(|uid| pipelines.get_mut(uid));
        let Some(known) = known else { return false };
        // The watch may have gone on since the pass was given its copy.
        let is_last_shown = known.shown.is_some() && known.shown == pipeline.metadata.resource_version;
        match std::mem::replace(&mut known.last, LastPass::Open) {
            LastPass::None => is_last_shown && pipeline.status.is_none(),
            LastPass::Shown => is_last_shown,
            LastPass::Open | LastPass::Awaited(_) => false,
        }
    }

    /// A pass has ended that knows its last write to have been answered: `pipeline` has the version of that, or the one that
    /// was read if nothing was written.
    pub fn end(&self, pipeline: &OrderPipeline) {
        let mut pipelines = self.lock();
        let known = pipeline.metadata.uid.as_ref().and_then(|uid| pipelines.get_mut(uid));
        let (Some(known), Some(version)) = (known, pipeline.resource_version()) else { return };
        // A watch that is past that version already shows it no more: the next pass reads, as if it had not come yet.
        known.last = match known.shown.as_ref() == Some(&version) {
            true => LastPass::Shown,
            false => LastPass::Awaited(version),
        };
    }

    /// Stands for what of the finalizers is to wake a pass when it changes: those of others, and that ours was taken away. That
    /// a pass has added ours is news to nobody.
    #[must_use]
    pub fn finalizers(&self, metadata: &ObjectMeta) -> u64 {
        let known = |uid: &String| self.lock().get(uid).is_some_and(|known| known.claimed);
        let lost = !has_finalizer(metadata) && metadata.uid.as_ref().is_some_and(known);
        let others: Vec<&String> =
            metadata.finalizers.iter().flatten().filter(|name| *name != FINALIZER).collect();
        let mut hasher = DefaultHasher::new();
        (others, lost).hash(&mut hasher);
        hasher.finish()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.pipelines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn has_finalizer(metadata: &ObjectMeta) -> bool {
    metadata.finalizers.iter().flatten().any(|name| name == FINALIZER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::OrderPipelineStatus;
    use crate::fixtures::pipeline_with;

    /// The pipeline in this version, with a status unless it is new.
    fn version(version: &str, is_new: bool) -> OrderPipeline {
        let mut pipeline = pipeline_with("paused: false");
        pipeline.metadata.resource_version = Some(version.to_owned());
        pipeline.status = (!is_new).then(OrderPipelineStatus::default);
        pipeline
    }

    fn shows(freshness: &Freshness, pipeline: &OrderPipeline) {
        freshness.saw(&Event::Apply(DeserializeGuard(Ok(pipeline.clone()))));
    }

    #[test]
    fn a_new_pipeline_is_taken_as_the_watch_shows_it_and_one_with_a_status_is_read_first() {
        for is_new in [true, false] {
            let (freshness, pipeline) = (Freshness::default(), version("1", is_new));
            assert!(!freshness.begin(&pipeline), "nothing was shown");
            shows(&freshness, &pipeline);
            assert_eq!(freshness.begin(&pipeline), is_new);
        }
    }

    #[test]
    fn a_pipeline_is_read_again_until_the_watch_shows_what_the_last_pass_wrote() {
        let freshness = Freshness::default();
        shows(&freshness, &version("1", true));
        assert!(freshness.begin(&version("1", true)));
        freshness.end(&version("2", false));
        assert!(!freshness.begin(&version("1", true)), "our status is not in it");
        freshness.end(&version("2", false));
        shows(&freshness, &version("2", false));
        shows(&freshness, &version("3", false));
        assert!(!freshness.begin(&version("2", false)), "there is a newer one");
        freshness.end(&version("3", false));
        assert!(freshness.begin(&version("3", false)), "read, and nothing written");
    }

    #[test]
    fn a_pipeline_is_read_again_after_a_pass_that_did_not_end() {
        let freshness = Freshness::default();
        shows(&freshness, &version("1", true));
        assert!(freshness.begin(&version("1", true)));
        shows(&freshness, &version("2", true));
        assert!(!freshness.begin(&version("2", true)), "what it wrote is not known");
    }

    #[test]
    fn what_the_watch_showed_before_the_write_was_answered_counts() {
        let freshness = Freshness::default();
        shows(&freshness, &version("1", true));
        assert!(freshness.begin(&version("1", true)));
        shows(&freshness, &version("2", false));
        freshness.end(&version("2", false));
        assert!(freshness.begin(&version("2", false)));
    }

    #[test]
    fn our_own_finalizer_wakes_nobody_until_somebody_takes_it_away() {
        let freshness = Freshness::default();
        let with = |finalizers: &[&str]| {
            let mut pipeline = version("1", true);
            pipeline.metadata.finalizers = Some(finalizers.iter().map(|name| (*name).to_owned()).collect());
            shows(&freshness, &pipeline);
            freshness.finalizers(&pipeline.metadata)
        };
        let new = with(&[]);
        assert_eq!(with(&[FINALIZER]), new);
        assert_ne!(with(&[]), new, "it was there before");
        assert_eq!(with(&[FINALIZER]), new);
        assert_ne!(with(&[FINALIZER, "another/one"]), new);
    }
}
