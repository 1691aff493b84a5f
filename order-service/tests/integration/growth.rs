//! A topic gets more partitions while orders go on: none is refused, and no event of an order is read before an earlier one.

mod faults;

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use futures::future::join_all;
use order_events::partition_for;
use order_service::Config;
use order_service::config::{ConsumerGroups, PartitionGrowth};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

use crate::harness::{Bench, DEADLINE, Instance, bench, until, until_within};
use crate::topic::versions_by_order;

/// Longest wait for a switch: looks at the topic are seconds apart, and an attempt may fail.
const SWITCH_DEADLINE: Duration = Duration::from_secs(90);
/// Between two records of an old partition, which is read slowly: whoever did not wait for it would be found out.
const SLOWLY: Duration = Duration::from_millis(4);
/// The same of a new one.
const QUICKLY: Duration = Duration::from_micros(100);
/// From one look for a partition that is not there yet to the next.
const NOTICES_WITHIN: Duration = Duration::from_millis(200);
/// Partitions before and after.
const OLD: i32 = 3;
const NEW: i32 = 6;

/// What a group has read: order and version, in the order of reading over all partitions.
type Read = Arc<Mutex<Vec<(String, i64)>>>;

/// A group with a reader for each partition, which takes note of it and commits what it has read.
pub(crate) struct Group {
    read: Read,
    readers: Vec<(Sender<()>, thread::JoinHandle<()>)>,
}

impl Group {
    pub(crate) fn start(bench: &Bench) -> Self {
        let read = Read::default();
        let readers = (0..NEW).map(|partition| {
            let (stop, stopped) = channel();
            let (client, topic, read) = (group_client(bench), bench.topic.clone(), read.clone());
            let reader = move || read_partition(&client, (&topic, partition), &stopped, &read);
            (stop, thread::spawn(reader))
        });
        Self { readers: readers.collect(), read }
    }

    pub(crate) fn read_so_far(&self) -> usize {
        self.read.lock().unwrap().len()
    }

    pub(crate) async fn stop(self) -> Vec<(String, i64)> {
        let Self { read, readers } = self;
        let (stops, readers): (Vec<_>, Vec<_>) = readers.into_iter().unzip();
        drop(stops);
        let joining = move || readers.into_iter().for_each(|reader| reader.join().unwrap());
        tokio::task::spawn_blocking(joining).await.unwrap();
        let read = read.lock().unwrap();
        read.clone()
    }
}

pub(crate) fn group_name(bench: &Bench) -> String {
    format!("{}-platform", bench.topic)
}

fn group_client(bench: &Bench) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &bench.kafka)
        .set("allow.auto.create.topics", "false")
        .set("group.id", group_name(bench))
        .set("enable.auto.commit", "false");
    config
}

fn read_partition(
    client: &ClientConfig,
    (topic, partition): (&str, i32),
    stopped: &Receiver<()>,
    read: &Read,
) {
    let pace = if partition < OLD { SLOWLY } else { QUICKLY };
    let goes_on = |pace| matches!(stopped.recv_timeout(pace), Err(RecvTimeoutError::Timeout));
    let knows =
        |consumer: &BaseConsumer| consumer.fetch_watermarks(topic, partition, Duration::from_secs(1)).is_ok();
    let mut consumer: BaseConsumer = client.create().unwrap();
    while !knows(&consumer) {
        if !goes_on(NOTICES_WITHIN) {
            return;
        }
        // The one that has asked before the topic grew goes by that answer for minutes.
        consumer = client.create().unwrap();
    }
    commit(&consumer, topic, partition, 0);
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    consumer.assign(&assignment).unwrap();
    while goes_on(pace) {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(20)) else { continue };
        let body: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
        let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
        read.lock().unwrap().push((key, body["version"].as_i64().unwrap()));
        commit(&consumer, topic, partition, message.offset() + 1);
    }
}

fn commit(consumer: &BaseConsumer, topic: &str, partition: i32, offset: i64) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
    consumer.commit(&list, CommitMode::Sync).unwrap();
}

/// The group has a place in every partition there is: at the end of it, or at its beginning.
async fn commit_everywhere(bench: &Bench, at_end: bool) {
    let (client, topic) = (group_client(bench), bench.topic.clone());
    let committing = move || {
        let consumer: BaseConsumer = client.create().unwrap();
        for partition in 0..NEW {
            let (low, high) = consumer.fetch_watermarks(&topic, partition, DEADLINE).unwrap();
            commit(&consumer, &topic, partition, if at_end { high } else { low });
        }
    };
    tokio::task::spawn_blocking(committing).await.unwrap();
}

fn config(bench: &Bench, name: &str) -> Config {
    let mut config = bench.config(name);
    config.relay.consumer_groups = Some(ConsumerGroups(vec![group_name(bench)]));
    // A lease that ended under its leader, on a busy machine, would rightly make the growth begin anew.
    config.relay.relay_lease = Duration::from_secs(15);
    config
}

