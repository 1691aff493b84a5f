//! Keys side by side: a slow or failing one holds up nobody else, and what is done is not done again.

use std::time::Duration;

use order_events::OrderEvent;

use crate::delivery::assert_each_once;
use crate::harness::{World, at_version, eventually, in_world};
use crate::platform::{Answer, Platform};

/// Longer than a test.
const HANGS: Answer = Answer(200, Duration::from_secs(120));

fn id(event: &OrderEvent) -> String {
    event.event_id.to_string()
}

fn positions(keys: &[String], events: &[OrderEvent]) -> Vec<Option<usize>> {
    events.iter().map(|event| keys.iter().position(|key| *key == id(event))).collect()
}

/// One that answers `answer` to these events, and 200 to all others.
async fn platform_with(events: &[OrderEvent], answer: Answer) -> Platform {
    let special: Vec<String> = events.iter().map(id).collect();
    Platform::answering(move |received| {
        if special.contains(&received.idempotency_key) { answer } else { Answer::status(200) }
    })
    .await
}

/// Whether what is done is committed as such, but for the one record that is not.
async fn all_but_one_committed(world: &World, group: &str) {
    eventually("what is done beyond the watermark is committed", async || {
        world.committed_metadata(group).iter().any(|metadata| !metadata.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_hangs_holds_up_its_own_order_alone() {
    in_world(1, async |world| {
        let slow = world.send_histories(1, 1, 3).await;
        let platform = platform_with(&slow[..1], HANGS).await;
        let events = world.send_histories(1, 50, 3).await;
        let url = format!("--sink-http-url={}", platform.url());
        let member = world.start("platform", &["--sink=http", &url]).await;
        eventually("the others are delivered", async || (platform.keys().len() > events.len()).then_some(()))
            .await;
        let keys = platform.keys();
        assert!(positions(&keys, &slow[1..]).iter().all(Option::is_none), "its later versions wait");
        for order in events.iter().filter(|event| event.version == 1) {
            let history: Vec<OrderEvent> =
                events.iter().filter(|event| event.order_id == order.order_id).cloned().collect();
            assert!(positions(&keys, &history).is_sorted());
        }
        drop(member);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_event_waits_for_its_next_attempt_and_its_order_with_it() {
    in_world(1, async |world| {
        let refused = world.send_histories(1, 1, 3).await;
        let platform = platform_with(&refused[1..2], Answer::status(422)).await;
        let url = format!("--sink-http-url={}", platform.url());
        let flags = ["--sink=http", &url, "--retry-max-attempts=1000", "--retry-initial-backoff-millis=50"];
        let member = world.start("platform", &flags).await;
        let others = world.send_histories(1, 20, 2).await;
        let attempts = |keys: &[String]| keys.iter().filter(|key| **key == id(&refused[1])).count();
        eventually("it was refused several times, and the others are delivered", async || {
            let keys = platform.keys();
            let all = positions(&keys, &others).iter().all(Option::is_some);
            (all && attempts(&keys) >= 3).then_some(())
        })
        .await;
        assert_eq!(positions(&platform.keys(), &refused[2..]), [None]);
        platform.answer(|_| Answer::status(200));
        world.lag_is_zero("platform").await;
        assert!(positions(&platform.keys(), &refused).is_sorted());
        assert!(world.dead_letters().is_empty());
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_only_what_was_not_done_is_delivered_again() {
    in_world(1, async |world| {
        let slow = world.send_orders(1, 1).await;
        let platform = platform_with(&slow, HANGS).await;
        let url = format!("--sink-http-url={}", platform.url());
        let mut events = world.send_orders(1, 40).await;
        let victim = world.spawn("platform", &["--sink=http", &url]).await;
        eventually("the others are delivered", async || (platform.keys().len() > events.len()).then_some(()))
            .await;
        all_but_one_committed(&world, "platform").await;
        // What was done in the last commit interval may not be said yet.
        eventually("all of it is said", async || {
            (world.committed_metadata("platform") == ["1:ASg"]).then_some(())
        })
        .await;
        victim.kill();
        assert_eq!(world.lag("platform"), 41, "the watermark is at the one that hangs");
        platform.answer(|_| Answer::status(200));
        let member = world.start("platform", &["--sink=http", &url]).await;
        world.lag_is_zero("platform").await;
        assert_eq!(member.metric("already_done_total").await, 40.0);
        events.extend(slow.iter().cloned().chain(slow.iter().cloned()));
        assert_each_once(platform.keys(), &events);
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_delivered_before_is_not_again_and_a_missing_one_is_told() {
    in_world(1, async |world| {
        let platform = Platform::answering(|_| Answer::status(200)).await;
        let url = format!("--sink-http-url={}", platform.url());
        let member = world.start("platform", &["--sink=http", &url]).await;
        let mut events = world.send_histories(1, 1, 2).await;
        for repeated in &events {
            world.send_event(0, repeated).await;
        }
        world.lag_is_zero("platform").await;
        assert_each_once(platform.keys(), &events);
        assert_eq!(member.metric("repeated_total").await, 2.0);
        assert_eq!(member.metric("missing_total").await, 0.0);
        events.push(at_version(&events[0], 5));
        world.send_event(0, &events[2]).await;
        world.lag_is_zero("platform").await;
        assert_each_once(platform.keys(), &events);
        assert_eq!(member.metric("missing_total").await, 1.0);
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repetitions_that_wait_together_with_what_they_repeat_are_delivered_once_in_each_guarantee_that_can_tell()
 {
    in_world(1, async |world| {
        let events = world.send_histories(1, 1, 4).await;
        for repeated in &events {
            world.send_event(0, repeated).await;
        }
        for (group, delivery) in [("least", "AtLeastOnce"), ("most", "AtMostOnce")] {
            let delivery = format!("--delivery={delivery}");
            let member = world.start(group, &["--sink=postgres", &delivery]).await;
            world.lag_is_zero(group).await;
            eventually("the repetitions are told", async || {
                (member.metric("repeated_total").await == 4.0).then_some(())
            })
            .await;
            assert_eq!(member.metric("delivered_total").await, 4.0, "{group}");
            member.stop().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_found_out_by_few_calls_and_one_call_tells_when_it_is_over() {
    in_world(3, async |world| {
        let platform = Platform::answering(|_| Answer::status(500)).await;
        let url = format!("--sink-http-url={}", platform.url());
        let events = world.send_orders(3, 300).await;
        let flags = ["--sink=http", &url, "--retry-initial-backoff-millis=500"];
        let member = world.start("platform", &flags).await;
        eventually("it is down", async || (member.metric("sink_down").await == 1.0).then_some(())).await;
        // How many calls were under way when it was found out is the machine's to say; there are no more of them.
        let at_once = eventually("the calls of then have failed", async || {
            let failed = member.metric("sink_errors_total").await;
            (failed >= platform.keys().len() as f64).then_some(failed)
        })
        .await;
        eventually("it was tried again, twice", async || {
            (member.metric("sink_errors_total").await >= at_once + 2.0).then_some(())
        })
        .await;
        // Each of three partitions has 16 lanes, whose calls were under way; from then on there is one at a time.
        assert!(platform.keys().len() < 60, "{}", platform.keys().len());
        platform.answer(|_| Answer::status(200));
        let failed = platform.keys().len();
        world.lag_is_zero("platform").await;
        assert_eq!(member.metric("sink_down").await, 0.0);
        assert_each_once(platform.keys().into_iter().skip(failed), &events);
        assert!(world.dead_letters().is_empty());
        member.stop().await;
    })
    .await;
}
