//! Roster: what is scaled, as the passes declare it, and how that stands, as the scaler decides it. All that the two share.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use runtime::kafka::KafkaConnection;

use super::Key;
use crate::kafka::{GroupQuery, ObservedTopic};
use crate::observe::{KafkaView, LiveObject, ObjectKey, ObjectKind, Observed, Standing};
use crate::plan::Change;
use crate::poller::PipelineRef;
use crate::render;
use crate::scaling::{Policy, Seconds, ServicePolicy, Told};
use crate::validate::{Part, Scaling, Target, ValidatedPipeline, Workload};

/// A pass that has not made a step after so long is asked for again.
const WOKEN_AGAIN: Duration = Duration::from_secs(30);

/// What is scaled, and how it stands.
#[derive(Debug, Default)]
pub struct Roster {
    pipelines: Mutex<HashMap<PipelineRef, Entry>>,
}

/// One pipeline; its workloads by name of the Deployment.
#[derive(Debug, Default)]
struct Entry {
    uid: String,
    connection: Option<KafkaConnection>,
    subjects: BTreeMap<String, Subject>,
    standings: BTreeMap<String, Standing>,
    /// Generations that came of nothing but another number of pods.
    steps: BTreeMap<String, i64>,
    /// When a pass was last asked for.
    woken: BTreeMap<String, Instant>,
}

/// A workload that is scaled.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) part: Part,
    pub(super) rule: Rule,
    /// Pods there are to be, by its Deployment.
    pub(super) replicas: u32,
    /// Pods that are ready, by its Deployment.
    pub(super) ready: u32,
    /// Whether what is decided is done.
    pub(super) acts: bool,
    /// Whether its topic is about to get more partitions.
    pub(super) growing: bool,
}

/// By what it is scaled.
#[derive(Clone, Debug)]
pub(super) enum Rule {
    /// By the age of what a group has to read.
    Group { query: GroupQuery, policy: Policy },
    /// By the wait of orders.
    Service(ServicePolicy),
}

/// A workload to look at.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) pipeline: PipelineRef,
    pub(super) uid: String,
    pub(super) deployment: String,
    pub(super) connection: Option<KafkaConnection>,
    pub(super) subject: Subject,
    decided: Option<i32>,
}

impl Job {
    pub(super) fn key(&self) -> Key {
        (self.uid.clone(), self.deployment.clone())
    }

    /// Pods that were asked for: what was decided last, whether or not a pass has come to it.
    pub(super) fn asked(&self) -> u32 {
        let decided = self.decided.filter(|_| self.subject.acts);
        decided.and_then(|decided| u32::try_from(decided).ok()).unwrap_or(self.subject.replicas)
    }
}

impl Roster {
    /// Takes down what of `pipeline` is scaled, as a pass has left it.
    pub fn register(&self, pipeline: &PipelineRef, validated: &ValidatedPipeline, observed: &Observed) {
        let mut pipelines = self.lock();
        let entry = pipelines.entry(pipeline.clone()).or_default();
        if entry.uid != validated.uid {
            *entry = Entry { uid: validated.uid.clone(), ..Entry::default() };
        }
        let subjects: BTreeMap<String, Subject> = validated
            .workloads
            .iter()
            .filter_map(|workload| {
                let deployment = render::name(&validated.name, &workload.part);
                let before = entry.subjects.get(&deployment);
                let subject = subject(validated, observed, workload, &deployment, before)?;
                Some((deployment, subject))
            })
            .collect();
        entry.connection.clone_from(&observed.connection);
        entry.standings.retain(|deployment, _| subjects.contains_key(deployment));
        entry.subjects = subjects;
        if entry.subjects.is_empty() {
            pipelines.remove(pipeline);
        }
    }

    /// Nothing of the pipeline is scaled any more.
    pub fn forget(&self, pipeline: &PipelineRef) {
        self.lock().remove(pipeline);
    }

    /// What was decided of a pipeline's workloads, by name of the Deployment.
    #[must_use]
    pub fn standings(&self, pipeline: &PipelineRef) -> BTreeMap<String, Standing> {
        self.lock().get(pipeline).map(|entry| entry.standings.clone()).unwrap_or_default()
    }

    /// What is there after steps, which are noted: the generations that come of them say nothing of what the pods are like.
    #[must_use]
    pub fn step(&self, pipeline: &PipelineRef, before: Observed, done: &[Change]) -> Observed {
        if let Some(entry) = self.lock().get_mut(pipeline) {
            for change in done {
                let Change::ApplyObject { intent, .. } = change else { continue };
                let live = before.objects.get(&intent.key);
                if let Some(generation) = live.and_then(|live| live.body["metadata"]["generation"].as_i64()) {
                    entry.steps.insert(intent.key.name.clone(), generation + 1);
                }
            }
        }
        before.stepped(done)
    }

