//! kubectl, always against the local cluster.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::names::{CONTEXT, NAMESPACE};

/// Longest that one kubectl call may take: its own waits are given as arguments and are shorter.
const CALL_TIMEOUT: Duration = Duration::from_secs(300);
/// Pause between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Pause between two looks at what should not change.
const STAYS_EVERY: Duration = Duration::from_secs(5);

/// Runs kubectl in namespace `shop` and returns what it printed.
///
/// # Errors
/// When kubectl can't be started, takes over five minutes or exits non-zero; the message carries its standard error.
pub async fn kubectl(args: &[&str]) -> anyhow::Result<String> {
    kubectl_with_input(args, "").await
}

/// As [`kubectl`], with `input` on standard input.
///
/// # Errors
/// As [`kubectl`].
pub async fn kubectl_with_input(args: &[&str], input: &str) -> anyhow::Result<String> {
    let mut command = Command::new("kubectl");
    command.args(["--context", CONTEXT, "--namespace", NAMESPACE]).args(args);
    run(command, input).await.with_context(|| format!("failed to run kubectl {}", args.join(" ")))
}

/// Runs any program to its end, bounded in time, and returns what it printed.
///
/// # Errors
/// As [`kubectl`].
pub async fn run(mut command: Command, input: &str) -> anyhow::Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    let output = tokio::time::timeout(CALL_TIMEOUT, child.wait_with_output()).await??;
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `kubectl get … -o json`, parsed.
///
/// # Errors
/// As [`kubectl`], or when the answer is not JSON.
pub async fn get_json(args: &[&str]) -> anyhow::Result<Value> {
    let mut all = vec!["get", "-o", "json"];
    all.extend(args);
    Ok(serde_json::from_str(&kubectl(&all).await?)?)
}

/// Looks again and again until `look` gives something, or the deadline has passed.
///
/// # Errors
/// After `deadline`, with `what` and the last error, if any.
pub async fn wait_for<T, F, Fut>(what: &str, deadline: Duration, look: F) -> anyhow::Result<T>
where
    F: Fn() -> Fut,
    Fut: Future<Output = anyhow::Result<Option<T>>>,
{
    let start = Instant::now();
    loop {
        let seen = look().await;
        if let Ok(Some(value)) = seen {
            return Ok(value);
        }
        if start.elapsed() > deadline {
            let last = seen.err().map(|error| format!(": {error:#}")).unwrap_or_default();
            bail!("waited {deadline:?} for {what}{last}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Looks again and again, for as long as `duration`, and fails as soon as what it sees changes.
///
/// # Errors
/// When `look` fails, or gives something else than the first time.
pub async fn stays<T, F, Fut>(what: &str, duration: Duration, look: F) -> anyhow::Result<()>
where
    T: PartialEq + std::fmt::Debug,
    F: Fn() -> Fut,
    Fut: Future<Output = anyhow::Result<T>>,
{
    let start = Instant::now();
    let first = look().await?;
    while start.elapsed() < duration {
        tokio::time::sleep(STAYS_EVERY).await;
        let now = look().await?;
        if now != first {
            bail!("{what} changed after {:?}:\n was {first:?}\n  is {now:?}", start.elapsed());
        }
    }
    Ok(())
}
