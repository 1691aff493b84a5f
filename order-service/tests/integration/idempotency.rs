//! Requests with an `Idempotency-Key`: the first answer again, whatever happened since. Both modes of the writer keep to it.

use std::time::Duration;

use futures::future::join_all;
use order_service::Config;
use order_service::config::WriterMode;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Bench, Instance, bench, until};

fn body(product: &str, quantity: i64, coupon: Option<&str>) -> Value {
    let mut body = json!({"userId": "u1", "items": [{"productId": product, "quantity": quantity}]});
    if let Some(code) = coupon {
        body["couponCode"] = code.into();
    }
    body
}

async fn post(shop: &Instance, key: &str, body: &Value) -> Response {
    shop.post("/orders").header("idempotency-key", key).json(body).send().await.unwrap()
}

/// What a client gets: status, headers that matter, body.
async fn seen(response: Response) -> (StatusCode, [Option<String>; 3], String) {
    let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let headers = [header("location"), header("etag"), header("content-type")];
    (response.status(), headers, response.text().await.unwrap())
}

fn is_replayed(response: &Response) -> bool {
    response.headers().get("idempotent-replayed").is_some_and(|value| value == "true")
}

async fn word(response: Response) -> String {
    let body: Value = response.json().await.unwrap();
    body["type"].as_str().unwrap().strip_prefix("urn:orderflow:problem:").unwrap().to_owned()
}

