//! Dead letters of a group: runs `consumer dead-letters …` in a pod of the group, which has the settings and the rights.

use std::os::unix::process::CommandExt;

use anyhow::{Context, bail};
use clap::Args;

use crate::kubectl::Where;

/// Labels of what the operator makes (`operator/src/names.rs`).
const PIPELINE_LABEL: &str = "orderflow.dev/pipeline";
const GROUP_LABEL: &str = "orderflow.dev/group";

/// Which group's dead letters, and what to do with them.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct Dlt {
    /// The pipeline and its consumer group: PIPELINE/GROUP.
    #[arg(value_parser = Group::parse)]
    pub group: Group,
    /// What to do: list, show KEY, replay, release KEY, discard KEY or history, each with its own options (--help).
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// A consumer group of a pipeline.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    pipeline: String,
    group: String,
}

impl Group {
    /// Reads `PIPELINE/GROUP`.
    ///
    /// # Errors
    /// When it has another form.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((pipeline, group)) if is_name(pipeline) && is_name(group) => {
                Ok(Self { pipeline: pipeline.to_owned(), group: group.to_owned() })
            }
            _ => Err("write PIPELINE/GROUP, such as orders/data-platform".to_owned()),
        }
    }

    fn selector(&self) -> String {
        format!("{PIPELINE_LABEL}={},{GROUP_LABEL}={}", self.pipeline, self.group)
    }
}

/// What may stand in a label's value; a comma or a sign of equality would make another selector of it.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "-.".contains(letter))
}

/// Becomes the call in the pod: its output, its end and its exit code are this program's.
///
/// # Errors
/// When there is no such group, or kubectl can't be run.
pub fn run(there: &Where, Dlt { group, command }: &Dlt) -> anyhow::Result<()> {
    let deployment = deployment(there, group)?;
    let mut call = there.kubectl();
    call.args(["exec", &deployment, "--", "consumer", "dead-letters"]).args(command);
    Err(call.exec()).context("failed to run kubectl")
}

fn deployment(there: &Where, group: &Group) -> anyhow::Result<String> {
    let found = there.lines(["get", "deployments", "--selector", &group.selector(), "--output", "name"])?;
    if let Some(deployment) = found.into_iter().next() {
        return Ok(deployment);
    }
    let all = format!("{PIPELINE_LABEL}={},{GROUP_LABEL}", group.pipeline);
    let path = "jsonpath={range .items[*]}{.metadata.labels.orderflow\\.dev/group}{\"\\n\"}{end}";
    let others = there.lines(["get", "deployments", "--selector", &all, "--output", path])?;
    if others.is_empty() {
        bail!(
            "no pipeline {} with consumer groups in this namespace: name another with --namespace",
            group.pipeline
        );
    }
    bail!("pipeline {} has no consumer group {}: it has {}", group.pipeline, group.group, others.join(", "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_selected_by_the_operators_labels() {
        let group = Group::parse("orders/data-platform").unwrap();
        assert_eq!(group.selector(), "orderflow.dev/pipeline=orders,orderflow.dev/group=data-platform");
    }

    #[test]
    fn what_would_make_another_selector_is_refused() {
        for text in ["orders", "orders/", "/x", "orders/a,b=c", "orders/a/b", "a!=b/c"] {
            assert!(Group::parse(text).is_err(), "{text}");
        }
    }
}
