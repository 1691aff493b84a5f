//! Which pipelines have objects at all, by what the watches have seen: one that has none need not be asked for.

use std::sync::{PoisonError, RwLock};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::Store;
use kube::{Resource, ResourceExt};

use crate::crd::OrderPipeline;
use crate::names;

/// What the watches of one scope hold.
pub struct Watched {
    /// The namespace, or all.
    pub namespace: Option<String>,
    /// Deployments of the operator.
    pub deployments: Store<PartialObjectMeta<Deployment>>,
    /// Services of the operator.
    pub services: Store<PartialObjectMeta<Service>>,
    /// PodDisruptionBudgets of the operator.
    pub budgets: Store<PartialObjectMeta<PodDisruptionBudget>>,
}

impl Watched {
    /// Waits until every watch has listed what there is; false when one of them ended.
    pub async fn listed(&self) -> bool {
        self.deployments.wait_until_ready().await.is_ok()
            && self.services.wait_until_ready().await.is_ok()
            && self.budgets.wait_until_ready().await.is_ok()
    }
}

/// What all watches hold.
///
/// A watch may lag behind: an object made a moment ago may be missing. Whoever made it has a workload in its spec or its
/// status, and is looked at whatever is here; and once the watch sees the object, it wakes its pipeline.
#[derive(Default)]
pub struct Owned {
    scopes: RwLock<Vec<Watched>>,
}

impl Owned {
    /// Adds a scope, once its watches have listed what there is.
    pub fn watch(&self, scope: Watched) {
        self.scopes.write().unwrap_or_else(PoisonError::into_inner).push(scope);
    }

    /// Whether the pipeline may have objects: its spec or status has a workload, or a watch has seen one, or nobody watches.
    #[must_use]
    pub fn may_have(&self, pipeline: &OrderPipeline) -> bool {
        let spec = &pipeline.spec;
        let wants = spec.order_service.is_some() || !spec.consumer_groups.is_empty();
        let had = pipeline
            .status
            .as_ref()
            .is_some_and(|status| status.order_service.is_some() || !status.consumer_groups.is_empty());
        wants || had || self.has_seen(pipeline)
    }

    fn has_seen(&self, pipeline: &OrderPipeline) -> bool {
        let (namespace, name) = (pipeline.namespace().unwrap_or_default(), pipeline.name_any());
        let scopes = self.scopes.read().unwrap_or_else(PoisonError::into_inner);
        let covers = |scope: &&Watched| scope.namespace.as_ref().is_none_or(|watched| *watched == namespace);
        let Some(scope) = scopes.iter().find(covers) else { return true };
        has(&scope.deployments, &namespace, &name)
            || has(&scope.services, &namespace, &name)
            || has(&scope.budgets, &namespace, &name)
    }
}

fn has<K>(store: &Store<PartialObjectMeta<K>>, namespace: &str, pipeline: &str) -> bool
where
    PartialObjectMeta<K>: Resource<DynamicType = ()> + Clone + 'static,
{
    let is_its = |object: &PartialObjectMeta<K>| {
        object.namespace().as_deref() == Some(namespace)
            && object.labels().get(names::PIPELINE_LABEL).is_some_and(|label| label == pipeline)
    };
    store.find(is_its).is_some()
}
