//! Topics and groups that another pipeline owns.

use super::{Problem, Reason, topics};
use crate::crd::OrderPipeline;
use crate::kafka::NewTopic;
use crate::observe::Observed;
use crate::owners::{Conflict, Kind};

pub(super) fn problems(pipeline: &OrderPipeline, topics: &[NewTopic], observed: &Observed) -> Vec<Problem> {
    observed.conflicts.iter().map(|conflict| problem(pipeline, topics, conflict)).collect()
}

/// Whether a topic is not this pipeline's to judge.
pub(super) fn is_another_s(topic: &str, observed: &Observed) -> bool {
    let is = |conflict: &Conflict| conflict.claim.kind == Kind::Topic && conflict.claim.name == topic;
    observed.conflicts.iter().any(is)
}

fn problem(pipeline: &OrderPipeline, topics: &[NewTopic], Conflict { claim, owner }: &Conflict) -> Problem {
    let name = &claim.name;
    match claim.kind {
        Kind::Topic => {
            let index = topics.iter().position(|topic| topic.name == *name).unwrap_or_default();
            let message = format!(
                "{claim} belongs to OrderPipeline {owner}: name another topic, or delete {owner}, which hands the topic over"
            );
            Problem::new(Reason::TopicConflict, topics::field(pipeline, index), message)
        }
        Kind::Group => {
            let message = format!(
                "{claim} belongs to OrderPipeline {owner}: give the group another name, or remove it from {owner}"
            );
            Problem::new(Reason::GroupConflict, format!("spec.consumerGroups[{name}].name"), message)
        }
    }
}
