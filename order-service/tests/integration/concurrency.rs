//! Many at once: nothing is sold twice, nothing deadlocks.

use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::json;

use crate::harness::bench;

#[tokio::test(flavor = "multi_thread")]
async fn many_orders_sell_exactly_what_is_in_stock() {
    bench(None, async |bench| {
        let shop = bench.start("a").await;
        shop.load(&[("p1", 100, 25)], &[]).await;
        let answers = join_all((0..60).map(|_| shop.order("p1", 1, None))).await;
        let accepted = answers.iter().filter(|answer| answer.status() == StatusCode::CREATED).count();
        let refused = answers.iter().filter(|answer| answer.status() == StatusCode::CONFLICT).count();
        assert_eq!((accepted, refused), (25, 35));
        assert_eq!(bench.number("select stock from products").await, 0);
        assert_eq!(bench.number("select count(*) from orders").await, 25);
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coupon_is_used_exactly_as_often_as_allowed() {
    bench(None, async |bench| {
        let shop = bench.start("a").await;
        shop.load(&[("p1", 100, 1000)], &[("TEN", 10, 7)]).await;
        let answers = join_all((0..40).map(|_| shop.order("p1", 1, Some("TEN")))).await;
        let accepted = answers.iter().filter(|answer| answer.status() == StatusCode::CREATED).count();
        assert_eq!(accepted, 7);
        assert_eq!(bench.number("select used from coupons").await, 7);
        assert_eq!(bench.number("select stock from products").await, 993, "a refused coupon takes no stock");
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_over_the_same_products_in_any_order_and_cancellations_all_end() {
    bench(None, async |bench| {
        let shop = bench.start("a").await;
        shop.load(&[("p1", 1, 1000), ("p2", 1, 1000), ("p3", 1, 1000)], &[("TEN", 10, 1000)]).await;
        let one = async |turn: usize| {
            let mut products = ["p1", "p2", "p3"];
            products.rotate_left(turn % 3);
            let items: Vec<_> = products.iter().map(|id| json!({"productId": id, "quantity": 1})).collect();
            let body = json!({"userId": "u1", "items": items, "couponCode": "TEN"});
            let placed = shop.post("/orders").json(&body).send().await.unwrap();
            assert_eq!(placed.status(), StatusCode::CREATED);
            let location = placed.headers()["location"].to_str().unwrap().to_owned();
            let cancelled = shop.post(&format!("{location}/cancel")).send().await.unwrap();
            assert_eq!(cancelled.status(), StatusCode::OK);
        };
        join_all((0..40).map(one)).await;
        let (orders, _, stock, used) = bench.state().await;
        assert_eq!((orders, stock, used), (40, 3000, 0));
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_confirmations_of_one_version_one_succeeds() {
    bench(None, async |bench| {
        let shop = bench.start("a").await;
        shop.load(&[("p1", 1, 10)], &[]).await;
        let id = shop.placed("p1").await;
        let path = format!("/orders/{id}/confirm");
        let confirm = || shop.post(&path).header("if-match", "\"1\"").send();
        let answers = join_all((0..20).map(|_| confirm())).await;
        let accepted =
            answers.iter().filter(|answer| answer.as_ref().unwrap().status() == StatusCode::OK).count();
        assert_eq!(accepted, 1);
        assert_eq!(bench.number("select version from orders").await, 2);
        shop.stop().await;
    })
    .await;
}
