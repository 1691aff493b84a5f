//! Taking the pipeline or the operator away and bringing it back, while the data stays.

use std::time::Duration;

use e2e::kubectl::{get_json, kubectl, wait_for};
use e2e::names::{NAMESPACE, TOPIC};

use crate::support::{
    Duplicates, assert_sound, helm, kafka_tool, load, pipeline_ready, ready, root, under_load,
};

/// Longest wait for what was deleted to be gone.
const GONE_DEADLINE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_deleted_pipeline_keeps_its_topic_and_goes_on_where_it_stopped() {
    let sources = ready().await;
    let first = load("before-delete", 50, 6);
    let calls = under_load(&first, async {}).await;
    assert_sound(&sources, &first, &calls, Duplicates::Forbidden).await;

    kubectl(&["delete", "orderpipeline", "orders", "--timeout=120s"]).await.unwrap();
    wait_for("the Deployments to be gone", GONE_DEADLINE, || async {
        let left = get_json(&["deployments", "-l", "orderflow.dev/pipeline=orders"]).await?;
        Ok(left["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })
    .await
    .unwrap();
    let topic = kafka_tool("kafka-topics.sh", &["--describe", "--topic", TOPIC], "").await.unwrap();
    assert!(topic.contains("PartitionCount: 3"), "{topic}");

    let example = root().join("crds/examples/orders.yaml");
    kubectl(&["apply", "-f", example.to_str().unwrap()]).await.unwrap();
    let sources = ready().await;
    let second = load("after-delete", 50, 6);
    let calls = under_load(&second, async {}).await;
    assert_sound(&sources, &second, &calls, Duplicates::Forbidden).await;
    // What was delivered before was not delivered again.
    assert_sound(&sources, &first, &[], Duplicates::Forbidden).await;
}

#[tokio::test]
async fn orders_go_on_while_the_operator_is_uninstalled_and_installed() {
    let sources = ready().await;
    let values = helm(&["get", "values", "orderflow", "-n", "orderflow-system", "-o", "yaml"], "").await;
    let load = load("helm", 60, 80);
    let calls = under_load(&load, async {
        helm(&["uninstall", "orderflow", "-n", "orderflow-system", "--wait"], "").await;
        let running =
            get_json(&["deployments", "-n", NAMESPACE, "-l", "orderflow.dev/pipeline=orders"]).await.unwrap();
        assert_eq!(
            running["items"].as_array().map(Vec::len),
            Some(3),
            "the pipeline runs on without its operator"
        );
        let (_, before) = sources.counts(&load.run).await.unwrap();
        wait_for("deliveries without an operator", GONE_DEADLINE, || async {
            let (_, now) = sources.counts(&load.run).await?;
            Ok(now.iter().all(|(group, count)| *count > before[group]).then_some(()))
        })
        .await
        .unwrap();
        let chart = "charts/order-pipeline-operator";
        let flags = ["install", "orderflow", chart, "-n", "orderflow-system", "--wait", "-f", "-"];
        helm(&flags, &values).await;
    })
    .await;
    pipeline_ready().await;
    assert_sound(&sources, &load, &calls, Duplicates::Forbidden).await;
}
