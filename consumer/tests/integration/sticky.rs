//! Dead letters are sticky: later records of a key follow the first one, whichever member has them, until the key is let go.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use crate::harness::{World, at_version, eventually, in_world};
use crate::platform::{Answer, Platform};
use crate::poison::{text, until_dead_letters};

fn reasons(letters: &[OwnedMessage]) -> Vec<(String, String)> {
    letters
        .iter()
        .map(|letter| (text(letter, "ce_orderversion"), text(letter, "orderflow-dlt-reason")))
        .collect()
}

fn letter(version: &str, reason: &str) -> (String, String) {
    (version.to_owned(), reason.to_owned())
}

/// Writes what is no letter to the dead-letter topic, as a user's own consumer may: in a transaction, whose end is the log's.
async fn write_in_a_transaction(world: &World) {
    const WAIT: Duration = Duration::from_secs(30);
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &world.kafka).set("transactional.id", &world.topic);
    let producer: FutureProducer = config.create().expect("a producer");
    producer.init_transactions(WAIT).expect("transactions");
    producer.begin_transaction().expect("begun");
    let record = FutureRecord::<[u8], [u8]>::to(&world.dead_letter_topic).payload(b"hello-1");
    producer.send(record, WAIT).await.expect("written");
    producer.commit_transaction(WAIT).expect("committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_topic_that_ends_with_a_transaction_holds_nobody_up() {
    in_world(1, async |world| {
        write_in_a_transaction(&world).await;
        let platform = Platform::answering(|_| Answer::status(200)).await;
        let url = format!("--sink-http-url={}", platform.url());
        let flags = ["--sink=http", &url];
        world.send_orders(1, 3).await;
        let member = world.start("platform", &flags).await;
        world.lag_is_zero("platform").await;
        let (done, listed) = world.dead_letters_command("platform", &flags, &["list"]);
        assert!(done && listed.contains("0 keys, 0 open letters"), "{listed}");
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn later_versions_follow_a_dead_letter_even_at_the_next_member() {
    in_world(2, async |world| {
        let order = world.send_histories(1, 1, 3).await;
        let refused = order[1].event_id.to_string();
        let platform = Platform::answering(move |received| {
            Answer::status(if received.idempotency_key == refused { 422 } else { 200 })
        })
        .await;
        let url = format!("--sink-http-url={}", platform.url());
        let flags = ["--sink=http", &url, "--retry-max-attempts=2"];
        let member = world.start("platform", &flags).await;
        world.lag_is_zero("platform").await;
        let expected = [letter("2", "Rejected"), letter("3", "Follows")];
        assert_eq!(reasons(&world.dead_letters()), expected);
        assert_eq!(member.metric("stuck_keys").await, 1.0);
        member.stop().await;
        world.send_event(0, &at_version(&order[0], 4)).await;
        let others = world.send_orders(2, 4).await;
        let member = world.start("platform", &flags).await;
        let letters = until_dead_letters(&world, 3).await;
        assert_eq!(reasons(&letters)[2], letter("4", "Follows"));
        eventually("the others are delivered", async || {
            let keys = platform.keys();
            others.iter().all(|event| keys.contains(&event.event_id.to_string())).then_some(())
        })
        .await;
        assert_eq!(
            platform.keys().len(),
            1 + 2 + others.len(),
            "the first version, two attempts, the others"
        );
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_delivers_a_keys_letters_in_order_and_lets_it_go() {
    in_world(2, async |world| {
        let order = world.send_histories(1, 1, 3).await;
        let (key, id) =
            (order[0].order_id.to_string(), |version: usize| order[version - 1].event_id.to_string());
        let refused = id(2);
        let platform = Platform::answering(move |received| {
            Answer::status(if received.idempotency_key == refused { 422 } else { 200 })
        })
        .await;
        let url = format!("--sink-http-url={}", platform.url());
        let flags = ["--sink=http", &url, "--retry-max-attempts=1"];
        let member = world.start("platform", &flags).await;
        world.lag_is_zero("platform").await;
        let run = |command: &[&str]| world.dead_letters_command("platform", &flags, command);
        let (_, listed) = run(&["list", "--error", "Rejected"]);
        assert!(listed.contains(&key) && listed.contains("1 keys, 2 open letters"), "{listed}");
        let (_, shown) = run(&["show", &key]);
        assert!(shown.contains("version 2") && shown.contains("HTTP status 422"), "{shown}");
        let (_, dry) = run(&["replay", "--key", &key, "--dry-run"]);
        assert!(dry.contains("2 letters of 1 keys would be delivered, 0 can't be"), "{dry}");
        let (done, refusal) = run(&["replay", "--key", &key]);
        assert!(!done && refusal.contains("stays") && refusal.contains("422"), "{refusal}");
        platform.answer(|_| Answer::status(200));
        let before = platform.keys().len();
        let (done, replayed) = run(&["replay", "--since", "1h"]);
        assert!(done && replayed.contains("2 letters of 1 keys replayed"), "{replayed}");
        let fourth = at_version(&order[0], 4);
        world.send_event(0, &fourth).await;
        eventually("the next version is delivered as ever", async || {
            (platform.keys().len() >= before + 3).then_some(())
        })
        .await;
        assert_eq!(platform.keys()[before..], [id(2), id(3), fourth.event_id.to_string()]);
        assert_eq!(member.metric("stuck_keys").await, 0.0);
        let (_, history) = run(&["history"]);
        assert!(history.contains("replayed") && history.contains(&key), "{history}");
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_or_discarded_key_goes_on_without_its_letters() {
    in_world(1, async |world| {
        let platform = Platform::answering(|_| Answer::status(422)).await;
        let url = format!("--sink-http-url={}", platform.url());
        let flags = ["--sink=http", &url, "--retry-max-attempts=1"];
        let orders = world.send_orders(1, 2).await;
        let member = world.start("platform", &flags).await;
        world.lag_is_zero("platform").await;
        platform.answer(|_| Answer::status(200));
        let keys: Vec<String> = orders.iter().map(|event| event.order_id.to_string()).collect();
        let run = |command: &[&str]| world.dead_letters_command("platform", &flags, command);
        let (done, text) = run(&["replay"]);
        assert!(!done && text.contains("--all"), "{text}");
        assert!(run(&["release", &keys[0]]).0);
        assert!(run(&["discard", &keys[1], "--reason", "a test order"]).0);
        let (done, text) = run(&["release", &keys[0]]);
        assert!(!done && text.contains("no open letters"), "{text}");
        eventually("the member knows", async || (member.metric("stuck_keys").await == 0.0).then_some(()))
            .await;
        for order in &orders {
            world.send_event(0, &at_version(order, 2)).await;
        }
        eventually("the next versions are delivered", async || (platform.keys().len() >= 4).then_some(()))
            .await;
        let (_, history) = run(&["history"]);
        assert!(history.contains("released") && history.contains("a test order"), "{history}");
        assert_eq!(world.dead_letters().len(), 4, "two letters, two marks");
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_typed_by_hand_is_shown_and_can_not_be_replayed() {
    in_world(1, async |world| {
        world.send(0, None, Some(b"hello-1"), OwnedHeaders::new()).await;
        world.send(0, Some(b"u1"), Some(b"order-1"), OwnedHeaders::new()).await;
        let member = world.start("platform", &["--sink=postgres"]).await;
        until_dead_letters(&world, 2).await;
        let run = |command: &[&str]| world.dead_letters_command("platform", &["--sink=postgres"], command);
        let (_, listed) = run(&["list"]);
        assert!(listed.contains("u1") && listed.contains("1 more letters have no key"), "{listed}");
        let (_, shown) = run(&["show", "u1"]);
        assert!(shown.contains("7 bytes: order-1") && shown.contains("MissingType"), "{shown}");
        let (done, text) = run(&["replay", "--all"]);
        assert!(!done && text.contains("u1: stays"), "{text}");
        member.stop().await;
    })
    .await;
}
