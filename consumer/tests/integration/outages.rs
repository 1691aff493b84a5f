//! Sinks and topics that are not there for a while: everything waits, nothing is lost, nothing is dead-lettered.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rdkafka::mocking::MockCluster;

use crate::delivery::{assert_each_once, until_rows};
use crate::harness::{eventually, in_world};
use crate::platform::{Answer, Platform};

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_platform_spends_no_attempt() {
    in_world(2, async |world| {
        let platform = Platform::answering(|_| Answer::status(503)).await;
        let url = format!("--sink-http-url={}", platform.url());
        let member = world.start("platform", &["--sink=http", &url, "--retry-max-attempts=2"]).await;
        let events = world.send_orders(2, 20).await;
        eventually("far more attempts failed than a refusal gets", async || {
            (platform.keys().len() >= 10).then_some(())
        })
        .await;
        let failed = platform.keys().len();
        platform.answer(|_| Answer::status(200));
        world.lag_is_zero("platform").await;
        assert!(world.dead_letters().is_empty());
        let delivered: std::collections::BTreeSet<String> =
            platform.keys().into_iter().skip(failed).collect();
        assert_each_once(delivered, &events);
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_refused_before_an_outage_is_tried_again_after_it() {
    in_world(1, async |world| {
        let calls = AtomicUsize::new(0);
        let platform = Platform::answering(move |_| {
            Answer::status(match calls.fetch_add(1, Ordering::SeqCst) {
                0 => 422,
                1..=8 => 503,
                _ => 200,
            })
        })
        .await;
        let url = format!("--sink-http-url={}", platform.url());
        let member = world.start("platform", &["--sink=http", &url, "--retry-max-attempts=5"]).await;
        world.send_orders(1, 1).await;
        world.lag_is_zero("platform").await;
        assert_eq!(platform.keys().len(), 10, "a refusal, the outage, and the delivery");
        assert!(world.dead_letters().is_empty());
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_does_not_answer_in_time_is_asked_again() {
    in_world(1, async |world| {
        let platform = Platform::answering(|_| Answer(200, Duration::from_secs(3))).await;
        let url = format!("--sink-http-url={}", platform.url());
        let flags = ["--sink=http", &url, "--sink-http-timeout-seconds=1", "--retry-max-attempts=1"];
        let member = world.start("platform", &flags).await;
        let events = world.send_orders(1, 1).await;
        eventually("it was asked twice", async || (platform.keys().len() >= 2).then_some(())).await;
        platform.answer(|_| Answer::status(200));
        world.lag_is_zero("platform").await;
        assert!(world.dead_letters().is_empty());
        assert!(platform.keys().iter().all(|key| *key == events[0].event_id.to_string()));
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_gone_for_a_while_loses_nothing() {
    in_world(2, async |world| {
        let mut events = world.send_orders(2, 20).await;
        let member = world.start("platform", &["--sink=postgres", "--retry-max-attempts=2"]).await;
        until_rows(&world, "platform", events.len()).await;
        let (name, hidden) = (&world.database, format!("{}_hidden", world.database));
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ";
        world.administer(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
        world.administer(&format!("{cut}'{name}'")).await;
        eventually("it can be renamed", async || {
            world.administer(&format!("{cut}'{name}'")).await;
            world.administer(&format!("ALTER DATABASE {name} RENAME TO {hidden}")).await;
            Some(())
        })
        .await;
        events.extend(world.send_orders(2, 20).await);
        eventually("deliveries fail", async || {
            (member.metric("sink_errors_total").await >= 4.0).then_some(())
        })
        .await;
        world.administer(&format!("ALTER DATABASE {hidden} RENAME TO {name}")).await;
        world.administer(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await;
        let rows = until_rows(&world, "platform", events.len()).await;
        assert_each_once(rows.into_iter().map(|row| row.2), &events);
        assert!(world.dead_letters().is_empty());
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_during_an_outage_is_prompt_and_commits_nothing_undelivered() {
    in_world(1, async |world| {
        let platform = Platform::answering(|_| Answer::status(503)).await;
        let url = format!("--sink-http-url={}", platform.url());
        let events = world.send_orders(1, 5).await;
        let member = world.start("platform", &["--sink=http", &url]).await;
        eventually("it is at it", async || (platform.keys().len() >= 3).then_some(())).await;
        let begin = std::time::Instant::now();
        member.stop().await;
        assert!(begin.elapsed() < Duration::from_secs(5), "no use in waiting for a sink that is down");
        assert_eq!(world.lag("platform"), 5);
        platform.answer(|_| Answer::status(200));
        let failed = platform.keys().len();
        let member = world.start("platform", &["--sink=http", &url]).await;
        world.lag_is_zero("platform").await;
        assert_each_once(platform.keys().into_iter().skip(failed), &events);
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_does_not_exist_yet_is_waited_for() {
    in_world(0, async |world| {
        let member = world.start("platform", &["--sink=postgres"]).await;
        assert!(!member.is_ready().await);
        world.create_topic(&world.topic, 2).await;
        eventually("it is ready", async || member.is_ready().await.then_some(())).await;
        let events = world.send_orders(2, 10).await;
        let rows = until_rows(&world, "platform", events.len()).await;
        assert_each_once(rows.into_iter().map(|row| row.2), &events);
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_made_anew_is_read_from_its_beginning() {
    in_world(1, async |world| {
        let platform = Platform::answering(|_| Answer::status(200)).await;
        let url = format!("--sink-http-url={}", platform.url());
        let mut events = world.send_orders(1, 20).await;
        let member = world.start("platform", &["--sink=http", &url]).await;
        world.lag_is_zero("platform").await;
        world.delete_topic(&world.topic).await;
        world.create_topic(&world.topic, 1).await;
        events.extend(world.send_orders(1, 5).await);
        eventually("all were posted", async || (platform.keys().len() >= events.len()).then_some(())).await;
        assert_each_once(platform.keys(), &events);
        world.lag_is_zero("platform").await;
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_topic_that_was_made_anew_are_not_taken_for_repeats_of_the_old_ones() {
    in_world(1, async |world| {
        let mut events = world.send_orders(1, 20).await;
        let member = world.start("platform", &["--sink=postgres"]).await;
        until_rows(&world, "platform", events.len()).await;
        world.lag_is_zero("platform").await;
        world.delete_topic(&world.topic).await;
        world.create_topic(&world.topic, 1).await;
        events.extend(world.send_orders(1, 5).await);
        let rows = until_rows(&world, "platform", events.len()).await;
        assert_each_once(rows.into_iter().map(|row| row.2), &events);
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_hears_of_no_broker_for_long_is_made_anew_and_repeats_nothing_committed() {
    in_world(0, async |world| {
        // Kafka itself can't be taken away from one test alone.
        let kafka = MockCluster::new(1).unwrap();
        let world = world.on(&kafka.bootstrap_servers());
        kafka.create_topic(&world.topic, 2, 1).unwrap();
        let platform = Platform::answering(|_| Answer::status(200)).await;
        let url = format!("--sink-http-url={}", platform.url());
        let member = world.start("platform", &["--sink=http", &url]).await;
        let mut events = world.send_orders(2, 10).await;
        eventually("all were posted", async || (platform.keys().len() >= events.len()).then_some(())).await;
        world.lag_is_zero("platform").await;
        kafka.broker_down(1).unwrap();
        eventually("there is a new member", async || {
            (member.metric("members_replaced_total").await >= 1.0).then_some(())
        })
        .await;
        assert!(!member.is_ready().await);
        kafka.broker_up(1).unwrap();
        events.extend(world.send_orders(2, 10).await);
        eventually("all were posted", async || (platform.keys().len() >= events.len()).then_some(())).await;
        assert_each_once(platform.keys(), &events);
        // Records may come before the member next asks the brokers for the topic, which it does once a second.
        eventually("it is ready", async || member.is_ready().await.then_some(())).await;
        member.stop().await;
    })
    .await;
}
