//! Exactly once: by the place that the sink keeps, not by luck and not by what makes repetitions harmless.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use consumer::sink::http::HttpSink;
use consumer::sink::postgres::PostgresSink;
use consumer::sink::{Applied, Claimed, Sink};
use order_events::OrderEvent;
use runtime::kafka::Secret;
use sqlx::Executor;

use crate::delivery::{assert_each_once, rows, until_rows};
use crate::harness::{World, at_version, eventually, in_world};
use crate::platform::{Answer, Platform};

pub(crate) const EXACTLY_ONCE: &str = "--delivery=ExactlyOnce";
pub(crate) const POSTGRES: [&str; 3] = ["--sink=postgres", EXACTLY_ONCE, "--batch-max-records=20"];

/// The sink's tables, but that a second row of an event would be one.
const TABLES_THAT_SHOW_REPETITIONS: &str = r#"
CREATE TABLE order_events (
    seq bigint GENERATED ALWAYS AS IDENTITY, "group" text, topic text, partition int, "offset" bigint, order_id uuid,
    version bigint, type text, event_id uuid, payload json, delivered_at timestamptz DEFAULT clock_timestamp());
CREATE TABLE order_events_place (
    "group" text, topic text, partition int, next_offset bigint NOT NULL, epoch bigint NOT NULL,
    PRIMARY KEY ("group", topic, partition))"#;

pub(crate) async fn show_repetitions(world: &World) {
    world.database().await.execute(TABLES_THAT_SHOW_REPETITIONS).await.expect("made");
}

