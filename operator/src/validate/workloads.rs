//! The Deployments a pipeline is to have, with the environment its programs read.

use std::collections::BTreeSet;

use kube::ResourceExt;
use runtime::kafka::env as kafka_env;

use super::topics::dead_letter_name;
use super::{EnvValue, Part, Problem, Reason, Workload};
use crate::crd::{ConsumerGroupSpec, EnvSetting, GrowthPolicy, KafkaSpec, OrderPipeline, OrderServiceSpec};
use crate::kafka::NewTopic;
use crate::observe::{Observed, topic_name};
use crate::render;

/// Environment of a container, in order.
pub(super) type Env = Vec<(String, EnvValue)>;

/// Objects of others that stand where one of ours must.
pub(super) fn name_problems(pipeline: &OrderPipeline, observed: &Observed) -> Vec<Problem> {
    let uid = pipeline.uid().unwrap_or_default();
    let strangers =
        observed.objects.iter().filter(|(_, live)| live.controller.as_deref() != Some(uid.as_str()));
    strangers
        .map(|(key, live)| {
            let whose =
                live.controller_name.clone().unwrap_or_else(|| "nobody the operator knows".to_owned());
            let message = format!(
                "{key} exists and belongs to {whose}: rename the pipeline or the group, or remove it"
            );
            Problem::new(Reason::NameTaken, "metadata.name", message)
        })
        .collect()
}

pub(super) fn intents(pipeline: &OrderPipeline, topics: &[NewTopic], default_image: &str) -> Vec<Workload> {
    debug_assert!(!topics.is_empty(), "the main topic is always there");
    let service = pipeline.spec.order_service.iter().map(|service| Workload {
        part: Part::OrderService,
        replicas: service.replicas.unwrap_or(1),
        image: service.image.clone().unwrap_or_else(|| default_image.to_owned()),
        command: Some(vec![render::ORDER_SERVICE_COMMAND.to_owned()]),
        pull_policy: service.image_pull_policy,
        resources: service.resources.clone(),
        env: with_user_env(service_env(pipeline, service), &service.env),
        pod_labels: service.pod_labels.clone(),
        pod_annotations: service.pod_annotations.clone(),
        service: Some(service.service.clone()),
    });
    let groups = pipeline.spec.consumer_groups.iter().map(|group| Workload {
        part: Part::Group(group.name.clone()),
        replicas: group.replicas.unwrap_or(1),
        image: group.image.clone().unwrap_or_else(|| default_image.to_owned()),
        // An image of the user's own starts as it was made to start.
        command: match group.image {
            None => Some(vec![render::CONSUMER_COMMAND.to_owned()]),
            Some(_) => group.command.clone(),
        },
        pull_policy: group.image_pull_policy,
        resources: group.resources.clone(),
        env: with_user_env(consumer_env(pipeline, group), &group.env),
        pod_labels: group.pod_labels.clone(),
        pod_annotations: group.pod_annotations.clone(),
        service: None,
    });
    service.chain(groups).collect()
}

/// What the order service reads, but for the user's own settings.
pub(super) fn service_env(pipeline: &OrderPipeline, service: &OrderServiceSpec) -> Env {
    let mut env = connection_env(&pipeline.spec.kafka);
    env.extend([
        literal("TOPIC", topic_name(pipeline)),
        ("DATABASE_URL".to_owned(), EnvValue::Secret(service.database.secret_ref.clone())),
        literal("HTTP_ADDR", format!("0.0.0.0:{}", render::HTTP_PORT)),
        // Whom the relay waits for before it goes over to more partitions, and whether it waits at all.
        literal("CONSUMER_GROUPS", group_names(pipeline)),
        literal("PARTITION_GROWTH", partition_growth(pipeline.spec.topic.growth_policy)),
    ]);
    env.extend(process_env());
    env
}

/// In the order of their names: that of the spec means nothing, and a change of it is no reason to restart pods.
fn group_names(pipeline: &OrderPipeline) -> String {
    let names = pipeline.spec.consumer_groups.iter().map(|group| group.name.as_str());
    names.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(",")
}

/// A topic that somebody else grew is gone over to in order, where the operator itself would not grow it.
const fn partition_growth(policy: GrowthPolicy) -> &'static str {
    match policy {
        GrowthPolicy::Immediate => "immediate",
        GrowthPolicy::OrderSafe | GrowthPolicy::Never => "order-safe",
    }
}

/// What a consumer reads, but for the user's own settings.
pub(super) fn consumer_env(pipeline: &OrderPipeline, group: &ConsumerGroupSpec) -> Env {
    let topic = topic_name(pipeline);
    let mut env = connection_env(&pipeline.spec.kafka);
    env.extend([
        literal("TOPIC", &topic),
        literal("GROUP", &group.name),
        literal("DELIVERY", group.delivery.name()),
        literal("START_FROM", group.start_from.name()),
        literal("DEAD_LETTER_TOPIC", dead_letter_name(&topic, group)),
        literal("RETRY_MAX_ATTEMPTS", group.retry.max_attempts.to_string()),
        literal("RETRY_INITIAL_BACKOFF_MILLIS", group.retry.initial_backoff_millis.to_string()),
        literal("RETRY_MAX_BACKOFF_SECONDS", group.retry.max_backoff_seconds.to_string()),
    ]);
    if let Some(postgres) = &group.sink.postgres {
        env.push(literal("SINK", "postgres"));
        env.push(("SINK_DATABASE_URL".to_owned(), EnvValue::Secret(postgres.secret_ref.clone())));
    }
    if let Some(http) = &group.sink.http {
        env.push(literal("SINK", "http"));
        env.push(literal("SINK_HTTP_URL", &http.url));
        env.push(literal("SINK_HTTP_TIMEOUT_SECONDS", http.timeout_seconds.to_string()));
    }
    env.extend(process_env());
    env
}

fn process_env() -> Env {
    vec![
        literal("ADMIN_ADDR", format!("0.0.0.0:{}", render::ADMIN_PORT)),
        literal("SHUTDOWN_GRACE_SECONDS", render::SHUTDOWN_GRACE_SECONDS.to_string()),
        ("POD_NAME".to_owned(), EnvValue::PodName),
    ]
}

fn connection_env(kafka: &KafkaSpec) -> Env {
    let mut env = vec![
        literal(kafka_env::BOOTSTRAP_SERVERS, &kafka.bootstrap_servers),
        literal(kafka_env::TLS, kafka.tls.is_some().to_string()),
    ];
    if kafka.tls.as_ref().is_some_and(|tls| tls.ca_secret_ref.is_some()) {
        env.push(literal(kafka_env::TLS_CA_FILE, render::CA_FILE));
    }
    if let Some(sasl) = &kafka.sasl {
        env.extend([
            literal(kafka_env::SASL_MECHANISM, sasl.mechanism.name()),
            (kafka_env::SASL_USERNAME.to_owned(), EnvValue::Secret(sasl.username_secret_ref.clone())),
            (kafka_env::SASL_PASSWORD.to_owned(), EnvValue::Secret(sasl.password_secret_ref.clone())),
        ]);
    }
    env
}

fn with_user_env(mut env: Env, user: &[EnvSetting]) -> Env {
    env.extend(user.iter().filter_map(|setting| {
        let secret = setting.secret_ref.clone().map(EnvValue::Secret);
        Some((setting.name.clone(), secret.or_else(|| setting.value.clone().map(EnvValue::Literal))?))
    }));
    env
}

fn literal(name: &str, value: impl Into<String>) -> (String, EnvValue) {
    (name.to_owned(), EnvValue::Literal(value.into()))
}
