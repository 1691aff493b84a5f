//! Consumers that run, and what they say of themselves.

use std::net::SocketAddr;
use std::process::{Child, Command};

use consumer::RunError;
use runtime::shutdown::CancellationToken;
use tokio::task::JoinHandle;

use super::eventually;

/// A consumer in this process.
pub(crate) struct Member {
    pub(super) admin: SocketAddr,
    pub(super) stop: CancellationToken,
    pub(super) task: JoinHandle<Result<(), RunError>>,
}

impl Member {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("no panic").expect("a clean end");
    }

    pub(crate) async fn metric(&self, name: &str) -> f64 {
        metric(self.admin, name).await
    }

    pub(crate) async fn is_ready(&self) -> bool {
        is_ready(self.admin).await
    }

    pub(crate) async fn has_partitions(&self, count: f64) {
        has_partitions(self.admin, count).await;
    }
}

/// A consumer as a process of its own.
pub(crate) struct Process {
    pub(super) admin: SocketAddr,
    pub(super) child: Child,
}

impl Process {
    /// SIGKILL: no drain, no commit, no goodbye.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }

    /// SIGSTOP, SIGCONT.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    pub(crate) async fn has_partitions(&self, count: f64) {
        has_partitions(self.admin, count).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already dead where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn get(admin: SocketAddr, path: &str) -> Option<(u16, String)> {
    let response = reqwest::get(format!("http://{admin}{path}")).await.ok()?;
    Some((response.status().as_u16(), response.text().await.ok()?))
}

async fn is_ready(admin: SocketAddr) -> bool {
    get(admin, "/readyz").await.is_some_and(|(status, _)| status == 200)
}

/// The sum of a metric's samples; 0 where it has none.
async fn metric(admin: SocketAddr, name: &str) -> f64 {
    let (_, text) = get(admin, "/metrics").await.unwrap_or_default();
    let prefix = format!("orderflow_consumer_{name}");
    let samples = text.lines().filter(|line| {
        line.strip_prefix(&prefix).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
    });
    samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

async fn has_partitions(admin: SocketAddr, count: f64) {
    let what = format!("a member has {count} partitions");
    eventually(&what, async || (metric(admin, "assigned_partitions").await == count).then_some(())).await;
}
