//! The running operator's processes: CPU time and memory, as the kernel counts them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, bail};

/// The kernel's unit of `/proc/<pid>/stat`: 100 per second on every Linux that Rust supports.
const TICK: Duration = Duration::from_millis(10);

/// What the operator has used up to now.
#[derive(Clone, Copy, Default, Debug)]
pub struct Used {
    /// CPU time, of all replicas together.
    pub cpu: Duration,
    /// Memory of the largest replica, in bytes.
    pub resident: u64,
    /// Its highest ever, in bytes.
    pub peak: u64,
}

/// Reads the figures of every process that runs `operator run`.
///
/// # Errors
/// When there is none.
pub fn used() -> anyhow::Result<Used> {
    let mut used = Used::default();
    let mut found = false;
    for entry in fs::read_dir("/proc").context("failed to list processes")?.flatten() {
        let path = entry.path();
        let Ok(command) = fs::read(path.join("cmdline")) else { continue };
        let mut words = command.split(|byte| *byte == 0);
        let is_operator = words.next().is_some_and(|program| program.ends_with(b"operator"));
        if !is_operator || words.next() != Some(b"run") {
            continue;
        }
        // A process may end while it is read.
        let (Ok(stat), Ok(status)) =
            (fs::read_to_string(path.join("stat")), fs::read_to_string(path.join("status")))
        else {
            continue;
        };
        found = true;
        used.cpu += cpu(&stat).context("failed to read the operator's CPU time")?;
        used.resident = used.resident.max(kilobytes(&status, "VmRSS:") * 1024);
        used.peak = used.peak.max(kilobytes(&status, "VmHWM:") * 1024);
    }
    if !found {
        bail!("no operator runs on this machine: run make deploy");
    }
    Ok(used)
}

/// User and system time, the 14th and 15th field; the name before them may hold spaces, and ends with a parenthesis.
fn cpu(stat: &str) -> Option<Duration> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u32 = fields.get(11)?.parse::<u32>().ok()? + fields.get(12)?.parse::<u32>().ok()?;
    Some(TICK * ticks)
}

fn kilobytes(status: &str, field: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_user_and_system_time_whatever_the_process_is_called() {
        let stat = "7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        assert_eq!(cpu(stat), Some(Duration::from_secs(2)));
    }

    #[test]
    fn memory_is_read_by_its_field() {
        assert_eq!(kilobytes("Name:\toperator\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\n", "VmRSS:"), 200);
    }
}
