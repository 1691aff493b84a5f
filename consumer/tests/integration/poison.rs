//! Records that can't be delivered: to the dead-letter topic with their bytes intact, while their neighbours flow.

use bytes::Bytes;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders, OwnedMessage};

use crate::delivery::{assert_each_once, until_rows};
use crate::harness::{World, eventually, headers_of, in_world, order_created};
use crate::platform::{Answer, Platform};

fn header<'a>(record: &'a OwnedMessage, name: &str) -> Option<&'a [u8]> {
    let headers = record.headers()?;
    headers.iter().find(|header| header.key == name).and_then(|header| header.value)
}

pub(crate) fn text(record: &OwnedMessage, name: &str) -> String {
    String::from_utf8_lossy(header(record, name).unwrap_or_default()).into_owned()
}

pub(crate) async fn until_dead_letters(world: &World, count: usize) -> Vec<OwnedMessage> {
    eventually("the dead letters are written", async || {
        let letters = world.dead_letters();
        (letters.len() >= count).then_some(letters)
    })
    .await
}

struct Poison {
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: OwnedHeaders,
    reason: &'static str,
}

fn poisons() -> Vec<Poison> {
    let event = order_created();
    let encoded = event.encode().expect("encodes");
    let (key, value) = (Some(Bytes::from(encoded.key)), Some(Bytes::from(encoded.payload)));
    let typed = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    let other_type =
        OwnedHeaders::new().insert(Header { key: "ce_type", value: Some("com.example.Other.v9") });
    let poison = |key, value, headers, reason| Poison { key, value, headers, reason };
    vec![
        poison(None, typed("hello-1"), OwnedHeaders::new(), "MissingKey"),
        poison(
            typed("1001"),
            typed(r#"{"orderId":1001,"status":"CREATED"}"#),
            OwnedHeaders::new(),
            "MissingType",
        ),
        poison(typed("1001"), typed(r#"{"orderId":1001,"status":"CREATED"}"#), headers_of(&event), "Schema"),
        poison(None, value.clone(), headers_of(&event), "MissingKey"),
        poison(key.clone(), None, headers_of(&event), "MissingPayload"),
        poison(key.clone(), Some(Bytes::from(vec![0xff; 2_000_000])), headers_of(&event), "TooLarge"),
        poison(key, value.clone(), other_type, "UnknownType"),
        poison(typed("not-the-order"), value, headers_of(&event), "Mismatch"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_of_every_kind_becomes_a_dead_letter_with_its_bytes_intact() {
    in_world(1, async |world| {
        let (poisons, mut events) = (poisons(), Vec::new());
        let mut sent = Vec::new();
        for poison in &poisons {
            events.extend(world.send_orders(1, 3).await);
            let headers = poison.headers.clone();
            sent.push(world.send(0, poison.key.as_deref(), poison.value.as_deref(), headers).await);
        }
        events.extend(world.send_orders(1, 3).await);
        let member = world.start("platform", &["--sink=postgres"]).await;
        let rows = until_rows(&world, "platform", events.len()).await;
        assert_each_once(rows.into_iter().map(|row| row.2), &events);
        world.lag_is_zero("platform").await;
        let mut letters = world.dead_letters();
        assert_eq!(letters.len(), poisons.len());
        // They are of several keys, so they came in any order.
        letters.sort_by_key(|letter| {
            header(letter, "kafka_dlt-original-offset")
                .map(|bytes| i64::from_be_bytes(bytes.try_into().unwrap()))
        });
        for ((poison, offset), letter) in poisons.iter().zip(sent).zip(&letters) {
            assert_eq!(letter.key(), poison.key.as_deref(), "{}", poison.reason);
            assert_eq!(letter.payload(), poison.value.as_deref(), "{}", poison.reason);
            assert_eq!(text(letter, "orderflow-dlt-reason"), poison.reason);
            assert_eq!(text(letter, "kafka_dlt-original-topic"), world.topic);
            assert_eq!(header(letter, "kafka_dlt-original-offset"), Some(offset.to_be_bytes().as_slice()));
            assert_eq!(text(letter, "kafka_dlt-original-consumer-group"), world.group("platform"));
            assert_eq!(text(letter, "__connect.errors.offset"), offset.to_string());
            assert_eq!(text(letter, "__streams.errors.topic"), world.topic);
            for own in poison.headers.iter() {
                assert_eq!(header(letter, own.key), own.value, "{}", own.key);
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a handful of records")]
        let expected = letters.len() as f64;
        assert_eq!(member.metric("dead_lettered_total").await, expected);
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_platform_refuses_is_a_dead_letter_after_its_attempts() {
    in_world(1, async |world| {
        let events = world.send_orders(1, 9).await;
        let refused = events[4].event_id.to_string();
        let rule = refused.clone();
        let platform = Platform::answering(move |received| {
            Answer::status(if received.idempotency_key == rule { 422 } else { 200 })
        })
        .await;
        let url = format!("--sink-http-url={}", platform.url());
        let member = world.start("platform", &["--sink=http", &url, "--retry-max-attempts=4"]).await;
        let letters = until_dead_letters(&world, 1).await;
        world.lag_is_zero("platform").await;
        assert_eq!(letters.len(), 1);
        assert_eq!(text(&letters[0], "ce_id"), refused);
        assert_eq!(text(&letters[0], "orderflow-dlt-reason"), "Rejected");
        assert!(text(&letters[0], "kafka_dlt-exception-message").contains("422"));
        assert_eq!(platform.keys().iter().filter(|key| **key == refused).count(), 4);
        assert_eq!(platform.keys().len(), events.len() - 1 + 4, "its neighbours were posted once each");
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_database_refuses_does_not_take_its_batch_along() {
    in_world(1, async |world| {
        let first = world.send_orders(1, 1).await;
        let member = world.start("platform", &["--sink=postgres", "--retry-max-attempts=2"]).await;
        until_rows(&world, "platform", 1).await;
        member.stop().await;
        let pool = world.database().await;
        let rule = "ALTER TABLE order_events ADD CHECK (payload -> 'order' ->> 'userId' <> 'mallory')";
        sqlx::query(rule).execute(&pool).await.expect("a rule of the table's owner");
        let mut before = world.send_orders(1, 5).await;
        let mut mallory = order_created();
        mallory.order.user_id = "mallory".to_owned();
        world.send_event(0, &mallory).await;
        before.extend(first);
        before.extend(world.send_orders(1, 5).await);
        let member = world.start("platform", &["--sink=postgres", "--retry-max-attempts=2"]).await;
        let rows = until_rows(&world, "platform", before.len()).await;
        assert_each_once(rows.into_iter().map(|row| row.2), &before);
        let letters = until_dead_letters(&world, 1).await;
        assert_eq!(text(&letters[0], "ce_id"), mallory.event_id.to_string());
        assert!(text(&letters[0], "kafka_dlt-exception-message").contains("23514"));
        member.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_dead_letter_topic_is_missing_the_record_waits_and_is_not_skipped() {
    in_world(1, async |world| {
        world.delete_topic(&world.dead_letter_topic).await;
        world.send(0, None, Some(b"hello-1"), OwnedHeaders::new()).await;
        let events = world.send_orders(1, 3).await;
        let member = world.start("platform", &["--sink=postgres"]).await;
        eventually("the alarm is up", async || {
            (member.metric("dead_letter_blocked").await == 1.0).then_some(())
        })
        .await;
        assert_eq!(world.lag("platform"), 4, "nothing is committed over a record that is nowhere else");
        world.create_topic(&world.dead_letter_topic, 1).await;
        until_dead_letters(&world, 1).await;
        until_rows(&world, "platform", events.len()).await;
        assert_eq!(member.metric("dead_letter_blocked").await, 0.0);
        member.stop().await;
    })
    .await;
}
