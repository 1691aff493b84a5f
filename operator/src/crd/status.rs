//! What the operator reports. Nothing here changes on every pass: fast-moving figures are metrics.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// State of a pipeline as the operator last saw it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OrderPipelineStatus {
    /// The `metadata.generation` this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Changes that wait, in order: what `mode: Plan` only shows, or a pause holds back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub plan: Vec<String>,
    /// The topic of the order events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<TopicStatus>,
    /// Dead-letter topics, including those of groups that were removed since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub dead_letter_topics: Vec<TopicStatus>,
    /// The order service's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_service: Option<OrderServiceStatus>,
    /// Each consumer group's pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub consumer_groups: Vec<ConsumerGroupStatus>,
    /// Ready, Reconciling, Stalled, TopicReady, OrderServiceReady, ConsumersReady, WithinTarget, ScalingActive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

/// A topic as the operator knows it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TopicStatus {
    /// Name in Kafka.
    pub name: String,
    /// Kafka's topic id. Absent while a creation is under way: the intention is recorded before the request, so that
    /// a crash between the two can't turn our own topic into a foreign one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Partitions it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// Whether this pipeline created it. Others' topics are never deleted.
    pub created_by_us: bool,
    /// Configuration keys that are owned: these are reset when they leave the spec.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub owned_configs: BTreeSet<String>,
}

/// Pods of the order service.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OrderServiceStatus {
    /// Pods there should be.
    pub replicas: i32,
    /// Pods that are ready.
    pub ready_replicas: i32,
    /// What scaling decided; absent without `autoscaling`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Pods of a consumer group.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerGroupStatus {
    /// Name of the group.
    pub name: String,
    /// Pods there are.
    pub replicas: i32,
    /// Pods that are ready.
    pub ready_replicas: i32,
    /// Pods there should be.
    pub desired_replicas: i32,
    /// What scaling decided; absent without `autoscaling`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
