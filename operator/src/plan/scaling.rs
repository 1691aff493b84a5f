//! How the scaling of a pipeline stands, as conditions and as words in the status. Pure.

use super::conditions::{Finding, finding};
use crate::observe::Observed;
use crate::render;
use crate::scaling::{Told, Verdict};
use crate::validate::{Part, ValidatedPipeline, Workload};

/// Verdict and reason of a workload that is scaled, once there are any.
pub(super) fn told(
    pipeline: &ValidatedPipeline,
    workload: &Workload,
    observed: &Observed,
) -> (Option<String>, Option<String>) {
    let told = judged(pipeline, workload, observed);
    (told.as_ref().map(|told| told.verdict.to_string()), told.map(|told| told.reason))
}

fn judged(pipeline: &ValidatedPipeline, workload: &Workload, observed: &Observed) -> Option<Told> {
    workload.scaling.as_ref()?;
    if let Some(who) = &workload.scaled_by {
        let reason = format!("{who} sets the number of pods: remove it, or autoscaling");
        return Some(Told { verdict: Verdict::ScaledElsewhere, reason });
    }
    let standing = observed.scaling.standings.get(&render::name(&pipeline.name, &workload.part))?;
    // What another kept it from is over.
    standing.told.clone().filter(|told| told.verdict != Verdict::ScaledElsewhere)
}

/// `WithinTarget` and `ScalingActive`, where anything is scaled.
pub(super) fn findings(pipeline: &ValidatedPipeline, observed: &Observed) -> Vec<Finding> {
    let scaled: Vec<(&Workload, Option<Told>)> = pipeline
        .workloads
        .iter()
        .filter(|workload| workload.scaling.is_some())
        .map(|workload| (workload, judged(pipeline, workload, observed)))
        .collect();
    if scaled.is_empty() {
        return Vec::new();
    }
    vec![within_target(&scaled), active(pipeline, &scaled)]
}

/// True when every verdict is; unknown when nothing is known of one and nothing bad of the others.
fn within_target(scaled: &[(&Workload, Option<Told>)]) -> Finding {
    let missed = scaled.iter().filter_map(|(workload, told)| Some((&workload.part, told.as_ref()?)));
    let missed: Vec<(&Part, &Told)> = missed
        .filter(|(_, told)| !matches!(told.verdict, Verdict::WithinTarget | Verdict::ScaledElsewhere))
        .collect();
    let says = |missed: &[(&Part, &Told)]| {
        missed.iter().map(|(part, told)| format!("{part}: {}", told.reason)).collect::<Vec<_>>().join("; ")
    };
    let unknown = |reason: &str, message: String| Finding {
        status: "Unknown",
        ..finding("WithinTarget", false, reason, message)
    };
    if let Some((_, worst)) = missed.iter().find(|(_, told)| told.verdict != Verdict::LagUnknown) {
        return finding("WithinTarget", false, worst.verdict.name(), says(&missed));
    }
    if !missed.is_empty() {
        return unknown(Verdict::LagUnknown.name(), says(&missed));
    }
    if scaled.iter().any(|(_, told)| told.is_none()) {
        return unknown("NotJudgedYet", "the first look is being taken".to_owned());
    }
    if scaled.iter().all(|(_, told)| is(told.as_ref(), Verdict::ScaledElsewhere)) {
        return unknown(Verdict::ScaledElsewhere.name(), "others set the numbers of pods".to_owned());
    }
    finding(
        "WithinTarget",
        true,
        Verdict::WithinTarget.name(),
        "nothing waits for longer than it may".to_owned(),
    )
}

/// True when the operator sets every number of pods that `autoscaling` asks it to.
fn active(pipeline: &ValidatedPipeline, scaled: &[(&Workload, Option<Told>)]) -> Finding {
    let no = |reason: &str, message: String| finding("ScalingActive", false, reason, message);
    let says = |test: &dyn Fn(&Workload) -> bool| {
        let parts = scaled.iter().filter(|(workload, _)| test(workload));
        parts.map(|(workload, _)| workload.part.to_string()).collect::<Vec<_>>().join(", ")
    };
    if pipeline.paused {
        return no("Paused", "changes nothing while spec.paused is true".to_owned());
    }
    if pipeline.plan_only {
        return no("Planned", "changes nothing while spec.mode is Plan".to_owned());
    }
    if let Some((workload, who)) =
        scaled.iter().find_map(|(workload, _)| Some((workload, workload.scaled_by.as_ref()?)))
    {
        let part = &workload.part;
        return no(Verdict::ScaledElsewhere.name(), format!("{part}: {who} sets the number of pods"));
    }
    let observes =
        |workload: &Workload| workload.scaling.as_ref().is_some_and(|scaling| scaling.only_observes);
    let observed = says(&observes);
    if !observed.is_empty() {
        return no("Observing", format!("autoscaling.mode is Observe: {observed}"));
    }
    if scaled.iter().any(|(_, told)| is(told.as_ref(), Verdict::LagUnknown)) {
        return no(Verdict::LagUnknown.name(), "holds what it can't judge".to_owned());
    }
    finding("ScalingActive", true, "Scaling", "the operator sets the numbers of pods".to_owned())
}

