//! What unit tests start from: pipelines that pass through the production parser, and observations to go with them.

use std::collections::BTreeMap;

use serde_json::json;

use crate::crd::{OrderPipeline, SecretKeyRef, TopicStatus};
use crate::kafka::{NewTopic, ObservedTopic};
use crate::observe::{KafkaView, LiveObject, Observed, SecretState};
use crate::plan::{Change, remember};
use crate::validate::{ValidatedPipeline, validate};

pub(crate) const IMAGE: &str = "orderflow/orderflow:test";
pub(crate) const UID: &str = "5d6f6f0c-0000-4000-8000-000000000001";

/// The committed example of this name.
pub(crate) fn example(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/examples").join(name);
    std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("failed to read {}: {error}", path.display()))
}

/// A pipeline as the API server would hand it over.
pub(crate) fn pipeline(yaml: &str) -> OrderPipeline {
    let mut pipeline: OrderPipeline = serde_yaml::from_str(yaml).expect("fixtures parse");
    pipeline.metadata.uid = Some(UID.to_owned());
    pipeline.metadata.namespace.get_or_insert_with(|| "shop".to_owned());
    pipeline.metadata.generation = Some(1);
    pipeline
}

/// A pipeline whose spec has `fields` (YAML in flow style) beside the least.
pub(crate) fn pipeline_with(fields: &str) -> OrderPipeline {
    let kafka = if fields.contains("kafka:") { "" } else { "kafka: {bootstrapServers: \"kafka:9092\"}, " };
    pipeline(&format!(
        "{{apiVersion: orderflow.dev/v1alpha1, kind: OrderPipeline, metadata: {{name: orders}}, \
         spec: {{{kafka}{fields}}}}}"
    ))
}

/// Nothing is there but the Secrets.
pub(crate) fn nothing(pipeline: &OrderPipeline) -> Observed {
    Observed {
        connection: None,
        kafka: KafkaView::Topics(BTreeMap::new()),
        secrets: secrets(pipeline),
        objects: BTreeMap::new(),
        records: BTreeMap::new(),
        conflicts: Vec::new(),
    }
}

/// Every Secret that the pipeline needs.
pub(crate) fn secrets(pipeline: &OrderPipeline) -> BTreeMap<SecretKeyRef, SecretState> {
    let references = crate::observe::secret_refs(pipeline);
    references.into_iter().map(|reference| (reference, SecretState::Present { hash: "00".into() })).collect()
}

pub(crate) fn valid(pipeline: &OrderPipeline, observed: &Observed) -> ValidatedPipeline {
    validate(pipeline, observed, IMAGE).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// A topic as the broker would show it after its creation.
pub(crate) fn topic(new: &NewTopic, id: &str) -> ObservedTopic {
    let mut config = BTreeMap::from([
        ("cleanup.policy".to_owned(), "delete".to_owned()),
        ("retention.ms".to_owned(), "604800000".to_owned()),
    ]);
    config.extend(new.config.clone());
    ObservedTopic {
        id: id.to_owned(),
        partitions: new.partitions,
        replication_factor: new.replication_factor.unwrap_or(1),
        config,
    }
}

pub(crate) fn record(name: &str, id: Option<&str>, created_by_us: bool, owned: &[&str]) -> TopicStatus {
    TopicStatus {
        name: name.to_owned(),
        id: id.map(str::to_owned),
        partitions: None,
        created_by_us,
        owned_configs: owned.iter().map(|key| (*key).to_owned()).collect(),
    }
}

/// The world after `changes`, as Kafka and the API server would show it.
pub(crate) fn after(pipeline: &ValidatedPipeline, before: &Observed, changes: &[Change]) -> Observed {
    let mut observed = before.clone();
    for change in changes {
        match (change, &mut observed.kafka) {
            (Change::CreateTopic { topic: new, .. }, KafkaView::Topics(topics)) => {
                topics.insert(new.name.clone(), topic(new, &format!("id-of-{}", new.name)));
            }
            (Change::GrowTopic { topic, to, .. }, KafkaView::Topics(topics)) => {
                topics.get_mut(topic).expect("only topics that are there grow").partitions = *to;
            }
            (Change::ConfigureTopic { topic, set, reset }, KafkaView::Topics(topics)) => {
                let topic = topics.get_mut(topic).expect("only topics that are there are configured");
                topic.config.retain(|key, _| !reset.contains(key));
                topic.config.extend(set.clone());
            }
            (Change::DeleteObject { key, .. }, _) => {
                observed.objects.remove(key);
            }
            (Change::ApplyObject { intent, .. }, _) => {
                observed.objects.insert(intent.key.clone(), live(intent.body.clone(), UID));
            }
            (change, KafkaView::Unavailable { .. }) => panic!("{change} was planned without Kafka"),
        }
    }
    observed.records = remember(pipeline, &observed, changes);
    observed
}

/// An object of whoever has `owner` for a uid.
pub(crate) fn live(mut body: serde_json::Value, owner: &str) -> LiveObject {
    body["metadata"]["generation"] = json!(1);
    LiveObject {
        uid: "object".to_owned(),
        controller: Some(owner.to_owned()),
        controller_name: Some("OrderPipeline someone".to_owned()),
        deleting: false,
        body,
    }
}
