//! Step 4, apply: makes the changes, in order. A failure stops what depends on it and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::{Api, Client, ResourceExt};

use crate::crd::{OrderPipeline, TopicStatus};
use crate::kafka::{self, Admin, Handles, NewTopic, ObservedTopic, Severity};
use crate::names;
use crate::observe::{KafkaView, ObjectKey, Observed};
use crate::plan::{Change, Plan, Setback};
use crate::render::Intent;
use crate::report;
use crate::validate::Part;

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Applied {
    /// Changes that were made.
    pub done: Vec<Change>,
    /// Changes that were not.
    pub setbacks: Vec<Setback>,
    /// The records with the intentions that were written down and not withdrawn.
    pub records: BTreeMap<String, TopicStatus>,
    /// Topics that were changed, as Kafka showed them afterwards.
    pub seen: BTreeMap<String, ObservedTopic>,
}

impl Applied {
    /// Takes in how Kafka showed a topic after a change of it. If it did not, what was seen after a change before is out of date.
    fn saw(&mut self, part: Part, seen: Option<ObservedTopic>) {
        match (part, seen) {
            (Part::Topic(name), Some(topic)) => drop(self.seen.insert(name, topic)),
            (Part::Topic(name), None) => drop(self.seen.remove(&name)),
            (Part::OrderService | Part::Group(_), _) => {}
        }
    }

    /// The topics after the changes, by what Kafka showed while they were made; `None` where that does not tell.
    #[must_use]
    pub fn topics_after(&self, before: &KafkaView) -> Option<BTreeMap<String, ObservedTopic>> {
        let KafkaView::Topics(before) = before else { return None };
        // A topic that Kafka refused to change may not be what it seemed.
        if self.setbacks.iter().any(|setback| matches!(setback.part, Part::Topic(_))) {
            return None;
        }
        let mut changed = self.done.iter().filter_map(|change| match change.part() {
            Part::Topic(name) => Some(name),
            _ => None,
        });
        let all_seen = changed.all(|name| self.seen.contains_key(&name));
        let after = before.iter().chain(&self.seen).map(|(name, topic)| (name.clone(), topic.clone()));
        all_seen.then(|| after.collect())
    }
}

/// Why a single change failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
    #[error("failed to {action}: {source}")]
    Kubernetes {
        action: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("failed to change Kafka: a Secret for the connection is missing")]
    NoConnection,
}

impl Error {
    fn severity(&self) -> Severity {
        match self {
            Self::Kafka(error) => error.severity(),
            Self::Kubernetes { source, .. } => severity(source),
            Self::NoConnection => Severity::Transient,
        }
    }
}

/// Whether trying a request to the API server again soon can help.
#[must_use]
pub fn severity(error: &kube::Error) -> Severity {
    // 401 among them: a token is rotated now and then.
    const RETRIABLE: [u16; 5] = [401, 404, 408, 409, 429];
    match error {
        kube::Error::Api(status)
            if (400..500).contains(&status.code) && !RETRIABLE.contains(&status.code) =>
        {
            Severity::Permanent
        }
        _ => Severity::Transient,
    }
}

/// Makes the changes of `plan`.
///
/// # Errors
/// When the intention to create a topic can't be written down: without that, none is created.
pub async fn apply(
    client: &Client,
    kafka: &Handles,
    pipeline: &mut OrderPipeline,
    observed: &Observed,
    plan: &Plan,
) -> Result<Applied, report::Error> {
    let mut applied = Applied { records: observed.records.clone(), ..Applied::default() };
    applied.setbacks = impossible_topics(kafka, observed, plan).await;
    let mut blocked: BTreeSet<Part> = applied.setbacks.iter().map(|setback| setback.part.clone()).collect();
    let intended = intend(client, pipeline, plan, &blocked, &mut applied.records).await?;
    for change in &plan.changes {
        let part = change.part();
        // Pods need every topic; the objects of one workload need each other; workloads do not.
        let topic_failed = blocked.iter().any(|part| matches!(part, Part::Topic(_)));
        if blocked.contains(&part) || (topic_failed && matches!(change, Change::ApplyObject { .. })) {
            continue;
        }
        match make(client, kafka, pipeline, observed, change).await {
            Ok(seen) => {
                applied.done.push(change.clone());
                applied.saw(part, seen);
            }
            Err(error) => {
                if let Change::CreateTopic { topic, .. } = change {
                    withdraw(&mut applied.records, &intended, topic, &error);
                }
                let setback =
                    Setback { part: part.clone(), severity: error.severity(), message: error.to_string() };
                applied.setbacks.push(setback);
                blocked.insert(part);
            }
        }
    }
    Ok(applied)
}

fn setback(part: &Part, error: &Error) -> Setback {
    Setback { part: part.clone(), severity: error.severity(), message: error.to_string() }
}

