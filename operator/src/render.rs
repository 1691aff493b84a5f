//! From workloads to manifests. Pure; what is rendered is the operator's whole intent for an object.

mod deployment;
mod service;
mod pdb;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde_json::{Value, json};

use crate::crd::SecretKeyRef;
use crate::hash;
use crate::names;
use crate::observe::{ObjectKey, ObjectKind, SecretState};
use crate::validate::{Part, ValidatedPipeline, Workload};

/// Public port of the order service.
pub const HTTP_PORT: i32 = 8080;

/// Admin port of every program.
pub const ADMIN_PORT: i32 = 9090;

/// Program of the order service's pods.
pub const ORDER_SERVICE_COMMAND: &str = "/usr/local/bin/order-service";

/// Program of the consumers' pods.
pub const CONSUMER_COMMAND: &str = "/usr/local/bin/consumer";

/// Where the certificate authorities for Kafka are mounted.
pub const CA_FILE: &str = "/etc/orderflow/kafka/ca.pem";

/// How long a program may take to drain after SIGTERM, in seconds.
pub const SHUTDOWN_GRACE_SECONDS: i64 = 25;

/// A rendered object, ready to be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Intent {
    /// Kind and name.
    pub key: ObjectKey,
    /// The manifest, with the hash of itself as an annotation.
    pub body: Value,
}

impl Intent {
    /// Hash of what is intended.
    #[must_use]
    pub fn hash(&self) -> &Value {
        &self.body["metadata"]["annotations"][names::INTENT_ANNOTATION]
    }

    /// Whether it is a Deployment whose number of pods is somebody else's.
    #[must_use]
    pub fn leaves_replicas(&self) -> bool {
        self.key.kind == ObjectKind::Deployment && self.body["spec"]["replicas"].is_null()
    }
}

/// Everything a workload consists of, in the order in which it is applied.
#[must_use]
pub fn render(
    pipeline: &ValidatedPipeline,
    workload: &Workload,
    secrets: &BTreeMap<SecretKeyRef, SecretState>,
) -> Vec<Intent> {
    let mut intents = Vec::new();
    if let Some(service) = &workload.service {
        intents.push(intent(ObjectKind::Service, &service::public(pipeline, workload, service)));
        intents.push(intent(ObjectKind::Service, &service::admin(pipeline, workload)));
    }
    // One budget per order service always; a consumer's only where there is a second pod to wait for.
    if workload.part == Part::OrderService || workload.most() > 1 {
        intents.push(intent(ObjectKind::PodDisruptionBudget, &pdb::render(pipeline, workload)));
    }
    intents.push(deployment_intent(workload, &deployment::render(pipeline, workload, secrets)));
    intents
}

/// Name of a workload's Deployment.
#[must_use]
pub fn name(pipeline: &str, part: &Part) -> String {
    match part {
        Part::Group(group) => names::group(pipeline, group),
        Part::OrderService | Part::Topic(_) => names::order_service(pipeline),
    }
}

/// The intent for a Deployment. A number of pods that follows the load is no part of the hash: a step is no other intent.
fn deployment_intent(workload: &Workload, deployment: &Deployment) -> Intent {
    let mut intent = intent(ObjectKind::Deployment, deployment);
    if workload.is_scaled() {
        let mut lasting = deployment.clone();
        lasting.spec.replicas = None;
        let hash = self::intent(ObjectKind::Deployment, &lasting).hash().clone();
        intent.body["metadata"]["annotations"][names::INTENT_ANNOTATION] = hash;
    }
    intent
}

/// The intent for `object`, with its hash in it.
fn intent(kind: ObjectKind, object: &impl serde::Serialize) -> Intent {
    let mut body = serde_json::to_value(object).expect("manifests are plain data");
    let resource = kind.resource();
    body["apiVersion"] = json!(resource.api_version);
    body["kind"] = json!(resource.kind);
    let hash = hash::of([body.to_string().as_bytes()]);
    body["metadata"]["annotations"][names::INTENT_ANNOTATION] = json!(hash);
    let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    Intent { key: ObjectKey { kind, name }, body }
}

fn program(part: &Part) -> &'static str {
    match part {
        Part::Group(_) => "consumer",
        Part::OrderService | Part::Topic(_) => "order-service",
    }
}

fn labels(pipeline: &ValidatedPipeline, workload: &Workload) -> BTreeMap<String, String> {
    let group = match &workload.part {
        Part::Group(group) => Some(group.as_str()),
        Part::OrderService | Part::Topic(_) => None,
    };
    names::labels(&pipeline.name, program(&workload.part), group)
}

fn selector(pipeline: &ValidatedPipeline, workload: &Workload) -> LabelSelector {
    LabelSelector { match_labels: Some(labels(pipeline, workload)), match_expressions: None }
}

fn metadata(pipeline: &ValidatedPipeline, workload: &Workload, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        labels: Some(labels(pipeline, workload)),
        owner_references: Some(vec![pipeline.owner.clone()]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests;
