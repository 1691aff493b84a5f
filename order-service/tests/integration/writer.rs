//! The combining writer: who shares a transaction, and that nobody suffers from the company.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use futures::future::join_all;
use order_service::config::WriterMode;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Bench, Instance, bench, until};

/// Long enough to be told from everything else.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// One lane, so that everything that comes while a product is locked becomes one batch.
async fn one_lane(bench: &Bench) -> Instance {
    let mut config = bench.config("a");
    config.writer.writer_lanes = NonZeroU32::MIN;
    bench.start_with(config).await
}

/// Holds the lane with an order of `p0` while `orders` gather behind it, then lets all of them go.
async fn together<F: Future<Output = Response>>(
    bench: &Bench,
    shop: &Instance,
    orders: impl IntoIterator<Item = F>,
) -> Vec<Response> {
    let mut holder = bench.pool.begin().await.unwrap();
    sqlx::query("select from products where product_id = 'p0' for update")
        .execute(&mut *holder)
        .await
        .unwrap();
    let orders: Vec<F> = orders.into_iter().collect();
    let count = f64::from(u32::try_from(orders.len()).unwrap());
    let stuck = async {
        assert_eq!(shop.order("p0", 1, None).await.status(), StatusCode::CREATED);
    };
    let gathered = async {
        bench.until_someone_waits_for_a_lock().await;
        let release = async {
            until("all of them wait", async || shop.metric("orderflow_writer_queue_orders").await >= count)
                .await;
            holder.rollback().await.unwrap();
        };
        tokio::join!(join_all(orders), release).0
    };
    tokio::join!(stuck, gathered).1
}

