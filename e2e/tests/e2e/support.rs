//! What the tests share: a ready pipeline, a run of orders with a fault in the middle, Kafka's own tools.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use e2e::api::OrderApi;
use e2e::catalogue;
use e2e::evidence::Sources;
use e2e::kubectl::{get_json, kubectl, kubectl_with_input, run, wait_for};
use e2e::load::{Call, Load, Progress};
use e2e::names::{CONTEXT, NAMESPACE, ORDER_API, PIPELINE};
use serde_json::Value;
use tokio::process::Command;
use uuid::Uuid;

/// Longest wait for the pipeline to become ready.
const READY_DEADLINE: Duration = Duration::from_secs(240);
/// Longest wait for the last event after a run: a killed member's session and a restarting broker fit in.
const DELIVERY_DEADLINE: Duration = Duration::from_secs(240);

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Waits until the pipeline says of its newest generation that it is ready, and has its catalogue.
pub(crate) async fn ready() -> Sources {
    pipeline_ready().await;
    catalogue::load().await.unwrap();
    Sources::local().unwrap()
}

/// Waits until the pipeline says of its newest generation that it is ready.
pub(crate) async fn pipeline_ready() {
    wait_for("the pipeline to be ready", READY_DEADLINE, || async {
        let pipeline = get_json(&["orderpipeline", PIPELINE]).await?;
        let condition = condition(&pipeline, "Ready");
        let current = condition["observedGeneration"] == pipeline["metadata"]["generation"];
        Ok((current && condition["status"] == "True").then_some(()))
    })
    .await
    .unwrap();
}

/// The condition of that type, or null.
pub(crate) fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
}

/// A load in this test's own name.
pub(crate) fn load(test: &str, per_second: u32, seconds: u64) -> Load {
    Load {
        run: format!("{test}-{}", Uuid::now_v7().simple()),
        per_second,
        duration: Duration::from_secs(seconds),
        confirm_percent: 20,
        cancel_percent: 10,
    }
}

/// Posts the load, runs `meanwhile` once a third of it is accepted, and returns the calls when both are done.
pub(crate) async fn under_load(load: &Load, meanwhile: impl Future<Output = ()>) -> Vec<Call> {
    let progress = Arc::new(Progress::default());
    let api = OrderApi::new(ORDER_API).unwrap();
    let disturb = async {
        wait_for("a third of the load", READY_DEADLINE, || async {
            Ok((progress.accepted.load(Ordering::Relaxed) >= load.total() / 3).then_some(()))
        })
        .await
        .unwrap();
        meanwhile.await;
    };
    let (calls, ()) = tokio::join!(load.run(&api, Arc::clone(&progress)), disturb);
    calls
}

/// What a run must leave behind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duplicates {
    /// None: nothing was disturbed.
    Forbidden,
    /// At least once, after a fault.
    Allowed,
}

/// Waits for every event of the run, judges it, prints the table, and fails unless it is sound.
pub(crate) async fn assert_sound(sources: &Sources, load: &Load, calls: &[Call], duplicates: Duplicates) {
    let waited = sources.wait_until_delivered(&load.run, DELIVERY_DEADLINE).await;
    let judged = sources.judge(&load.run, calls).await.unwrap();
    println!("{}:\n{}", load.run, e2e::report::table(calls, &judged));
    waited.unwrap();
    assert!(judged.findings.expected > 0, "the run made no events");
    assert!(judged.findings.is_sound(), "{:#?}", judged.findings);
    if duplicates == Duplicates::Forbidden {
        assert_eq!(judged.findings.duplicated(), 0, "{:#?}", judged.findings);
    }
}

/// Runs one of Kafka's own scripts in the broker's pod.
pub(crate) async fn kafka_tool(script: &str, args: &[&str], input: &str) -> anyhow::Result<String> {
    let mut all = vec!["exec", "-i", "kafka-0", "--", script, "--bootstrap-server", "localhost:9092"];
    all.extend(args);
    kubectl_with_input(&all, input).await
}

/// Ends the main process of the first pod that `selector` finds with SIGKILL, from outside the pod.
pub(crate) async fn sigkill(selector: &str) {
    let pods = get_json(&["pods", "-l", selector, "--field-selector", "status.phase=Running"]).await.unwrap();
    let status = &pods["items"][0]["status"]["containerStatuses"][0];
    let id = status["containerID"].as_str().unwrap().trim_start_matches("containerd://").to_owned();
    let mut command = Command::new("docker");
    command.args([
        "exec",
        "orderflow-control-plane",
        "ctr",
        "-n",
        "k8s.io",
        "task",
        "kill",
        "-s",
        "SIGKILL",
        &id,
    ]);
    run(command, "").await.unwrap();
}

/// Deletes the pod without a grace period and waits until its successor is ready.
pub(crate) async fn force_delete_and_await(pod: &str) {
    let before = get_json(&["pod", pod]).await.unwrap()["metadata"]["uid"].clone();
    kubectl(&["delete", "pod", pod, "--force", "--grace-period=0"]).await.unwrap();
    await_successor(pod, &before).await;
}

/// Waits until another pod of that name is ready.
pub(crate) async fn await_successor(pod: &str, before: &Value) {
    wait_for("the pod to be back", READY_DEADLINE, || async {
        let now = get_json(&["pod", pod]).await?;
        let ready = condition(&now, "Ready")["status"] == "True";
        Ok((now["metadata"]["uid"] != *before && ready).then_some(()))
    })
    .await
    .unwrap();
}

/// A call of `kubectl orderflow`, as kubectl finds it on the path.
pub(crate) fn plugin(args: &[&str]) -> anyhow::Result<Command> {
    // Beside the tests, where the same build puts it: target/debug/deps/e2e-… and target/debug/kubectl-orderflow.
    let tests = std::env::current_exe()?;
    let programs = tests.ancestors().nth(2).context("the tests stand in no target folder")?;
    let path = format!("{}:{}", programs.display(), std::env::var("PATH")?);
    let mut command = Command::new("kubectl");
    command.env("PATH", path).args(["orderflow", "--context", CONTEXT, "--namespace", NAMESPACE]).args(args);
    Ok(command)
}

/// Runs helm against the local cluster.
pub(crate) async fn helm(args: &[&str], input: &str) -> String {
    let mut command = Command::new("helm");
    command.args(["--kube-context", CONTEXT]).args(args).current_dir(root());
    run(command, input).await.unwrap()
}

/// Identity and version of every object that the operator keeps in the namespace.
pub(crate) async fn resource_versions() -> anyhow::Result<Vec<String>> {
    let kinds = "orderpipelines,deployments,services,poddisruptionbudgets,secrets,configmaps";
    let all = get_json(&[kinds, "-n", NAMESPACE]).await?;
    let items = all["items"].as_array().cloned().unwrap_or_default();
    Ok(items
        .iter()
        .map(|item| {
            format!("{}/{}@{}", item["kind"], item["metadata"]["name"], item["metadata"]["resourceVersion"])
        })
        .collect())
}