/// Runs `test` with the combining writer, and with the plain path in a database of its own.
async fn in_both_modes(test: impl AsyncFn(&Bench, Config)) {
    for mode in [WriterMode::Combining, WriterMode::PerOrder] {
        bench(None, async |bench| {
            let mut config = bench.config("a");
            config.writer.writer_mode = mode;
            test(bench, config).await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_gets_the_first_answer_again() {
    in_both_modes(async |bench, config| {
        let shop = bench.start_with(config).await;
        shop.load(&[("p1", 333, 10)], &[("TEN", 10, 5)]).await;
        let order = body("p1", 2, Some("TEN"));
        let first = post(&shop, "key-1", &order).await;
        assert!(!is_replayed(&first));
        let first = seen(first).await;
        assert_eq!(first.0, StatusCode::CREATED);
        let after = bench.state().await;

        let location = first.1[0].clone().unwrap();
        shop.changed(location.strip_prefix("/orders/").unwrap(), "confirm").await;
        shop.load(&[("p1", 999, 10)], &[("TEN", 20, 5)]).await;
        for key in ["key-1", "\"key-1\""] {
            let again = post(&shop, key, &order).await;
            assert!(is_replayed(&again));
            assert_eq!(seen(again).await, first, "byte for byte, and PENDING as it was then");
        }
        let (orders, events, ..) = bench.state().await;
        assert_eq!((orders, events), (after.0, after.1 + 1), "the confirmation alone was added");
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_repeated_even_when_it_would_be_accepted_by_now() {
    in_both_modes(async |bench, config| {
        let shop = bench.start_with(config).await;
        let gold = [("gold", 1_000_000_000_000, 1_000_000_000)];
        shop.load(&[("p1", 100, 1)], &[("GONE", 10, 0)]).await;
        shop.load(&gold, &[]).await;
        let too_much: Value =
            (0..20).map(|n| json!({"productId": format!("gold{n}"), "quantity": 1_000_000})).collect();
        let golds: Vec<String> = (0..20).map(|n| format!("gold{n}")).collect();
        let entries: Vec<_> = golds.iter().map(|id| (id.as_str(), 1_000_000_000_000, 1_000_000)).collect();
        shop.load(&entries, &[]).await;
        let before = bench.state().await;
        let cases = [
            ("short", body("p1", 2, None), 409),
            ("unknown", body("p2", 1, None), 422),
            ("coupon", body("p1", 1, Some("NONE")), 422),
            ("exhausted", body("p1", 1, Some("GONE")), 409),
            ("amount", json!({"userId": "u1", "items": too_much}), 422),
        ];
        let mut first = Vec::new();
        for (key, order, status) in &cases {
            let answer = post(&shop, key, order).await;
            assert!(!is_replayed(&answer), "{key}");
            let answer = seen(answer).await;
            assert_eq!(answer.0.as_u16(), *status, "{key}");
            first.push(answer);
        }
        assert_eq!(bench.state().await, before, "a refusal leaves its answer and nothing else");

        shop.load(&[("p1", 100, 10), ("p2", 100, 10)], &[("NONE", 10, 9), ("GONE", 10, 9)]).await;
        for ((key, order, _), first) in cases.iter().zip(first) {
            let again = post(&shop, key, order).await;
            assert!(is_replayed(&again), "{key}");
            assert_eq!(seen(again).await, first, "{key}");
        }
        assert_eq!(post(&shop, "another", &body("p1", 2, None)).await.status(), StatusCode::CREATED);
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_another_order_or_against_its_rule_is_refused_and_changes_nothing() {
    in_both_modes(async |bench, config| {
        let shop = bench.start_with(config).await;
        shop.load(&[("p1", 100, 10)], &[]).await;
        assert_eq!(post(&shop, "key-1", &body("p1", 1, None)).await.status(), StatusCode::CREATED);
        let before = bench.state().await;
        let reused = post(&shop, "key-1", &body("p1", 2, None)).await;
        assert_eq!(reused.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(word(reused).await, "idempotency-key-reused");
        for bad in ["", "a b", "\"open"] {
            let refused = post(&shop, bad, &body("p1", 1, None)).await;
            assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{bad:?}");
            assert!(refused.text().await.unwrap().contains("Idempotency-Key"));
        }
        // What breaks a rule of the input is not remembered: the client mends it and goes on with the key.
        let invalid = post(&shop, "key-2", &body("p1", 0, None)).await;
        assert_eq!(invalid.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(bench.state().await, before);
        assert_eq!(post(&shop, "key-2", &body("p1", 1, None)).await.status(), StatusCode::CREATED);
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_with_one_key_at_once_place_one_order() {
    in_both_modes(async |bench, mut config| {
        config.database.database_max_connections = 16;
        let shop = bench.start_with(config).await;
        shop.load(&[("p1", 100, 1000)], &[]).await;
        for round in 0..5 {
            let (key, order) = (format!("key-{round}"), body("p1", 1, None));
            let answers = join_all((0..30).map(|_| post(&shop, &key, &order))).await;
            let mut locations = Vec::new();
            let mut first = 0;
            for answer in answers {
                if answer.status() == StatusCode::CREATED {
                    first += usize::from(!is_replayed(&answer));
                    locations.push(answer.headers()["location"].clone());
                } else {
                    assert_eq!(answer.headers()["retry-after"], "1");
                    assert_eq!(word(answer).await, "idempotency-key-in-progress");
                }
            }
            locations.dedup();
            assert_eq!((first, locations.len()), (1, 1));
        }
        assert_eq!(bench.number("select count(*) from orders").await, 5);
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_at_work_is_found_out_without_waiting_for_it() {
    in_both_modes(async |bench, config| {
        let shop = bench.start_with(config).await;
        shop.load(&[("p1", 100, 10)], &[]).await;
        let mut holder = bench.pool.begin().await.unwrap();
        sqlx::query("select from products for update").execute(&mut *holder).await.unwrap();
        let order = body("p1", 1, None);
        let stuck = post(&shop, "key-1", &order);
        let meanwhile = async {
            bench.until_someone_waits_for_a_lock().await;
            let refused = post(&shop, "key-1", &order).await;
            assert_eq!(word(refused).await, "idempotency-key-in-progress");
            holder.rollback().await.unwrap();
        };
        let (stuck, ()) = tokio::join!(stuck, meanwhile);
        let stuck = seen(stuck).await;
        assert_eq!(stuck.0, StatusCode::CREATED);
        let again = post(&shop, "key-1", &order).await;
        assert!(is_replayed(&again));
        assert_eq!(seen(again).await, stuck);
        shop.stop().await;
    })
    .await;
}

/// Another replica may finish a key between this one's look at its row and its lock; the lock is taken in the same
/// statement, but the look sees what was there when the statement began.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_finished_between_look_and_lock_is_noticed_when_it_is_written() {
    bench(None, async |bench| {
        let shop = bench.start("a").await;
        shop.load(&[("p1", 100, 10), ("p2", 100, 10)], &[]).await;
        let order = body("p1", 1, None);
        let elsewhere = seen(post(&shop, "elsewhere", &order).await).await;
        let mut holder = bench.pool.begin().await.unwrap();
        sqlx::query("select from products where product_id = 'p1' for update")
            .execute(&mut *holder)
            .await
            .unwrap();
        let late = post(&shop, "key-1", &order);
        let other_replica = async {
            bench.until_someone_waits_for_a_lock().await;
            sqlx::query(
                "insert into idempotency_keys select 'key-1', fingerprint, order_id, refusal
                 from idempotency_keys where key = 'elsewhere'",
            )
            .execute(&bench.pool)
            .await
            .unwrap();
            holder.rollback().await.unwrap();
        };
        let (late, ()) = tokio::join!(late, other_replica);
        assert!(is_replayed(&late));
        assert_eq!(seen(late).await, elsewhere);
        assert_eq!(bench.state().await, (1, 1, 19, 0));
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_is_as_good_as_new_and_is_deleted_in_time() {
    in_both_modes(async |bench, config| {
        let shop = bench.start_with(config.clone()).await;
        shop.load(&[("p1", 100, 10)], &[]).await;
        let order = body("p1", 1, None);
        for key in ["key-1", "key-2"] {
            assert_eq!(post(&shop, key, &order).await.status(), StatusCode::CREATED);
        }
        sqlx::query("update idempotency_keys set created_at = created_at - interval '24 hours'")
            .execute(&bench.pool)
            .await
            .unwrap();
        let another = body("p1", 2, None);
        let anew = post(&shop, "key-1", &another).await;
        assert_eq!((anew.status(), is_replayed(&anew)), (StatusCode::CREATED, false));
        assert!(is_replayed(&post(&shop, "key-1", &another).await), "and lives again");
        shop.stop().await;

        let shop = bench.start_with(config).await;
        until("the expired one is deleted", async || {
            bench.number("select count(*) from idempotency_keys").await == 1
        })
        .await;
        assert!(is_replayed(&post(&shop, "key-1", &another).await));
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_great_many_expired_keys_are_deleted_in_bounded_batches() {
    bench(None, async |bench| {
        bench.start("a").await.stop().await;
        sqlx::query(
            "insert into idempotency_keys (key, fingerprint, order_id, created_at)
             select 'key-' || n, '\\x00', gen_random_uuid(), now() - n * interval '1 minute'
             from generate_series(1, 7000) as s (n)",
        )
        .execute(&bench.pool)
        .await
        .unwrap();
        let mut config = bench.config("b");
        config.writer.idempotency_ttl = Duration::from_hours(1);
        let shop = bench.start_with(config).await;
        until("those of the last hour are left", async || {
            (58..=60).contains(&bench.number("select count(*) from idempotency_keys").await)
        })
        .await;
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_survives_the_process_that_gave_it() {
    bench(None, async |bench| {
        let shop = bench.start("a").await;
        shop.load(&[("p1", 100, 10)], &[]).await;
        let (key, order) = (Uuid::new_v4().to_string(), body("p1", 1, None));
        let first = seen(post(&shop, &key, &order).await).await;
        shop.crash().await;
        let shop = bench.start("b").await;
        let again = post(&shop, &key, &order).await;
        assert!(is_replayed(&again));
        assert_eq!(seen(again).await, first);
        shop.stop().await;
    })
    .await;
}