/// Topics that Kafka would not create. Asking first keeps a claim on them from being written and taken back each time.
async fn impossible_topics(kafka: &Handles, observed: &Observed, plan: &Plan) -> Vec<Setback> {
    let mut setbacks = Vec::new();
    for change in &plan.changes {
        let Change::CreateTopic { topic, .. } = change else { continue };
        let checked = match admin(kafka, observed) {
            Ok(admin) => admin.check(topic).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        match checked {
            // An earlier attempt of ours may have got through unanswered. Else whoever says so knows more than the broker
            // that was asked before: looking again tells whose it is, and until then nothing known of it is overwritten.
            Err(Error::Kafka(error))
                if error.is_topic_exists() && tried_before(&observed.records, &topic.name) => {}
            Err(error) => setbacks.push(setback(&change.part(), &error)),
            Ok(()) => {}
        }
    }
    setbacks
}

/// Writes down which topics are about to be created; returns those for which that is new, with what was known of them.
async fn intend(
    client: &Client,
    pipeline: &mut OrderPipeline,
    plan: &Plan,
    blocked: &BTreeSet<Part>,
    records: &mut BTreeMap<String, TopicStatus>,
) -> Result<BTreeMap<String, Option<TopicStatus>>, report::Error> {
    let new: BTreeMap<String, Option<TopicStatus>> = plan
        .changes
        .iter()
        .filter(|change| !blocked.contains(&change.part()))
        .filter_map(|change| match change {
            Change::CreateTopic { topic, .. } => Some(topic.name.clone()),
            _ => None,
        })
        .filter(|name| !tried_before(records, name))
        .map(|name| {
            let known = records.get(&name).cloned();
            (name, known)
        })
        .collect();
    if new.is_empty() {
        return Ok(new);
    }
    for name in new.keys() {
        let intention = TopicStatus {
            name: name.clone(),
            id: None,
            partitions: None,
            created_by_us: true,
            owned_configs: BTreeSet::new(),
        };
        records.insert(name.clone(), intention);
    }
    report::write_records(client, pipeline, records).await?;
    Ok(new)
}

/// Takes an intention back where it is certain that the topic, if there is one, is not ours: Kafka refused to create
/// it, or it turned out to be there although we had never asked for it. What was known before is known again.
fn withdraw(
    records: &mut BTreeMap<String, TopicStatus>,
    intended: &BTreeMap<String, Option<TopicStatus>>,
    topic: &NewTopic,
    error: &Error,
) {
    let exists = matches!(error, Error::Kafka(error) if error.is_topic_exists());
    let known = intended.get(&topic.name);
    if (exists && known.is_some()) || (!exists && error.severity() == Severity::Permanent) {
        match known.cloned().flatten() {
            Some(record) => records.insert(topic.name.clone(), record),
            None => records.remove(&topic.name),
        };
    }
}

/// Whether an earlier attempt to create the topic was written down, and what became of it is not known.
fn tried_before(records: &BTreeMap<String, TopicStatus>, topic: &str) -> bool {
    records.get(topic).is_some_and(|record| record.id.is_none())
}

/// Makes a change; returns the topic as Kafka shows it with the change, if it is one of a topic and Kafka does.
async fn make(
    client: &Client,
    kafka: &Handles,
    pipeline: &OrderPipeline,
    observed: &Observed,
    change: &Change,
) -> Result<Option<ObservedTopic>, Error> {
    let namespace = pipeline.namespace().unwrap_or_default();
    match change {
        Change::CreateTopic { topic, .. } => create_topic(&*admin(kafka, observed)?, topic, observed).await,
        Change::GrowTopic { topic, to, .. } => Ok(admin(kafka, observed)?.grow(topic, *to).await?),
        Change::ConfigureTopic { topic, set, reset } => {
            let seen = admin(kafka, observed)?.alter_config(topic, set, reset).await?;
            // Whether a key was reset can't be seen: the default may be what it was set to.
            Ok(seen.filter(|_| !set.is_empty()))
        }
        Change::DeleteObject { key, uid, .. } => {
            delete_object(client, &namespace, key, uid, PropagationPolicy::Background)
                .await
                .map(|()| None)
                .map_err(|source| Error::Kubernetes { action: change.to_string(), source: Box::new(source) })
        }
        Change::ApplyObject { intent, .. } => apply_object(client, &namespace, intent)
            .await
            .map(|()| None)
            .map_err(|source| Error::Kubernetes { action: change.to_string(), source: Box::new(source) }),
    }
}

/// "It exists already" is success where an earlier attempt of ours may have got through unanswered.
async fn create_topic(
    admin: &Admin,
    topic: &NewTopic,
    observed: &Observed,
) -> Result<Option<ObservedTopic>, Error> {
    match admin.create(topic).await {
        Err(error) if error.is_topic_exists() && tried_before(&observed.records, &topic.name) => Ok(None),
        result => Ok(result?),
    }
}

fn admin(kafka: &Handles, observed: &Observed) -> Result<Arc<Admin>, Error> {
    let connection = observed.connection.as_ref().ok_or(Error::NoConnection)?;
    Ok(kafka.get(connection)?)
}

async fn apply_object(client: &Client, namespace: &str, intent: &Intent) -> Result<(), kube::Error> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), namespace, &intent.key.kind.resource());
    let params = PatchParams::apply(names::MANAGER).force();
    api.patch(&intent.key.name, &params, &Patch::Apply(&intent.body)).await?;
    Ok(())
}

