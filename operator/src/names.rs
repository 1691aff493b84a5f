//! Names and labels of what the operator makes. Others rely on them: they change only with the API's version.

use std::collections::BTreeMap;

/// Field manager of every write, and reporter of every Event.
pub const MANAGER: &str = "orderflow-operator";

/// Finalizer of a pipeline.
pub const FINALIZER: &str = "orderflow.dev/finalizer";

/// Label that holds the pipeline's name.
pub const PIPELINE_LABEL: &str = "orderflow.dev/pipeline";

/// Label that holds the consumer group's name.
pub const GROUP_LABEL: &str = "orderflow.dev/group";

/// Annotation with the hash of what was last applied: finds what left the intent, which no comparison with the live
/// object can.
pub const INTENT_ANNOTATION: &str = "orderflow.dev/intent";

/// Annotation of a pod with the hash of the Secret values it was started with: pods restart when one changes.
pub const SECRETS_ANNOTATION: &str = "orderflow.dev/secrets";

/// Prefix that labels and annotations of a user may not have.
pub const RESERVED_PREFIX: &str = "orderflow.dev/";

/// Labels that a user may not set, beyond [`RESERVED_PREFIX`].
pub const RESERVED_LABELS: [&str; 4] = [
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/part-of",
    "app.kubernetes.io/managed-by",
];

/// Name of the order service's Deployment, Service and PodDisruptionBudget.
#[must_use]
pub fn order_service(pipeline: &str) -> String {
    format!("{pipeline}-order-service")
}

/// Name of the Service in front of the order service's admin port.
#[must_use]
pub fn order_service_admin(pipeline: &str) -> String {
    format!("{pipeline}-order-service-admin")
}

/// Name of a consumer group's Deployment and PodDisruptionBudget.
#[must_use]
pub fn group(pipeline: &str, group: &str) -> String {
    format!("{pipeline}-{group}")
}

/// Name of a group's dead-letter topic when the spec gives none.
#[must_use]
pub fn dead_letter_topic(topic: &str, group: &str) -> String {
    format!("{topic}.{group}.dlt")
}

/// Labels of everything that belongs to one workload of a pipeline; they also select its pods.
#[must_use]
pub fn labels(pipeline: &str, program: &str, group: Option<&str>) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = [
        ("app.kubernetes.io/name", program),
        ("app.kubernetes.io/instance", pipeline),
        ("app.kubernetes.io/part-of", "orderflow"),
        ("app.kubernetes.io/managed-by", MANAGER),
        (PIPELINE_LABEL, pipeline),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    if let Some(group) = group {
        labels.insert(GROUP_LABEL.to_owned(), group.to_owned());
    }
    labels
}
