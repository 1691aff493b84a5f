//! Step 2, validate: the spec, together with what was observed, becomes a [`ValidatedPipeline`], or every problem is
//! named at once. Pure.
//!
//! Whatever the API server's rules catch is checked here again: objects may have been stored under older rules.

mod fields;
mod topics;
mod conflicts;
mod workloads;
mod scaling;

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use crate::crd::{
    DeletionPolicy, KafkaSpec, Mode, OrderPipeline, PullPolicy, Resources, SecretKeyRef, ServiceSpec,
};
use crate::kafka::NewTopic;
use crate::observe::Observed;

pub(crate) use fields::{quantity, quantity_text};
pub use scaling::{Scaling, Target};
pub(crate) use topics::{dead_letter_name, is_known};

/// Something in the spec that the operator will not act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field.
    pub field: String,
    /// What is wrong with it and how to mend it.
    pub message: String,
    /// CamelCase reason for the conditions.
    pub reason: Reason,
}

/// Kinds of [`Problem`], as reasons of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The value is wrong by itself.
    InvalidSpec,
    /// A topic that was there before may not or can't be taken.
    TopicRefused,
    /// The topic is not as declared, and can't be made so.
    TopicMismatch,
    /// A topic belongs to another pipeline.
    TopicConflict,
    /// A consumer group belongs to another pipeline.
    GroupConflict,
    /// Another object has the name.
    NameTaken,
}

impl Reason {
    /// Reasons that speak of another pipeline's.
    pub(crate) const CONFLICTS: [Self; 2] = [Self::TopicConflict, Self::GroupConflict];
}

impl Problem {
    fn new(reason: Reason, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into(), reason }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A pipeline that can be made so. No later step looks at the spec.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedPipeline {
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// What makes its objects its own.
    pub owner: OwnerReference,
    /// Whether nothing may be changed for now.
    pub paused: bool,
    /// Whether the changes are only to be written down.
    pub plan_only: bool,
    /// Topics to have, the main one first.
    pub topics: Vec<NewTopic>,
    /// How pods reach Kafka.
    pub kafka: KafkaSpec,
    /// Deployments to have, the order service's first.
    pub workloads: Vec<Workload>,
}

/// One Deployment and what belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Which part of the pipeline it is.
    pub part: Part,
    /// Pods.
    pub replicas: i32,
    /// By which rule the number of pods is judged, and set; the spec's number holds when `None`.
    pub scaling: Option<Scaling>,
    /// Who else sets the number of pods, if anybody does.
    pub scaled_by: Option<String>,
    /// Image.
    pub image: String,
    /// Command; the image's own when `None`.
    pub command: Option<Vec<String>>,
    /// When the image is pulled.
    pub pull_policy: PullPolicy,
    /// Requests and limits.
    pub resources: Resources,
    /// Environment, the operator's own settings first.
    pub env: Vec<(String, EnvValue)>,
    /// Further labels of the pods.
    pub pod_labels: BTreeMap<String, String>,
    /// Further annotations of the pods.
    pub pod_annotations: BTreeMap<String, String>,
    /// The Service in front of it.
    pub service: Option<ServiceSpec>,
}

/// Parts of a pipeline that can be ready, wait or fail by themselves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// A topic.
    Topic(String),
    /// The order service.
    OrderService,
    /// A consumer group.
    Group(String),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(name) => write!(f, "topic {name}"),
            Self::OrderService => f.write_str("order service"),
            Self::Group(name) => write!(f, "group {name}"),
        }
    }
}

/// Where a container gets the value of an environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvValue {
    /// From the manifest.
    Literal(String),
    /// From a Secret.
    Secret(SecretKeyRef),
    /// The pod's own name.
    PodName,
}

impl ValidatedPipeline {
    /// Whether the operator may make the changes it plans.
    #[must_use]
    pub const fn may_change(&self) -> bool {
        !self.paused && !self.plan_only
    }
}

impl Workload {
    /// Secret keys without which its pods can't start.
    #[must_use]
    pub fn secrets(&self, kafka: &KafkaSpec) -> Vec<SecretKeyRef> {
        let env = self.env.iter().filter_map(|(_, value)| match value {
            EnvValue::Secret(reference) => Some(reference.clone()),
            EnvValue::Literal(_) | EnvValue::PodName => None,
        });
        let authority = kafka.tls.iter().filter_map(|tls| tls.ca_secret_ref.clone());
        env.chain(authority).collect()
    }
}

/// Turns the spec into what can be made so.
///
/// # Errors
/// Every problem there is, in the order of the spec.
pub fn validate(
    pipeline: &OrderPipeline,
    observed: &Observed,
    default_image: &str,
) -> Result<ValidatedPipeline, Vec<Problem>> {
    let mut problems = fields::problems(pipeline);
    let topics = topics::intents(pipeline);
    problems.extend(conflicts::problems(pipeline, &topics, observed));
    problems.extend(topics::problems(pipeline, &topics, observed));
    problems.extend(workloads::name_problems(pipeline, observed));
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(ValidatedPipeline {
        name: pipeline.name_any(),
        uid: pipeline.uid().unwrap_or_default(),
        owner: pipeline.controller_owner_ref(&()).unwrap_or_default(),
        paused: pipeline.spec.paused,
        plan_only: pipeline.spec.mode == Mode::Plan,
        workloads: workloads::intents(pipeline, &topics, observed, default_image),
        topics,
        kafka: pipeline.spec.kafka.clone(),
    })
}

/// Whether topics that the operator created may be deleted with the pipeline. One under which nothing may be changed leaves
/// its topics behind, whatever the policy.
#[must_use]
pub fn deletes_topics(pipeline: &OrderPipeline) -> bool {
    let spec = &pipeline.spec;
    spec.topic.deletion_policy != DeletionPolicy::Retain && !spec.paused && spec.mode == Mode::Apply
}

#[cfg(test)]
mod tests;
