//! Topics: created, configured, repaired.

use operator::observe::ObjectKind;
use operator::poller;
use serde_json::json;

use crate::world::{AMPLE, condition, scenario};

#[tokio::test]
async fn a_pipeline_gets_its_topics_and_then_its_workloads() {
    scenario(AMPLE, async |world| {
        world.secret("db", "url", "postgres://nobody@nowhere/none").await;
        let spec = json!({
            "topic": {"replicationFactor": 1, "config": {"retention.ms": "3600000", "max.message.bytes": "2000000"}},
            "orderService": {"replicas": 0, "database": {"secretRef": {"name": "db"}}},
            "consumerGroups": [{"name": "a", "replicas": 0, "sink": {"http": {"url": "http://sink/"}}}],
        });
        world.apply("orders", &spec).await;
        let pipeline = world.converge("orders").await;

        let main = world.described(&world.topic("orders")).await.unwrap();
        assert_eq!((main.partitions, main.replication_factor), (2, 1));
        assert_eq!(main.config["retention.ms"], "3600000");
        let dead_letters = world.described(&world.topic("orders.a.dlt")).await.unwrap();
        assert_eq!((dead_letters.partitions, dead_letters.replication_factor), (2, 1));
        assert_eq!(dead_letters.config["max.message.bytes"], "2065536");

        let status = pipeline.status.clone().unwrap();
        let topic = status.topic.unwrap();
        assert_eq!(topic.id.as_deref(), Some(main.id.as_str()));
        assert!(topic.created_by_us);
        assert_eq!(topic.partitions, Some(2));
        assert_eq!(status.dead_letter_topics[0].id.as_deref(), Some(dead_letters.id.as_str()));
        assert_eq!(status.observed_generation, pipeline.metadata.generation);
        for type_ in ["Ready", "TopicReady", "OrderServiceReady", "ConsumersReady"] {
            assert_eq!(condition(&pipeline, type_).0, "True", "{type_}");
        }
        for type_ in ["Reconciling", "Stalled"] {
            assert_eq!(condition(&pipeline, type_).0, "False", "{type_}");
        }
        for (kind, name) in [
            (ObjectKind::Deployment, "orders-order-service"),
            (ObjectKind::Deployment, "orders-a"),
            (ObjectKind::Service, "orders-order-service"),
            (ObjectKind::Service, "orders-order-service-admin"),
            (ObjectKind::PodDisruptionBudget, "orders-order-service"),
        ] {
            assert!(world.object(kind, name).await.is_some(), "{kind:?} {name}");
        }
        let events = world.events().await;
        assert!(events.contains_key("TopicCreated") && events.contains_key("ObjectCreated"), "{events:?}");
    })
    .await;
}

#[tokio::test]
async fn a_topic_costs_three_writes_to_make_one_to_change_and_one_to_delete_and_an_event_each() {
    scenario(AMPLE, async |world| {
        let spec = |retention: &str| {
            json!({"topic": {"deletionPolicy": "Delete", "config": {"retention.ms": retention}}})
        };
        world.apply("orders", &spec("1000")).await;
        let before = world.writes();
        world.converge("orders").await;
        assert_eq!(world.writes() - before, 4, "finalizer, intention, status, Event");

        world.apply("orders", &spec("2000")).await;
        let before = world.writes();
        world.converge("orders").await;
        assert_eq!(world.writes() - before, 2, "status, Event");

        let before = world.writes();
        world.delete("orders").await;
        assert_eq!(world.writes() - before, 2, "finalizer, Event");
    })
    .await;
}

#[tokio::test]
async fn a_configuration_key_is_set_changed_and_reset_and_others_are_left_alone() {
    scenario(AMPLE, async |world| {
        world.apply("orders", &json!({"topic": {"config": {"retention.ms": "1000", "segment.ms": "70000"}}})).await;
        world.converge("orders").await;
        let name = world.topic("orders");
        let set = [("min.cleanable.dirty.ratio".to_owned(), "0.7".to_owned())].into();
        world.admin.alter_config(&name, &set, &[].into()).await.unwrap();

        // The broker reports 0.50 as 0.5: that is no difference to repair for ever.
        let spec = json!({"topic": {"config": {"retention.ms": "2000", "min.compaction.lag.ms": "0010", "cleanup.policy": "compact, delete"}}});
        world.apply("orders", &spec).await;
        world.converge("orders").await;
        let topic = world.described(&name).await.unwrap();
        assert_eq!(topic.config["retention.ms"], "2000");
        assert_eq!(topic.config["segment.ms"], "604800000", "a key that left the spec returns to the default");
        assert_eq!(topic.config["min.cleanable.dirty.ratio"], "0.7", "a key that was never ours stays");

        world.apply("orders", &json!({})).await;
        world.converge("orders").await;
        let topic = world.described(&name).await.unwrap();
        assert_eq!(topic.config["retention.ms"], "604800000");
        assert_eq!(topic.config["min.cleanable.dirty.ratio"], "0.7");
        let events = world.events().await;
        assert!(events.contains_key("TopicConfigChanged") && events.contains_key("TopicConfigReset"), "{events:?}");
    })
    .await;
}

