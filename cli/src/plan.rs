//! What applying manifests would change: the API server checks them by a dry run, and the operator plans them in its own
//! pod, which reaches Kafka and may read what the operator reads. Nothing is written anywhere.

use std::io::Write;
use std::process::{Command, ExitCode, Output, Stdio};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::kubectl::Where;

/// Label of the operator's Deployment (`charts/order-pipeline-operator`).
const OPERATOR_SELECTOR: &str = "app.kubernetes.io/name=order-pipeline-operator";

/// How `operator plan` says that there are changes, and how this command does (`operator/src/preview.rs`).
const CHANGES: u8 = 2;

/// What kubectl adds to the messages of a command that did not end with 0; it is no news here.
const KUBECTL_END: &str = "command terminated with exit code";

/// Which manifests, and how to show what they would change.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct Plan {
    /// Manifests with OrderPipelines, as kubectl takes them; - is standard input.
    #[arg(required = true)]
    pub files: Vec<String>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Form,
    /// Check it as `kubectl apply --server-side` would apply it.
    #[arg(long)]
    pub server_side: bool,
    /// With --server-side: take fields that belong to other managers.
    #[arg(long, requires = "server_side")]
    pub force_conflicts: bool,
    /// Namespace of the operator.
    #[arg(long, default_value = "orderflow-system")]
    pub operator_namespace: String,
}

/// Forms of output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Form {
    /// A line for each change.
    #[default]
    Text,
    /// A list of pipelines with their changes.
    Json,
    /// The same in YAML.
    Yaml,
}

impl Form {
    const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Yaml => "yaml",
        }
    }
}

/// Prints the changes; ends with 0 when there are none and with 2 when there are.
///
/// # Errors
/// When a manifest is refused, there is no operator, or kubectl can't be run.
pub fn run(there: &Where, plan: &Plan) -> anyhow::Result<ExitCode> {
    let manifests = pipelines(&dry_run(there, plan)?)?;
    let operator = Where { namespace: Some(plan.operator_namespace.clone()), ..there.clone() };
    let deployment = deployment(&operator, &plan.operator_namespace)?;
    let mut call = operator.kubectl();
    call.args(["exec", "-i", &deployment, "--", "operator", "plan", "--output", plan.output.name(), "-"]);
    let output = fed(call, &manifests.to_string())?;
    std::io::stdout().write_all(&output.stdout)?;
    eprint!("{}", complaints(&output));
    Ok(ExitCode::from(end(&output)))
}

/// What the API server would store: defaults filled in, rules checked, merged with what is there.
fn dry_run(there: &Where, plan: &Plan) -> anyhow::Result<Value> {
    let mut call = there.kubectl();
    call.args(["apply", "--dry-run=server", "--output", "json"]).args(apply_flags(plan));
    // Its complaints are for the user as they are, one line for each field.
    let output = call.stderr(Stdio::inherit()).stdin(Stdio::inherit()).output();
    let output = output.context("failed to run kubectl: is it installed?")?;
    if !output.status.success() {
        bail!("the manifests can't be applied");
    }
    serde_json::from_slice(&output.stdout).context("failed to read what kubectl printed")
}

fn apply_flags(plan: &Plan) -> Vec<String> {
    let flags = [("--server-side", plan.server_side), ("--force-conflicts", plan.force_conflicts)];
    let flags = flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag.to_owned());
    flags.chain(plan.files.iter().map(|file| format!("--filename={file}"))).collect()
}

/// The pipelines alone: what else stands in the manifests, such as Secrets, is not the operator's to see.
fn pipelines(dry_run: &Value) -> anyhow::Result<Value> {
    let all = match dry_run["kind"].as_str() {
        Some("List") => dry_run["items"].as_array().cloned().unwrap_or_default(),
        _ => vec![dry_run.clone()],
    };
    let ours = |item: &Value| {
        let version = item["apiVersion"].as_str().unwrap_or_default();
        item["kind"] == "OrderPipeline" && version.starts_with("orderflow.dev/")
    };
    let items: Vec<Value> = all.into_iter().filter(ours).collect();
    if items.is_empty() {
        bail!("there is no OrderPipeline in the manifests");
    }
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}))
}

