//! The API as its users see it.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::bench;

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_placed_read_confirmed_and_cancelled() {
    bench(None, async |bench| {
        let shop = bench.start("a").await;
        shop.load(&[("p1", 333, 10), ("p2", 100, 10)], &[("TEN", 10, 5)]).await;
        let body = json!({
            "userId": "u1", "couponCode": "TEN",
            "items": [{"productId": "p2", "quantity": 1}, {"productId": "p1", "quantity": 1}, {"productId": "p2", "quantity": 2}],
        });
        let response = shop.post("/orders").json(&body).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
        assert_eq!(response.headers()["etag"], "\"1\"");
        let location = response.headers()["location"].to_str().unwrap().to_owned();
        let created: Value = response.json().await.unwrap();
        assert_eq!(location, format!("/orders/{}", created["orderId"].as_str().unwrap()));
        assert_eq!(created["status"], "PENDING");
        assert_eq!(
            created["items"],
            json!([
                {"productId": "p1", "quantity": 1, "unitPriceMinor": 333},
                {"productId": "p2", "quantity": 3, "unitPriceMinor": 100},
            ])
        );
        // 10 % of 633 is 63.3, rounded down.
        assert_eq!(
            (&created["subtotalMinor"], &created["discountMinor"], &created["totalMinor"], &created["currency"]),
            (&json!(633), &json!(63), &json!(570), &json!("EUR"))
        );
        assert_eq!(bench.state().await, (1, 1, 16, 1));

        let read: Value = shop.get(&location).send().await.unwrap().json().await.unwrap();
        assert_eq!(read, created, "read as it was answered");

        let confirmed = shop.post(&format!("{location}/confirm")).header("if-match", "\"1\"").send().await.unwrap();
        assert_eq!((confirmed.status(), &confirmed.headers()["etag"]), (StatusCode::OK, &"\"2\"".parse().unwrap()));
        let stale = shop.post(&format!("{location}/cancel")).header("if-match", "\"1\"").send().await.unwrap();
        assert_eq!(stale.status(), StatusCode::PRECONDITION_FAILED);
        let again = shop.post(&format!("{location}/confirm")).send().await.unwrap();
        assert_eq!(again.status(), StatusCode::CONFLICT);
        assert_eq!(bench.state().await, (1, 2, 16, 1), "refusals change nothing");

        let cancelled = shop.post(&format!("{location}/cancel")).header("if-match", "\"2\"").send().await.unwrap();
        assert_eq!(cancelled.status(), StatusCode::OK);
        let cancelled: Value = cancelled.json().await.unwrap();
        assert_eq!((&cancelled["status"], &cancelled["version"]), (&json!("CANCELLED"), &json!(3)));
        assert_eq!(bench.state().await, (1, 3, 20, 0), "stock and coupon are back");
        assert_eq!(shop.post(&format!("{location}/cancel")).send().await.unwrap().status(), StatusCode::CONFLICT);
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_orders_are_listed_newest_first_page_by_page() {
    bench(None, async |bench| {
        let shop = bench.start("a").await;
        shop.load(&[("p1", 1, 100)], &[]).await;
        let mut placed = Vec::new();
        for _ in 0..5 {
            placed.push(shop.placed("p1").await);
        }
        placed.reverse();
        let (mut listed, mut cursor) = (Vec::new(), String::new());
        loop {
            let page: Value = shop
                .get(&format!("/orders?userId=u1&limit=2{cursor}"))
                .send()
                .await
                .unwrap()
                .json()
                .await
                .unwrap();
            let ids =
                page["orders"].as_array().unwrap().iter().map(|order| order["orderId"].as_str().unwrap());
            listed.extend(ids.map(str::to_owned));
            let Some(next) = page["nextCursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(listed, placed);
        let others: Value = shop.get("/orders?userId=u2").send().await.unwrap().json().await.unwrap();
        assert_eq!(others, json!({"orders": []}));
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_is_loaded_anew_without_forgetting_how_often_a_coupon_was_used() {
    bench(None, async |bench| {
        let shop = bench.start("a").await;
        shop.load(&[("p1", 100, 1)], &[("TEN", 10, 1)]).await;
        assert_eq!(shop.order("p1", 1, Some("TEN")).await.status(), StatusCode::CREATED);
        shop.load(&[("p1", 200, 7)], &[("TEN", 20, 2)]).await;
        let product: Value = shop.admin_get("/products/p1").await.json().await.unwrap();
        assert_eq!(product, json!({"productId": "p1", "priceMinor": 200, "stock": 7}));
        let coupon: Value = shop.admin_get("/coupons/TEN").await.json().await.unwrap();
        assert_eq!(coupon, json!({"code": "TEN", "percentOff": 20, "maxUses": 2, "used": 1}));
        for missing in ["/products/none", "/coupons/none", "/elsewhere"] {
            let response = shop.admin_get(missing).await;
            assert_eq!(response.status(), StatusCode::NOT_FOUND);
            assert_eq!(response.headers()["content-type"], "application/problem+json");
        }
        let refused = shop
            .put_catalogue(json!({"products": [{"productId": "p1", "priceMinor": 1, "stock": -1}]}))
            .await;
        assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_describes_itself_and_counts_what_it_did() {
    bench(None, async |bench| {
        let shop = bench.start("a").await;
        shop.load(&[("p1", 1, 100)], &[]).await;
        let description: Value = shop.get("/openapi.json").send().await.unwrap().json().await.unwrap();
        assert_eq!(description["openapi"], "3.1.0");
        shop.placed("p1").await;
        assert_eq!(shop.metric("orderflow_orders_total").await, 1.0);
        assert!(shop.metric("orderflow_http_requests_total").await >= 1.0);
        assert_eq!(shop.admin_get("/livez").await.status(), StatusCode::OK);
        shop.stop().await;
    })
    .await;
}
