//! What is rendered, as committed snapshots.

use crate::fixtures::{example, nothing, pipeline, pipeline_with, valid};
use crate::render::render;

fn snapshot(name: &str, pipeline: &crate::crd::OrderPipeline) {
    let observed = nothing(pipeline);
    let valid = valid(pipeline, &observed);
    let text: Vec<String> = valid
        .workloads
        .iter()
        .flat_map(|workload| render(&valid, workload, &observed.secrets))
        .map(|intent| serde_yaml::to_string(&intent.body).unwrap())
        .collect();
    insta::assert_snapshot!(name, text.join("---\n"));
}

#[test]
fn the_demo_pipeline_s_objects_are_as_committed() {
    snapshot("orders", &pipeline(&example("orders.yaml")));
}

#[test]
fn a_pipeline_with_everything_set_is_rendered_as_committed() {
    snapshot(
        "everything",
        &pipeline_with(
            "kafka: {bootstrapServers: \"a:9092,b:9092\", tls: {caSecretRef: {name: ca, key: ca.crt}}, \
             sasl: {mechanism: SCRAM-SHA-512, usernameSecretRef: {name: sasl, key: user}, passwordSecretRef: {name: sasl, key: password}}}, \
             orderService: {database: {secretRef: {name: db}}, replicas: 3, image: registry.example/orders:1, imagePullPolicy: Always, \
             resources: {requests: {cpu: 1}, limits: {memory: 1Gi}}, env: [{name: LOG, value: debug}, {name: TOKEN, secretRef: {name: t, key: k}}], \
             podLabels: {team: a}, podAnnotations: {note: b}, service: {type: LoadBalancer, annotations: {lb: internal}}}, \
             consumerGroups: [{name: own, image: registry.example/mine:1, command: [/mine], replicas: 2, delivery: AtMostOnce, startFrom: Latest, \
             sink: {http: {url: \"http://sink/\", timeoutSeconds: 5}}, retry: {maxAttempts: 1}}]",
        ),
    );
}
