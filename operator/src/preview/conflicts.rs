//! What manifests name and other pipelines own. There is no watch here: pipelines are listed once.

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use kube::{Client, ResourceExt};

use crate::crd::OrderPipeline;
use crate::owners::{Conflict, Owners};
use crate::run::{Scope, api};

/// The pipelines that an operator would see, the manifests among them.
#[derive(Debug)]
pub(super) struct Neighbours {
    owners: Owners,
}

impl Neighbours {
    /// The pipelines of `scopes`.
    pub(super) async fn list(client: &Client, scopes: &[Scope]) -> anyhow::Result<Self> {
        let owners = Owners::default();
        for scope in scopes {
            let place = scope.as_deref().map_or_else(String::new, |namespace| format!(" of {namespace}"));
            let pipelines = api::<DeserializeGuard<OrderPipeline>>(client, scope);
            let listed = pipelines.list(&ListParams::default()).await;
            for pipeline in listed.with_context(|| format!("failed to list the pipelines{place}"))? {
                owners.saw(scope, &Event::Apply(pipeline));
            }
        }
        Ok(Self { owners })
    }

    /// Takes `manifest` in as if it were applied; returns it as it would be then.
    pub(super) fn apply(&self, manifest: &OrderPipeline) -> OrderPipeline {
        let mut newcomer = manifest.clone();
        // Not the same for two that are new.
        let name = format!("{}/{}", manifest.namespace().unwrap_or_default(), manifest.name_any());
        newcomer.metadata.uid.get_or_insert(name);
        newcomer.metadata.creation_timestamp.get_or_insert_with(|| Time(Timestamp::now()));
        self.owners.saw(&newcomer.namespace(), &Event::Apply(DeserializeGuard(Ok(newcomer.clone()))));
        newcomer
    }

    /// What of it is another's.
    pub(super) fn conflicts(&self, newcomer: &OrderPipeline) -> Vec<Conflict> {
        self.owners.rule(newcomer).unwrap_or_default().conflicts
    }
}
