//! What a user declares: the order service and the consumer groups.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::autoscaling::{GroupAutoscaling, OrderServiceAutoscaling};
use super::env::{EnvSetting, SecretKeyRef};

/// The service that takes orders over HTTP and publishes their events.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.replicas) && has(self.autoscaling))")
    .message("set replicas or autoscaling, not both"))]
pub struct OrderServiceSpec {
    /// The PostgreSQL database of the orders and the outbox.
    pub database: DatabaseSpec,
    /// Pods; 1 when neither this nor `autoscaling` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
    /// Scaling by how long orders wait for their transaction, instead of `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<OrderServiceAutoscaling>,
    /// The Service in front of the order API.
    #[serde(default)]
    pub service: ServiceSpec,
    /// Container image; the operator's own release when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// When the kubelet pulls the image.
    #[serde(default)]
    pub image_pull_policy: PullPolicy,
    /// Requests and limits of the container.
    #[serde(default)]
    pub resources: Resources,
    /// Further environment variables.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub env: Vec<EnvSetting>,
    /// Further labels of the pods.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 32))]
    pub pod_labels: BTreeMap<String, String>,
    /// Further annotations of the pods.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 32))]
    pub pod_annotations: BTreeMap<String, String>,
}

/// Where a database URL is found.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseSpec {
    /// Secret with the connection URL (`postgres://user:password@host:5432/database`).
    pub secret_ref: SecretKeyRef,
}

/// The Service in front of the order API.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.nodePort) || self.type != 'ClusterIP'")
    .message("nodePort needs type NodePort or LoadBalancer"))]
pub struct ServiceSpec {
    /// Kind of Service.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,
    /// Port on every node; the cluster chooses one when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<i32>,
    /// Annotations of the Service, for load balancers that read them.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
}

/// Kinds of Service.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    /// Reachable inside the cluster.
    #[default]
    ClusterIP,
    /// A port on every node.
    NodePort,
    /// A load balancer of the cloud.
    LoadBalancer,
}

/// When the kubelet pulls an image.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Every time a pod starts.
    Always,
    /// Where the node lacks it.
    #[default]
    IfNotPresent,
    /// Never: the node has it.
    Never,
}

/// Requests and limits of a container, as Kubernetes quantities.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What the scheduler sets aside.
    #[serde(default = "default_requests")]
    #[schemars(extend("maxProperties" = 16))]
    pub requests: BTreeMap<String, IntOrString>,
    /// What the container may not exceed.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 16))]
    pub limits: BTreeMap<String, IntOrString>,
}

impl Default for Resources {
    fn default() -> Self {
        Self { requests: default_requests(), limits: BTreeMap::new() }
    }
}

/// Enough to start on a busy node; a pod without requests is the first to be evicted.
fn default_requests() -> BTreeMap<String, IntOrString> {
    [("cpu", "50m"), ("memory", "64Mi")]
        .map(|(name, quantity)| (name.to_owned(), IntOrString::String(quantity.to_owned())))
        .into()
}

/// One consumer group: a Deployment that delivers every event to one sink.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.replicas) && has(self.autoscaling))")
    .message("set replicas or autoscaling, not both"))]
#[x_kube(validation = Rule::new("self.name != 'order-service'")
    .message("the name order-service is taken by the order service's own Deployment"))]
#[x_kube(validation = Rule::new("!has(self.command) || has(self.image)")
    .message("command goes with an image of your own: set image too"))]
