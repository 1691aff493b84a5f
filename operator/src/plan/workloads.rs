//! Which Deployments, Services and budgets to apply or delete.

use std::collections::BTreeSet;

use super::{Change, Plan, Waiting, Why, same};
use crate::names;
use crate::observe::{LiveObject, ObjectKey, Observed, SECRET_MISSING};
use crate::render::{self, Intent};
use crate::validate::{Part, ValidatedPipeline, Workload};

/// The number of pods in a Deployment.
const REPLICAS: &str = ".spec.replicas";

/// Plans the removal of what the pipeline no longer has.
pub(super) fn plan_deletions(pipeline: &ValidatedPipeline, observed: &Observed, plan: &mut Plan) {
    let wanted: BTreeSet<ObjectKey> = pipeline
        .workloads
        .iter()
        .flat_map(|workload| render::render(pipeline, workload, &observed.secrets))
        .map(|intent| intent.key)
        .collect();
    for (key, live) in &observed.objects {
        let ours = live.controller.as_deref() == Some(pipeline.uid.as_str());
        if ours && !live.deleting && !wanted.contains(key) {
            plan.changes.push(Change::DeleteObject {
                key: key.clone(),
                uid: live.uid.clone(),
                part: part_of(live),
            });
        }
    }
}

/// Plans what the pipeline has, but for what has to wait.
pub(super) fn plan(pipeline: &ValidatedPipeline, observed: &Observed, topics_ready: bool, plan: &mut Plan) {
    for workload in &pipeline.workloads {
        if !topics_ready {
            let waiting =
                Waiting { reason: "WaitingForTopics", message: "starts once the topics exist".to_owned() };
            plan.waiting.insert(workload.part.clone(), waiting);
            continue;
        }
        let complaints = missing_secrets(pipeline, workload, observed);
        if !complaints.is_empty() {
            let waiting = Waiting { reason: SECRET_MISSING, message: complaints.join("; ") };
            plan.waiting.insert(workload.part.clone(), waiting);
            continue;
        }
        for intent in render::render(pipeline, workload, &observed.secrets) {
            if let Some(why) = why(workload, &intent, observed.objects.get(&intent.key)) {
                plan.changes.push(Change::ApplyObject { part: workload.part.clone(), intent, why });
            }
        }
    }
}

fn missing_secrets(pipeline: &ValidatedPipeline, workload: &Workload, observed: &Observed) -> Vec<String> {
    let references: BTreeSet<_> = workload.secrets(&pipeline.kafka).into_iter().collect();
    references.iter().filter_map(|reference| observed.secrets.get(reference)?.complaint(reference)).collect()
}

/// Why an object has to be applied; `None` when it need not be.
fn why(workload: &Workload, intent: &Intent, live: Option<&LiveObject>) -> Option<Why> {
    let Some(live) = live else { return Some(Why::Missing) };
    if live.deleting {
        // It comes back when it is gone; its removal wakes the pipeline.
        return None;
    }
    if live.body["metadata"]["annotations"][names::INTENT_ANNOTATION] != *intent.hash() {
        return Some(Why::Changed);
    }
    let field = same::first_difference(&live.body, &intent.body)?;
    if workload.is_scaled() && field == REPLICAS {
        let pods = |body: &serde_json::Value| body["spec"]["replicas"].as_i64().unwrap_or_default();
        return Some(Why::Scaled { from: pods(&live.body), to: pods(&intent.body) });
    }
    Some(Why::Drifted { field })
}

fn part_of(live: &LiveObject) -> Part {
    match live.body["metadata"]["labels"][names::GROUP_LABEL].as_str() {
        Some(group) => Part::Group(group.to_owned()),
        None => Part::OrderService,
    }
}
