//! Kafka away, and what an interrupted pass leaves behind.

use operator::observe::ObjectKind;
use operator::reconcile;
use serde_json::json;

use crate::world::{AMPLE, condition, scenario};

#[tokio::test]
async fn an_unreachable_kafka_is_reported_as_passing_and_pods_wait_for_it() {
    scenario(AMPLE, async |world| {
        let spec = json!({
            "kafka": {"bootstrapServers": "127.0.0.1:1"},
            "consumerGroups": [{"name": "a", "replicas": 0, "sink": {"http": {"url": "http://sink/"}}}],
        });
        world.apply("orders", &spec).await;
        let error = world.reconcile("orders").await.unwrap_err();
        assert!(matches!(error, reconcile::Error::Transient(_)), "{error:?}");
        let pipeline = world.get("orders").await;
        let (status, reason, message) = condition(&pipeline, "TopicReady");
        assert_eq!((status.as_str(), reason.as_str()), ("Unknown", "KafkaUnreachable"), "{message}");
        assert!(message.contains("127.0.0.1:1"), "{message}");
        assert_eq!(condition(&pipeline, "Stalled").0, "False");
        assert_eq!(condition(&pipeline, "Reconciling").0, "True");
        assert!(
            world.object(ObjectKind::Deployment, "orders-a").await.is_none(),
            "no pods before their topics"
        );
        world.writes_nothing("orders").await;

        let reachable = json!({"consumerGroups": spec["consumerGroups"]});
        world.apply("orders", &reachable).await;
        world.converge("orders").await;

        world.apply("orders", &spec).await;
        world.meddle(ObjectKind::Deployment, "orders-a", &json!({"spec": {"replicas": 3}})).await;
        let _ = world.reconcile("orders").await;
        let deployment = world.object(ObjectKind::Deployment, "orders-a").await.unwrap();
        assert_eq!(deployment["spec"]["replicas"], 0, "pods whose topics were seen are repaired meanwhile");
    })
    .await;
}

#[tokio::test]
async fn a_topic_whose_creation_was_interrupted_is_known_as_ours() {
    scenario(AMPLE, async |world| {
        // What a crash between the request and the report leaves: the intention, and the topic.
        let mut pipeline = world.apply("orders", &json!({"topic": {"adoption": "Refuse"}})).await;
        let name = world.topic("orders");
        let intention = serde_json::from_value(json!({"name": name, "createdByUs": true})).unwrap();
        let records = [(name.clone(), intention)].into();
        operator::report::write_records(&world.client, &mut pipeline, &records).await.unwrap();
        world.foreign_topic(&name, 2, &[]).await;
        let pipeline = world.converge("orders").await;
        assert!(pipeline.status.unwrap().topic.unwrap().created_by_us);
    })
    .await;
}