/// Each event once, and those of an order in the order of their versions.
pub(crate) async fn assert_rows(world: &World, events: &[OrderEvent]) {
    let rows = until_rows(world, "platform", events.len()).await;
    let mut last = std::collections::HashMap::new();
    for (_, _, id) in &rows {
        let event = events.iter().find(|event| event.event_id.to_string() == *id).expect("was sent");
        let before = last.insert(event.order_id, event.version).unwrap_or(0);
        assert!(before < event.version, "order {}: {} after {before}", event.order_id, event.version);
    }
    assert_each_once(rows.into_iter().map(|row| row.2), events);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_are_killed_in_the_middle_leave_no_event_twice_and_none_out() {
    in_world(3, async |world| {
        show_repetitions(&world).await;
        let events = world.send_histories(3, 300, 10).await;
        for part in 1..=3 {
            let victim = world.spawn("platform", &POSTGRES).await;
            until_rows(&world, "platform", part * 500).await;
            victim.kill();
        }
        assert!(rows(&world, "platform").await.len() < events.len(), "they were killed in the middle");
        let member = world.start("platform", &POSTGRES).await;
        assert_rows(&world, &events).await;
        world.lag_is_zero("platform").await;
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_frozen_while_another_took_over_applies_nothing_when_it_wakes() {
    in_world(1, async |world| {
        show_repetitions(&world).await;
        let mut events = world.send_histories(1, 200, 10).await;
        let frozen = world.spawn("platform", &POSTGRES).await;
        until_rows(&world, "platform", 200).await;
        frozen.signal("STOP");
        let member = world.start("platform", &POSTGRES).await;
        // The session's timeout, then the claim.
        member.has_partitions(1.0).await;
        until_rows(&world, "platform", 1000).await;
        frozen.signal("CONT");
        frozen.has_partitions(0.0).await;
        events.extend(world.send_histories(1, 50, 4).await);
        assert_rows(&world, &events).await;
        world.lag_is_zero("platform").await;
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_group_keeps_its_place_from_one_guarantee_to_another_and_back() {
    in_world(2, async |world| {
        show_repetitions(&world).await;
        let mut events = Vec::new();
        for delivery in ["AtLeastOnce", "ExactlyOnce", "AtMostOnce", "ExactlyOnce", "AtLeastOnce"] {
            let new = world.send_orders(2, 50).await;
            let flags = ["--sink=postgres", &format!("--delivery={delivery}")];
            let member = world.start("platform", &flags).await;
            events.extend(new);
            assert_rows(&world, &events).await;
            world.lag_is_zero("platform").await;
            assert_eq!(member.metric("delivered_total").await, 50.0, "{delivery}");
            member.stop().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_resets_the_groups_offsets_is_obeyed() {
    in_world(1, async |world| {
        let events = world.send_orders(1, 30).await;
        let member = world.start("platform", &POSTGRES).await;
        assert_rows(&world, &events).await;
        world.lag_is_zero("platform").await;
        member.stop().await;
        world.commit("platform", 0, 10);
        let member = world.start("platform", &POSTGRES).await;
        eventually("20 are delivered again", async || {
            (member.metric("delivered_total").await == 20.0).then_some(())
        })
        .await;
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_was_emptied_gets_everything_again_that_the_log_has() {
    in_world(1, async |world| {
        let events = world.send_orders(1, 30).await;
        let member = world.start("platform", &POSTGRES).await;
        assert_rows(&world, &events).await;
        world.lag_is_zero("platform").await;
        member.stop().await;
        world.database().await.execute("DROP TABLE order_events, order_events_place").await.expect("dropped");
        let member = world.start("platform", &POSTGRES).await;
        assert_rows(&world, &events).await;
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_sink_refuses_is_dead_lettered_alone_and_the_place_goes_on() {
    in_world(1, async |world| {
        show_repetitions(&world).await;
        let mut events = world.send_histories(1, 10, 3).await;
        let refused = events[12].clone();
        let check = format!(
            "ALTER TABLE order_events ADD CHECK (order_id <> '{}' OR version <> {})",
            refused.order_id, refused.version
        );
        world.database().await.execute(sqlx::AssertSqlSafe(check)).await.expect("added");
        let flags = ["--sink=postgres", EXACTLY_ONCE, "--retry-max-attempts=2"];
        let member = world.start("platform", &flags).await;
        // The event and the one that follows it.
        events.retain(|event| event.order_id != refused.order_id || event.version < refused.version);
        assert_rows(&world, &events).await;
        world.lag_is_zero("platform").await;
        assert_eq!(world.dead_letters().len(), 2);
        member.stop().await;
    })
    .await;
}

/// That a claim ends the one before it and moves nothing, and that a lost answer shows in the place.
async fn assert_keeps_places(sink: &dyn Sink) {
    let apply = async |claimed: &Claimed, until| sink.apply(claimed, &[], until).await.expect("answers");
    let first = sink.claim(0, 7).await.expect("claimed");
    assert_eq!(first.place, 7, "there was none");
    assert_eq!(apply(&first, 9).await, Applied::Moved);
    assert_eq!(apply(&first, 9).await, Applied::Found(9), "as after a lost answer");
    let second = sink.claim(0, 7).await.expect("claimed");
    assert_eq!(second.place, 9, "a claim that comes late, or twice, sets nothing back");
    assert_eq!(apply(&Claimed { place: 9, ..first }, 12).await, Applied::Fenced);
    assert_eq!(apply(&second, 9).await, Applied::Moved, "it asks whether the claim holds");
    assert_eq!(apply(&second, 3).await, Applied::Moved, "a place may be moved back");
    assert_eq!(apply(&second, 4).await, Applied::Found(3), "but not twice");
    assert_eq!(sink.claim(0, 7).await.expect("claimed").place, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sinks_keep_places() {
    in_world(1, async |world| {
        let url = Secret::from(world.database_url());
        assert_keeps_places(&PostgresSink::new(&url, "g", "t").expect("valid")).await;
        let file = std::env::temp_dir().join(format!("{}.db", world.topic));
        let reference = ReferenceSink::start(&file);
        let url = reference.url.parse().expect("a URL");
        assert_keeps_places(&HttpSink::new(url, Duration::from_secs(5), "g", "t").expect("valid")).await;
        std::fs::remove_file(file).expect("removed");
    })
    .await;
}

/// The sink of `docs/sinks.md`.
struct ReferenceSink {
    child: Child,
    url: String,
}

impl ReferenceSink {
    fn start(file: &std::path::Path) -> Self {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/sinks/exactly_once_sink.py");
        let mut child = Command::new("python3")
            .args([program, "0"])
            .arg(file)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let mut line = String::new();
        let output = child.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("it says its port");
        let port = line.trim().rsplit(' ').next().expect("a port").to_owned();
        Self { child, url: format!("http://127.0.0.1:{port}/events") }
    }

    async fn applied(&self, group: &str) -> Vec<String> {
        let request = reqwest::Client::new().get(&self.url).header("orderflow-group", group);
        let text = request.send().await.expect("answers").text().await.expect("a body");
        serde_json::from_str(&text).expect("a list of ids")
    }
}

impl Drop for ReferenceSink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_keeps_the_http_contract_has_each_event_once_whoever_is_killed() {
    in_world(2, async |world| {
        let file = std::env::temp_dir().join(format!("{}.db", world.topic));
        let group = world.group("platform");
        let events = world.send_histories(2, 100, 10).await;
        let sink = ReferenceSink::start(&file);
        let flag = format!("--sink-http-url={}", sink.url);
        let flags = ["--sink=http", &flag, EXACTLY_ONCE, "--batch-max-records=10"];
        let victim = world.spawn("platform", &flags).await;
        eventually("it has begun", async || (sink.applied(&group).await.len() > 100).then_some(())).await;
        victim.kill();
        assert!(sink.applied(&group).await.len() < events.len(), "it was killed in the middle");
        let member = world.start("platform", &flags).await;
        world.lag_is_zero("platform").await;
        let applied = sink.applied(&group).await;
        assert!(applied.windows(2).all(|two| two[0] != two[1]));
        assert_each_once(applied, &events);
        member.stop().await;
        std::fs::remove_file(file).expect("removed");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_replayed_to_a_sink_that_keeps_the_http_contract() {
    in_world(1, async |world| {
        let mut events = world.send_histories(1, 1, 2).await;
        let platform = Platform::answering(|_| Answer::status(422)).await;
        let url = format!("--sink-http-url={}", platform.url());
        let refused = world.start("platform", &["--sink=http", &url, "--retry-max-attempts=1"]).await;
        world.lag_is_zero("platform").await;
        refused.stop().await;
        let file = std::env::temp_dir().join(format!("{}.db", world.topic));
        let (sink, group) = (ReferenceSink::start(&file), world.group("platform"));
        let url = format!("--sink-http-url={}", sink.url);
        let flags = ["--sink=http", &url, EXACTLY_ONCE];
        let (done, said) = world.dead_letters_command("platform", &flags, &["replay", "--all"]);
        assert!(done && said.contains("2 letters of 1 keys replayed"), "{said}");
        let next = at_version(&events[0], 3);
        world.send_event(0, &next).await;
        events.push(next);
        let member = world.start("platform", &flags).await;
        world.lag_is_zero("platform").await;
        let ids: Vec<String> = events.iter().map(|event| event.event_id.to_string()).collect();
        assert_eq!(sink.applied(&group).await, ids);
        member.stop().await;
        std::fs::remove_file(file).expect("removed");
    })
    .await;
}