/// Deletes the very object with this uid; that it is gone, or another by now, is fine.
///
/// # Errors
/// When the API server does not answer or refuses.
pub async fn delete_object(
    client: &Client,
    namespace: &str,
    key: &ObjectKey,
    uid: &str,
    propagation: PropagationPolicy,
) -> Result<(), kube::Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &key.kind.resource());
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        propagation_policy: Some(propagation),
        ..DeleteParams::default()
    };
    match api.delete(&key.name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::error::RDKafkaErrorCode;

    use super::*;

    fn record(id: Option<&str>) -> TopicStatus {
        TopicStatus {
            name: "t".into(),
            id: id.map(str::to_owned),
            partitions: None,
            created_by_us: true,
            owned_configs: BTreeSet::new(),
        }
    }

    /// What is recorded of a topic after its creation failed; `intended` is what the intention, if new, replaced.
    fn left(code: RDKafkaErrorCode, intended: Option<Option<TopicStatus>>) -> Option<TopicStatus> {
        let topic =
            NewTopic { name: "t".into(), partitions: 1, replication_factor: None, config: BTreeMap::new() };
        let mut records = BTreeMap::from([("t".to_owned(), record(None))]);
        let intended = intended.into_iter().map(|known| ("t".to_owned(), known)).collect();
        let error = kafka::Error::Refused { action: "create topic t".into(), message: "why".into(), code };
        withdraw(&mut records, &intended, &topic, &error.into());
        records.remove("t")
    }

    fn withdrawn(code: RDKafkaErrorCode, new: bool) -> bool {
        left(code, new.then_some(None)).is_none()
    }

    #[test]
    fn what_is_there_after_the_changes_is_asked_anew_unless_every_change_was_seen() {
        let new = |name: &str| NewTopic {
            name: name.into(),
            partitions: 1,
            replication_factor: None,
            config: BTreeMap::new(),
        };
        let create = |name: &str| Change::CreateTopic { topic: new(name), lost: false };
        let shown = |name: &str| (String::from(name), crate::fixtures::topic(&new(name), name));
        let before = KafkaView::Topics(BTreeMap::from([shown("old")]));
        let seen = BTreeMap::from([shown("a")]);
        let mut applied = Applied { done: vec![create("a")], seen, ..Applied::default() };
        let after = applied.topics_after(&before);
        assert_eq!(after, Some(BTreeMap::from([shown("a"), shown("old")])));
        applied.done.push(create("b"));
        assert_eq!(applied.topics_after(&before), None, "b was not shown");
        applied.saw(Part::Topic("b".into()), Some(shown("b").1));
        assert!(applied.topics_after(&before).is_some());
        applied.saw(Part::Topic("a".into()), None);
        assert_eq!(applied.topics_after(&before), None, "a was changed again since it was shown");
        applied.saw(Part::Topic("a".into()), Some(shown("a").1));
        let part = Part::Topic("c".into());
        applied.setbacks.push(Setback { part, severity: Severity::Permanent, message: String::new() });
        assert_eq!(applied.topics_after(&before), None, "c may be there without us");
    }

    #[test]
    fn a_topic_that_only_one_broker_did_not_show_is_known_as_before() {
        let known = record(Some("id-1"));
        for code in [RDKafkaErrorCode::TopicAlreadyExists, RDKafkaErrorCode::PolicyViolation] {
            assert_eq!(left(code, Some(Some(known.clone()))), Some(known.clone()), "{code}");
        }
    }

    #[test]
    fn a_topic_that_appeared_from_elsewhere_is_not_taken_for_ours() {
        assert!(withdrawn(RDKafkaErrorCode::TopicAlreadyExists, true));
    }

    #[test]
    fn a_refused_creation_leaves_no_claim_behind() {
        assert!(withdrawn(RDKafkaErrorCode::InvalidConfig, false));
    }

    #[test]
    fn an_unanswered_creation_keeps_its_claim() {
        assert!(!withdrawn(RDKafkaErrorCode::OperationTimedOut, true));
    }
}
