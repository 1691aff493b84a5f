//! What a user declares of scaling: bounds and a target for the order service and for each group.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bounds and target of the order service's autoscaling.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.maxReplicas >= self.minReplicas").message("maxReplicas must be at least minReplicas"))]
pub struct OrderServiceAutoscaling {
    /// Whether the number of pods is set, or only judged.
    #[serde(default)]
    pub mode: ScalingMode,
    /// Fewest pods.
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: i32,
    /// Most pods.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// Longest wait of an order for its transaction, in milliseconds.
    #[schemars(range(min = 1, max = 60000))]
    pub target_queue_millis: i32,
}

/// Bounds and target of a group's autoscaling.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.maxReplicas >= self.minReplicas").message("maxReplicas must be at least minReplicas"))]
pub struct GroupAutoscaling {
    /// Whether the number of pods is set, or only judged.
    #[serde(default)]
    pub mode: ScalingMode,
    /// Fewest pods; with 0 the group rests while there is nothing to deliver.
    #[schemars(range(min = 0, max = 1000))]
    pub min_replicas: i32,
    /// Most pods; there are never more than partitions.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// Greatest age of an undelivered event, in seconds.
    #[schemars(range(min = 1, max = 86400))]
    pub target_age_seconds: i32,
    /// Time in which a backlog should be worked off, in seconds.
    #[schemars(range(min = 1, max = 86400))]
    pub catch_up_seconds: i32,
}

/// What becomes of a decision.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScalingMode {
    /// The operator sets the number of pods.
    #[default]
    Scale,
    /// It only says what it finds, and leaves the number of pods to whoever sets it.
    Observe,
}
