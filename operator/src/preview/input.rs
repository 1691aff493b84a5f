//! Pipelines from manifests, as kubectl takes them: documents one after another, or a list. Pure.

use anyhow::{Context, bail};
use kube::Resource;
use serde::Deserialize;
use serde_json::Value;

use crate::crd::OrderPipeline;

/// The pipelines in `text`, YAML or JSON. Other objects in it are none of the operator's business.
///
/// # Errors
/// When the text can't be parsed or holds no pipeline.
pub fn pipelines(text: &str) -> anyhow::Result<Vec<OrderPipeline>> {
    let mut found = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let document = Value::deserialize(document).context("failed to parse the manifest")?;
        let items = match document["kind"].as_str() {
            Some("List") => document["items"].as_array().cloned().unwrap_or_default(),
            _ => vec![document],
        };
        for item in items.into_iter().filter(is_pipeline) {
            let name = item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let pipeline =
                serde_json::from_value(item).with_context(|| format!("failed to parse pipeline {name:?}"))?;
            found.push(pipeline);
        }
    }
    if found.is_empty() {
        bail!("there is no OrderPipeline in the input");
    }
    Ok(found)
}

fn is_pipeline(item: &Value) -> bool {
    item["kind"] == *OrderPipeline::kind(&()) && item["apiVersion"] == *OrderPipeline::api_version(&())
}
