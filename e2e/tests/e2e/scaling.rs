//! Scaling on the cluster: a group rests at zero, wakes for orders and rests again, and loses none of them.

use std::time::Duration;

use e2e::kubectl::{get_json, kubectl, wait_for};
use e2e::names::PIPELINE;
use serde_json::{Value, json};

use crate::support::{Duplicates, assert_sound, condition, load, pipeline_ready, ready, under_load};

/// Longest wait for a group to come to rest: a window of a minute, after two looks, on a machine that is busy.
const REST_DEADLINE: Duration = Duration::from_secs(240);
/// The group of the example that is scaled: the second, which posts over HTTP.
const GROUP: usize = 1;

async fn patch(operation: &Value) {
    let patch = json!([operation]).to_string();
    kubectl(&["patch", "orderpipeline", PIPELINE, "--type=json", "-p", &patch]).await.unwrap();
}

async fn rests() {
    wait_for("the group to rest", REST_DEADLINE, || async {
        let pipeline = get_json(&["orderpipeline", PIPELINE]).await?;
        let groups = pipeline["status"]["consumerGroups"].as_array().cloned().unwrap_or_default();
        let name = &pipeline["spec"]["consumerGroups"][GROUP]["name"];
        let group = groups.into_iter().find(|group| group["name"] == *name).unwrap_or_default();
        let within = condition(&pipeline, "WithinTarget")["status"] == "True";
        Ok((within && group["desiredReplicas"] == 0 && group["replicas"] == 0).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_group_rests_at_zero_wakes_for_orders_and_loses_none() {
    let sources = ready().await;
    let path = format!("/spec/consumerGroups/{GROUP}/autoscaling");
    let autoscaling = json!({"minReplicas": 0, "maxReplicas": 3, "targetAgeSeconds": 5, "catchUpSeconds": 10});
    patch(&json!({"op": "add", "path": path, "value": autoscaling})).await;
    rests().await;
    pipeline_ready().await;

    let load = load("scale-to-zero", 40, 20);
    let calls = under_load(&load, async {}).await;
    assert_sound(&sources, &load, &calls, Duplicates::Allowed).await;
    rests().await;

    patch(&json!({"op": "remove", "path": path})).await;
    pipeline_ready().await;
}
