//! `DeleteIfDrained`: topics go only when everything in them was consumed.

use std::time::Duration;

use kube::api::DeleteParams;
use operator::observe::ObjectKind;
use serde_json::{Value, json};

use crate::world::{AMPLE, World, condition, scenario};

fn spec(group: &str) -> Value {
    json!({
        "topic": {"deletionPolicy": "DeleteIfDrained"},
        "consumerGroups": [{"name": group, "replicas": 0, "sink": {"http": {"url": "http://sink/"}}}],
    })
}

/// A pipeline with three records that its group has not committed.
async fn with_records(world: &World) -> (String, String) {
    let (name, group) = (world.topic("orders"), format!("{}-g", world.namespace));
    world.apply("orders", &spec(&group)).await;
    world.converge("orders").await;
    world.produce(&name, 3).await;
    (name, group)
}

#[tokio::test]
async fn a_topic_is_deleted_once_its_groups_have_consumed_it() {
    scenario(AMPLE, async |world| {
        let (name, group) = with_records(&world).await;
        world.pipelines().delete("orders", &DeleteParams::default()).await.unwrap();
        let pipeline = world.until("orders", "Reconciling", "True").await;
        let (_, reason, message) = condition(&pipeline, "Ready");
        assert_eq!(reason, "NotDrained", "{message}");
        assert!(message.contains(&format!("group {group} has 3 records to go")), "{message}");
        let deployment = format!("orders-{group}");
        assert!(world.object(ObjectKind::Deployment, &deployment).await.is_some(), "consumers run on");

        world.commit(&group, &name, 3).await;
        world.gone("orders", &[]).await;
        assert!(world.described(&name).await.is_none());
        assert!(world.described(&format!("{name}.{group}.dlt")).await.is_none());
        assert!(world.object(ObjectKind::Deployment, &deployment).await.is_none());
    })
    .await;
}

#[tokio::test]
async fn dead_letters_keep_the_topics_until_they_are_gone() {
    scenario(AMPLE, async |world| {
        let (name, group) = with_records(&world).await;
        world.commit(&group, &name, 3).await;
        let dead_letters = format!("{name}.{group}.dlt");
        world.produce(&dead_letters, 1).await;
        world.pipelines().delete("orders", &DeleteParams::default()).await.unwrap();
        let pipeline = world.until("orders", "Reconciling", "True").await;
        let message = condition(&pipeline, "Ready").2;
        assert!(message.contains(&format!("topic {dead_letters} holds 1 records")), "{message}");
        world.empty(&dead_letters).await;
        world.gone("orders", &[]).await;
        assert!(world.described(&name).await.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_topic_that_is_not_drained_in_time_is_left_and_named() {
    scenario(Duration::from_secs(3), async |world| {
        let (name, group) = with_records(&world).await;
        world.delete("orders").await;
        assert_eq!(world.held(&name).await, 3);
        let events = world.events().await;
        let message = &events["TopicsLeftBehind"];
        assert!(message.contains(&name) && message.contains(&group), "{events:?}");
    })
    .await;
}
