//! Step 1, observe: what is there now. Reads only.

mod secrets;
mod owned;
mod objects;
mod scaling;

use std::collections::{BTreeMap, BTreeSet};

use kube::{Client, ResourceExt};
use runtime::kafka::KafkaConnection;

use crate::crd::{OrderPipeline, SecretKeyRef, TopicStatus};
use crate::kafka::{Handles, ObservedTopic, Severity};
use crate::names;
use crate::owners::Conflict;
use crate::scaler::Roster;

pub use objects::{LiveObject, ObjectKey, ObjectKind, observe as objects};
pub use owned::{Owned, Watched};
pub use scaling::{ScalingView, Standing};
pub use secrets::{SecretState, connection};

/// Reason of what waits for a Secret.
pub const SECRET_MISSING: &str = "SecretMissing";

/// Everything the later steps look at. None of them reads anything else.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// How Kafka is reached; `None` while a Secret for that is missing.
    pub connection: Option<KafkaConnection>,
    /// The topics of the pipeline, or why they can't be seen.
    pub kafka: KafkaView,
    /// Every Secret key that the spec refers to.
    pub secrets: BTreeMap<SecretKeyRef, SecretState>,
    /// Objects of this pipeline, and strangers that have a name the pipeline needs.
    pub objects: BTreeMap<ObjectKey, LiveObject>,
    /// Topics as the status recorded them, by name.
    pub records: BTreeMap<String, TopicStatus>,
    /// What the spec names and another pipeline owns.
    pub conflicts: Vec<Conflict>,
    /// What was decided about numbers of pods, and who else decides.
    pub scaling: ScalingView,
}

impl Observed {
    /// Whether an earlier attempt to create the topic was written down, and what became of it is not known.
    #[must_use]
    pub fn tried_to_create(&self, topic: &str) -> bool {
        self.records.get(topic).is_some_and(|record| record.id.is_none())
    }
}

/// What could be seen of Kafka.
#[derive(Clone, Debug, PartialEq)]
pub enum KafkaView {
    /// Those of the pipeline's topics that exist.
    Topics(BTreeMap<String, ObservedTopic>),
    /// Nothing.
    Unavailable {
        /// CamelCase reason for the conditions.
        reason: &'static str,
        /// What a person should know.
        message: String,
        /// Whether it may mend itself.
        severity: Severity,
    },
}

/// Why observing failed altogether.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not answer a read.
    #[error("failed to read {what}")]
    Read {
        /// What was read.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
}

/// Looks at everything the pipeline is about, but for its owners. Where `recent` knows the topics on a cluster, Kafka is not asked again.
///
/// # Errors
/// When the API server does not answer. Kafka's absence is not an error but an observation.
pub async fn observe(
    client: &Client,
    kafka: &Handles,
    owned: &Owned,
    roster: &Roster,
    pipeline: &OrderPipeline,
    recent: impl Fn(&KafkaConnection, &BTreeSet<String>) -> Option<BTreeMap<String, ObservedTopic>>,
) -> Result<Observed, Error> {
    let namespace = pipeline.namespace().unwrap_or_default();
    let secrets = secrets::observe(client, &namespace, &secret_refs(pipeline)).await?;
    let mut objects = objects::observe(client, owned, &namespace, pipeline).await?;
    let scaling = scaling::observe(client, roster, &namespace, pipeline, &mut objects).await?;
    let records = records(pipeline);
    let topics = topic_names(pipeline).into_iter().chain(records.keys().cloned()).collect();
    let connection = secrets::connect(&pipeline.spec.kafka, &secrets);
    let recent = connection.as_ref().ok().and_then(|connection| recent(connection, &topics));
    let kafka = match recent {
        Some(topics) => KafkaView::Topics(topics),
        None => observe_kafka(kafka, connection.as_ref(), &topics).await,
    };
    let secrets = secrets.into_iter().map(|(key, seen)| (key, seen.state)).collect();
    let conflicts = Vec::new();
    Ok(Observed { connection: connection.ok(), kafka, secrets, objects, records, conflicts, scaling })
}

/// Topics that the spec names, whether or not the spec is valid.
#[must_use]
pub fn topic_names(pipeline: &OrderPipeline) -> BTreeSet<String> {
    let main = topic_name(pipeline);
    let dead_letters = pipeline.spec.consumer_groups.iter().map(|group| {
        group.dead_letter.topic.clone().unwrap_or_else(|| names::dead_letter_topic(&main, &group.name))
    });
    dead_letters.chain([main.clone()]).collect()
}

/// Name of the pipeline's main topic.
#[must_use]
pub fn topic_name(pipeline: &OrderPipeline) -> String {
    pipeline.spec.topic.name.clone().unwrap_or_else(|| pipeline.name_any())
}

/// Topics that the status recorded.
#[must_use]
pub fn records(pipeline: &OrderPipeline) -> BTreeMap<String, TopicStatus> {
    let status = pipeline.status.iter();
    status
        .flat_map(|status| status.topic.iter().chain(&status.dead_letter_topics))
        .map(|topic| (topic.name.clone(), topic.clone()))
        .collect()
}

async fn observe_kafka(
    handles: &Handles,
    connection: Result<&KafkaConnection, &String>,
    topics: &BTreeSet<String>,
) -> KafkaView {
    let connection = match connection {
        Ok(connection) => connection,
        Err(message) => {
            let message = message.clone();
            return KafkaView::Unavailable { reason: SECRET_MISSING, message, severity: Severity::Transient };
        }
    };
    let described = match handles.get(connection) {
        Ok(admin) => admin.describe(topics).await,
        Err(error) => Err(error),
    };
    match described {
        Ok(topics) => KafkaView::Topics(topics),
        Err(error) => {
            let severity = error.severity();
            let reason = if severity == Severity::Transient { "KafkaUnreachable" } else { "KafkaRefused" };
            let servers = &connection.bootstrap_servers;
            let message = if error.is_silence() {
                // librdkafka words a silence by where it waited just then. A condition whose message changed with it would be
                // written anew at every look, for as long as Kafka is away.
                tracing::debug!(servers, %error, "no broker answers");
                handles.forget(connection);
                format!(
                    "Kafka at {servers}: no broker answers; check bootstrapServers and the network between"
                )
            } else {
                format!("Kafka at {servers}: {error}")
            };
            KafkaView::Unavailable { reason, message, severity }
        }
    }
}

/// Every Secret key that the spec refers to.
pub(crate) fn secret_refs(pipeline: &OrderPipeline) -> BTreeSet<SecretKeyRef> {
    let spec = &pipeline.spec;
    let tls = spec.kafka.tls.iter().filter_map(|tls| tls.ca_secret_ref.as_ref());
    let sasl = spec.kafka.sasl.iter().flat_map(|sasl| [&sasl.username_secret_ref, &sasl.password_secret_ref]);
    let service = spec.order_service.iter().flat_map(|service| {
        service.env.iter().filter_map(|env| env.secret_ref.as_ref()).chain([&service.database.secret_ref])
    });
    let groups = spec.consumer_groups.iter().flat_map(|group| {
        let sink = group.sink.postgres.iter().map(|postgres| &postgres.secret_ref);
        group.env.iter().filter_map(|env| env.secret_ref.as_ref()).chain(sink)
    });
    tls.chain(sasl).chain(service).chain(groups).cloned().collect()
}
