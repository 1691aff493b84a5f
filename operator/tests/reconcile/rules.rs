//! A payload per rule, with the message it gets, from the API server or from `validate`.

use std::collections::BTreeMap;

use kube::api::{Patch, PatchParams, PostParams, ValidationDirective};
use kube::{Api, ResourceExt};
use operator::crd::OrderPipeline;
use operator::observe::{KafkaView, Observed};
use operator::validate::validate;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::patch::merged;
use crate::world::{AMPLE, World, scenario};

/// Who refuses.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
enum By {
    /// The API server, by the schema and its CEL rules.
    Server,
    /// The operator; the API server took it.
    Operator,
}
use By::{Operator, Server};

/// A row of `rules.yaml`.
#[derive(Debug, Deserialize)]
struct Row {
    by: By,
    #[serde(flatten)]
    patch: Target,
    says: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Target {
    Metadata(Value),
    Spec(Value),
    Service(Value),
    Group(Value),
}

impl Target {
    fn laid_over_base(&self) -> Value {
        let patch = match self {
            Self::Metadata(patch) => json!({"metadata": patch}),
            Self::Spec(patch) => json!({"spec": patch}),
            Self::Service(patch) => json!({"spec": {"orderService": patch}}),
            Self::Group(patch) => json!({"spec": {"consumerGroups": [merged(&valid_group(), patch)]}}),
        };
        merged(&base(), &patch)
    }
}

/// Rows too long to write out.
fn long_rows() -> Vec<(By, Value, &'static str)> {
    let spec = |patch: Value| merged(&base(), &json!({"spec": patch}));
    let group = |patch: Value| merged(&valid_group(), &patch);
    let groups: Vec<_> = (0..33).map(|n| group(json!({"name": format!("g{n}")}))).collect();
    let keys: BTreeMap<_, _> = (0..65).map(|n| (n.to_string(), "1".to_owned())).collect();
    let long_names = json!({
        "metadata": {"name": "o".repeat(30)},
        "spec": {"consumerGroups": [group(json!({"name": "g".repeat(40)}))]},
    });
    vec![
        (Server, spec(json!({"topic": {"name": "t".repeat(181)}})), "spec.topic.name: Too long"),
        (
            Server,
            spec(json!({"topic": {"config": {"k": "1".repeat(1025)}}})),
            "spec.topic.config.k: Too long",
        ),
        (Server, spec(json!({"topic": {"config": keys}})), "spec.topic.config: Too many"),
        (Server, spec(json!({"consumerGroups": [group(json!({"name": "g".repeat(51)}))]})), "name: Too long"),
        (Server, spec(json!({"consumerGroups": groups})), "spec.consumerGroups: Too many"),
        (
            Server,
            spec(json!({"consumerGroups": [valid_group(), valid_group()]})),
            "duplicate entries for key",
        ),
        (Server, merged(&base(), &long_names), "have at most 62 characters together"),
    ]
}

fn valid_group() -> Value {
    json!({"name": "a", "sink": {"http": {"url": "http://sink/"}}})
}

fn valid_service() -> Value {
    json!({"database": {"secretRef": {"name": "db"}}})
}

fn base() -> Value {
    json!({
        "apiVersion": "orderflow.dev/v1alpha1", "kind": "OrderPipeline", "metadata": {"name": "orders"},
        "spec": {"kafka": {"bootstrapServers": "kafka:9092"}, "topic": {"name": "main"},
            "orderService": valid_service(), "consumerGroups": [valid_group()]},
    })
}

/// What the operator says of a pipeline when nothing is there but itself.
fn complaints(pipeline: &OrderPipeline) -> String {
    let nothing = Observed {
        connection: None,
        kafka: KafkaView::Topics(BTreeMap::new()),
        secrets: BTreeMap::new(),
        objects: BTreeMap::new(),
        records: BTreeMap::new(),
        conflicts: Vec::new(),
    };
    match validate(pipeline, &nothing, "image") {
        Ok(_) => String::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    }
}

/// Tries to create `object` without creating it; who refuses, and in which words.
async fn attempt(world: &World, object: &Value) -> (Option<By>, String) {
    // Raw, so that what the types can't hold reaches the API server as it is.
    let resource = kube::api::ApiResource::erase::<OrderPipeline>(&());
    let api: Api<kube::api::DynamicObject> =
        Api::namespaced_with(world.client.clone(), &world.namespace, &resource);
    let params = PatchParams {
        dry_run: true,
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply("test")
    };
    let name = object["metadata"]["name"].as_str().unwrap();
    match api.patch(name, &params, &Patch::Apply(object)).await {
        Err(kube::Error::Api(status)) => (Some(Server), status.message.clone()),
        Err(error) => panic!("{error}"),
        Ok(taken) => {
            let pipeline: OrderPipeline =
                serde_json::from_value(serde_json::to_value(taken).unwrap()).unwrap();
            let complaints = complaints(&pipeline);
            if complaints.is_empty() { (None, complaints) } else { (Some(Operator), complaints) }
        }
    }
}

#[tokio::test]
async fn every_rule_refuses_its_payload_with_its_message() {
    scenario(AMPLE, async |world| {
        assert_eq!(attempt(&world, &base()).await, (None, String::new()), "the base is valid");
        let rows: Vec<Row> = serde_yaml::from_str(include_str!("rules.yaml")).unwrap();
        let written = rows.iter().map(|row| (row.by, row.patch.laid_over_base(), row.says.as_str()));
        let mut failed = Vec::new();
        for (by, object, says) in written.chain(long_rows()) {
            let (who, message) = attempt(&world, &object).await;
            if who != Some(by) || !message.contains(says) {
                failed.push(format!("{by:?} should say {says}\n  {who:?} said {message}"));
            }
        }
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    })
    .await;
}

#[tokio::test]
async fn what_may_never_change_is_refused_by_the_api_server() {
    scenario(AMPLE, async |world| {
        let created: OrderPipeline = serde_json::from_value(base()).unwrap();
        let created = world.pipelines().create(&PostParams::default(), &created).await.unwrap();
        for (patch, fragment) in [
            (json!({"topic": {"name": "other"}}), "spec.topic.name is immutable"),
            (json!({"topic": {"name": null}}), "spec.topic.name is immutable"),
            (json!({"topic": {"partitions": 2}}), "spec.topic.partitions never shrinks"),
        ] {
            let params = PatchParams { dry_run: true, ..PatchParams::default() };
            let patch = json!({"spec": patch});
            let refused = world.pipelines().patch(&created.name_any(), &params, &Patch::Merge(&patch)).await;
            let Err(kube::Error::Api(status)) = refused else { panic!("{patch} was taken") };
            assert!(status.message.contains(fragment), "{patch}: {}", status.message);
        }
    })
    .await;
}

#[tokio::test]
async fn partitions_can_go_back_to_what_the_topic_has_but_no_further() {
    scenario(AMPLE, async |world| {
        world.apply("orders", &json!({})).await;
        world.converge("orders").await;
        world.apply("orders", &json!({"topic": {"partitions": 4, "growthPolicy": "Never"}})).await;
        let pipeline = world.until("orders", "Stalled", "True").await;
        let message = crate::world::condition(&pipeline, "Ready").2;
        assert!(message.contains("has 2 partitions and growthPolicy is Never: set 2"), "{message}");
        world.writes_nothing("orders").await;

        let params = PatchParams { dry_run: true, ..PatchParams::default() };
        let too_few = json!({"spec": {"topic": {"partitions": 1}}});
        assert!(world.pipelines().patch("orders", &params, &Patch::Merge(&too_few)).await.is_err());
        world.apply("orders", &json!({"topic": {"partitions": 2, "growthPolicy": "Never"}})).await;
        world.converge("orders").await;
    })
    .await;
}