/// A service that has recorded the count from before the topic grows.
async fn start(bench: &Bench, config: Config) -> Instance {
    let shop = bench.start_with(config).await;
    let recorded = "select count(*) from topic_partitions";
    until("the count is recorded", async || bench.number(recorded).await == 1).await;
    shop
}

/// A service whose topic grows after the events of so many orders were published by the old count.
async fn start_and_grow(bench: &Bench, config: Config, orders: usize) -> Instance {
    let shop = start(bench, config).await;
    shop.load(&[("p1", 100, 1000)], &[]).await;
    lives(&shop, orders).await;
    bench.until_published().await;
    bench.grow_topic(6).await;
    shop
}

async fn lives(shop: &Instance, count: usize) {
    join_all((0..count).map(async |_| {
        let id = shop.placed("p1").await;
        shop.changed(&id, "confirm").await;
        shop.changed(&id, "cancel").await;
    }))
    .await;
}

async fn recorded(bench: &Bench) -> i64 {
    bench.number("select partitions::bigint from topic_partitions").await
}

async fn fences(bench: &Bench) -> i64 {
    bench.number("select count(growing_to) from topic_partitions").await
}

pub(crate) async fn until_switched(bench: &Bench) {
    until_within(SWITCH_DEADLINE, "the count is switched", async || recorded(bench).await == i64::from(NEW))
        .await;
}

async fn waits_for(shop: &Instance, reason: &str) -> bool {
    let metrics = shop.admin_get("/metrics").await.text().await.unwrap();
    metrics.contains(&format!("orderflow_relay_growth_waits{{reason=\"{reason}\"}} 1"))
}

/// Records that the group may be behind: below what the relay lets pass.
const BEHIND: usize = 200;

async fn events(bench: &Bench) -> usize {
    usize::try_from(bench.number("select coalesce(sum(version), 0)::bigint from orders").await).unwrap()
}

/// Orders go on through the switch, on each of `shops`, as fast as the group can read.
async fn lives_until_switched(bench: &Bench, group: &Group, shops: &[&Instance]) {
    let started = Instant::now();
    while recorded(bench).await < i64::from(NEW) {
        if started.elapsed() > SWITCH_DEADLINE {
            let metrics = shops[0].admin_get("/metrics").await.text().await.unwrap();
            let growth: Vec<_> =
                metrics.lines().filter(|line| line.contains("growth") && !line.starts_with('#')).collect();
            panic!("the count is not switched: {growth:?}");
        }
        join_all(shops.iter().map(|shop| lives(shop, 5))).await;
        let events = events(bench).await;
        until("the group reads on", async || group.read_so_far() + BEHIND >= events).await;
    }
    join_all(shops.iter().map(|shop| lives(shop, 20))).await;
}

