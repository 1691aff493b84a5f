//! Plans from one's own machine: what a manifest would change, told by the operator in its pod.

use std::process::Stdio;

use e2e::names::{PIPELINE, TOPIC};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::support::{plugin, ready, resource_versions, root};

/// Exit code and both outputs of `kubectl orderflow plan`.
async fn plan(manifest: &str, flags: &[&str]) -> (Option<i32>, String, String) {
    let mut args = vec!["plan", "-"];
    args.extend(flags);
    let mut command = plugin(&args).unwrap();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(manifest.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The example as it is deployed, with one piece of its text replaced.
fn example(old: &str, new: &str) -> String {
    let text = std::fs::read_to_string(root().join("crds/examples/orders.yaml")).unwrap();
    assert!(text.contains(old), "{old} is not in the example");
    text.replacen(old, new, 1)
}

#[tokio::test]
async fn a_plan_tells_what_a_manifest_would_change_and_changes_nothing() {
    ready().await;
    let before = resource_versions().await.unwrap();
    let (code, shown, complaints) = plan(&example("", ""), &[]).await;
    assert_eq!((code, complaints.as_str()), (Some(0), ""), "{shown}");
    assert!(shown.ends_with("nothing to change\n"), "{shown}");

    let groups = "  consumerGroups:\n";
    let one_more = format!("{groups}    - {{name: billing, sink: {{http: {{url: 'http://billing/'}}}}}}\n");
    let more = example(groups, &one_more);
    let (code, shown, complaints) = plan(&more, &[]).await;
    assert_eq!((code, complaints.as_str()), (Some(2), ""), "{shown}");
    let topic = format!("  + create topic {TOPIC}.billing.dlt with 3 partitions");
    let deployment = format!("  + create Deployment {PIPELINE}-billing");
    assert!(shown.find(&topic) < shown.find(&deployment) && shown.contains(&topic), "{shown}");
    let (_, data, _) = plan(&more, &["-o", "json"]).await;
    let data: Value = serde_json::from_str(&data).unwrap();
    assert_eq!(data[0]["name"], PIPELINE);
    assert_eq!(data[0]["changes"][0]["action"], "create");
    assert_eq!(resource_versions().await.unwrap(), before);
}

#[tokio::test]
async fn a_manifest_that_would_be_refused_is_told_with_its_field_and_fails() {
    ready().await;
    let (code, shown, _) = plan(&example("retention.ms:", "no.such.key:"), &[]).await;
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("  ! spec.topic.config: Kafka would refuse"), "{shown}");
    assert!(shown.contains("no.such.key"), "{shown}");

    let shrunk = example("partitions: 3", "partitions: 2");
    let (code, shown, complaints) = plan(&shrunk, &[]).await;
    assert_eq!((code, shown.as_str()), (Some(1), ""), "{complaints}");
    assert!(complaints.contains("spec.topic.partitions never shrinks"), "{complaints}");
    let (code, ..) = plan(&shrunk, &["--no-such-flag"]).await;
    assert_eq!(code, Some(1), "2 is for changes");
}
