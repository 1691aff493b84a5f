//! CPU time and memory of each part: the service and the generator by process, PostgreSQL and Kafka by their containers' cgroups.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::backends::Backends;
use crate::kubectl;

/// The kernel's unit of `/proc/<pid>/stat`: 100 per second on every Linux that Rust supports.
const TICK: Duration = Duration::from_millis(10);
/// Bytes of a page, in which `/proc/<pid>/statm` counts, on the two architectures we build for.
const PAGE_BYTES: u64 = 4096;

/// Where each part's CPU time can be read.
#[derive(Clone, Debug)]
pub struct Meters {
    service: u32,
    postgres: CpuFile,
    kafka: CpuFile,
}

/// A file that says how much CPU time a cgroup has used.
#[derive(Clone, Debug)]
enum CpuFile {
    /// cgroup v1: nanoseconds.
    Nanoseconds(PathBuf),
    /// cgroup v2: a table with `usage_usec`.
    Table(PathBuf),
}

/// CPU time used since the parts began.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    at: Instant,
    service: Duration,
    postgres: Duration,
    kafka: Duration,
    generator: Duration,
    machine_busy: Duration,
    machine_stolen: Duration,
}

/// CPU used within a window, in cores: 1 is one core all the time.
#[derive(Clone, Copy, Default, PartialEq, Debug, Serialize, Deserialize)]
pub struct Usage {
    /// The order service.
    pub service: f64,
    /// PostgreSQL, all of its processes.
    pub postgres: f64,
    /// Kafka.
    pub kafka: f64,
    /// The benchmark itself.
    pub generator: f64,
    /// Everything else on the machine, the kernel's interrupts included.
    pub rest: f64,
    /// What the hypervisor gave to others.
    pub stolen: f64,
}

impl Meters {
    /// Meters for a service's process and the two containers.
    ///
    /// # Errors
    /// When a container or its cgroup can't be found.
    pub async fn new(service: u32, backends: &Backends) -> anyhow::Result<Self> {
        let postgres = CpuFile::of(&backends.postgres_container).await?;
        let kafka = CpuFile::of(&backends.kafka_container).await?;
        Ok(Self { service, postgres, kafka })
    }

    /// What has been used up to now.
    ///
    /// # Errors
    /// When a part is gone.
    pub fn read(&self) -> anyhow::Result<Reading> {
        let (machine_busy, machine_stolen) = machine()?;
        Ok(Reading {
            at: Instant::now(),
            service: process(&self.service.to_string())?,
            postgres: self.postgres.read()?,
            kafka: self.kafka.read()?,
            generator: process("self")?,
            machine_busy,
            machine_stolen,
        })
    }
}

impl Reading {
    /// What was used between the two.
    #[must_use]
    pub fn until(self, later: Self) -> Usage {
        let wall = (later.at - self.at).as_secs_f64();
        let cores = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64() / wall;
        let mut usage = Usage {
            service: cores(self.service, later.service),
            postgres: cores(self.postgres, later.postgres),
            kafka: cores(self.kafka, later.kafka),
            generator: cores(self.generator, later.generator),
            rest: 0.0,
            stolen: cores(self.machine_stolen, later.machine_stolen),
        };
        let parts = usage.service + usage.postgres + usage.kafka + usage.generator;
        usage.rest = (cores(self.machine_busy, later.machine_busy) - parts).max(0.0);
        usage
    }
}

impl CpuFile {
    async fn of(container: &str) -> anyhow::Result<Self> {
        let mut docker = Command::new("docker");
        docker.args(["container", "inspect", "-f", "{{.State.Pid}}", container]);
        let pid = kubectl::run(docker, "").await.with_context(|| format!("{container}: run lab/bench up"))?;
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", pid.trim()))?;
        let path = |line: &str| line.rsplit(':').next().map(|path| path.trim_start_matches('/').to_owned());
        let v1 = groups.lines().find(|line| {
            line.contains(":cpuacct:") || line.contains(",cpuacct:") || line.contains(":cpuacct,")
        });
        let found =
            match (v1.and_then(path), groups.lines().find(|line| line.starts_with("0::")).and_then(path)) {
                (Some(group), _) => {
                    Self::Nanoseconds(Path::new("/sys/fs/cgroup/cpuacct").join(group).join("cpuacct.usage"))
                }
                (None, Some(group)) => Self::Table(Path::new("/sys/fs/cgroup").join(group).join("cpu.stat")),
                (None, None) => return Err(anyhow!("{container} is in no cgroup that counts CPU time")),
            };
        found.read()?;
        Ok(found)
    }

    fn read(&self) -> anyhow::Result<Duration> {
        match self {
            Self::Nanoseconds(file) => Ok(Duration::from_nanos(read(file)?.trim().parse()?)),
            Self::Table(file) => {
                let text = read(file)?;
                let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
                Ok(Duration::from_micros(usage.context("cpu.stat has no usage_usec")?.trim().parse()?))
            }
        }
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))
}

/// User and system time of a process, all its threads.
fn process(pid: &str) -> anyhow::Result<Duration> {
    let stat = read(Path::new(&format!("/proc/{pid}/stat")))?;
    // The name, in brackets, may hold anything; after it come the state and then numbers.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |index: usize| -> anyhow::Result<u32> { Ok(fields.get(index).context("short stat")?.parse()?) };
    Ok(TICK * (ticks(11)? + ticks(12)?))
}

/// Busy and stolen time of the whole machine.
fn machine() -> anyhow::Result<(Duration, Duration)> {
    let stat = read(Path::new("/proc/stat"))?;
    let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("no cpu line")?;
    let ticks: Vec<u32> = line.split_whitespace().filter_map(|ticks| ticks.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] else {
        return Err(anyhow!("the cpu line of /proc/stat is short"));
    };
    Ok((TICK * (user + nice + system + irq + softirq), TICK * steal))
}

/// Memory of a process that is in RAM, in bytes.
///
/// # Errors
/// When the process is gone.
pub fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let statm = read(Path::new(&format!("/proc/{pid}/statm")))?;
    let pages: u64 = statm.split_whitespace().nth(1).context("short statm")?.parse()?;
    Ok(pages * PAGE_BYTES)
}
