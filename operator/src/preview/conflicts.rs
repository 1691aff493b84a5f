//! What a manifest names and another pipeline owns. There is no watch here: pipelines are listed once.

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use kube::{Api, Client};

use crate::crd::OrderPipeline;
use crate::owners::{Conflict, Owners};

type Guarded = DeserializeGuard<OrderPipeline>;

/// What the operator's ruling would be if `manifest` were applied now, as far as the pipelines can be listed.
pub(super) async fn conflicts(
    client: &Client,
    namespace: &str,
    manifest: &OrderPipeline,
) -> anyhow::Result<Vec<Conflict>> {
    let mut newcomer = manifest.clone();
    newcomer.metadata.uid.get_or_insert_default();
    newcomer.metadata.creation_timestamp.get_or_insert_with(|| Time(Timestamp::now()));
    let owners = Owners::default();
    let listed = pipelines(client, namespace).await.context("failed to list the pipelines")?;
    for pipeline in listed.into_iter().chain([DeserializeGuard(Ok(newcomer.clone()))]) {
        owners.saw(&None, &Event::Apply(pipeline));
    }
    Ok(owners.rule(&newcomer).unwrap_or_default().conflicts)
}

async fn pipelines(client: &Client, namespace: &str) -> kube::Result<Vec<Guarded>> {
    let everything = ListParams::default();
    match Api::<Guarded>::all(client.clone()).list(&everything).await {
        // An operator that watches some namespaces may look into no others.
        Err(kube::Error::Api(status)) if status.is_forbidden() => {
            Ok(Api::<Guarded>::namespaced(client.clone(), namespace).list(&everything).await?.items)
        }
        listed => Ok(listed?.items),
    }
}