pub struct ConsumerGroupSpec {
    /// Name of the group in Kafka, and part of its Deployment's name.
    #[schemars(length(min = 1, max = 50), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// What happens to an event around a crash.
    #[serde(default)]
    pub delivery: Delivery,
    /// Where a group without committed offsets starts.
    #[serde(default)]
    pub start_from: StartFrom,
    /// Where the events go.
    pub sink: Sink,
    /// How a failed delivery is tried again.
    #[serde(default)]
    pub retry: RetrySpec,
    /// Where events go that can't be delivered.
    #[serde(default)]
    pub dead_letter: DeadLetterSpec,
    /// Pods; 1 when neither this nor `autoscaling` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
    /// Scaling by the age of undelivered events, instead of `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<GroupAutoscaling>,
    /// Image of a consumer of your own, which gets the same environment and serves `/livez` and `/readyz` on port
    /// 9090; the operator's own release when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Command of that image; its own entry point when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), inner(length(max = 1024)))]
    pub command: Option<Vec<String>>,
    /// When the kubelet pulls the image.
    #[serde(default)]
    pub image_pull_policy: PullPolicy,
    /// Requests and limits of the container.
    #[serde(default)]
    pub resources: Resources,
    /// Further environment variables.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub env: Vec<EnvSetting>,
    /// Further labels of the pods.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 32))]
    pub pod_labels: BTreeMap<String, String>,
    /// Further annotations of the pods.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 32))]
    pub pod_annotations: BTreeMap<String, String>,
}

/// The guarantee of a group.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// Commit, then deliver: a crash may lose events, never repeat them.
    AtMostOnce,
    /// Deliver, then commit: a crash may repeat events, never lose them.
    #[default]
    AtLeastOnce,
    /// The sink applies events and moves the group's place in one transaction: nothing is lost or repeated. PostgreSQL does; an HTTP
    /// sink must keep the contract of docs/sinks.md.
    ExactlyOnce,
}

impl Delivery {
    /// The value of the consumer's `DELIVERY`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AtMostOnce => "AtMostOnce",
            Self::AtLeastOnce => "AtLeastOnce",
            Self::ExactlyOnce => "ExactlyOnce",
        }
    }
}

/// Where a group without committed offsets starts.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartFrom {
    /// The oldest record that is kept.
    #[default]
    Earliest,
    /// Records from now on.
    Latest,
}

impl StartFrom {
    /// The value of the consumer's `START_FROM`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Earliest => "Earliest",
            Self::Latest => "Latest",
        }
    }
}

/// Where events go: exactly one of the fields.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.postgres) != has(self.http)").message("set exactly one of postgres and http"))]
pub struct Sink {
    /// Rows of a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresSink>,
    /// Requests to a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSink>,
}

/// Rows of the table `order_events`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PostgresSink {
    /// Secret with the connection URL.
    pub secret_ref: SecretKeyRef,
}

/// One POST per event.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HttpSink {
    /// Where to POST.
    #[schemars(length(min = 8, max = 2048), regex(pattern = r"^https?://[^\s/]+\S*$"))]
    pub url: String,
    /// Longest wait for an answer, in seconds.
    #[serde(default = "default_http_timeout")]
    #[schemars(range(min = 1, max = 300))]
    pub timeout_seconds: i32,
}

const fn default_http_timeout() -> i32 {
    10
}

/// How a failed delivery is tried again.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RetrySpec {
    /// Attempts before the event goes to the dead-letter topic.
    #[serde(default = "default_max_attempts")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_attempts: i32,
    /// Wait after the first failure, in milliseconds; it doubles each time.
    #[serde(default = "default_initial_backoff")]
    #[schemars(range(min = 1, max = 60000))]
    pub initial_backoff_millis: i32,
    /// Longest wait between attempts, in seconds.
    #[serde(default = "default_max_backoff")]
    #[schemars(range(min = 1, max = 3600))]
    pub max_backoff_seconds: i32,
}

impl Default for RetrySpec {
    fn default() -> Self {
        Self {
            max_attempts: default_max_attempts(),
            initial_backoff_millis: default_initial_backoff(),
            max_backoff_seconds: default_max_backoff(),
        }
    }
}

const fn default_max_attempts() -> i32 {
    8
}

const fn default_initial_backoff() -> i32 {
    100
}

const fn default_max_backoff() -> i32 {
    30
}

/// Where events go that can't be delivered. The topic is created and owned like the main one.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterSpec {
    /// Name in Kafka; `<topic>.<group>.dlt` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249), regex(pattern = r"^[a-zA-Z0-9_-][a-zA-Z0-9._-]*$"))]
    pub topic: Option<String>,
    /// Topic configuration, owned key by key like the main topic's.
    #[serde(default)]
    #[schemars(schema_with = "super::spec::topic_config")]
    pub config: BTreeMap<String, String>,
}
