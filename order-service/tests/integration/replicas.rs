//! Several replicas on one outbox: they tell each other of events, and one that freezes is replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use futures::future::join_all;
use order_service::config::ConsumerGroups;
use order_service::{Config, Listeners, run};
use runtime::shutdown::CancellationToken;
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use crate::growth::{Group, group_name, until_switched};
use crate::harness::{Bench, Instance, bench, until};
use crate::topic::versions_by_order;

async fn lives(shop: &Instance, count: usize) -> Vec<String> {
    join_all((0..count).map(async |_| {
        let id = shop.placed("p1").await;
        shop.changed(&id, "confirm").await;
        id
    }))
    .await
}

async fn assert_first_seen_in_order(bench: &Bench, versions: i64) {
    let published = versions_by_order(&bench.records().await);
    assert_eq!(i64::try_from(published.len()).unwrap(), bench.number("select count(*) from orders").await);
    for (order, seen) in published {
        let mut known = BTreeSet::new();
        let first: Vec<i64> = seen.iter().copied().filter(|version| known.insert(*version)).collect();
        assert_eq!(first, (1..=versions).collect::<Vec<_>>(), "{order} in {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_one_replica_recorded_wakes_the_other_that_leads_its_shard() {
    bench(Some(3), async |bench| {
        let (a, b) = bench.start_two().await;
        a.load(&[("p1", 100, 10_000)], &[]).await;
        let mut took = Vec::new();
        while took.len() < 11 {
            let before = b.metric("orderflow_relay_published_total").await;
            let began = Instant::now();
            a.placed("p1").await;
            bench.until_published().await;
            if b.metric("orderflow_relay_published_total").await > before {
                took.push(began.elapsed());
            }
        }
        assert!(b.metric("orderflow_relay_announced_total").await >= 11.0);
        took.sort();
        assert!(took[5] < Duration::from_millis(150), "{took:?}");
        a.stop().await;
        until("the other leads all of them", async || b.shards_led().await == 16.0).await;
        let announced = b.metric("orderflow_relay_announced_total").await;
        lives(&b, 10).await;
        bench.until_published().await;
        assert_eq!(b.metric("orderflow_relay_announced_total").await, announced, "there is nobody to tell");
        b.stop().await;
    })
    .await;
}

/// An instance on a runtime of its own, so that all of it can be stopped from running, like a process by SIGSTOP;
/// librdkafka's threads run on.
struct Freezer {
    runtime: Handle,
    stop: CancellationToken,
    thread: thread::JoinHandle<()>,
}

async fn start_freezable(config: Config) -> (Freezer, String) {
    let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap().into_std().unwrap();
    let (http, admin) = (bind().await, bind().await);
    let admin_url = format!("http://{}", admin.local_addr().unwrap());
    let stop = CancellationToken::new();
    let (started, handle) = mpsc::channel();
    let token = stop.clone();
    let thread = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        started.send(runtime.handle().clone()).unwrap();
        runtime.block_on(async {
            let listen = |listener| TcpListener::from_std(listener).unwrap();
            run(config, Listeners { http: listen(http), admin: listen(admin) }, token).await.unwrap();
        });
    });
    (Freezer { runtime: handle.recv().unwrap(), stop, thread }, admin_url)
}

impl Freezer {
    /// Nothing of the instance runs until the answer is dropped.
    fn freeze(&self) -> mpsc::Sender<()> {
        let (thaw, frozen) = mpsc::channel();
        self.runtime.spawn(async move { frozen.recv() });
        thaw
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::task::spawn_blocking(move || self.thread.join().unwrap()).await.unwrap();
    }
}

async fn until_leader_of_all(admin: &str) {
    until("it leads every shard", async || {
        let Ok(answer) = reqwest::get(format!("{admin}/metrics")).await else { return false };
        answer.text().await.unwrap().contains("orderflow_relay_shards_led 16")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_leader_is_replaced_and_repeats_at_most_when_it_thaws() {
    bench(Some(3), async |bench| {
        let (frozen, admin) = start_freezable(bench.config("a")).await;
        until_leader_of_all(&admin).await;
        let shop = bench.start("b").await;
        shop.load(&[("p1", 100, 10_000)], &[]).await;
        for _ in 0..2 {
            let begun = lives(&shop, 20).await;
            let thaw = frozen.freeze();
            let cancelled = join_all(begun.iter().map(|id| shop.changed(id, "cancel")));
            let (_, placed) = tokio::join!(cancelled, lives(&shop, 20));
            until("the other leads every shard", async || shop.shards_led().await == 16.0).await;
            bench.until_published().await;
            drop(thaw);
            join_all(placed.iter().map(|id| shop.changed(id, "cancel"))).await;
            until("they share the shards again", async || shop.shards_led().await == 8.0).await;
            bench.until_published().await;
        }
        assert_first_seen_in_order(bench, 3).await;
        frozen.stop().await;
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_sleeps_while_the_topic_grows_brings_no_order_out_of_order() {
    bench(Some(3), async |bench| {
        let config = |name| {
            let mut config = bench.config(name);
            config.relay.consumer_groups = Some(ConsumerGroups(vec![group_name(bench)]));
            config
        };
        let (frozen, admin) = start_freezable(config("a")).await;
        until_leader_of_all(&admin).await;
        let shop = bench.start_with(config("b")).await;
        shop.load(&[("p1", 100, 10_000)], &[]).await;
        let group = Group::start(bench);
        let begun = lives(&shop, 20).await;
        let thaw = frozen.freeze();
        bench.grow_topic(6).await;
        let (placed, ()) = tokio::join!(lives(&shop, 20), until_switched(bench));
        join_all(begun.iter().map(|id| shop.changed(id, "cancel"))).await;
        drop(thaw);
        join_all(placed.iter().map(|id| shop.changed(id, "cancel"))).await;
        until("they share the shards again", async || shop.shards_led().await == 8.0).await;
        let last = lives(&shop, 20).await;
        join_all(last.iter().map(|id| shop.changed(id, "cancel"))).await;
        bench.until_published().await;
        let topic = bench.records().await.len();
        until("everything is read", async || group.read_so_far() >= topic).await;
        let mut seen: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
        for (order, version) in group.stop().await {
            let seen = seen.entry(order.clone()).or_default();
            let next = i64::try_from(seen.len()).unwrap() + 1;
            assert!(seen.contains(&version) || version == next, "{version} of {order} after {seen:?}");
            seen.insert(version);
        }
        assert!(seen.len() == 60 && seen.values().all(|versions| versions.len() == 3), "none is lost");
        frozen.stop().await;
        shop.stop().await;
    })
    .await;
}
