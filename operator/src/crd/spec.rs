//! What a user declares: the pipeline as a whole, its Kafka cluster and its topic.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::env::SecretKeyRef;
use super::status::OrderPipelineStatus;
use super::workload::{ConsumerGroupSpec, OrderServiceSpec};

/// An order pipeline: one topic, the service that takes orders and publishes their events, and the consumer groups
/// that deliver the events.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "orderflow.dev",
    version = "v1alpha1",
    kind = "OrderPipeline",
    shortname = "opl",
    category = "orderflow",
    namespaced,
    status = "OrderPipelineStatus",
    derive = "PartialEq",
    doc = "An order pipeline: one topic, the service that takes orders, and the consumer groups that deliver their events.",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Topic", type_ = "string", json_path = ".status.topic.name"),
    printcolumn(name = "Partitions", type_ = "integer", json_path = ".status.topic.partitions"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.orderService.readyReplicas", description = "Ready pods of the order service"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", priority = "1", json_path = r#".status.conditions[?(@.type=="Ready")].message"#),
    validation = Rule::new("!has(self.spec.consumerGroups) || self.spec.consumerGroups.all(g, self.metadata.name.size() + g.name.size() <= 62)")
        .message("spec.consumerGroups: metadata.name and a group's name make the Deployment's name and have at most 62 characters together"),
    validation = Rule::new("(has(self.spec.topic.name) ? self.spec.topic.name : self.metadata.name) == (has(oldSelf.spec.topic.name) ? oldSelf.spec.topic.name : oldSelf.metadata.name)")
        .message("spec.topic.name is immutable: make a new OrderPipeline for another topic"),
    validation = Rule::new("self.spec.topic.partitions >= oldSelf.spec.topic.partitions || (has(self.status) && has(self.status.topic) && has(self.status.topic.partitions) && self.spec.topic.partitions >= self.status.topic.partitions)")
        .message("spec.topic.partitions never shrinks: Kafka can't remove partitions"),
)]
#[serde(rename_all = "camelCase")]
pub struct OrderPipelineSpec {
    /// `Apply` makes the pipeline so; `Plan` only writes the changes to `status.plan`, checked by Kafka, and makes none.
    #[serde(default)]
    pub mode: Mode,
    /// Keep watching and reporting, but change nothing.
    #[serde(default)]
    pub paused: bool,
    /// How to reach Kafka.
    pub kafka: KafkaSpec,
    /// The topic of the order events.
    #[serde(default)]
    pub topic: TopicSpec,
    /// The service that takes orders; leave out to own just the topic and the groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_service: Option<OrderServiceSpec>,
    /// Consumer groups, each with a sink.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub consumer_groups: Vec<ConsumerGroupSpec>,
}

/// What the operator does with a difference.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Make it so.
    #[default]
    Apply,
    /// Only say what would change.
    Plan,
}

/// How to reach a Kafka cluster.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KafkaSpec {
    /// `host:port[,host:port…]`; the names must resolve from this namespace's pods and from the operator's.
    #[schemars(
        length(min = 3, max = 1024),
        regex(pattern = r"^[^\s,:]+:[0-9]{1,5}(,[^\s,:]+:[0-9]{1,5})*$")
    )]
    pub bootstrap_servers: String,
    /// Speak TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
    /// Authenticate by SASL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<SaslSpec>,
}

/// TLS towards Kafka.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TlsSpec {
    /// Certificate authorities to trust (PEM) instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
}

/// SASL towards Kafka.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SaslSpec {
    /// Mechanism.
    pub mechanism: SaslMechanism,
    /// User name.
    pub username_secret_ref: SecretKeyRef,
    /// Password.
    pub password_secret_ref: SecretKeyRef,
}

/// SASL mechanisms that every program of the pipeline speaks.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaslMechanism {
    /// User name and password in the clear; use it with TLS.
    #[serde(rename = "PLAIN")]
    Plain,
    /// Salted challenge, SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// Salted challenge, SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl SaslMechanism {
    /// The mechanism's name as Kafka spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// The topic of a pipeline.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TopicSpec {
    /// Name in Kafka; `metadata.name` when left out. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 180), regex(pattern = r"^[a-zA-Z0-9_-][a-zA-Z0-9._-]*$"))]
    pub name: Option<String>,
    /// Number of partitions; never shrinks.
    #[serde(default = "default_partitions")]
    #[schemars(range(min = 1, max = 10000))]
    pub partitions: i32,
    /// Copies of each partition; the broker's default when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub replication_factor: Option<i32>,
    /// Topic configuration. Only the listed keys are owned; a key that is removed returns to the broker's default.
    #[serde(default)]
    #[schemars(schema_with = "topic_config")]
    pub config: BTreeMap<String, String>,
    /// What to do with a topic that was there before.
    #[serde(default)]
    pub adoption: AdoptionPolicy,
    /// What becomes of the topic when the pipeline is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// How partitions are added.
    #[serde(default)]
    pub growth_policy: GrowthPolicy,
}

impl Default for TopicSpec {
    fn default() -> Self {
        Self {
            name: None,
            partitions: default_partitions(),
            replication_factor: None,
            config: BTreeMap::new(),
            adoption: AdoptionPolicy::default(),
            deletion_policy: DeletionPolicy::default(),
            growth_policy: GrowthPolicy::default(),
        }
    }
}

const fn default_partitions() -> i32 {
    3
}

/// Schema of a topic configuration: bounded, because the API server keeps it in etcd.
pub(super) fn topic_config(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": {"type": "string", "maxLength": 1024},
        "maxProperties": 64,
    })
}

/// What to do with a topic that existed before the pipeline.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdoptionPolicy {
    /// Take it and give the listed configuration keys their values. Partitions and replication factor must agree.
    Adopt,
    /// Take it when partitions, replication factor and every listed configuration key agree.
    #[default]
    AdoptIfIdentical,
    /// Leave it alone and say so.
    Refuse,
}

/// What becomes of topics that the operator created when the pipeline is deleted. Others are never deleted.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// Keep them.
    #[default]
    Retain,
    /// Delete them once every group has consumed everything and no dead letter is left; leave them when that takes too long.
    DeleteIfDrained,
    /// Delete them.
    Delete,
}

/// How partitions are added to a topic with keyed records.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GrowthPolicy {
    /// So that no two events of one order are ever reordered: publishing rests for a moment until every group has read
    /// everything, orders go on.
    #[default]
    OrderSafe,
    /// At once: events of an order may come out of order while the old partitions still hold some of it.
    Immediate,
    /// Refuse.
    Never,
}
