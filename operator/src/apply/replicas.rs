//! Numbers of pods: left to others without a moment's change, and what is there after a mere step.

use kube::ResourceExt;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::json;

use super::Applied;
use crate::names;
use crate::observe::Observed;
use crate::plan::{Change, Why};
use crate::render::Intent;

/// Field manager that holds a number of pods from when we let it go until whoever sets it now does so.
const HOLDER: &str = "orderflow-operator-handover";

/// Makes somebody else the owner of a Deployment's number of pods, as it is. A field that its last owner lets go is reset to its
/// default, which is one pod.
///
/// # Errors
/// When the API server does not answer or refuses.
pub(super) async fn hand_over(api: &Api<DynamicObject>, intent: &Intent) -> Result<(), kube::Error> {
    let Some(live) = api.get_opt(&intent.key.name).await? else { return Ok(()) };
    let holds = |manager: &str| {
        live.managed_fields().iter().any(|entry| {
            let fields = entry.fields_v1.as_ref().map(|fields| &fields.0["f:spec"]);
            entry.manager.as_deref() == Some(manager)
                && fields.is_some_and(|fields| !fields["f:replicas"].is_null())
        })
    };
    if !holds(names::MANAGER) {
        return Ok(());
    }
    let body = json!({
        "apiVersion": intent.body["apiVersion"],
        "kind": intent.body["kind"],
        "metadata": {"name": intent.key.name, "uid": live.uid()},
        "spec": {"replicas": live.data["spec"]["replicas"]},
    });
    match api.patch(&intent.key.name, &PatchParams::apply(HOLDER), &Patch::Apply(&body)).await {
        // Somebody has set another number meanwhile, and owns it by that.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        result => result.map(|_| ()),
    }
}

impl Applied {
    /// Whether nothing was changed but numbers of pods.
    #[must_use]
    pub fn only_scaled(&self) -> bool {
        let is_step = |change: &Change| matches!(change, Change::ApplyObject { why: Why::Scaled { .. }, .. });
        self.setbacks.is_empty() && !self.done.is_empty() && self.done.iter().all(is_step)
    }
}

impl Observed {
    /// What is there after steps: the numbers asked for. What becomes of them, the pods, shows later and wakes another pass.
    #[must_use]
    pub fn stepped(mut self, done: &[Change]) -> Self {
        for change in done {
            if let Change::ApplyObject { intent, why: Why::Scaled { .. }, .. } = change
                && let Some(live) = self.objects.get_mut(&intent.key)
            {
                live.body["spec"]["replicas"] = intent.body["spec"]["replicas"].clone();
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use crate::apply::Applied;
    use crate::fixtures::{after, nothing, pipeline_with, valid};
    use crate::observe::Standing;
    use crate::plan::plan;

    #[test]
    fn after_a_step_nothing_is_left_to_do_and_the_pods_are_as_they_were() {
        let pipeline = pipeline_with(
            "consumerGroups: [{name: a, sink: {http: {url: \"http://sink/\"}}, \
             autoscaling: {minReplicas: 1, maxReplicas: 3, targetAgeSeconds: 5, catchUpSeconds: 30}}]",
        );
        let observed = nothing(&pipeline);
        let validated = valid(&pipeline, &observed);
        let mut observed = after(&validated, &observed, &plan(&validated, &observed).changes);
        let decided = Standing { replicas: Some(3), told: None };
        observed.scaling.standings.insert("orders-a".into(), decided);
        let validated = valid(&pipeline, &observed);
        let changes = plan(&validated, &observed).changes;
        assert_eq!(changes[0].to_string(), "scale Deployment orders-a from 1 to 3 pods");
        let applied = Applied { done: changes, ..Applied::default() };
        assert!(applied.only_scaled());
        let then = observed.stepped(&applied.done);
        assert_eq!(plan(&valid(&pipeline, &then), &then).changes, []);
        assert!(!Applied::default().only_scaled(), "nothing was done");
    }
}
