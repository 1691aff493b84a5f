//! Applying what is already so changes nothing.

use std::time::Duration;

use e2e::kubectl::{kubectl, stays};

use crate::support::{kafka_tool, ready, resource_versions, root};

/// How long nothing may change.
const TWO_MINUTES: Duration = Duration::from_secs(120);

#[tokio::test]
async fn applying_the_same_pipeline_again_changes_nothing_for_two_minutes() {
    ready().await;
    let example = root().join("crds/examples/orders.yaml");
    let look = || async {
        let topics = kafka_tool("kafka-topics.sh", &["--describe"], "").await?;
        let configs = kafka_tool("kafka-configs.sh", &["--describe", "--entity-type", "topics"], "").await?;
        Ok((resource_versions().await?, topics, configs))
    };
    let before = look().await.unwrap();
    // What kubectl prints is no measure: it says "configured" wherever the API server fills in a default within a list.
    kubectl(&["apply", "-f", example.to_str().unwrap()]).await.unwrap();
    stays("the cluster", TWO_MINUTES, look).await.unwrap();
    assert_eq!(look().await.unwrap(), before);
}
