//! The Deployment of a workload, fit for the restricted Pod Security standard.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, KeyToPath, Lifecycle,
    LifecycleHandler, ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    ResourceRequirements, SeccompProfile, SecretKeySelector, SecretVolumeSource, SecurityContext,
    SleepAction, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{
    ADMIN_PORT, CA_FILE, HTTP_PORT, SHUTDOWN_GRACE_SECONDS, labels, metadata, name, program, selector,
};
use crate::crd::{PullPolicy, Resources, SecretKeyRef};
use crate::hash;
use crate::names;
use crate::observe::SecretState;
use crate::validate::{EnvValue, Part, ValidatedPipeline, Workload};

/// User and group of the images' programs.
const USER: i64 = 65532;

/// A pod that is going still gets requests until every node has heard of it; it serves them meanwhile.
const ENDPOINT_LAG_SECONDS: i64 = 5;

/// What the kubelet may take over the program's own deadline before it kills.
const GRACE_MARGIN_SECONDS: i64 = 5;

/// Old ReplicaSets kept for a rollback by hand.
const REVISIONS: i32 = 3;

/// A program may take this many probes of this many seconds to come up (migrations run before it listens).
const STARTUP_PROBES: i32 = 60;
const STARTUP_PERIOD_SECONDS: i32 = 2;

/// A hung program is restarted after three missed probes; its own heartbeats decide what hung means.
const LIVENESS_PERIOD_SECONDS: i32 = 10;
const READINESS_PERIOD_SECONDS: i32 = 5;
const PROBE_FAILURES: i32 = 3;
const PROBE_TIMEOUT_SECONDS: i32 = 5;

const CA_VOLUME: &str = "kafka-ca";

pub(super) fn render(
    pipeline: &ValidatedPipeline,
    workload: &Workload,
    secrets: &BTreeMap<SecretKeyRef, SecretState>,
) -> Deployment {
    let mut pod_labels = workload.pod_labels.clone();
    pod_labels.extend(labels(pipeline, workload));
    let mut annotations = workload.pod_annotations.clone();
    if let Some(hash) = secrets_hash(&workload.secrets(&pipeline.kafka), secrets) {
        annotations.insert(names::SECRETS_ANNOTATION.to_owned(), hash);
    }
    Deployment {
        metadata: metadata(pipeline, workload, name(&pipeline.name, &workload.part)),
        spec: DeploymentSpec {
            replicas: workload.sets_replicas().then_some(workload.replicas),
            revision_history_limit: Some(REVISIONS),
            selector: selector(pipeline, workload),
            // A new pod is ready before an old one goes: orders are taken and events delivered throughout.
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(pod_labels),
                    annotations: Some(annotations),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(pipeline, workload)),
            },
            ..DeploymentSpec::default()
        },
        status: None,
    }
}

fn pod(pipeline: &ValidatedPipeline, workload: &Workload) -> PodSpec {
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        containers: vec![container(pipeline, workload)],
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        termination_grace_period_seconds: Some(
            endpoint_lag_seconds(&workload.part) + SHUTDOWN_GRACE_SECONDS + GRACE_MARGIN_SECONDS,
        ),
        topology_spread_constraints: Some(
            ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
                .map(|key| TopologySpreadConstraint {
                    max_skew: 1,
                    topology_key: key.to_owned(),
                    when_unsatisfiable: "ScheduleAnyway".to_owned(),
                    label_selector: Some(selector(pipeline, workload)),
                    ..TopologySpreadConstraint::default()
                })
                .into(),
        ),
        volumes: ca_secret(pipeline).map(|ca| {
            vec![Volume {
                name: CA_VOLUME.to_owned(),
                secret: Some(SecretVolumeSource {
                    secret_name: Some(ca.name.clone()),
                    items: Some(vec![KeyToPath {
                        key: ca.key.clone(),
                        path: "ca.pem".to_owned(),
                        ..KeyToPath::default()
                    }]),
                    ..SecretVolumeSource::default()
                }),
                ..Volume::default()
            }]
        }),
        ..PodSpec::default()
    }
}

