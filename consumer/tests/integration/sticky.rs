//! Dead letters are sticky: later records of a key follow the first one, whichever member has them, until the key is let go.

use rdkafka::message::OwnedMessage;

use crate::harness::{at_version, eventually, in_world};
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
