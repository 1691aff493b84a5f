//! Values that the resource has and this version does not honour: refused, never ignored.

use super::{Problem, Reason};
use crate::crd::OrderPipeline;

pub(super) fn problems(pipeline: &OrderPipeline) -> Vec<Problem> {
    let spec = &pipeline.spec;
    let mut problems = Vec::new();
    let mut refuse = |used: bool, field: String, message: &str| {
        if used {
            problems.push(Problem::new(Reason::NotSupported, field, message));
        }
    };
    let autoscaling = "autoscaling is not supported yet: set replicas instead";
    let service = spec.order_service.as_ref();
    refuse(
        service.is_some_and(|service| service.autoscaling.is_some()),
        "spec.orderService.autoscaling".into(),
        autoscaling,
    );
    for group in &spec.consumer_groups {
        let field = format!("spec.consumerGroups[{}]", group.name);
        refuse(group.autoscaling.is_some(), format!("{field}.autoscaling"), autoscaling);
    }
    problems
}