fn container(pipeline: &ValidatedPipeline, workload: &Workload) -> Container {
    let lag = endpoint_lag_seconds(&workload.part);
    Container {
        name: program(&workload.part).to_owned(),
        image: Some(workload.image.clone()),
        image_pull_policy: Some(pull_policy(workload.pull_policy).to_owned()),
        command: workload.command.clone(),
        env: Some(workload.env.iter().map(|(name, value)| env_var(name, value)).collect()),
        ports: Some(ports(&workload.part)),
        resources: Some(resources(&workload.resources)),
        // The kubelet itself sleeps: the image need not hold a shell.
        lifecycle: (lag > 0).then(|| Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: lag }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        startup_probe: Some(probe("/livez", STARTUP_PERIOD_SECONDS, STARTUP_PROBES)),
        liveness_probe: Some(probe("/livez", LIVENESS_PERIOD_SECONDS, PROBE_FAILURES)),
        readiness_probe: Some(probe("/readyz", READINESS_PERIOD_SECONDS, PROBE_FAILURES)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        volume_mounts: ca_secret(pipeline).map(|_| {
            vec![VolumeMount {
                name: CA_VOLUME.to_owned(),
                mount_path: CA_FILE.trim_end_matches("/ca.pem").to_owned(),
                read_only: Some(true),
                ..VolumeMount::default()
            }]
        }),
        ..Container::default()
    }
}

/// Only the order service is reached through a Service whose endpoints lag behind.
const fn endpoint_lag_seconds(part: &Part) -> i64 {
    match part {
        Part::OrderService => ENDPOINT_LAG_SECONDS,
        Part::Group(_) | Part::Topic(_) => 0,
    }
}

fn ports(part: &Part) -> Vec<ContainerPort> {
    let port = |name: &str, number| ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let admin = port("admin", ADMIN_PORT);
    match part {
        Part::OrderService => vec![port("http", HTTP_PORT), admin],
        Part::Group(_) | Part::Topic(_) => vec![admin],
    }
}

fn probe(path: &str, period_seconds: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failures),
        timeout_seconds: Some(PROBE_TIMEOUT_SECONDS),
        ..Probe::default()
    }
}

fn env_var(name: &str, value: &EnvValue) -> EnvVar {
    let from = |source| EnvVar { name: name.to_owned(), value: None, value_from: Some(source) };
    match value {
        EnvValue::Literal(value) => {
            EnvVar { name: name.to_owned(), value: Some(value.clone()), value_from: None }
        }
        EnvValue::Secret(SecretKeyRef { name, key }) => from(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector { name: name.clone(), key: key.clone(), optional: None }),
            ..EnvVarSource::default()
        }),
        EnvValue::PodName => from(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: "metadata.name".to_owned(),
            }),
            ..EnvVarSource::default()
        }),
    }
}

fn resources(resources: &Resources) -> ResourceRequirements {
    let Resources { requests, limits } = resources;
    let quantities = |map: &BTreeMap<String, IntOrString>| {
        map.iter()
            .map(|(name, value)| (name.clone(), Quantity(crate::validate::quantity_text(value))))
            .collect::<BTreeMap<_, _>>()
    };
    ResourceRequirements {
        requests: Some(quantities(requests)),
        limits: Some(quantities(limits)),
        claims: None,
    }
}

const fn pull_policy(policy: PullPolicy) -> &'static str {
    match policy {
        PullPolicy::Always => "Always",
        PullPolicy::IfNotPresent => "IfNotPresent",
        PullPolicy::Never => "Never",
    }
}

fn ca_secret(pipeline: &ValidatedPipeline) -> Option<&SecretKeyRef> {
    pipeline.kafka.tls.as_ref()?.ca_secret_ref.as_ref()
}

/// A hash over the values of all Secrets that a pod reads at its start; none when it reads none.
fn secrets_hash(
    references: &[SecretKeyRef],
    secrets: &BTreeMap<SecretKeyRef, SecretState>,
) -> Option<String> {
    let hashes: Vec<&[u8]> = references
        .iter()
        .filter_map(|reference| match secrets.get(reference)? {
            SecretState::Present { hash } => Some(hash.as_bytes()),
            SecretState::SecretMissing | SecretState::KeyMissing => None,
        })
        .collect();
    (!hashes.is_empty()).then(|| hash::of(hashes))
}
