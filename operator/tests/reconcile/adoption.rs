//! Topics that were there before: taken, refused, never deleted.

use serde_json::json;

use crate::world::{AMPLE, condition, scenario};

#[tokio::test]
async fn an_identical_topic_is_taken_and_configured_from_then_on() {
    scenario(AMPLE, async |world| {
        let name = world.topic("orders");
        world.foreign_topic(&name, 2, &[("retention.ms", "1000")]).await;
        world.apply("orders", &json!({"topic": {"config": {"retention.ms": "1000"}}})).await;
        let pipeline = world.converge("orders").await;
        assert!(!pipeline.status.unwrap().topic.unwrap().created_by_us);
        assert!(world.events().await.contains_key("TopicAdopted"));

        world.apply("orders", &json!({"topic": {"config": {"retention.ms": "2000"}}})).await;
        world.converge("orders").await;
        assert_eq!(world.described(&name).await.unwrap().config["retention.ms"], "2000");
    })
    .await;
}

#[tokio::test]
async fn a_different_topic_is_refused_until_it_is_declared_as_it_is() {
    scenario(AMPLE, async |world| {
        let name = world.topic("orders");
        world.foreign_topic(&name, 3, &[("retention.ms", "1000")]).await;
        let before = world.described(&name).await;
        let group = json!([{"name": "a", "replicas": 0, "sink": {"http": {"url": "http://sink/"}}}]);
        world
            .apply("orders", &json!({"topic": {"config": {"retention.ms": "2000"}}, "consumerGroups": group}))
            .await;
        let pipeline = world.until("orders", "Stalled", "True").await;
        let (_, reason, message) = condition(&pipeline, "Ready");
        assert_eq!(reason, "TopicRefused");
        assert!(message.contains("partitions: declared 2, there 3"), "{message}");
        assert!(message.contains("retention.ms: declared 2000, there 1000"), "{message}");
        assert_eq!(world.described(&name).await, before, "a refused topic is left alone");
        assert!(world.described(&world.topic("orders.a.dlt")).await.is_none(), "nothing is begun");
        world.writes_nothing("orders").await;

        let spec =
            json!({"topic": {"partitions": 3, "config": {"retention.ms": "1000"}}, "consumerGroups": group});
        world.apply("orders", &spec).await;
        world.converge("orders").await;
    })
    .await;
}

#[tokio::test]
async fn refuse_takes_no_topic_but_one_it_created() {
    scenario(AMPLE, async |world| {
        let name = world.topic("orders");
        world.foreign_topic(&name, 2, &[]).await;
        world.apply("orders", &json!({"topic": {"adoption": "Refuse"}})).await;
        let pipeline = world.until("orders", "Stalled", "True").await;
        assert!(condition(&pipeline, "Ready").2.contains("adoption is Refuse"));
        world.writes_nothing("orders").await;

        world.delete_topic(&name).await;
        let pipeline = world.converge("orders").await;
        assert!(pipeline.status.unwrap().topic.unwrap().created_by_us);
    })
    .await;
}

#[tokio::test]
async fn adopt_takes_a_topic_and_configures_it_but_never_deletes_it() {
    scenario(AMPLE, async |world| {
        let name = world.topic("orders");
        world.foreign_topic(&name, 2, &[("retention.ms", "1000"), ("segment.ms", "70000")]).await;
        let id = world.described(&name).await.unwrap().id;
        let config = json!({"retention.ms": "2000"});
        let spec = json!({"topic": {"adoption": "Adopt", "deletionPolicy": "Delete", "config": config}});
        world.apply("orders", &spec).await;
        let pipeline = world.converge("orders").await;
        assert!(!pipeline.status.unwrap().topic.unwrap().created_by_us);
        let topic = world.described(&name).await.unwrap();
        assert_eq!(topic.config["retention.ms"], "2000");
        assert_eq!(topic.config["segment.ms"], "70000", "what is not declared stays as it is");
        let events = world.events().await;
        assert!(events["TopicAdopted"].contains("configured as declared"), "{events:?}");
        world.delete("orders").await;
        assert_eq!(world.described(&name).await.unwrap().id, id);
    })
    .await;
}

#[tokio::test]
async fn adopt_takes_no_topic_with_more_partitions() {
    scenario(AMPLE, async |world| {
        let name = world.topic("orders");
        world.foreign_topic(&name, 3, &[]).await;
        let before = world.described(&name).await;
        world
            .apply("orders", &json!({"topic": {"adoption": "Adopt", "config": {"retention.ms": "2000"}}}))
            .await;
        let pipeline = world.until("orders", "Stalled", "True").await;
        assert_eq!(condition(&pipeline, "Ready").1, "TopicMismatch");
        assert_eq!(world.described(&name).await, before);
        world.writes_nothing("orders").await;
    })
    .await;
}

#[tokio::test]
async fn a_topic_that_is_adopted_with_too_few_partitions_grows_where_growth_is_allowed() {
    scenario(AMPLE, async |world| {
        let name = world.topic("orders");
        world.foreign_topic(&name, 1, &[]).await;
        world.apply("orders", &json!({"topic": {"adoption": "Adopt", "growthPolicy": "Never"}})).await;
        let pipeline = world.until("orders", "Stalled", "True").await;
        assert_eq!(condition(&pipeline, "Ready").1, "TopicMismatch");
        world.writes_nothing("orders").await;

        world.apply("orders", &json!({"topic": {"adoption": "Adopt"}})).await;
        let pipeline = world.converge("orders").await;
        assert_eq!(world.described(&name).await.unwrap().partitions, 2);
        assert!(!pipeline.status.unwrap().topic.unwrap().created_by_us);
        let events = world.events().await;
        assert!(events["TopicAdopted"].contains("taken and grown as declared"), "{events:?}");
    })
    .await;
}

#[tokio::test]
async fn a_foreign_topic_is_never_deleted() {
    scenario(AMPLE, async |world| {
        let name = world.topic("orders");
        world.foreign_topic(&name, 2, &[]).await;
        let before = world.described(&name).await;
        world.apply("orders", &json!({"topic": {"deletionPolicy": "Delete"}})).await;
        world.converge("orders").await;
        world.delete("orders").await;
        assert_eq!(world.described(&name).await, before);
        let events = world.events().await;
        assert!(events["TopicKept"].contains("it was there before the pipeline"), "{events:?}");
    })
    .await;
}

#[tokio::test]
async fn a_topic_that_somebody_made_anew_is_a_stranger_again() {
    scenario(AMPLE, async |world| {
        let name = world.topic("orders");
        world.apply("orders", &json!({"topic": {"deletionPolicy": "Delete"}})).await;
        world.converge("orders").await;
        world.delete_topic(&name).await;
        world.foreign_topic(&name, 2, &[]).await;
        let pipeline = world.converge("orders").await;
        assert!(!pipeline.status.unwrap().topic.unwrap().created_by_us);
        assert!(world.events().await.contains_key("TopicReplaced"));
        world.delete("orders").await;
        assert!(world.described(&name).await.is_some(), "it is not ours to delete");
    })
    .await;
}