async fn batches(shop: &Instance) -> f64 {
    shop.metric("orderflow_writer_batch_orders_count").await
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_wait_together_share_a_transaction() {
    bench(None, async |bench| {
        let shop = one_lane(bench).await;
        shop.load(&[("p0", 100, 10), ("p1", 100, 100), ("p2", 100, 100)], &[("TEN", 10, 3)]).await;
        let products = ["p1", "p2"];
        let answers = together(
            bench,
            &shop,
            (0..40).map(|turn| shop.order(products[turn % 2], 1, (turn % 4 == 0).then_some("TEN"))),
        )
        .await;
        let accepted = answers.iter().filter(|answer| answer.status() == StatusCode::CREATED).count();
        assert_eq!(accepted, 33, "all but the seven of ten whose coupon was used up by the first three");
        assert!(batches(&shop).await <= 3.0, "the one that held the lane, and those behind it");
        assert_eq!(bench.state().await, (34, 34, 176, 3));
        let transactions = bench.number("select count(distinct xmin::text::bigint) from orders").await;
        assert!(transactions <= 3, "{transactions}");
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_breaks_its_transaction_fails_alone() {
    bench(None, async |bench| {
        let shop = one_lane(bench).await;
        shop.load(&[("p0", 100, 10), ("p1", 100, 100)], &[("TEN", 10, 100)]).await;
        for statement in [
            "create function poison() returns trigger language plpgsql as
             $$ begin raise exception 'poisoned' using errcode = 'P0001'; end $$",
            "create trigger poison before insert on orders for each row
             when (new.user_id like 'poison%') execute function poison()",
        ] {
            sqlx::query(statement).execute(&bench.pool).await.unwrap();
        }
        let order = async |turn: usize| {
            let user = if turn == 5 || turn == 6 || turn == 19 { "poison" } else { "u1" };
            let items = json!([{"productId": "p1", "quantity": 1}]);
            let body = json!({"userId": user, "items": items, "couponCode": "TEN"});
            let key = format!("key-{turn}");
            shop.post("/orders").header("idempotency-key", key).json(&body).send().await.unwrap()
        };
        let answers = together(bench, &shop, (0..20).map(order)).await;
        for (turn, answer) in answers.into_iter().enumerate() {
            let expected = if [5, 6, 19].contains(&turn) { 500 } else { 201 };
            assert_eq!(answer.status().as_u16(), expected, "order {turn}");
        }
        assert_eq!(bench.state().await, (18, 18, 92, 17), "the poisoned ones took nothing");
        assert_eq!(bench.number("select count(*) from idempotency_keys").await, 17, "nor a key");
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_product_that_somebody_keeps_locked_fails_its_own_orders_alone() {
    locked_fails_its_own_orders_alone("select from products where product_id = 'p1' for update", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_waits_for_a_lock_holds_up_no_other_order() {
    bench(None, async |bench| {
        let shop = bench.start("a").await;
        shop.load(&[("p1", 100, 10), ("p2", 100, 20)], &[]).await;
        let mut holder = bench.pool.begin().await.unwrap();
        sqlx::query("select from products where product_id = 'p1' for update")
            .execute(&mut *holder)
            .await
            .unwrap();
        let blocked = shop.order("p1", 1, None);
        let others = async {
            bench.until_someone_waits_for_a_lock().await;
            let answer = shop.order("p2", 1, None).await;
            assert_eq!(answer.status(), StatusCode::CREATED);
            holder.rollback().await.unwrap();
        };
        let (blocked, ()) = tokio::join!(blocked, others);
        assert_eq!(blocked.status(), StatusCode::CREATED, "the lock was let go after the other's answer");
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coupon_that_somebody_keeps_locked_fails_its_own_orders_alone() {
    let locked = "select from coupons where code = 'TEN' for update";
    locked_fails_its_own_orders_alone(locked, Some("TEN")).await;
}

/// Of sixteen orders of one batch, the one of p1, with this coupon.
async fn locked_fails_its_own_orders_alone(locked: &'static str, coupon: Option<&str>) {
    bench(None, async |bench| {
        let mut config = bench.config("a");
        config.writer.writer_lanes = NonZeroU32::MIN;
        config.writer.writer_lock_timeout = LOCK_TIMEOUT;
        // Long enough that all are of one batch.
        config.writer.writer_linger = Duration::from_millis(200);
        let shop = bench.start_with(config).await;
        shop.load(&[("p1", 100, 10), ("p2", 100, 20)], &[("TEN", 10, 100)]).await;
        let mut holder = bench.pool.begin().await.unwrap();
        sqlx::query(locked).execute(&mut *holder).await.unwrap();
        let began = Instant::now();
        let (blocked, free) = tokio::join!(
            shop.order("p1", 1, coupon),
            join_all((0..15).map(async |_| shop.order("p2", 1, None).await))
        );
        assert_eq!(blocked.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(blocked.headers().contains_key("retry-after"));
        assert!(free.iter().all(|answer| answer.status() == StatusCode::CREATED));
        // Halving sixteen orders down to that one would wait five times.
        assert!(began.elapsed() < LOCK_TIMEOUT * 4, "{:?}", began.elapsed());
        holder.rollback().await.unwrap();
        assert_eq!(shop.order("p1", 1, coupon).await.status(), StatusCode::CREATED);
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_keys_that_wait_together_place_one_order() {
    bench(None, async |bench| {
        let shop = one_lane(bench).await;
        shop.load(&[("p0", 100, 10), ("p1", 100, 100)], &[]).await;
        let body = json!({"userId": "u1", "items": [{"productId": "p1", "quantity": 1}]});
        let order = async || {
            shop.post("/orders").header("idempotency-key", "key-1").json(&body).send().await.unwrap()
        };
        let answers = together(bench, &shop, (0..10).map(|_| order())).await;
        let count = |status| answers.iter().filter(|answer| answer.status() == status).count();
        assert_eq!(count(StatusCode::CREATED) + count(StatusCode::CONFLICT), 10);
        assert_eq!(bench.number("select count(*) from orders").await, 2);
        assert!(count(StatusCode::CONFLICT) >= 8, "in one batch the later are told to wait");
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_and_a_long_wait_are_answered_with_a_time_to_retry_and_without_work() {
    bench(None, async |bench| {
        let mut config = bench.config("a");
        config.writer.writer_lanes = NonZeroU32::MIN;
        config.writer.writer_queue = 5;
        config.writer.writer_max_wait = Duration::from_millis(300);
        let shop = bench.start_with(config).await;
        shop.load(&[("p0", 100, 10), ("p1", 100, 100)], &[]).await;
        let mut holder = bench.pool.begin().await.unwrap();
        sqlx::query("select from products for update").execute(&mut *holder).await.unwrap();
        let stuck = async {
            assert_eq!(shop.order("p0", 1, None).await.status(), StatusCode::CREATED);
        };
        let crowd = async {
            bench.until_someone_waits_for_a_lock().await;
            let answers = join_all((0..20).map(|_| shop.order("p1", 1, None))).await;
            for answer in answers {
                assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
                assert_eq!(answer.headers()["retry-after"], "1");
                let body: Value = answer.json().await.unwrap();
                assert_eq!(body["type"], "urn:orderflow:problem:busy");
            }
            holder.rollback().await.unwrap();
        };
        tokio::join!(stuck, crowd);
        until("orders are taken again", async || {
            shop.order("p1", 1, None).await.status() == StatusCode::CREATED
        })
        .await;
        let (orders, events, stock, _) = bench.state().await;
        assert_eq!((orders, events, stock), (2, 2, 108), "the crowd left nothing behind");
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_writes_and_answers_what_waits() {
    bench(Some(1), async |bench| {
        let shop = one_lane(bench).await;
        shop.load(&[("p0", 100, 10), ("p1", 100, 100)], &[]).await;
        let mut holder = bench.pool.begin().await.unwrap();
        sqlx::query("select from products where product_id = 'p0' for update")
            .execute(&mut *holder)
            .await
            .unwrap();
        let stuck = shop.order("p0", 1, None);
        let waiting = async {
            bench.until_someone_waits_for_a_lock().await;
            let stop = async {
                until("they wait", async || shop.metric("orderflow_writer_queue_orders").await >= 10.0).await;
                shop.begin_to_stop();
                holder.rollback().await.unwrap();
            };
            tokio::join!(join_all((0..10).map(|_| shop.order("p1", 1, None))), stop).0
        };
        let (stuck, waiting) = tokio::join!(stuck, waiting);
        for answer in waiting.iter().chain([&stuck]) {
            assert_eq!(answer.status(), StatusCode::CREATED);
        }
        shop.stop().await;
        assert_eq!(bench.state().await, (11, 0, 99, 0), "written, and published");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plain_path_publishes_too() {
    bench(Some(1), async |bench| {
        let mut config = bench.config("a");
        config.writer.writer_mode = WriterMode::PerOrder;
        let shop = bench.start_with(config).await;
        shop.load(&[("p1", 100, 10)], &[]).await;
        shop.placed("p1").await;
        bench.until_published().await;
        assert_eq!(bench.records().await.len(), 1);
        shop.stop().await;
    })
    .await;
}