/// Everything was published once and in order, and read in order though the old partitions are read slowly.
async fn assert_in_order(bench: &Bench, group: Group) {
    bench.until_published().await;
    let events = events(bench).await;
    until("everything is read", async || group.read_so_far() >= events).await;
    let published = versions_by_order(&bench.records().await);
    assert!(published.values().map(Vec::len).sum::<usize>() == events, "none is lost or repeated");
    let mut read: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for (key, version) in group.stop().await {
        read.entry(key).or_default().push(version);
    }
    for (key, versions) in read {
        assert_eq!(versions, (1..=3).collect::<Vec<_>>(), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_grows_while_orders_go_on_and_no_event_is_read_before_an_earlier_one() {
    bench(Some(OLD), async |bench| {
        let shop = start(bench, config(bench, "a")).await;
        shop.load(&[("p1", 100, 1_000_000)], &[]).await;
        let group = Group::start(bench);
        lives(&shop, 20).await;
        bench.grow_topic(6).await;
        lives_until_switched(bench, &group, &[&shop]).await;
        let after = shop.placed("p1").await;
        shop.changed(&after, "confirm").await;
        shop.changed(&after, "cancel").await;
        assert_in_order(bench, group).await;

        let records = bench.records().await;
        let of = |key: &str| records.iter().filter(|record| record.key == key).collect::<Vec<_>>();
        assert!(of(&after).iter().all(|record| record.partition == partition_for(after.as_bytes(), NEW)));
        assert!(records.iter().any(|record| record.partition >= OLD), "the new partitions are used");
        assert_eq!(shop.metric("orderflow_relay_partitions").await, f64::from(NEW));
        let rested = shop.metric("orderflow_relay_fenced_seconds_total").await;
        assert!(rested > 0.0 && rested < 5.0, "publishing rested for {rested} s");
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_go_over_to_the_new_count_together() {
    bench(Some(OLD), async |bench| {
        let (a, b) = (bench.start_with(config(bench, "a")).await, bench.start_with(config(bench, "b")).await);
        a.load(&[("p1", 100, 1_000_000)], &[]).await;
        let halves = async || a.shards_led().await == 8.0 && b.shards_led().await == 8.0;
        until("each leads half of the shards", halves).await;
        let group = Group::start(bench);
        bench.grow_topic(6).await;
        lives_until_switched(bench, &group, &[&a, &b]).await;
        assert_in_order(bench, group).await;
        for shop in [a, b] {
            assert_eq!(shop.metric("orderflow_relay_partitions").await, f64::from(NEW));
            shop.stop().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_lags_holds_the_switch_and_publishing_goes_on_by_the_old_count() {
    bench(Some(OLD), async |bench| {
        let shop = start(bench, config(bench, "a")).await;
        shop.load(&[("p1", 100, 1000)], &[]).await;
        sqlx::query(
            "insert into outbox (shard, order_id, version, headers, payload)
             select n % 16, gen_random_uuid(), 1, '[]', '{\"version\": 1}' from generate_series(1, 2500) as s (n)",
        )
        .execute(&bench.pool)
        .await
        .unwrap();
        bench.grow_topic(6).await;
        commit_everywhere(bench, false).await;
        until("it waits for the group", async || waits_for(&shop, "group-behind").await).await;
        let order = shop.placed("p1").await;
        bench.until_published().await;
        let records = bench.records().await;
        let record = records.iter().find(|record| record.key == order).unwrap();
        assert_eq!(record.partition, partition_for(order.as_bytes(), OLD));
        assert_eq!((recorded(bench).await, fences(bench).await), (i64::from(OLD), 0));
        assert_eq!(shop.metric("orderflow_relay_fenced_seconds_total").await, 0.0);

        commit_everywhere(bench, true).await;
        until_switched(bench).await;
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_does_not_know_the_new_partitions_is_waited_for() {
    bench(Some(OLD), async |bench| {
        let shop = start(bench, config(bench, "a")).await;
        bench.grow_topic(6).await;
        until("it waits for the group", async || waits_for(&shop, "group-unaware").await).await;
        commit_everywhere(bench, true).await;
        until_switched(bench).await;
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_that_the_groups_do_not_reach_in_time_comes_down_and_publishing_goes_on() {
    bench(Some(OLD), async |bench| {
        let mut config = config(bench, "a");
        config.relay.growth_drain_timeout = Duration::from_secs(2);
        let shop = start_and_grow(bench, config, 60).await;
        read_slowly_until_acknowledged(bench).await;
        let order = shop.placed("p1").await;
        bench.until_published().await;
        assert_eq!((recorded(bench).await, fences(bench).await), (i64::from(OLD), 0));
        let records = bench.records().await;
        let record = records.iter().find(|record| record.key == order).unwrap();
        assert_eq!(record.partition, partition_for(order.as_bytes(), OLD));
        until("it is counted", async || shop.metric("orderflow_relay_growths_total").await == 1.0).await;

        commit_everywhere(bench, true).await;
        until_switched(bench).await;
        shop.stop().await;
    })
    .await;
}

/// The group knows of every partition and reads a record of the first one in each second, until a fence is acknowledged.
async fn read_slowly_until_acknowledged(bench: &Bench) {
    commit_everywhere(bench, false).await;
    let (client, topic) = (group_client(bench), bench.topic.clone());
    let consumer: Arc<BaseConsumer> = Arc::new(client.create().unwrap());
    let started = Instant::now();
    until("a fence is acknowledged", async || {
        let (consumer, topic) = (consumer.clone(), topic.clone());
        let read = i64::try_from(started.elapsed().as_secs()).unwrap();
        tokio::task::spawn_blocking(move || commit(&consumer, &topic, 0, read)).await.unwrap();
        bench.number(ACKNOWLEDGED).await == 1
    })
    .await;
}

/// Members behind the fence.
const ACKNOWLEDGED: &str =
    "select count(*) from relay_members, topic_partitions where fence = epoch and growing_to is not null";

#[tokio::test(flavor = "multi_thread")]
async fn growth_at_once_waits_for_nobody() {
    bench(Some(OLD), async |bench| {
        let mut config = config(bench, "a");
        config.relay.partition_growth = PartitionGrowth::Immediate;
        let shop = start(bench, config).await;
        shop.load(&[("p1", 100, 1000)], &[]).await;
        lives(&shop, 5).await;
        bench.grow_topic(6).await;
        until_switched(bench).await;
        until("it maps by it", async || shop.metric("orderflow_relay_partitions").await == f64::from(NEW))
            .await;
        let order = shop.placed("p1").await;
        bench.until_published().await;
        let records = bench.records().await;
        let record = records.iter().find(|record| record.key == order).unwrap();
        assert_eq!(record.partition, partition_for(order.as_bytes(), NEW));
        shop.stop().await;
    })
    .await;
}
