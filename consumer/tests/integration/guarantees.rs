//! At least once and at most once, told apart by a crash and by a failing sink.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::delivery::assert_each_once;
use crate::harness::{eventually, in_world};
use crate::platform::{Answer, Platform};

const AT_MOST_ONCE: &str = "--delivery=AtMostOnce";
/// Longer than a test: the platform has the event and never says so.
const HANGS: Answer = Answer(200, Duration::from_secs(120));

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_delivers_everything_once_when_nothing_fails() {
    in_world(3, async |world| {
        let platform = Platform::answering(|_| Answer::status(200)).await;
        let url = format!("--sink-http-url={}", platform.url());
        let events = world.send_orders(3, 120).await;
        let member = world.start("platform", &["--sink=http", &url, AT_MOST_ONCE]).await;
        eventually("all were posted", async || (platform.keys().len() >= events.len()).then_some(())).await;
        member.stop().await;
        assert_eq!(world.lag("platform"), 0);
        assert_each_once(platform.keys(), &events);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_tries_a_failing_sink_a_single_time_and_counts_the_loss() {
    in_world(1, async |world| {
        let platform = Platform::answering(|_| Answer::status(500)).await;
        let url = format!("--sink-http-url={}", platform.url());
        let lost = world.send_orders(1, 6).await;
        let member = world.start("platform", &["--sink=http", &url, AT_MOST_ONCE]).await;
        eventually("the loss is counted", async || (member.metric("lost_total").await == 6.0).then_some(()))
            .await;
        assert_each_once(platform.keys(), &lost);
        platform.answer(|_| Answer::status(200));
        let mut events = world.send_orders(1, 6).await;
        eventually("the next are delivered", async || {
            (member.metric("delivered_total").await == 6.0).then_some(())
        })
        .await;
        events.extend(lost);
        assert_each_once(platform.keys(), &events);
        assert!(world.dead_letters().is_empty());
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_at_most_once_does_not_repeat_what_was_in_flight() {
    in_world(1, async |world| {
        let platform = Platform::answering(|_| HANGS).await;
        let url = format!("--sink-http-url={}", platform.url());
        let flags = ["--sink=http", &url, AT_MOST_ONCE, "--batch-max-records=1"];
        let mut events = world.send_orders(1, 1).await;
        let victim = world.spawn("platform", &flags).await;
        eventually("the platform has it", async || (platform.keys().len() == 1).then_some(())).await;
        victim.kill();
        assert_eq!(world.lag("platform"), 0, "committed before delivered");
        platform.answer(|_| Answer::status(200));
        events.extend(world.send_orders(1, 1).await);
        let member = world.start("platform", &flags).await;
        eventually("the next is delivered", async || (platform.keys().len() >= 2).then_some(())).await;
        member.stop().await;
        assert_each_once(platform.keys(), &events);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_at_least_once_repeats_what_was_in_flight_under_the_same_key() {
    in_world(1, async |world| {
        let platform = Platform::answering(|_| HANGS).await;
        let url = format!("--sink-http-url={}", platform.url());
        let events = world.send_orders(1, 1).await;
        let victim = world.spawn("platform", &["--sink=http", &url]).await;
        eventually("the platform has it", async || (platform.keys().len() == 1).then_some(())).await;
        victim.kill();
        assert_eq!(world.lag("platform"), 1, "not committed before delivered");
        platform.answer(|_| Answer::status(200));
        let member = world.start("platform", &["--sink=http", &url]).await;
        world.lag_is_zero("platform").await;
        member.stop().await;
        assert_eq!(platform.keys().len(), 2);
        assert_each_once(platform.keys().into_iter().collect::<BTreeSet<_>>(), &events);
    })
    .await;
}
