//! Members that come, go and die.

use std::time::{Duration, Instant};

use crate::delivery::{assert_each_once, rows, until_rows};
use crate::harness::{eventually, in_world};
use crate::platform::{Answer, Platform};

#[tokio::test(flavor = "multi_thread")]
async fn two_members_split_the_partitions_and_one_takes_all_when_the_other_leaves() {
    in_world(4, async |world| {
        let first = world.start("platform", &["--sink=postgres"]).await;
        first.has_partitions(4.0).await;
        let second = world.start("platform", &["--sink=postgres"]).await;
        second.has_partitions(2.0).await;
        first.has_partitions(2.0).await;
        let mut events = world.send_orders(4, 80).await;
        until_rows(&world, "platform", events.len()).await;
        assert!(first.metric("delivered_total").await > 0.0 && second.metric("delivered_total").await > 0.0);
        second.stop().await;
        let left = Instant::now();
        first.has_partitions(4.0).await;
        assert!(
            left.elapsed() < Duration::from_secs(8),
            "well before the session's timeout: it said goodbye"
        );
        events.extend(world.send_orders(4, 40).await);
        let rows = until_rows(&world, "platform", events.len()).await;
        assert_each_once(rows.into_iter().map(|row| row.2), &events);
        first.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moving_partitions_under_load_repeats_nothing() {
    in_world(4, async |world| {
        let platform = Platform::answering(|_| Answer(200, Duration::from_millis(5))).await;
        let url = format!("--sink-http-url={}", platform.url());
        let events = world.send_orders(4, 800).await;
        let first = world.start("platform", &["--sink=http", &url]).await;
        eventually("it has begun", async || (platform.keys().len() > 50).then_some(())).await;
        let second = world.start("platform", &["--sink=http", &url]).await;
        second.has_partitions(2.0).await;
        first.stop().await;
        second.has_partitions(4.0).await;
        world.lag_is_zero("platform").await;
        assert_each_once(platform.keys(), &events);
        second.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_partitions_is_ready() {
    in_world(1, async |world| {
        let members = [
            world.start("platform", &["--sink=postgres"]).await,
            world.start("platform", &["--sink=postgres"]).await,
        ];
        for member in &members {
            eventually("both are ready", async || member.is_ready().await.then_some(())).await;
        }
        for member in members {
            member.stop().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_member_takes_over_from_one_that_was_killed() {
    in_world(2, async |world| {
        let survivor = world.start("platform", &["--sink=postgres"]).await;
        survivor.has_partitions(2.0).await;
        let victim = world.spawn("platform", &["--sink=postgres"]).await;
        victim.has_partitions(1.0).await;
        survivor.has_partitions(1.0).await;
        victim.kill();
        let events = world.send_orders(2, 40).await;
        let rows = until_rows(&world, "platform", events.len()).await;
        assert_each_once(rows.into_iter().map(|row| row.2), &events);
        survivor.has_partitions(2.0).await;
        survivor.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_the_load_loses_nothing_and_adds_no_second_row() {
    in_world(3, async |world| {
        let events = world.send_orders(3, 3_000).await;
        let flags = ["--sink=postgres", "--batch-max-records=20"];
        let victim = world.spawn("platform", &flags).await;
        until_rows(&world, "platform", 200).await;
        victim.kill();
        assert!(rows(&world, "platform").await.len() < events.len(), "it was killed in the middle");
        let member = world.start("platform", &flags).await;
        let rows = until_rows(&world, "platform", events.len()).await;
        assert_each_once(rows.into_iter().map(|row| row.2), &events);
        world.lag_is_zero("platform").await;
        member.stop().await;
    })
    .await;
}
