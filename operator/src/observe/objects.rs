//! The Deployments, Services and PodDisruptionBudgets of a pipeline.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ApiResource, DynamicObject, ListParams, TypeMeta};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use super::{Error, Owned};
use crate::crd::{ConsumerGroupSpec, OrderPipeline};
use crate::names;

/// Kinds that the operator makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// `apps/v1` Deployment.
    Deployment,
    /// `v1` Service.
    Service,
    /// `policy/v1` PodDisruptionBudget.
    PodDisruptionBudget,
}

impl ObjectKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Deployment, Self::Service, Self::PodDisruptionBudget];

    /// What the API server needs to know of the kind.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        match self {
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::PodDisruptionBudget => ApiResource::erase::<PodDisruptionBudget>(&()),
        }
    }
}

/// Kind and name of an object in the pipeline's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Kind.
    pub kind: ObjectKind,
    /// Name.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.name)
    }
}

/// An object as the API server holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveObject {
    /// Its uid.
    pub uid: String,
    /// Uid of its controller, if it has one.
    pub controller: Option<String>,
    /// Kind and name of its controller, for people.
    pub controller_name: Option<String>,
    /// Whether its deletion has begun.
    pub deleting: bool,
    /// Whether the newest generation differs from the one before in the number of pods alone.
    pub only_scaled: bool,
    /// All of it but the managed fields.
    pub body: Value,
}

/// The pipeline's objects by label, and whoever else has a name that the pipeline needs.
///
/// # Errors
/// When the API server does not answer.
pub async fn observe(
    client: &Client,
    owned: &Owned,
    namespace: &str,
    pipeline: &OrderPipeline,
) -> Result<BTreeMap<ObjectKey, LiveObject>, Error> {
    let mut objects = BTreeMap::new();
    if !owned.may_have(pipeline) {
        return Ok(objects);
    }
    let selector =
        ListParams::default().labels(&format!("{}={}", names::PIPELINE_LABEL, pipeline.name_any()));
    for kind in ObjectKind::ALL {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource());
        let failed =
            |source| Error::Read { what: format!("{kind:?}s in {namespace}"), source: Box::new(source) };
        for object in api.list(&selector).await.map_err(failed)? {
            objects.insert(ObjectKey { kind, name: object.name_any() }, live(kind, object));
        }
        for name in needed(kind, pipeline) {
            let key = ObjectKey { kind, name };
            if objects.contains_key(&key) {
                continue;
            }
            if let Some(object) = api.get_opt(&key.name).await.map_err(failed)? {
                objects.insert(key, live(kind, object));
            }
        }
    }
    Ok(objects)
}

/// Names that the spec makes the pipeline need, whether or not the spec is valid.
fn needed(kind: ObjectKind, pipeline: &OrderPipeline) -> Vec<String> {
    let name = pipeline.name_any();
    let service = pipeline.spec.order_service.as_ref().map(|_| names::order_service(&name));
    let admin = pipeline.spec.order_service.as_ref().map(|_| names::order_service_admin(&name));
    let groups = pipeline.spec.consumer_groups.iter().map(|group| names::group(&name, &group.name));
    match kind {
        ObjectKind::Service => service.into_iter().chain(admin).collect(),
        ObjectKind::Deployment => service.into_iter().chain(groups).collect(),
        ObjectKind::PodDisruptionBudget => {
            let most = |group: &ConsumerGroupSpec| match &group.autoscaling {
                Some(autoscaling) => autoscaling.max_replicas,
                None => group.replicas.unwrap_or(1),
            };
            let several = pipeline.spec.consumer_groups.iter().filter(|group| most(group) > 1);
            service.into_iter().chain(several.map(|group| names::group(&name, &group.name))).collect()
        }
    }
}

fn live(kind: ObjectKind, mut object: DynamicObject) -> LiveObject {
    // Items of a list come without them.
    object.types = Some(TypeMeta { api_version: kind.resource().api_version, kind: kind.resource().kind });
    object.managed_fields_mut().clear();
    let controller = object.owner_references().iter().find(|owner| owner.controller == Some(true)).cloned();
    LiveObject {
        uid: object.uid().unwrap_or_default(),
        controller_name: controller.as_ref().map(|owner| format!("{} {}", owner.kind, owner.name)),
        controller: controller.map(|owner| owner.uid),
        deleting: object.metadata.deletion_timestamp.is_some(),
        only_scaled: false,
        body: serde_json::to_value(object).expect("an object from the API server is plain data"),
    }
}