fn is(told: Option<&Told>, verdict: Verdict) -> bool {
    told.is_some_and(|told| told.verdict == verdict)
}

#[cfg(test)]
mod tests {
    use crate::fixtures::{after, nothing, pipeline_with, valid};
    use crate::observe::{Observed, Standing};
    use crate::plan::{assess, plan};
    use crate::scaling::{Told, Verdict};

    fn spec(more: &str) -> String {
        let autoscaling = "minReplicas: 0, maxReplicas: 3, targetAgeSeconds: 5, catchUpSeconds: 30";
        let sink = "sink: {http: {url: \"http://sink/\"}}";
        format!(
            "{more}consumerGroups: [{{name: a, {sink}, autoscaling: {{{autoscaling}}}}}, {{name: b, {sink}}}]"
        )
    }

    /// Status and reason of both conditions, and the verdict of group a.
    fn stands(more: &str, look: impl FnOnce(&mut Observed)) -> (Vec<String>, Option<String>) {
        let pipeline = pipeline_with(&spec(more));
        let mut observed = nothing(&pipeline);
        let validated = valid(&pipeline, &observed);
        observed = after(&validated, &observed, &plan(&validated, &observed).changes);
        look(&mut observed);
        let validated = valid(&pipeline, &observed);
        let verdict = assess(&validated, &observed, &plan(&validated, &observed), &[]);
        let conditions =
            verdict.findings.iter().filter(|found| ["WithinTarget", "ScalingActive"].contains(&found.type_));
        let said = conditions.map(|found| format!("{} {}", found.status, found.reason)).collect();
        assert_eq!(verdict.consumer_groups[1].verdict, None, "group b has a fixed number");
        (said, verdict.consumer_groups[0].verdict.clone())
    }

    fn told(verdict: Verdict) -> impl FnOnce(&mut Observed) {
        move |observed| {
            let told = Told { verdict, reason: "why".into() };
            let standing = Standing { replicas: Some(1), told: Some(told) };
            observed.scaling.standings.insert("orders-a".into(), standing);
        }
    }

    #[test]
    fn before_the_first_look_nothing_is_claimed() {
        assert_eq!(stands("", |_| {}), (vec!["Unknown NotJudgedYet".into(), "True Scaling".into()], None));
    }

    #[test]
    fn the_verdict_is_the_reason() {
        for (verdict, within) in [
            (Verdict::WithinTarget, "True WithinTarget"),
            (Verdict::CatchingUp, "False CatchingUp"),
            (Verdict::PartitionStalled, "False PartitionStalled"),
        ] {
            let said = stands("", told(verdict));
            assert_eq!(said, (vec![within.into(), "True Scaling".into()], Some(verdict.to_string())));
        }
    }

    #[test]
    fn what_is_unknown_is_neither_true_nor_false_and_holds() {
        let (said, _) = stands("", told(Verdict::LagUnknown));
        assert_eq!(said, ["Unknown LagUnknown", "False LagUnknown"]);
    }

    #[test]
    fn somebody_else_s_number_is_said_to_be_theirs() {
        let (said, verdict) = stands("", |observed| {
            told(Verdict::CatchingUp)(observed);
            observed.scaling.others.insert("orders-a".into(), "HorizontalPodAutoscaler x".into());
        });
        assert_eq!(said, ["Unknown ScaledElsewhere", "False ScaledElsewhere"]);
        assert_eq!(verdict.as_deref(), Some("ScaledElsewhere"));
        let (said, verdict) = stands("", told(Verdict::ScaledElsewhere));
        assert_eq!((said[0].as_str(), verdict), ("Unknown NotJudgedYet", None), "it is gone");
    }

    #[test]
    fn a_pause_is_no_scaling() {
        assert_eq!(stands("paused: true, ", told(Verdict::WithinTarget)).0[1], "False Paused");
        assert_eq!(stands("mode: Plan, ", told(Verdict::WithinTarget)).0[1], "False Planned");
    }
}