fn deployment(operator: &Where, namespace: &str) -> anyhow::Result<String> {
    let found =
        operator.lines(["get", "deployments", "--selector", OPERATOR_SELECTOR, "--output", "name"])?;
    found.into_iter().next().with_context(|| {
        format!("there is no operator in namespace {namespace}: name another with --operator-namespace")
    })
}

/// Runs `call` with `input` on its standard input.
fn fed(mut call: Command, input: &str) -> anyhow::Result<Output> {
    call.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = call.spawn().context("failed to run kubectl")?;
    if let Some(mut stdin) = child.stdin.take()
        && let Err(error) = stdin.write_all(input.as_bytes())
        // It ended before it read everything, and says itself why.
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        return Err(error).context("failed to hand the manifests to kubectl");
    }
    child.wait_with_output().context("failed to run kubectl")
}

/// What went wrong, without kubectl's line on how the command ended.
fn complaints(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.lines().filter(|line| !line.starts_with(KUBECTL_END)).map(|line| format!("{line}\n")).collect()
}

/// How this command ends: an operator that does not know `plan` ends with 2 as well, but shows nothing.
fn end(output: &Output) -> u8 {
    match output.status.code() {
        Some(0) => 0,
        Some(code) if code == i32::from(CHANGES) && !output.stdout.is_empty() => CHANGES,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn ended(code: i32, stdout: &str, stderr: &str) -> Output {
        Output { status: ExitStatus::from_raw(code << 8), stdout: stdout.into(), stderr: stderr.into() }
    }

    fn pipeline(name: &str) -> Value {
        json!({"apiVersion": "orderflow.dev/v1alpha1", "kind": "OrderPipeline", "metadata": {"name": name}})
    }

    #[test]
    fn changes_end_with_two_and_errors_with_one() {
        assert_eq!(end(&ended(0, "nothing to change\n", "")), 0);
        assert_eq!(end(&ended(2, "1 change\n", "")), 2);
        assert_eq!(end(&ended(1, "1 problem\n", "")), 1);
        assert_eq!(end(&ended(2, "", "error: unrecognized subcommand 'plan'")), 1);
        assert_eq!(end(&ended(137, "", "")), 1);
    }

    #[test]
    fn kubectl_s_word_on_the_exit_code_is_not_repeated() {
        let output = ended(2, "1 change\n", "Warning: x\ncommand terminated with exit code 2\n");
        assert_eq!(complaints(&output), "Warning: x\n");
    }

    #[test]
    fn only_pipelines_are_handed_to_the_operator() {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "data": {"password": "c2VjcmV0"}});
        let list = json!({"kind": "List", "items": [pipeline("a"), secret, pipeline("b")]});
        let handed = pipelines(&list).unwrap();
        assert_eq!(handed["items"], json!([pipeline("a"), pipeline("b")]));
        assert_eq!(pipelines(&pipeline("a")).unwrap()["items"], json!([pipeline("a")]));
        assert!(pipelines(&secret).is_err());
    }

    #[test]
    fn the_dry_run_is_the_apply_that_the_user_means() {
        let mut plan = Plan {
            files: vec!["a.yaml".into(), "-".into()],
            output: Form::Text,
            server_side: false,
            force_conflicts: false,
            operator_namespace: "orderflow-system".into(),
        };
        assert_eq!(apply_flags(&plan), ["--filename=a.yaml", "--filename=-"]);
        (plan.server_side, plan.force_conflicts) = (true, true);
        assert_eq!(apply_flags(&plan)[..2], ["--server-side", "--force-conflicts"]);
    }
}
