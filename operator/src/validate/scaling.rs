//! How many pods a workload is to have, and by whose word.

use kube::ResourceExt;

use super::Workload;
use crate::crd::{ConsumerGroupSpec, OrderPipeline, OrderServiceSpec, ScalingMode, StartFrom};
use crate::names;
use crate::observe::{ObjectKey, ObjectKind, Observed};
use crate::scaling::ServicePolicy;

/// By which rule a workload's pods are counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// Fewest pods.
    pub min: i32,
    /// Most pods.
    pub max: i32,
    /// Whether the rule only judges, and sets nothing.
    pub only_observes: bool,
    /// What is aimed at.
    pub target: Target,
}

/// What scaling aims at.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// No event waits for longer than that, in seconds, and a backlog is worked off in that time.
    Age {
        /// Greatest age of an undelivered event.
        target: f64,
        /// Time in which a backlog should be worked off.
        catch_up: f64,
        /// Where the group starts in a partition without a commit.
        start_from: StartFrom,
    },
    /// No order waits for longer.
    Queue(ServicePolicy),
}

/// How many pods, by which rule, and who else has a say.
pub(super) struct Pods {
    pub(super) replicas: i32,
    pub(super) scaling: Option<Scaling>,
    pub(super) scaled_by: Option<String>,
}

impl Workload {
    /// Whether the operator sets the number of pods.
    #[must_use]
    pub fn sets_replicas(&self) -> bool {
        self.scaled_by.is_none() && !self.scaling.as_ref().is_some_and(|scaling| scaling.only_observes)
    }

    /// Whether the number of pods follows the load.
    #[must_use]
    pub const fn is_scaled(&self) -> bool {
        self.scaling.is_some() || self.scaled_by.is_some()
    }

    /// Most pods that there may be.
    #[must_use]
    pub fn most(&self) -> i32 {
        match (&self.scaled_by, &self.scaling) {
            (Some(_), _) => i32::MAX,
            (None, Some(scaling)) => scaling.max.max(self.replicas),
            (None, None) => self.replicas,
        }
    }

    /// Pods that must be ready for it to be: all of a fixed number. Where the number follows the load a step is no outage.
    #[must_use]
    pub fn least_ready(&self) -> i32 {
        match &self.scaling {
            Some(scaling) => scaling.min.max(1).min(self.replicas),
            None if self.scaled_by.is_some() => self.replicas.min(1),
            None => self.replicas,
        }
    }
}

pub(super) fn service(pipeline: &OrderPipeline, service: &OrderServiceSpec, observed: &Observed) -> Pods {
    let scaling = service.autoscaling.as_ref().map(|autoscaling| Scaling {
        min: autoscaling.min_replicas,
        max: autoscaling.max_replicas,
        only_observes: autoscaling.mode == ScalingMode::Observe,
        target: Target::Queue(ServicePolicy {
            min: count(autoscaling.min_replicas),
            max: count(autoscaling.max_replicas),
            target_wait: f64::from(autoscaling.target_queue_millis) / 1000.0,
        }),
    });
    pods(names::order_service(&pipeline.name_any()), service.replicas, scaling, observed)
}

pub(super) fn group(pipeline: &OrderPipeline, group: &ConsumerGroupSpec, observed: &Observed) -> Pods {
    let scaling = group.autoscaling.as_ref().map(|autoscaling| Scaling {
        min: autoscaling.min_replicas,
        max: autoscaling.max_replicas,
        only_observes: autoscaling.mode == ScalingMode::Observe,
        target: Target::Age {
            target: f64::from(autoscaling.target_age_seconds),
            catch_up: f64::from(autoscaling.catch_up_seconds),
            start_from: group.start_from,
        },
    });
    let mut pods = pods(names::group(&pipeline.name_any(), &group.name), group.replicas, scaling, observed);
    if let Some(Scaling { max, .. }) = &pods.scaling {
        // One more than there are partitions would be idle.
        pods.replicas = pods.replicas.min(pipeline.spec.topic.partitions).min(*max);
    }
    pods
}

