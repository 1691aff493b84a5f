//! In place of step 4 where nothing is to be changed: asks Kafka whether it would make the planned changes. Changes nothing.

use std::sync::Arc;

use rdkafka::error::RDKafkaErrorCode;

use crate::crd::OrderPipeline;
use crate::kafka::{self, Admin, Handles, Severity};
use crate::observe::{Observed, topic_name};
use crate::plan::{Change, Plan, Setback};
use crate::validate::{Part, dead_letter_name};

/// A planned change that Kafka would not make, or did not speak to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// The part it belongs to.
    pub part: Part,
    /// Path of the field that is to blame.
    pub field: String,
    /// Whether asking again soon can help.
    pub severity: Severity,
    /// What was asked, and Kafka's own words.
    pub message: String,
}

impl From<Objection> for Setback {
    fn from(objection: Objection) -> Self {
        let Objection { part, field, severity, message } = objection;
        Self { part, severity, message: format!("{field}: {message}") }
    }
}

/// What Kafka has against the topics of `plan`, each asked about by itself (`validate_only`).
pub async fn check(
    handles: &Handles,
    pipeline: &OrderPipeline,
    observed: &Observed,
    plan: &Plan,
) -> Vec<Objection> {
    // Without a connection no change of a topic is planned.
    let Some(connection) = &observed.connection else { return Vec::new() };
    let mut objections = Vec::new();
    for change in &plan.changes {
        if let Err(error) = ask(handles.get(connection), observed, change).await {
            objections.push(objection(pipeline, change, &error));
        }
    }
    objections
}

async fn ask(
    admin: Result<Arc<Admin>, kafka::Error>,
    observed: &Observed,
    change: &Change,
) -> Result<(), kafka::Error> {
    match change {
        Change::CreateTopic { topic, .. } => match admin?.check(topic).await {
            // An earlier attempt of ours got through unanswered: what is not shown yet is there already.
            Err(error) if error.is_topic_exists() && observed.tried_to_create(&topic.name) => Ok(()),
            result => result,
        },
        Change::GrowTopic { topic, to, .. } => admin?.check_growth(topic, *to).await,
        Change::ConfigureTopic { topic, set, reset } => admin?.check_config(topic, set, reset).await,
        Change::DeleteObject { .. } | Change::ApplyObject { .. } => Ok(()),
    }
}

fn objection(pipeline: &OrderPipeline, change: &Change, error: &kafka::Error) -> Objection {
    let part = change.part();
    let severity = error.severity();
    let target = change.target();
    let message = match error {
        // librdkafka words a silence by where it waited just then, and a message that changes is a status to write.
        error if error.is_silence() => format!("Kafka did not answer whether it would take {target} so"),
        kafka::Error::Refused { message, code, .. } => {
            format!("Kafka would refuse {target}: {message} ({code})")
        }
        error => format!("Kafka could not be asked about {target}: {error}"),
    };
    Objection { field: field(pipeline, &part, error), part, severity, message }
}

/// Where in the spec the cause of a refusal stands.
fn field(pipeline: &OrderPipeline, part: &Part, error: &kafka::Error) -> String {
    let Part::Topic(topic) = part else { return "spec".to_owned() };
    let main = topic_name(pipeline);
    let mut groups = pipeline.spec.consumer_groups.iter();
    let group = groups.find(|group| dead_letter_name(&main, group) == *topic);
    let own = match group {
        Some(group) => format!("spec.consumerGroups[{}].deadLetter", group.name),
        None => "spec.topic".to_owned(),
    };
    let kafka::Error::Refused { code, .. } = error else { return own };
    match code {
        RDKafkaErrorCode::InvalidConfig => format!("{own}.config"),
        // Dead-letter topics take these from the main one.
        RDKafkaErrorCode::InvalidPartitions => "spec.topic.partitions".to_owned(),
        RDKafkaErrorCode::InvalidReplicationFactor => "spec.topic.replicationFactor".to_owned(),
        _ => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{nothing, pipeline_with, valid};
    use crate::plan::plan;

    /// The objection to the creation of the topic at `index`, the main one being the first.
    fn refused(index: usize, code: RDKafkaErrorCode, message: &str) -> Objection {
        let pipeline = pipeline_with("consumerGroups: [{name: a, sink: {http: {url: \"http://sink/\"}}}]");
        let observed = nothing(&pipeline);
        let planned = plan(&valid(&pipeline, &observed), &observed);
        let error = kafka::Error::Refused { action: "create topic".into(), message: message.into(), code };
        objection(&pipeline, &planned.changes[index], &error)
    }

    #[test]
    fn an_objection_names_the_field_and_has_kafka_s_words() {
        let objection = refused(0, RDKafkaErrorCode::InvalidConfig, "Unknown topic config name: no.such.key");
        assert_eq!(objection.severity, Severity::Permanent);
        let setback = Setback::from(objection);
        let says =
            "spec.topic.config: Kafka would refuse topic orders: Unknown topic config name: no.such.key (";
        assert!(setback.message.starts_with(says), "{}", setback.message);
    }

    #[test]
    fn a_dead_letter_topic_s_configuration_is_its_group_s_and_its_copies_are_the_topic_s() {
        let config = refused(1, RDKafkaErrorCode::InvalidConfig, "no");
        assert_eq!(config.field, "spec.consumerGroups[a].deadLetter.config");
        let copies = refused(1, RDKafkaErrorCode::InvalidReplicationFactor, "no");
        assert_eq!(copies.field, "spec.topic.replicationFactor");
    }

    #[test]
    fn an_objection_to_growth_is_about_the_number_of_partitions() {
        let pipeline = pipeline_with("topic: {partitions: 6}");
        let grow = Change::GrowTopic { topic: "orders".into(), from: 3, to: 6 };
        let code = RDKafkaErrorCode::InvalidPartitions;
        let error = kafka::Error::Refused { action: "grow topic".into(), message: "no".into(), code };
        let objection = objection(&pipeline, &grow, &error);
        assert_eq!(objection.field, "spec.topic.partitions");
        assert!(objection.message.starts_with("Kafka would refuse topic orders: no ("), "{objection:?}");
    }

    #[test]
    fn a_silence_is_always_told_in_the_same_words_and_asked_about_again() {
        let one = refused(0, RDKafkaErrorCode::OperationTimedOut, "timed out in broker state CONNECT");
        let other = refused(0, RDKafkaErrorCode::OperationTimedOut, "timed out in queue");
        assert_eq!(one, other);
        assert_eq!(one.severity, Severity::Transient);
    }
}