    /// The generation of a Deployment that came of nothing but another number of pods, if its last one did.
    #[must_use]
    pub fn stepped_to(&self, pipeline: &PipelineRef, deployment: &str) -> Option<i64> {
        self.lock().get(pipeline)?.steps.get(deployment).copied()
    }

    /// Everything there is to look at.
    pub(super) fn jobs(&self) -> Vec<Job> {
        let pipelines = self.lock();
        let jobs = pipelines.iter().flat_map(|(pipeline, entry)| {
            entry.subjects.iter().map(|(deployment, subject)| Job {
                pipeline: pipeline.clone(),
                uid: entry.uid.clone(),
                deployment: deployment.clone(),
                connection: entry.connection.clone(),
                subject: subject.clone(),
                decided: entry.standings.get(deployment).and_then(|standing| standing.replicas),
            })
        });
        jobs.collect()
    }

    /// Notes what was decided; `told` is what is told newly. Returns whether a pass has something to do for it.
    pub(super) fn settle(&self, job: &Job, replicas: u32, told: Option<Told>) -> bool {
        let mut pipelines = self.lock();
        let entry = pipelines.get_mut(&job.pipeline).filter(|entry| entry.uid == job.uid);
        // It may have left the roster while it was looked at.
        let Some(entry) = entry.filter(|entry| entry.subjects.contains_key(&job.deployment)) else {
            return false;
        };
        let standing = entry.standings.entry(job.deployment.clone()).or_default();
        let decided = job.subject.acts.then(|| i32::try_from(replicas).unwrap_or(i32::MAX));
        let is_told = told.is_some();
        let is_other = standing.replicas != decided;
        standing.replicas = decided;
        if is_told {
            standing.told = told;
        }
        // A pass that failed is tried again by itself, and not in haste; this is for a wake-up that got lost.
        let waits = decided.is_some() && replicas != job.subject.replicas;
        let woken = entry.woken.get(&job.deployment).is_some_and(|woken| woken.elapsed() < WOKEN_AGAIN);
        let wakes = is_told || (waits && (is_other || !woken));
        if wakes {
            entry.woken.insert(job.deployment.clone(), Instant::now());
        }
        wakes
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PipelineRef, Entry>> {
        self.pipelines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be looked at of a workload; nothing when it is not scaled, or is not there yet.
fn subject(
    pipeline: &ValidatedPipeline,
    observed: &Observed,
    workload: &Workload,
    deployment: &str,
    before: Option<&Subject>,
) -> Option<Subject> {
    let scaling = workload.scaling.as_ref().filter(|_| workload.scaled_by.is_none())?;
    let key = ObjectKey { kind: ObjectKind::Deployment, name: deployment.to_owned() };
    let live = observed.objects.get(&key)?;
    let topic = pipeline.topics.first()?;
    let seen = match &observed.kafka {
        KafkaView::Topics(topics) => topics.get(&topic.name),
        KafkaView::Unavailable { .. } => None,
    };
    Some(Subject {
        part: workload.part.clone(),
        rule: rule(workload, scaling, &topic.name, seen, before)?,
        replicas: pods(live, "spec", "replicas"),
        ready: pods(live, "status", "readyReplicas"),
        acts: pipeline.may_change() && workload.sets_replicas(),
        growing: seen.is_some_and(|seen| seen.partitions < topic.partitions),
    })
}

/// While Kafka is away its topic is taken to be as it was.
fn rule(
    workload: &Workload,
    scaling: &Scaling,
    topic: &str,
    seen: Option<&ObservedTopic>,
    before: Option<&Subject>,
) -> Option<Rule> {
    let (Part::Group(group), Target::Age { target, catch_up, start_from }) =
        (&workload.part, &scaling.target)
    else {
        return match scaling.target {
            Target::Queue(policy) => Some(Rule::Service(policy)),
            Target::Age { .. } => None,
        };
    };
    let (partitions, retention) = match (seen, before.map(|before| &before.rule)) {
        (Some(seen), _) => (seen.partitions, retention(seen)),
        (None, Some(Rule::Group { query, policy })) => (query.partitions, policy.retention),
        (None, _) => return None,
    };
    let query = GroupQuery { group: group.clone(), topic: topic.to_owned(), partitions };
    let count = |number: i32| u32::try_from(number).unwrap_or(0);
    let policy = Policy {
        min: count(scaling.min),
        max: count(scaling.max),
        target_age: *target,
        catch_up: *catch_up,
        start_from: *start_from,
        retention,
    };
    Some(Rule::Group { query, policy })
}

/// After how long the broker deletes records; nothing where it does not.
fn retention(topic: &ObservedTopic) -> Option<Seconds> {
    let deletes = topic.config.get("cleanup.policy").is_none_or(|policy| policy.contains("delete"));
    let millis: i64 = topic.config.get("retention.ms").filter(|_| deletes)?.parse().ok()?;
    (millis > 0).then_some(millis as f64 / 1000.0)
}

fn pods(live: &LiveObject, part: &str, field: &str) -> u32 {
    live.body[part][field].as_u64().and_then(|count| u32::try_from(count).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::{after, nothing, pipeline_with, valid};
    use crate::plan::plan;
    use crate::scaling::Verdict;

    const AUTOSCALING: &str =
        "autoscaling: {minReplicas: 1, maxReplicas: 3, targetAgeSeconds: 5, catchUpSeconds: 30}";

    fn reference() -> PipelineRef {
        PipelineRef { namespace: "shop".into(), name: "orders".into() }
    }

    /// A pipeline with one scaled group as it is once everything is made, with `fields` in its spec.
    fn made(fields: &str) -> (ValidatedPipeline, Observed) {
        let group = format!("{{name: a, sink: {{http: {{url: \"http://sink/\"}}}}, {AUTOSCALING}}}");
        let pipeline = pipeline_with(&format!("{fields}consumerGroups: [{group}]"));
        let observed = nothing(&pipeline);
        let validated = valid(&pipeline, &observed);
        let observed = after(&validated, &observed, &plan(&validated, &observed).changes);
        (valid(&pipeline, &observed), observed)
    }

    fn registered(fields: &str) -> Roster {
        let (validated, observed) = made(fields);
        let roster = Roster::default();
        roster.register(&reference(), &validated, &observed);
        roster
    }

    #[test]
    fn a_step_is_asked_for_until_a_pass_has_made_it() {
        let roster = registered("");
        let [job] = &roster.jobs()[..] else { panic!("one group") };
        assert_eq!((job.asked(), job.subject.acts), (1, true));
        assert!(roster.settle(job, 3, None));
        let [job] = &roster.jobs()[..] else { panic!("one group") };
        assert_eq!((job.asked(), job.subject.replicas), (3, 1));
        assert!(!roster.settle(job, 3, None), "a pass is on its way");
        let standing = &roster.standings(&reference())["orders-a"];
        assert_eq!(standing.replicas, Some(3));
    }

    #[test]
    fn nothing_new_wakes_nobody_and_what_is_told_does() {
        let roster = registered("");
        let job = roster.jobs().remove(0);
        assert!(!roster.settle(&job, 1, None));
        let told = Told { verdict: Verdict::HotPartition, reason: "why".into() };
        assert!(roster.settle(&job, 1, Some(told.clone())));
        assert!(!roster.settle(&job, 1, None));
        assert_eq!(roster.standings(&reference())["orders-a"].told, Some(told), "it stays told");
    }

    #[test]
    fn what_may_not_change_is_looked_at_and_gets_no_number() {
        let roster = registered("paused: true, ");
        // A paused pipeline makes nothing, so here is one that was made before.
        assert!(roster.jobs().iter().all(|job| !job.subject.acts));
        for job in roster.jobs() {
            roster.settle(&job, 3, None);
            assert_eq!(roster.standings(&reference())[&job.deployment].replicas, None);
        }
    }

    #[test]
    fn what_somebody_else_scales_is_not_looked_at() {
        let (mut validated, observed) = made("");
        validated.workloads[0].scaled_by = Some("HorizontalPodAutoscaler x".into());
        let roster = Roster::default();
        roster.register(&reference(), &validated, &observed);
        assert!(roster.jobs().is_empty());
    }

    #[test]
    fn while_kafka_is_away_the_topic_is_taken_to_be_as_it_was() {
        let (validated, mut observed) = made("");
        let roster = Roster::default();
        roster.register(&reference(), &validated, &observed);
        observed.kafka = KafkaView::Unavailable {
            reason: "KafkaUnreachable",
            message: "no answer".into(),
            severity: crate::kafka::Severity::Transient,
        };
        roster.register(&reference(), &validated, &observed);
        let job = roster.jobs().remove(0);
        let Rule::Group { query, policy } = job.subject.rule else { panic!("a group") };
        assert_eq!((query.partitions, policy.retention), (3, Some(604_800.0)));
    }

    #[test]
    fn the_generation_of_a_step_is_known_for_one() {
        let (validated, observed) = made("");
        let roster = Roster::default();
        roster.register(&reference(), &validated, &observed);
        let key = ObjectKey { kind: ObjectKind::Deployment, name: "orders-a".into() };
        let live = &observed.objects[&key];
        let mut body = live.body.clone();
        body["spec"]["replicas"] = json!(2);
        let intent = render::Intent { key: key.clone(), body };
        let why = crate::plan::Why::Scaled { from: 1, to: 2 };
        let change = Change::ApplyObject { part: Part::Group("a".into()), intent, why };
        let then = roster.step(&reference(), observed.clone(), &[change]);
        assert_eq!(then.objects[&key].body["spec"]["replicas"], 2);
        assert_eq!(roster.stepped_to(&reference(), "orders-a"), Some(2));
    }
}