#[tokio::test]
async fn a_topic_grows_and_its_dead_letter_topic_stays_as_it_is() {
    scenario(AMPLE, async |world| {
        let spec = |partitions: i32| {
            json!({
                "topic": {"partitions": partitions, "config": {"retention.ms": partitions.to_string() + "000"}},
                "consumerGroups": [{"name": "a", "replicas": 0, "sink": {"http": {"url": "http://sink/"}}}],
            })
        };
        world.apply("orders", &spec(2)).await;
        world.converge("orders").await;
        let before = world.described(&world.topic("orders")).await.unwrap();

        world.apply("orders", &spec(5)).await;
        let pipeline = world.converge("orders").await;
        let grown = world.described(&world.topic("orders")).await.unwrap();
        assert_eq!((grown.partitions, &grown.id), (5, &before.id));
        assert_eq!(grown.config["retention.ms"], "5000", "and what else changed with it");
        assert_eq!(world.described(&world.topic("orders.a.dlt")).await.unwrap().partitions, 2);
        assert_eq!(pipeline.status.unwrap().topic.unwrap().partitions, Some(5));
        let events = world.events().await;
        assert!(events.contains_key("TopicGrown"), "{events:?}");
    })
    .await;
}

#[tokio::test]
async fn a_growth_that_somebody_else_has_made_already_is_none() {
    scenario(AMPLE, async |world| {
        world.apply("orders", &json!({})).await;
        world.converge("orders").await;
        let name = world.topic("orders");
        world.admin.grow(&name, 4).await.unwrap();
        world.admin.grow(&name, 4).await.expect("as after an answer that was lost");
        let refused = world.admin.grow(&name, 3).await;
        refused.expect("it has more than that");
        assert_eq!(world.described(&name).await.unwrap().partitions, 4);
    })
    .await;
}

#[tokio::test]
async fn drift_in_kafka_is_seen_by_the_poller_and_repaired() {
    scenario(AMPLE, async |world| {
        world.apply("orders", &json!({"topic": {"config": {"retention.ms": "1000"}}})).await;
        world.converge("orders").await;
        assert!(poller::poll_once(&world.context).await.is_empty(), "a converged pipeline is not woken");

        let name = world.topic("orders");
        let set = [("retention.ms".to_owned(), "5000".to_owned())].into();
        world.admin.alter_config(&name, &set, &[].into()).await.unwrap();
        let woken = poller::poll_once(&world.context).await;
        assert_eq!(woken.iter().map(|pipeline| pipeline.name.as_str()).collect::<Vec<_>>(), ["orders"]);
        world.converge("orders").await;
        assert_eq!(world.described(&name).await.unwrap().config["retention.ms"], "1000");
        assert!(poller::poll_once(&world.context).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn what_the_broker_refuses_is_told_in_its_words_and_leaves_no_claim() {
    scenario(AMPLE, async |world| {
        world.apply("orders", &json!({"topic": {"config": {"no.such.key": "1"}}})).await;
        let pipeline = world.until("orders", "Stalled", "True").await;
        let (_, reason, message) = condition(&pipeline, "TopicReady");
        assert_eq!(reason, "KafkaRefused");
        assert!(message.contains("no.such.key"), "{message}");
        assert!(pipeline.status.clone().unwrap().topic.is_none(), "{:?}", pipeline.status);
        world.writes_nothing("orders").await;

        world.apply("orders", &json!({"topic": {"config": {}}})).await;
        let pipeline = world.converge("orders").await;
        assert_eq!(condition(&pipeline, "Stalled").0, "False");

        world.apply("orders", &json!({"topic": {"config": {"retention.ms": "a while"}}})).await;
        let pipeline = world.until("orders", "Stalled", "True").await;
        assert!(
            condition(&pipeline, "TopicReady").2.contains("retention.ms"),
            "{:?}",
            condition(&pipeline, "TopicReady")
        );
        world.writes_nothing("orders").await;
    })
    .await;
}

#[tokio::test]
async fn a_paused_pipeline_reports_what_waits_and_changes_nothing() {
    scenario(AMPLE, async |world| {
        world.apply("orders", &json!({"paused": true})).await;
        let pipeline = world.until("orders", "Reconciling", "False").await;
        assert_eq!(condition(&pipeline, "Ready").1, "Paused");
        assert_eq!(pipeline.status.clone().unwrap().plan.len(), 1);
        assert!(world.described(&world.topic("orders")).await.is_none());
        world.writes_nothing("orders").await;

        world.apply("orders", &json!({"paused": false})).await;
        let pipeline = world.converge("orders").await;
        assert!(pipeline.status.unwrap().plan.is_empty());
    })
    .await;
}
