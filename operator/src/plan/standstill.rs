//! How a pipeline stands under `mode: Plan`, where it is told what would change and nothing is changed. Pure.
//!
//! It is not ready while changes wait, and nobody is at work on it either: `Reconciling` is true only until the plan is
//! complete, so that a tool can wait for that.

use super::conditions::{Finding, finding, stalled_finding};
use super::{Plan, Setback};
use crate::kafka::Severity;

/// What keeps the plan from being complete and may pass.
pub(super) struct Obstacle {
    reason: &'static str,
    message: String,
}

/// What is in the way of a complete plan, if anything is.
pub(super) fn obstacle(plan: &Plan, setbacks: &[Setback]) -> Option<Obstacle> {
    let unanswered = setbacks.iter().find(|setback| setback.severity == Severity::Transient);
    let unanswered =
        unanswered.map(|setback| Obstacle { reason: "KafkaFailed", message: setback.message.clone() });
    unanswered.or_else(|| {
        let (part, waiting) = plan.waiting.first_key_value()?;
        Some(Obstacle { reason: waiting.reason, message: format!("{part}: {}", waiting.message) })
    })
}

/// The three conditions of the pipeline as a whole.
pub(super) fn overall(
    parts: &[Finding],
    changes: usize,
    obstacle: Option<Obstacle>,
    stalled: Option<String>,
) -> [Finding; 3] {
    let lacking = parts.iter().find(|part| part.status != "True");
    let complete = stalled.is_none() && obstacle.is_none();
    let ready = match lacking {
        _ if complete && changes > 0 => {
            finding("Ready", false, "Planned", format!("{}; mode: Apply makes them", planned(changes)))
        }
        None => finding("Ready", true, "Ready", "every part is as declared and ready".to_owned()),
        Some(part) if changes > 0 => {
            finding("Ready", false, &part.reason, format!("{}; {}", part.message, planned(changes)))
        }
        Some(part) => finding("Ready", false, &part.reason, part.message.clone()),
    };
    let reconciling = match obstacle {
        _ if stalled.is_some() => finding("Reconciling", false, "Stalled", "waits for a person".to_owned()),
        Some(Obstacle { reason, message }) => finding("Reconciling", true, reason, message),
        None => {
            finding("Reconciling", false, "Planned", "changes nothing while spec.mode is Plan".to_owned())
        }
    };
    [ready, reconciling, stalled_finding(stalled)]
}

fn planned(changes: usize) -> String {
    let (noun, verb) = if changes == 1 { ("change", "is") } else { ("changes", "are") };
    format!("{changes} {noun} {verb} planned, see status.plan")
}

#[cfg(test)]
mod tests {
    use crate::fixtures::{after, nothing, pipeline_with, valid};
    use crate::kafka::Severity;
    use crate::observe::{KafkaView, Observed, SecretState};
    use crate::plan::{Setback, Verdict, assess, plan};
    use crate::validate::Part;

    const SPEC: &str = "mode: Plan, orderService: {replicas: 0, database: {secretRef: {name: db}}}";

    fn verdict(observed: &Observed, setbacks: &[Setback]) -> Verdict {
        let validated = valid(&pipeline_with(SPEC), observed);
        assess(&validated, observed, &plan(&validated, observed), setbacks)
    }

    /// Status and reason of Ready, Reconciling and Stalled.
    fn overall(verdict: &Verdict) -> Vec<(&str, &str)> {
        verdict.findings[..3].iter().map(|finding| (finding.status, finding.reason.as_str())).collect()
    }

    fn refused(severity: Severity) -> Setback {
        Setback { part: Part::Topic("orders".into()), severity, message: "spec.topic.config: no".into() }
    }

    #[test]
    fn changes_that_wait_make_it_unready_and_nobody_works_or_is_needed() {
        let verdict = verdict(&nothing(&pipeline_with(SPEC)), &[]);
        assert_eq!(overall(&verdict), [("False", "Planned"), ("False", "Planned"), ("False", "Progressing")]);
        assert!(verdict.findings[0].message.starts_with("5 changes are planned"), "{:?}", verdict.findings);
    }

    #[test]
    fn what_is_as_declared_is_ready_under_a_plan_as_well() {
        let pipeline = pipeline_with(SPEC);
        let observed = nothing(&pipeline);
        let validated = valid(&pipeline, &observed);
        let mut observed = after(&validated, &observed, &plan(&validated, &observed).changes);
        for live in observed.objects.values_mut() {
            live.body["status"]["observedGeneration"] = 1.into();
        }
        let verdict = verdict(&observed, &[]);
        assert_eq!(overall(&verdict), [("True", "Ready"), ("False", "Planned"), ("False", "Progressing")]);
    }

    #[test]
    fn what_kafka_would_refuse_is_for_a_person() {
        let verdict = verdict(&nothing(&pipeline_with(SPEC)), &[refused(Severity::Permanent)]);
        assert_eq!(overall(&verdict), [("False", "KafkaRefused"), ("False", "Stalled"), ("True", "Refused")]);
        let message = &verdict.findings[0].message;
        assert!(message.starts_with("spec.topic.config: no; 5 changes are planned"), "{message}");
    }

    #[test]
    fn a_plan_that_is_not_complete_is_still_at_work() {
        let pipeline = pipeline_with(SPEC);
        let unanswered = verdict(&nothing(&pipeline), &[refused(Severity::Transient)]);
        assert_eq!(overall(&unanswered)[1], ("True", "KafkaFailed"));

        let mut observed = nothing(&pipeline);
        observed.kafka = KafkaView::Unavailable {
            reason: "KafkaUnreachable",
            message: "no answer".into(),
            severity: Severity::Transient,
        };
        let away = verdict(&observed, &[]);
        assert_eq!(overall(&away)[..2], [("False", "KafkaUnreachable"), ("True", "KafkaUnreachable")]);

        let mut observed = nothing(&pipeline);
        observed.secrets.values_mut().for_each(|state| *state = SecretState::SecretMissing);
        let lacking = verdict(&observed, &[]);
        assert_eq!(overall(&lacking)[1], ("True", "SecretMissing"));
        assert!(lacking.findings[1].message.starts_with("order service: Secret db is missing"));
    }
}
