//! The PodDisruptionBudget of a workload.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{metadata, name, selector};
use crate::validate::{ValidatedPipeline, Workload};

/// One pod at a time may be moved away; never none, or a node with the only pod could not be drained.
const MAX_UNAVAILABLE: i32 = 1;

pub(super) fn render(pipeline: &ValidatedPipeline, workload: &Workload) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(pipeline, workload, name(&pipeline.name, &workload.part)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(MAX_UNAVAILABLE)),
            selector: Some(selector(pipeline, workload)),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
