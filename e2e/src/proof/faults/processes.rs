//! Signals to replicas.

use std::time::Duration;

use rustix::process::Signal;

use crate::proof::replica::Replica;

/// SIGKILL; it is started again.
pub async fn kill(replica: &Replica) -> anyhow::Result<Option<String>> {
    Ok(replica.kill().await.then(|| format!("{} killed", replica.name)))
}

/// SIGSTOP, then SIGCONT: it wakes with leases that have run out.
pub async fn freeze(replica: &Replica, lasting: Duration) -> anyhow::Result<Option<String>> {
    let processes_before = replica.processes_ended();
    let stopped = replica.signal(Signal::STOP).await;
    tokio::time::sleep(lasting).await;
    let woken = replica.signal(Signal::CONT).await;
    // Another fault may have ended it in its sleep.
    let same = replica.processes_ended() == processes_before;
    Ok((stopped && woken && same).then(|| format!("{} slept {lasting:?}", replica.name)))
}

/// SIGTERM; it is started again.
pub async fn terminate(replica: &Replica) -> anyhow::Result<Option<String>> {
    Ok(replica.restart().await.map(|status| format!("{} ended on SIGTERM: {status}", replica.name)))
}

/// SIGTERM to each in turn.
pub async fn roll(replicas: &[Replica]) -> anyhow::Result<Option<String>> {
    let mut ended = 0;
    for replica in replicas {
        if terminate(replica).await?.is_some() {
            ended += 1;
        }
    }
    Ok((ended > 0).then(|| format!("{ended} of {} replicas restarted in turn", replicas.len())))
}