/// `fixed` is the spec's number. Where the number is scaled it is what was decided last; what there is, until anything was; and
/// one pod at first, so that a group gets its place in the log.
fn pods(deployment: String, fixed: Option<i32>, scaling: Option<Scaling>, observed: &Observed) -> Pods {
    let key = ObjectKey { kind: ObjectKind::Deployment, name: deployment };
    let live = observed.objects.get(&key).and_then(|live| live.body["spec"]["replicas"].as_i64());
    let live = live.and_then(|live| i32::try_from(live).ok());
    let scaled_by = observed.scaling.others.get(&key.name).cloned();
    let replicas = match &scaling {
        _ if scaled_by.is_some() => live.unwrap_or(1),
        None => fixed.unwrap_or(1),
        Some(scaling) if scaling.only_observes => live.unwrap_or(1),
        Some(Scaling { min, max, .. }) => {
            let decided = observed.scaling.standings.get(&key.name).and_then(|standing| standing.replicas);
            decided.or(live).unwrap_or(min.max(&1).to_owned()).clamp(*min, *max)
        }
    };
    Pods { replicas, scaling, scaled_by }
}

/// A number that the API server keeps from being negative.
fn count(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::fixtures::{after, nothing, pipeline_with, valid};
    use crate::observe::{ObjectKey, ObjectKind, Observed, Standing};
    use crate::plan::plan;
    use crate::validate::Workload;

    const DEPLOYMENT: &str = "orders-a";

    fn spec(autoscaling: &str) -> String {
        format!(
            "consumerGroups: [{{name: a, sink: {{http: {{url: \"http://sink/\"}}}}, autoscaling: {{{autoscaling}}}}}]"
        )
    }

    fn workload(autoscaling: &str, look: impl FnOnce(&mut Observed)) -> Workload {
        let pipeline = pipeline_with(&spec(autoscaling));
        let mut observed = nothing(&pipeline);
        let validated = valid(&pipeline, &observed);
        observed = after(&validated, &observed, &plan(&validated, &observed).changes);
        look(&mut observed);
        valid(&pipeline, &observed).workloads.remove(0)
    }

    fn live(replicas: i32) -> impl FnOnce(&mut Observed) {
        move |observed| {
            let key = ObjectKey { kind: ObjectKind::Deployment, name: DEPLOYMENT.into() };
            observed.objects.get_mut(&key).unwrap().body["spec"]["replicas"] = json!(replicas);
        }
    }

    fn decided(replicas: i32) -> impl FnOnce(&mut Observed) {
        move |observed| {
            let standing = Standing { replicas: Some(replicas), told: None };
            observed.scaling.standings.insert(DEPLOYMENT.into(), standing);
        }
    }

    const UP_TO_3: &str = "minReplicas: 0, maxReplicas: 3, targetAgeSeconds: 5, catchUpSeconds: 30";

    #[test]
    fn a_group_begins_with_one_pod_and_has_then_what_was_decided() {
        assert_eq!(workload(UP_TO_3, |_| {}).replicas, 1);
        assert_eq!(workload(UP_TO_3, decided(2)).replicas, 2);
        assert_eq!(workload(UP_TO_3, decided(0)).replicas, 0);
    }

    #[test]
    fn until_anything_was_decided_what_is_there_stays_within_the_bounds() {
        assert_eq!(workload(UP_TO_3, live(2)).replicas, 2);
        assert_eq!(workload(UP_TO_3, live(9)).replicas, 3);
        assert_eq!(workload(&UP_TO_3.replace("minReplicas: 0", "minReplicas: 2"), live(1)).replicas, 2);
    }

    #[test]
    fn there_are_never_more_pods_than_partitions() {
        assert_eq!(workload(&UP_TO_3.replace("maxReplicas: 3", "maxReplicas: 9"), decided(9)).replicas, 3);
    }

    #[test]
    fn what_is_only_observed_keeps_its_pods() {
        let workload = workload(&format!("{UP_TO_3}, mode: Observe"), |observed| {
            live(7)(observed);
            decided(1)(observed);
        });
        assert!(!workload.sets_replicas() && workload.is_scaled());
    }

    #[test]
    fn a_number_that_somebody_else_sets_is_left_alone() {
        let workload = workload(UP_TO_3, |observed| {
            live(2)(observed);
            decided(1)(observed);
            observed.scaling.others.insert(DEPLOYMENT.into(), "HorizontalPodAutoscaler x".into());
        });
        assert_eq!((workload.replicas, workload.sets_replicas()), (2, false));
    }
}
