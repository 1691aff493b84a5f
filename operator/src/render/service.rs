//! The Services of the order service: one for its users, one for its keepers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{ADMIN_PORT, HTTP_PORT, labels, metadata};
use crate::crd::{self, ServiceType};
use crate::names;
use crate::validate::{ValidatedPipeline, Workload};

pub(super) fn public(
    pipeline: &ValidatedPipeline,
    workload: &Workload,
    service: &crd::ServiceSpec,
) -> Service {
    let crd::ServiceSpec { type_, node_port, annotations } = service;
    let port = ServicePort { node_port: *node_port, ..port("http", HTTP_PORT) };
    let type_ = match type_ {
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    let name = names::order_service(&pipeline.name);
    render(metadata(pipeline, workload, name), type_, port, labels(pipeline, workload), annotations.clone())
}

pub(super) fn admin(pipeline: &ValidatedPipeline, workload: &Workload) -> Service {
    let name = names::order_service_admin(&pipeline.name);
    let metadata = metadata(pipeline, workload, name);
    render(metadata, "ClusterIP", port("admin", ADMIN_PORT), labels(pipeline, workload), BTreeMap::new())
}

fn port(name: &str, number: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    }
}

fn render(
    metadata: ObjectMeta,
    type_: &str,
    port: ServicePort,
    selector: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
) -> Service {
    Service {
        metadata: ObjectMeta { annotations: Some(annotations), ..metadata },
        spec: Some(ServiceSpec {
            type_: Some(type_.to_owned()),
            selector: Some(selector),
            ports: Some(vec![port]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
