//! Kill tests: each part dies under load; nothing is lost, nothing is reordered.

use e2e::kubectl::{get_json, kubectl};

use crate::support::{
    Duplicates, assert_sound, await_successor, force_delete_and_await, load, ready, sigkill, under_load,
};

/// Orders per second and seconds of each run: enough that the fault meets work in every part.
const RATE: u32 = 80;
const SECONDS: u64 = 20;

async fn survives(test: &str, fault: impl Future<Output = ()>) {
    let sources = ready().await;
    let load = load(test, RATE, SECONDS);
    let calls = under_load(&load, fault).await;
    assert_sound(&sources, &load, &calls, Duplicates::Allowed).await;
}

#[tokio::test]
async fn nothing_is_lost_when_the_order_service_is_killed() {
    survives("kill-order-service", sigkill("app.kubernetes.io/name=order-service")).await;
}

#[tokio::test]
async fn nothing_is_lost_when_a_consumer_is_killed() {
    survives("kill-consumer", async {
        sigkill("orderflow.dev/group=data-platform").await;
        sigkill("orderflow.dev/group=cg-analytics").await;
    })
    .await;
}

#[tokio::test]
async fn nothing_is_lost_when_the_broker_goes_and_comes_back() {
    survives("kill-kafka", force_delete_and_await("kafka-0")).await;
}

#[tokio::test]
async fn nothing_is_lost_when_postgresql_restarts() {
    survives("restart-postgres", async {
        let before = get_json(&["pod", "postgres-0"]).await.unwrap()["metadata"]["uid"].clone();
        kubectl(&["delete", "pod", "postgres-0"]).await.unwrap();
        await_successor("postgres-0", &before).await;
    })
    .await;
}
