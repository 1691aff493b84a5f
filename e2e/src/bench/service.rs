//! The order service as a process of its own, started for one arm.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::process::{Child, Command};

use super::backends::Arena;
use super::workload;
use crate::kubectl::wait_for;

/// Longest wait for the service to be ready, and for it to end.
const DEADLINE: Duration = Duration::from_secs(40);
/// Pause between two looks at a figure that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A running service.
#[derive(Debug)]
pub struct Service {
    /// The public port.
    pub http: SocketAddr,
    /// Its process id.
    pub pid: u32,
    admin: String,
    child: Child,
    client: reqwest::Client,
}

impl Service {
    /// Starts `binary` on the arena's database and topic, with these settings besides; returns once it is ready.
    ///
    /// # Errors
    /// When it ends by itself or is not ready in time.
    pub async fn start(binary: &Path, arena: &Arena, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        runtime::tls::install_provider();
        let (http, admin) = (free_address()?, free_address()?);
        let child = Command::new(binary)
            .env_clear()
            .env("HTTP_ADDR", http.to_string())
            .env("ADMIN_ADDR", admin.to_string())
            .env("DATABASE_URL", arena.database_url())
            .env("KAFKA_BOOTSTRAP_SERVERS", &arena.backends.kafka)
            .env("TOPIC", &arena.name)
            // Its warnings tell of slow statements, which an overload is full of.
            .env("LOG", "error")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("failed to start {}", binary.display()))?;
        let pid = child.id().context("the service ended at once")?;
        let client = reqwest::Client::builder().no_proxy().timeout(DEADLINE).build()?;
        let mut service = Self { http, pid, admin: format!("http://{admin}"), child, client };
        let ready = wait_for("the service to be ready", DEADLINE, || async {
            let answer = service.client.get(format!("{}/readyz", service.admin)).send().await?;
            Ok(answer.status().is_success().then_some(()))
        });
        if let Err(error) = ready.await {
            let ended = service.child.try_wait()?;
            return Err(error.context(format!("exit status, if it ended: {ended:?}")));
        }
        Ok(service)
    }

    /// As [`Service::start`], with the benchmark's products and coupon.
    ///
    /// # Errors
    /// As [`Service::start`], and when the catalogue is refused.
    pub async fn start_with_catalogue(
        binary: &Path,
        arena: &Arena,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let service = Self::start(binary, arena, settings).await?;
        let put = service.client.put(format!("{}/catalogue", service.admin)).json(&workload::catalogue());
        let status = put.send().await?.status();
        ensure!(status.is_success(), "the service refused the catalogue: {status}");
        Ok(service)
    }

    /// The sum of a metric over its labels; 0 when the service does not know it.
    ///
    /// # Errors
    /// When the admin port does not answer.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        Ok(sum_of(&self.metrics().await?, name, ""))
    }

    /// As [`Service::metric`], over the samples whose labels contain `label` alone.
    ///
    /// # Errors
    /// As [`Service::metric`].
    pub async fn metric_where(&self, name: &str, label: &str) -> anyhow::Result<f64> {
        Ok(sum_of(&self.metrics().await?, name, label))
    }

    async fn metrics(&self) -> anyhow::Result<String> {
        Ok(self.client.get(format!("{}/metrics", self.admin)).send().await?.text().await?)
    }

    /// Looks until the outbox is empty.
    ///
    /// # Errors
    /// When it is not within `deadline`.
    pub async fn drained(&self, arena: &Arena, deadline: Duration) -> anyhow::Result<()> {
        let start = std::time::Instant::now();
        while arena.number("select count(*) from (select from outbox limit 1) as o").await? > 0 {
            if start.elapsed() > deadline {
                bail!("the outbox is not empty after {deadline:?}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Asks the service to stop and waits for its end.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        Command::new("kill").arg(self.pid.to_string()).status().await?;
        let ended = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        ended.context("the service did not end when asked to")??;
        Ok(())
    }
}

/// Adds up the samples of the metric called `name` whose labels contain `label`.
fn sum_of(text: &str, name: &str, label: &str) -> f64 {
    text.lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
        // `sum` of nothing is -0, and is printed so.
        .fold(0.0, |sum, value| sum + value)
}

/// A port of the loopback that is free now; nothing else here asks for ports in between.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_over_its_labels_and_not_over_its_namesakes() {
        let text =
            "# TYPE a counter\na_total{status=\"201\"} 3\na_total{status=\"503\"} 4\na_total_size 100\na 1\n";
        assert!((sum_of(text, "a_total", "") - 7.0).abs() < f64::EPSILON);
        assert!((sum_of(text, "a_total", "status=\"5") - 4.0).abs() < f64::EPSILON);
        assert!((sum_of(text, "a", "") - 1.0).abs() < f64::EPSILON);
    }
}
