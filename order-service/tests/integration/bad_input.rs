//! Every kind of bad input: the problem it gets, and that it changes nothing.

use std::time::Duration;

use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Instance, bench, until};

/// Asserts a problem and answers its detail.
async fn problem(response: Response, status: u16, word: &str, case: &str) -> String {
    assert_eq!(response.status().as_u16(), status, "{case}");
    assert_eq!(response.headers()["content-type"], "application/problem+json", "{case}");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["type"], format!("urn:orderflow:problem:{word}"), "{case}: {body}");
    assert_eq!(body["status"], status, "{case}");
    assert!(!body["title"].as_str().unwrap().is_empty(), "{case}");
    body["detail"].as_str().unwrap().to_owned()
}

fn order(items: &Value) -> String {
    json!({"userId": "u1", "items": items}).to_string()
}

fn line(product: &str, quantity: &Value) -> Value {
    json!([{"productId": product, "quantity": quantity}])
}

/// (what, body, status, problem)
fn bad_orders() -> Vec<(&'static str, String, u16, &'static str)> {
    let many = |count: usize| -> Value {
        (0..count).map(|n| json!({"productId": format!("p{n}"), "quantity": 1})).collect()
    };
    let one = |quantity: Value| order(&line("p1", &quantity));
    let with = |extra: Value| {
        let mut body = json!({"userId": "u1", "items": line("p1", &json!(1))});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body.to_string()
    };
    vec![
        ("no JSON", "{".to_owned(), 400, "malformed-body"),
        ("empty body", String::new(), 400, "malformed-body"),
        ("deeply nested", "[".repeat(10_000), 422, "unexpected-body"),
        ("text after the end", order(&line("p1", &json!(1))) + "}", 400, "malformed-body"),
        ("another shape", "[]".to_owned(), 422, "unexpected-body"),
        ("no fields", "{}".to_owned(), 422, "unexpected-body"),
        ("unknown field", with(json!({"discount": 100})), 422, "unexpected-body"),
        ("field twice", r#"{"userId":"a","userId":"b","items":[]}"#.to_owned(), 422, "unexpected-body"),
        ("unknown product", order(&line("none", &json!(1))), 422, "unknown-product"),
        ("product that is no id", order(&line("'; --", &json!(1))), 422, "invalid"),
        ("quantity 0", one(json!(0)), 422, "invalid"),
        ("negative quantity", one(json!(-1)), 422, "invalid"),
        ("largest quantity", one(json!(i64::MAX)), 422, "invalid"),
        ("quantity beyond 64 bits", one(json!(1e30)), 422, "unexpected-body"),
        ("half a unit", one(json!(0.5)), 422, "unexpected-body"),
        ("quantity as text", one(json!("1")), 422, "unexpected-body"),
        ("more than there is", one(json!(11)), 409, "insufficient-stock"),
        (
            "more than there is in sum",
            order(&json!([{"productId": "p1", "quantity": 6}, {"productId": "p1", "quantity": 5}])),
            409,
            "insufficient-stock",
        ),
        (
            "one line of two is short",
            order(&json!([{"productId": "p2", "quantity": 1}, {"productId": "p1", "quantity": 11}])),
            409,
            "insufficient-stock",
        ),
        (
            "amount beyond 64 bits",
            order(
                &(0..20).map(|n| json!({"productId": format!("gold{n}"), "quantity": 1_000_000})).collect(),
            ),
            422,
            "amount-too-large",
        ),
        ("no lines", order(&json!([])), 422, "invalid"),
        ("101 lines", order(&many(101)), 422, "invalid"),
        ("10,000 lines", order(&many(10_000)), 413, "body-too-large"),
        ("body too large", with(json!({"couponCode": "x".repeat(70_000)})), 413, "body-too-large"),
        ("unknown coupon", with(json!({"couponCode": "NONE"})), 422, "unknown-coupon"),
        ("coupon used up", with(json!({"couponCode": "GONE"})), 409, "coupon-exhausted"),
        ("coupon that is no code", with(json!({"couponCode": "a b"})), 422, "invalid"),
        ("empty user", with(json!({"userId": ""})), 422, "invalid"),
        ("long user", with(json!({"userId": "x".repeat(129)})), 422, "invalid"),
        ("user with a zero byte", with(json!({"userId": "a\0b"})), 422, "invalid"),
        ("user is null", with(json!({"userId": null})), 422, "unexpected-body"),
    ]
}

async fn stocked(shop: &Instance) {
    let gold: Vec<String> = (0..20).map(|n| format!("gold{n}")).collect();
    let mut products = vec![("p1", 100, 10), ("p2", 100, 10)];
    products.extend(gold.iter().map(|id| (id.as_str(), 1_000_000_000_000, 1_000_000)));
    shop.load(&products, &[("GONE", 10, 0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_order_gets_its_problem_and_changes_nothing() {
    bench(None, async |bench| {
        let shop = bench.start("a").await;
        stocked(&shop).await;
        let before = bench.state().await;
        for (case, body, status, word) in bad_orders() {
            let request = shop.post("/orders").header("content-type", "application/json").body(body);
            let detail = problem(request.send().await.unwrap(), status, word, case).await;
            if case == "101 lines" {
                assert!(detail.contains("1 to 100 lines"), "the limit is named: {detail}");
            }
            assert_eq!(bench.state().await, before, "{case}");
        }
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_request_gets_its_problem() {
    bench(None, async |bench| {
        let shop = bench.start("a").await;
        stocked(&shop).await;
        let id = shop.placed("p1").await;
        let missing = "00000000-0000-7000-8000-000000000000";
        let good = order(&line("p1", &json!(1)));
        let before = bench.state().await;
        let cases: Vec<(&str, RequestBuilder, u16, &str)> = vec![
            ("no content type", shop.post("/orders").body(good.clone()), 415, "content-type"),
            (
                "another content type",
                shop.post("/orders").header("content-type", "text/plain").body(good),
                415,
                "content-type",
            ),
            ("unknown route", shop.get("/elsewhere"), 404, "not-found"),
            ("catalogue on the public port", shop.request("PUT", "/catalogue"), 404, "not-found"),
            ("wrong method", shop.request("DELETE", "/orders"), 405, "method-not-allowed"),
            (
                "wrong method on an order",
                shop.request("PUT", &format!("/orders/{id}")),
                405,
                "method-not-allowed",
            ),
            ("no UUID", shop.get("/orders/1001"), 400, "bad-parameter"),
            ("no UTF-8", shop.get("/orders/%ff"), 400, "bad-parameter"),
            ("no such order", shop.get(&format!("/orders/{missing}")), 404, "not-found"),
            ("confirm no such order", shop.post(&format!("/orders/{missing}/confirm")), 404, "not-found"),
            (
                "malformed If-Match",
                shop.post(&format!("/orders/{id}/confirm")).header("if-match", "1"),
                400,
                "bad-parameter",
            ),
            (
                "another version",
                shop.post(&format!("/orders/{id}/confirm")).header("if-match", "\"9\""),
                412,
                "stale",
            ),
            (
                "another version to cancel",
                shop.post(&format!("/orders/{id}/cancel")).header("if-match", "W/\"1\""),
                412,
                "stale",
            ),
            ("list without user", shop.get("/orders"), 400, "bad-parameter"),
            ("list with unknown parameter", shop.get("/orders?userId=u1&page=2"), 400, "bad-parameter"),
            ("list with no number", shop.get("/orders?userId=u1&limit=ten"), 400, "bad-parameter"),
            ("list too many", shop.get("/orders?userId=u1&limit=101"), 422, "invalid"),
            ("list none", shop.get("/orders?userId=u1&limit=0"), 422, "invalid"),
            ("list with a made-up cursor", shop.get("/orders?userId=u1&cursor=abc"), 400, "bad-parameter"),
            ("list with a zero byte", shop.get("/orders?userId=%00"), 422, "invalid"),
        ];
        for (case, request, status, word) in cases {
            let response = request.send().await.unwrap();
            if status == 405 {
                assert!(response.headers().contains_key("allow"), "{case}");
            }
            problem(response, status, word, case).await;
        }
        assert_eq!(bench.state().await, before);
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_and_slowness_are_answered_in_time_with_a_time_to_retry() {
    bench(None, async |bench| {
        let mut config = bench.config("a");
        config.http.http_max_concurrent = 1;
        config.http.http_timeout = Duration::from_secs(2);
        let shop = bench.start_with(config).await;
        shop.load(&[("p1", 100, 10)], &[]).await;
        let before = bench.state().await;

        let mut holder = bench.pool.begin().await.unwrap();
        sqlx::query("select from products for update").execute(&mut *holder).await.unwrap();
        let stuck = shop.order("p1", 1, None);
        let refused = async {
            until("the stuck order waits for its product", async || {
                bench.number("select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'").await == 1
            })
            .await;
            shop.get("/openapi.json").send().await.unwrap()
        };
        let (stuck, refused) = tokio::join!(stuck, refused);
        assert_eq!(refused.headers()["retry-after"], "1");
        problem(refused, 503, "busy", "second request").await;
        assert!(!stuck.headers().contains_key("retry-after"), "its outcome is in doubt: it must not be repeated blindly");
        problem(stuck, 504, "timeout", "stuck request").await;
        drop(holder);

        // It was being written when its time was up: as the answer says, it may have taken effect.
        until("the stuck order is decided", async || {
            let (orders, events, stock, _) = bench.state().await;
            orders == events && stock == before.2 - orders && orders <= 1
        })
        .await;
        until("the service takes orders again", async || shop.order("p1", 1, None).await.status() == StatusCode::CREATED).await;
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_much_too_large_gets_its_answer_and_leaves_the_connection_usable() {
    bench(None, async |bench| {
        let shop = bench.start("a").await;
        for turn in 0..100 {
            for (case, size, status, word) in
                [("a megabyte", 1_000_000, 413, "body-too-large"), ("blanks", 10, 400, "malformed-body")]
            {
                let request = shop.post("/orders").header("content-type", "application/json");
                let answer = request.body(vec![b' '; size]).send().await;
                let answer = answer.unwrap_or_else(|error| panic!("{case}, turn {turn}: {error:?}"));
                problem(answer, status, word, case).await;
            }
        }
        shop.stop().await;
    })
    .await;
}
