//! Deployments and what belongs to them: changed, removed, repaired, held back.

use operator::observe::ObjectKind;
use serde_json::{Value, json};

use crate::world::{AMPLE, condition, scenario};

fn groups(names: &[&str]) -> Value {
    names
        .iter()
        .map(|name| json!({"name": name, "replicas": 0, "sink": {"http": {"url": "http://sink/"}}}))
        .collect()
}

#[tokio::test]
async fn a_changed_spec_changes_the_deployment() {
    scenario(AMPLE, async |world| {
        world.apply("orders", &json!({"consumerGroups": groups(&["a"])})).await;
        world.converge("orders").await;
        let mut changed = groups(&["a"]);
        changed[0]["resources"] = json!({"requests": {"cpu": "1000m", "memory": "1024Mi"}});
        changed[0]["env"] = json!([{"name": "LOG", "value": "debug"}]);
        changed[0]["podLabels"] = json!({"team": "a"});
        world.apply("orders", &json!({"consumerGroups": changed})).await;
        world.converge("orders").await;
        let deployment = world.object(ObjectKind::Deployment, "orders-a").await.unwrap();
        let template = &deployment["spec"]["template"];
        assert_eq!(template["metadata"]["labels"]["team"], "a");
        // The API server spells 1000m as 1; that is no drift.
        assert_eq!(template["spec"]["containers"][0]["resources"]["requests"]["cpu"], "1");

        world.apply("orders", &json!({"consumerGroups": groups(&["a"])})).await;
        world.converge("orders").await;
        let deployment = world.object(ObjectKind::Deployment, "orders-a").await.unwrap();
        let env = deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap().clone();
        assert!(env.iter().all(|variable| variable["name"] != "LOG"), "what left the spec leaves the pods");
    })
    .await;
}

#[tokio::test]
async fn a_group_that_is_removed_loses_its_deployment_and_keeps_its_dead_letters() {
    scenario(AMPLE, async |world| {
        world.apply("orders", &json!({"consumerGroups": groups(&["a", "b"])})).await;
        world.converge("orders").await;
        world.apply("orders", &json!({"consumerGroups": groups(&["b"])})).await;
        let pipeline = world.converge("orders").await;
        assert!(world.object(ObjectKind::Deployment, "orders-a").await.is_none());
        assert!(world.object(ObjectKind::Deployment, "orders-b").await.is_some());
        assert!(world.described(&world.topic("orders.a.dlt")).await.is_some());
        let status = pipeline.status.unwrap();
        assert_eq!(status.consumer_groups.len(), 1);
        assert_eq!(status.dead_letter_topics.len(), 2, "a later deletion still knows the dead letters");
    })
    .await;
}

#[tokio::test]
async fn the_order_service_that_is_removed_takes_its_objects_with_it() {
    scenario(AMPLE, async |world| {
        world.secret("db", "url", "postgres://nobody@nowhere/none").await;
        let service = json!({"replicas": 0, "database": {"secretRef": {"name": "db"}}});
        world.apply("orders", &json!({"orderService": service})).await;
        world.converge("orders").await;
        world.apply("orders", &json!({})).await;
        let pipeline = world.converge("orders").await;
        for (kind, name) in [
            (ObjectKind::Deployment, "orders-order-service"),
            (ObjectKind::Service, "orders-order-service"),
            (ObjectKind::Service, "orders-order-service-admin"),
            (ObjectKind::PodDisruptionBudget, "orders-order-service"),
        ] {
            assert!(world.object(kind, name).await.is_none(), "{kind:?} {name}");
        }
        assert_eq!(condition(&pipeline, "OrderServiceReady").0, "");
        assert!(pipeline.status.unwrap().order_service.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_deployment_that_somebody_changed_is_repaired_and_what_they_added_stays() {
    scenario(AMPLE, async |world| {
        world.apply("orders", &json!({"consumerGroups": groups(&["a"])})).await;
        world.converge("orders").await;
        let kind = ObjectKind::Deployment;
        world
            .meddle(
                kind,
                "orders-a",
                &json!({"spec": {"replicas": 3}, "metadata": {"labels": {"theirs": "1"}}}),
            )
            .await;
        world.converge("orders").await;
        let deployment = world.object(kind, "orders-a").await.unwrap();
        assert_eq!(deployment["spec"]["replicas"], 0);
        assert_eq!(deployment["metadata"]["labels"]["theirs"], "1");
        assert!(world.events().await.contains_key("ObjectRepaired"));
        let stripped = json!({"metadata": {"labels": {"orderflow.dev/pipeline": null}, "annotations": null}});
        world.meddle(kind, "orders-a", &stripped).await;
        world.converge("orders").await;
        let deployment = world.object(kind, "orders-a").await.unwrap();
        assert_eq!(deployment["metadata"]["labels"]["orderflow.dev/pipeline"], "orders");
    })
    .await;
}

#[tokio::test]
async fn a_missing_secret_is_named_and_its_arrival_starts_the_pods() {
    scenario(AMPLE, async |world| {
        let service = json!({"replicas": 0, "database": {"secretRef": {"name": "db", "key": "dsn"}}});
        world.apply("orders", &json!({"orderService": service, "consumerGroups": groups(&["a"])})).await;
        let pipeline = world.until("orders", "ConsumersReady", "True").await;
        let (status, reason, message) = condition(&pipeline, "OrderServiceReady");
        assert_eq!((status.as_str(), reason.as_str()), ("False", "SecretMissing"));
        assert_eq!(message, "Secret db is missing: create it with key dsn");
        assert_eq!(condition(&pipeline, "Stalled").0, "False");
        world.writes_nothing("orders").await;

        world.secret("db", "url", "postgres://nobody@nowhere/none").await;
        let _ = world.reconcile("orders").await;
        assert_eq!(
            condition(&world.get("orders").await, "OrderServiceReady").2,
            "Secret db has no key dsn: add it"
        );

        world.secret("db", "dsn", "postgres://nobody@nowhere/none").await;
        world.converge("orders").await;
        let before = world.object(ObjectKind::Deployment, "orders-order-service").await.unwrap();
        world.secret("db", "dsn", "postgres://somebody@nowhere/none").await;
        world.converge("orders").await;
        let after = world.object(ObjectKind::Deployment, "orders-order-service").await.unwrap();
        let hash = |deployment: &Value| {
            deployment["spec"]["template"]["metadata"]["annotations"]["orderflow.dev/secrets"].clone()
        };
        assert_ne!(hash(&before), hash(&after), "a changed Secret restarts the pods");
    })
    .await;
}

#[tokio::test]
async fn a_foreign_deployment_of_the_same_name_is_not_taken_over() {
    scenario(AMPLE, async |world| {
        let labels = json!({"app": "theirs"});
        let theirs = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "orders-a"},
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "none"}]}}},
        });
        let api: kube::Api<k8s_openapi::api::apps::v1::Deployment> =
            kube::Api::namespaced(world.client.clone(), &world.namespace);
        api.create(&kube::api::PostParams::default(), &serde_json::from_value(theirs).unwrap())
            .await
            .unwrap();
        world.apply("orders", &json!({"consumerGroups": groups(&["a"])})).await;
        let pipeline = world.until("orders", "Stalled", "True").await;
        assert_eq!(condition(&pipeline, "Ready").1, "NameTaken");
        let deployment = world.object(ObjectKind::Deployment, "orders-a").await.unwrap();
        assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["image"], "none");
        world.delete("orders").await;
        assert!(world.object(ObjectKind::Deployment, "orders-a").await.is_some());
    })
    .await;
}
