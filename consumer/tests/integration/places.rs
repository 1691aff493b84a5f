//! Exactly once, and the sink's place is not where it should be, or not to be had.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use consumer::done_map::Runs;
use rdkafka::message::OwnedHeaders;
use sqlx::Executor;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::delivery::{rows, until_rows};
use crate::exactly_once::{EXACTLY_ONCE, POSTGRES, assert_rows, show_repetitions};
use crate::harness::{World, eventually, in_world};

async fn change(world: &World, statements: &'static str) {
    world.database().await.execute(statements).await.expect("changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_goes_back_under_a_running_member_gets_again_what_it_lost() {
    in_world(1, async |world| {
        show_repetitions(&world).await;
        let mut events = world.send_orders(1, 60).await;
        let member = world.start("platform", &POSTGRES).await;
        assert_rows(&world, &events).await;
        world.lag_is_zero("platform").await;
        // As a standby does that took over without the last writes.
        let lost = r#"UPDATE order_events_place SET next_offset = 20; DELETE FROM order_events WHERE "offset" >= 20"#;
        change(&world, lost).await;
        events.extend(world.send_orders(1, 5).await);
        assert_rows(&world, &events).await;
        assert_eq!(member.metric("place_jumps_total").await, 1.0);
        assert_eq!(member.metric("fenced_total").await, 0.0);
        world.lag_is_zero("platform").await;
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_commits_were_forgotten_goes_on_from_the_sinks_place() {
    in_world(1, async |world| {
        show_repetitions(&world).await;
        let mut events = world.send_orders(1, 30).await;
        let member = world.start("platform", &POSTGRES).await;
        assert_rows(&world, &events).await;
        member.stop().await;
        for start_from in ["--start-from=Earliest", "--start-from=Latest"] {
            world.forget_commits("platform").await;
            events.extend(world.send_orders(1, 10).await);
            let member = world.start("platform", &[&POSTGRES[..], &[start_from]].concat()).await;
            assert_rows(&world, &events).await;
            world.lag_is_zero("platform").await;
            assert_eq!(member.metric("delivered_total").await, 10.0, "{start_from}");
            member.stop().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_group_had_done_before_it_became_exactly_once_is_applied_by_no_member() {
    in_world(1, async |world| {
        show_repetitions(&world).await;
        world.send_orders(1, 20).await;
        let mut done = Runs::default();
        done.push(1, 20);
        world.commit_done("platform", 0, &done);
        let member = world.start("platform", &POSTGRES).await;
        world.lag_is_zero("platform").await;
        member.stop().await;
        world.send_orders(1, 1).await;
        let member = world.start("platform", &POSTGRES).await;
        until_rows(&world, "platform", 2).await;
        world.lag_is_zero("platform").await;
        member.stop().await;
        let offsets: Vec<i64> = rows(&world, "platform").await.into_iter().map(|row| row.1).collect();
        assert_eq!(offsets, [0, 20]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_made_anew_is_applied_from_its_beginning_whether_a_member_runs_or_not() {
    in_world(1, async |world| {
        show_repetitions(&world).await;
        let mut events = world.send_orders(1, 20).await;
        let member = world.start("platform", &POSTGRES).await;
        assert_rows(&world, &events).await;
        world.lag_is_zero("platform").await;
        let anew = async || {
            world.delete_topic(&world.topic).await;
            world.create_topic(&world.topic, 1).await;
            world.send_orders(1, 5).await
        };
        events.extend(anew().await);
        assert_rows(&world, &events).await;
        world.lag_is_zero("platform").await;
        let more = world.send_orders(1, 5).await;
        events.extend(more);
        assert_rows(&world, &events).await;
        member.stop().await;
        events.extend(anew().await);
        let member = world.start("platform", &POSTGRES).await;
        assert_rows(&world, &events).await;
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lost_its_claim_writes_no_letter_of_what_another_deals_with() {
    in_world(1, async |world| {
        let events = world.send_orders(1, 1).await;
        let member = world.start("platform", &POSTGRES).await;
        until_rows(&world, "platform", events.len()).await;
        change(&world, "UPDATE order_events_place SET epoch = epoch + 1").await;
        world.send(0, Some(b"1001"), Some(b"hello-1"), OwnedHeaders::new()).await;
        eventually("it sees that its claim is lost", async || {
            (member.metric("fenced_total").await == 1.0).then_some(())
        })
        .await;
        assert!(world.dead_letters().is_empty());
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_counted_and_repeated_no_sooner_than_the_sink_asks() {
    in_world(1, async |world| {
        const ASKED: Duration = Duration::from_secs(3);
        let (server, claims) = (MockServer::start().await, Arc::new(Mutex::new(Vec::new())));
        let seen = Arc::clone(&claims);
        let claim = move |_: &Request| {
            let mut claims = seen.lock().expect("whole");
            claims.push(Instant::now());
            match claims.len() {
                1 => ResponseTemplate::new(429).insert_header("retry-after", ASKED.as_secs().to_string()),
                epoch => {
                    ResponseTemplate::new(200).set_body_string(format!(r#"{{"epoch":{epoch},"next":0}}"#))
                }
            }
        };
        Mock::given(method("PUT")).respond_with(claim).mount(&server).await;
        Mock::given(method("POST")).respond_with(ResponseTemplate::new(204)).mount(&server).await;
        world.send_orders(1, 5).await;
        let url = format!("--sink-http-url={}/events", server.uri());
        let member = world.start("platform", &["--sink=http", &url, EXACTLY_ONCE]).await;
        eventually("the sink is known to be down", async || {
            (member.metric("sink_down").await == 1.0).then_some(())
        })
        .await;
        world.lag_is_zero("platform").await;
        assert_eq!(member.metric("sink_down").await, 0.0);
        assert_eq!(member.metric("sink_errors_total").await, 1.0);
        let claims = claims.lock().expect("whole").clone();
        assert!(claims[1] - claims[0] >= ASKED, "{:?}", claims[1] - claims[0]);
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_exactly_once_no_more_begins_at_the_sinks_place_whoever_was_killed() {
    in_world(1, async |world| {
        show_repetitions(&world).await;
        let events = world.send_histories(1, 200, 10).await;
        let victim = world.spawn("platform", &POSTGRES).await;
        until_rows(&world, "platform", 500).await;
        victim.kill();
        assert!(rows(&world, "platform").await.len() < events.len(), "it was killed in the middle");
        let member = world.start("platform", &["--sink=postgres", "--delivery=AtMostOnce"]).await;
        assert_rows(&world, &events).await;
        world.lag_is_zero("platform").await;
        assert!(world.committed_metadata("platform").iter().all(|text| !text.starts_with('E')));
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_member_of_a_group_that_is_exactly_once_no_more_applies_nothing_when_it_wakes() {
    in_world(1, async |world| {
        show_repetitions(&world).await;
        let events = world.send_histories(1, 200, 10).await;
        let frozen = world.spawn("platform", &POSTGRES).await;
        until_rows(&world, "platform", 200).await;
        frozen.signal("STOP");
        let member = world.start("platform", &["--sink=postgres", "--delivery=AtLeastOnce"]).await;
        // The session's timeout, then the claim.
        member.has_partitions(1.0).await;
        until_rows(&world, "platform", events.len()).await;
        frozen.signal("CONT");
        frozen.has_partitions(0.0).await;
        assert_rows(&world, &events).await;
        world.lag_is_zero("platform").await;
        member.stop().await;
    })
    .await;
}
