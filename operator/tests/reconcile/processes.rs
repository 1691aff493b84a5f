//! Two operator processes, as the chart runs them: the leader is killed or frozen at its work, the other goes on.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::runtime::wait::await_condition;
use operator::crd::OrderPipeline;
use serde_json::json;

use crate::world::{AMPLE, World, condition, scenario};

const LEASE: &str = "orderflow-operator";

/// Of the lease.
const DURATION: Duration = Duration::from_secs(4);

/// What a takeover may take on top of it.
const TAKEOVER: Duration = Duration::from_secs(2);

/// For what must happen sooner or later.
const DEADLINE: Duration = Duration::from_secs(60);

/// Pipelines that are made; so many that the leader is stopped before it has made them all.
const PIPELINES: usize = 30;

/// An operator of its own for the scenario's namespace; killed when it is dropped, frozen or not.
struct Operator(Child);

impl Operator {
    fn start(world: &World, name: &str) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_operator"))
            .args(["run", "--leader-election", "--lease-name", LEASE, "--lease-namespace", &world.namespace])
            .args(["--lease-duration-seconds", &DURATION.as_secs().to_string()])
            .args(["--lease-renew-deadline-seconds", "2", "--lease-retry-seconds", "1"])
            .args(["--watch-namespaces", &world.namespace, "--pod-name", name, "--admin-addr", "127.0.0.1:0"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.0.id().to_string()]).status();
        assert!(sent.unwrap().success(), "kill {signal}");
    }

    /// Waits for its end.
    async fn ended(mut self) -> ExitStatus {
        let ending = tokio::task::spawn_blocking(move || self.0.wait());
        tokio::time::timeout(DEADLINE, ending).await.expect("it ends").unwrap().unwrap()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the operator of this name holds the lease.
async fn led_by(world: &World, name: &str) {
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), &world.namespace);
    let prefix = format!("{name}_");
    let holds = |lease: Option<&Lease>| {
        let holder = lease.and_then(|lease| lease.spec.as_ref()?.holder_identity.as_deref());
        holder.is_some_and(|holder| holder.starts_with(&prefix))
    };
    let held = tokio::time::timeout(DEADLINE, await_condition(leases, LEASE, holds)).await;
    held.unwrap_or_else(|_| panic!("{name} does not lead")).unwrap();
}

fn is_ready(pipeline: Option<&OrderPipeline>) -> bool {
    pipeline.is_some_and(|pipeline| condition(pipeline, "Ready").0 == "True")
}

async fn ready(world: &World, name: &str) -> OrderPipeline {
    let waited = tokio::time::timeout(DEADLINE, await_condition(world.pipelines(), name, is_ready)).await;
    waited.unwrap_or_else(|_| panic!("{name} does not become ready")).unwrap().unwrap()
}

fn names() -> impl Iterator<Item = String> {
    (0..PIPELINES).map(|number| format!("orders-{number}"))
}

/// Stops the leader in the middle of its work by `signal`; returns it once the other has made everything so.
async fn takes_over(world: &World, signal: &str) -> Operator {
    let first = Operator::start(world, "first");
    led_by(world, "first").await;
    let _second = Operator::start(world, "second");
    for name in names() {
        world.apply(&name, &json!({})).await;
    }
    ready(world, "orders-0").await;
    first.signal(signal);
    let stopped = Instant::now();
    led_by(world, "second").await;
    let gap = stopped.elapsed();
    assert!(gap <= DURATION + TAKEOVER, "nobody led for {gap:?}");
    for name in names() {
        let status = ready(world, &name).await.status.unwrap();
        let topic = world.described(&world.topic(&name)).await.unwrap();
        let recorded = status.topic.unwrap();
        assert_eq!(recorded.id, Some(topic.id), "{name} is the topic that was created");
        assert!(recorded.created_by_us, "{name} is known as ours");
    }
    first
}

#[tokio::test]
async fn what_a_killed_leader_began_its_successor_ends() {
    scenario(AMPLE, async |world| {
        takes_over(&world, "-KILL").await;
    })
    .await;
}

#[tokio::test]
async fn a_leader_that_wakes_up_after_another_took_over_exits_and_changes_nothing() {
    scenario(AMPLE, async |world| {
        let first = takes_over(&world, "-STOP").await;
        first.signal("-CONT");
        assert!(!first.ended().await.success(), "its end is not one that was asked for");
        for name in names() {
            world.writes_nothing(&name).await;
        }
    })
    .await;
}
