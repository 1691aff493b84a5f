//! What was decided about numbers of pods, and who else decides about them.

use std::collections::BTreeMap;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client, ResourceExt};

use super::{Error, LiveObject, ObjectKey, ObjectKind};
use crate::crd::OrderPipeline;
use crate::names;
use crate::reconcile::reference;
use crate::scaler::Roster;
use crate::scaling::{Told, Verdict};

const DEPLOYMENT: &str = "Deployment";

/// Numbers of pods, by name of the Deployment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScalingView {
    /// What was decided, and told.
    pub standings: BTreeMap<String, Standing>,
    /// Who else sets the number: a HorizontalPodAutoscaler, or KEDA.
    pub others: BTreeMap<String, String>,
}

/// How the scaling of a workload stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Pods there should be, once that was decided.
    pub replicas: Option<i32>,
    /// The verdict that is told. One that an earlier process told holds until there is another.
    pub told: Option<Told>,
}

/// # Errors
/// When the API server does not answer: who else scales would not be known.
pub(super) async fn observe(
    client: &Client,
    roster: &Roster,
    namespace: &str,
    pipeline: &OrderPipeline,
    objects: &mut BTreeMap<ObjectKey, LiveObject>,
) -> Result<ScalingView, Error> {
    let spec = &pipeline.spec;
    if spec.order_service.is_none() && spec.consumer_groups.is_empty() {
        return Ok(ScalingView::default());
    }
    let mut standings = roster.standings(&reference(pipeline));
    for (deployment, told) in told_before(pipeline) {
        standings.entry(deployment).or_default().told.get_or_insert(told);
    }
    for (key, live) in objects.iter_mut().filter(|(key, _)| key.kind == ObjectKind::Deployment) {
        let generation = live.body["metadata"]["generation"].as_i64();
        live.only_scaled =
            generation.is_some() && generation == roster.stepped_to(&reference(pipeline), &key.name);
    }
    Ok(ScalingView { standings, others: others(client, namespace).await? })
}

/// What the status tells.
fn told_before(pipeline: &OrderPipeline) -> Vec<(String, Told)> {
    let name = pipeline.name_any();
    let told = |verdict: &Option<String>, reason: &Option<String>| {
        Some(Told { verdict: Verdict::named(verdict.as_deref()?)?, reason: reason.clone()? })
    };
    let status = pipeline.status.iter();
    let service = status.clone().filter_map(|status| status.order_service.as_ref());
    let service = service
        .filter_map(|service| Some((names::order_service(&name), told(&service.verdict, &service.reason)?)));
    let groups = status.flat_map(|status| &status.consumer_groups);
    let groups = groups
        .filter_map(|group| Some((names::group(&name, &group.name), told(&group.verdict, &group.reason)?)));
    service.chain(groups).collect()
}

/// Who scales which Deployment of the namespace. A ScaledObject is named rather than the autoscaler that KEDA makes of it; while it
/// is paused it has none, and is still whoever decides.
async fn others(client: &Client, namespace: &str) -> Result<BTreeMap<String, String>, Error> {
    let mut others = BTreeMap::new();
    let autoscalers: Api<HorizontalPodAutoscaler> = Api::namespaced(client.clone(), namespace);
    let failed =
        |what: &str, source| Error::Read { what: format!("{what} in {namespace}"), source: Box::new(source) };
    let listed = autoscalers.list(&ListParams::default()).await;
    for autoscaler in listed.map_err(|source| failed("HorizontalPodAutoscalers", source))? {
        let name = autoscaler.name_any();
        let target = autoscaler.spec.scale_target_ref;
        if target.kind == DEPLOYMENT {
            others.insert(target.name, format!("HorizontalPodAutoscaler {name}"));
        }
    }
    let keda = ApiResource::from_gvk(&GroupVersionKind::gvk("keda.sh", "v1alpha1", "ScaledObject"));
    let scaled: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &keda);
    match scaled.list(&ListParams::default()).await {
        Ok(scaled) => others.extend(scaled.into_iter().filter_map(|object| {
            let target = &object.data["spec"]["scaleTargetRef"];
            let is_deployment = target["kind"].as_str().is_none_or(|kind| kind == DEPLOYMENT);
            let name = target["name"].as_str().filter(|_| is_deployment)?;
            Some((name.to_owned(), format!("ScaledObject {}", object.name_any())))
        })),
        // KEDA is not installed.
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(source) => return Err(failed("ScaledObjects", source)),
    }
    Ok(others)
}
