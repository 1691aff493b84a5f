//! Deletion: pods go, topics by policy and by id, and nothing blocks for ever.

use std::sync::Arc;
use std::time::Duration;

use kube::core::DeserializeGuard;
use kube::core::error_boundary::InvalidObject;
use operator::observe::ObjectKind;
use operator::reconcile::reconcile;
use serde_json::{Value, json};

use crate::world::{AMPLE, scenario};

fn spec(policy: &str) -> Value {
    json!({
        "topic": {"deletionPolicy": policy},
        "consumerGroups": [{"name": "a", "replicas": 0, "sink": {"http": {"url": "http://sink/"}}}],
    })
}

#[tokio::test]
async fn retain_keeps_the_topics_and_a_new_pipeline_takes_them_again() {
    scenario(AMPLE, async |world| {
        world.apply("orders", &spec("Retain")).await;
        world.converge("orders").await;
        let topics = world.topics("orders").await;
        world.delete("orders").await;
        assert!(world.object(ObjectKind::Deployment, "orders-a").await.is_none());
        assert!(world.events().await.contains_key("TopicsRetained"));

        world.apply("orders", &spec("Retain")).await;
        world.converge("orders").await;
        assert_eq!(world.topics("orders").await, topics);
    })
    .await;
}

#[tokio::test]
async fn delete_removes_the_topics_that_the_pipeline_created() {
    scenario(AMPLE, async |world| {
        world.apply("orders", &spec("Delete")).await;
        world.converge("orders").await;
        world.delete("orders").await;
        assert!(world.described(&world.topic("orders")).await.is_none());
        assert!(world.described(&world.topic("orders.a.dlt")).await.is_none());
        assert!(world.object(ObjectKind::Deployment, "orders-a").await.is_none());
    })
    .await;
}

#[tokio::test]
async fn delete_leaves_a_topic_with_another_id_alone() {
    scenario(AMPLE, async |world| {
        world.apply("orders", &spec("Delete")).await;
        world.converge("orders").await;
        let name = world.topic("orders");
        world.delete_topic(&name).await;
        world.foreign_topic(&name, 1, &[]).await;
        world.delete("orders").await;
        assert!(world.described(&name).await.is_some());
        let events = world.events().await;
        assert!(events["TopicKept"].contains("not the one the operator created"), "{events:?}");
    })
    .await;
}

#[tokio::test]
async fn a_paused_pipeline_s_topics_outlive_it_whatever_the_policy() {
    scenario(AMPLE, async |world| {
        world.apply("orders", &spec("Delete")).await;
        world.converge("orders").await;
        let mut paused = spec("Delete");
        paused["paused"] = json!(true);
        world.apply("orders", &paused).await;
        world.delete("orders").await;
        assert!(world.described(&world.topic("orders")).await.is_some());
    })
    .await;
}

#[tokio::test]
async fn a_deletion_that_can_t_reach_kafka_ends_after_its_bound_and_says_what_it_left() {
    scenario(Duration::from_secs(3), async |world| {
        world.apply("orders", &json!({"topic": {"deletionPolicy": "Delete"}})).await;
        world.converge("orders").await;
        let spec =
            json!({"topic": {"deletionPolicy": "Delete"}, "kafka": {"bootstrapServers": "127.0.0.1:1"}});
        world.apply("orders", &spec).await;
        world.delete("orders").await;
        let events = world.events().await;
        assert!(events["TopicsLeftBehind"].contains(&world.topic("orders")), "{events:?}");
    })
    .await;
}

#[tokio::test]
async fn a_deletion_ends_after_its_bound_though_not_all_pipelines_are_known_and_leaves_the_topics() {
    scenario(Duration::from_secs(3), async |world| {
        world.apply("orders", &spec("Delete")).await;
        world.converge("orders").await;
        world.context.owners.expect([Some("elsewhere".to_owned())]);
        world.delete("orders").await;
        assert!(world.described(&world.topic("orders")).await.is_some(), "another may name it");
        let events = world.events().await;
        assert!(events["TopicsLeftBehind"].contains("namespace elsewhere"), "{events:?}");
    })
    .await;
}

#[tokio::test]
async fn a_pipeline_that_does_not_parse_can_still_be_deleted() {
    scenario(AMPLE, async |world| {
        world.apply("orders", &json!({})).await;
        world.converge("orders").await;
        world.pipelines().delete("orders", &kube::api::DeleteParams::default()).await.unwrap();
        let metadata = world.get("orders").await.metadata;
        let unreadable = InvalidObject { error: "missing field `kafka`".to_owned(), metadata };
        reconcile(Arc::new(DeserializeGuard(Err(unreadable))), Arc::clone(&world.context)).await.unwrap();
        assert!(world.pipelines().get_opt("orders").await.unwrap().is_none());
        assert!(world.events().await.contains_key("Unreadable"));
    })
    .await;
}
