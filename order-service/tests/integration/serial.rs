//! Random shops and customers: whatever happens at once comes to what some order of the same requests would have come to,
//! and one after another both modes of the writer answer alike. A failure names its seed; `SEED=n` runs that one again.

use std::collections::{BTreeMap, BTreeSet};
use std::env;

use futures::future::join_all;
use futures::{StreamExt, stream};
use order_service::config::WriterMode;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{Bench, Instance, bench};

/// Runs with seeds of their own.
const ROUNDS: u64 = 6;
/// Requests of one run.
const REQUESTS: usize = 150;
/// Requests under way at once.
const CUSTOMERS: usize = 40;
const PRODUCTS: [&str; 5] = ["a", "b", "c", "d", "e"];
const COUPONS: [&str; 3] = ["X", "Y", "Z"];

fn seeds() -> Vec<u64> {
    match env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (0..ROUNDS).map(|_| rand::random()).inspect(|seed| eprintln!("SEED={seed}")).collect(),
    }
}

/// One request of a customer.
#[derive(Clone, Debug)]
enum Step {
    Order { body: Value, key: Option<String> },
    Change { verb: &'static str, order: usize },
}

/// A shop, and what its customers do.
struct Script {
    products: Vec<(&'static str, i64, i64)>,
    coupons: Vec<(&'static str, u8, i64)>,
    steps: Vec<Step>,
}

/// Little stock and few coupons; orders repeat keys, mostly with the same body.
fn script(random: &mut StdRng, cancels: bool) -> Script {
    let products = PRODUCTS[..4]
        .iter()
        .map(|id| (*id, random.random_range(0..500), random.random_range(0..60)))
        .collect();
    let coupons = COUPONS[..2]
        .iter()
        .map(|code| (*code, random.random_range(1..=100), random.random_range(0..12)))
        .collect();
    let mut keyed: Vec<(String, Value)> = Vec::new();
    let steps = (0..REQUESTS)
        .map(|turn| {
            if cancels && random.random_ratio(1, 4) {
                let verb = if random.random_ratio(1, 3) { "confirm" } else { "cancel" };
                return Step::Change { verb, order: random.random_range(0..turn.max(1)) };
            }
            if let Some((key, body)) = keyed.choose(random)
                && random.random_ratio(1, 5)
            {
                return Step::Order { body: body.clone(), key: Some(key.clone()) };
            }
            let body = order(random);
            let key = random.random_ratio(1, 2).then(|| {
                let reused = keyed.choose(random).filter(|_| reuses_a_key(turn));
                reused.map_or_else(|| format!("key-{turn}"), |(key, _)| key.clone())
            });
            if let Some(key) = &key {
                keyed.push((key.clone(), body.clone()));
            }
            Step::Order { body, key }
        })
        .collect();
    Script { products, coupons, steps }
}

/// Every tenth new order comes under a key that was used for another.
fn reuses_a_key(turn: usize) -> bool {
    turn % 10 == 9
}

fn order(random: &mut StdRng) -> Value {
    let items: Vec<Value> = (0..random.random_range(1..=3))
        .map(|_| {
            // The last product and the last coupon are not in the catalogue.
            let rarely = if random.random_ratio(1, 20) { PRODUCTS.len() } else { PRODUCTS.len() - 1 };
            json!({"productId": PRODUCTS[..rarely].choose(random).unwrap(), "quantity": random.random_range(1..4)})
        })
        .collect();
    let mut body = json!({"userId": format!("u{}", random.random_range(0..3)), "items": items});
    if random.random_ratio(1, 3) {
        let rarely = if random.random_ratio(1, 10) { COUPONS.len() } else { COUPONS.len() - 1 };
        body["couponCode"] = (*COUPONS[..rarely].choose(random).unwrap()).into();
    }
    body
}

/// Status and body of an answer, ids and times left out, and the id of the order it speaks of.
type Answer = (StatusCode, Value, Option<String>);

async fn submit(shop: &Instance, body: &Value, key: Option<&str>) -> Answer {
    let request = shop.post("/orders").json(body);
    let request = if let Some(key) = key { request.header("idempotency-key", key) } else { request };
    answer(request.send().await.unwrap()).await
}

async fn change(shop: &Instance, id: &str, verb: &str) -> Answer {
    answer(shop.post(&format!("/orders/{id}/{verb}")).send().await.unwrap()).await
}

async fn answer(response: reqwest::Response) -> Answer {
    let status = response.status();
    let replayed = response.headers().contains_key("idempotent-replayed");
    let mut body: Value = response.json().await.unwrap();
    let id = body["orderId"].as_str().map(str::to_owned);
    for varies in ["orderId", "createdAt"] {
        if let Some(value) = body.get_mut(varies) {
            *value = Value::Null;
        }
    }
    body["replayed"] = replayed.into();
    (status, body, id)
}

/// Everything that is stored, ids and times left out.
async fn stored(pool: &PgPool) -> Vec<Value> {
    let all: Value = sqlx::query_scalar(
        "select jsonb_build_array(
            (select jsonb_agg(to_jsonb(products) order by product_id) from products),
            (select jsonb_agg(to_jsonb(coupons) order by code) from coupons),
            (select jsonb_agg(to_jsonb(orders) - 'id' - 'created_at' order by id) from orders),
            (select jsonb_agg(jsonb_build_array(version, convert_from(payload, 'UTF8')::jsonb
                    - 'eventId' - 'orderId' - 'occurredAt') order by order_id, version) from outbox),
            (select jsonb_agg(jsonb_build_array(key, encode(fingerprint, 'hex'), order_id is null, refusal)
                    order by key) from idempotency_keys))",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    all.as_array().unwrap().clone()
}

async fn one_after_another(bench: &Bench, mode: WriterMode, seed: u64) -> (Vec<Answer>, Vec<Value>) {
    let mut config = bench.config("a");
    config.writer.writer_mode = mode;
    let shop = bench.start_with(config).await;
    let Script { products, coupons, steps } = script(&mut StdRng::seed_from_u64(seed), true);
    shop.load(&products, &coupons).await;
    let mut answers: Vec<Answer> = Vec::new();
    for step in steps {
        let next = match step {
            Step::Order { body, key } => submit(&shop, &body, key.as_deref()).await,
            Step::Change { verb, order } => {
                let Some((.., Some(id))) = answers.get(order) else { continue };
                change(&shop, id, verb).await
            }
        };
        answers.push(next);
    }
    shop.stop().await;
    for (_, _, id) in &mut answers {
        *id = None;
    }
    (answers, stored(&bench.pool).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_after_another_both_modes_give_the_same_answers_and_store_the_same() {
    for seed in seeds().into_iter().take(3) {
        bench(None, async |first| {
            bench(None, async |second| {
                let (combining, per_order) = tokio::join!(
                    one_after_another(first, WriterMode::Combining, seed),
                    one_after_another(second, WriterMode::PerOrder, seed),
                );
                for (turn, (combining, per_order)) in combining.0.iter().zip(&per_order.0).enumerate() {
                    assert_eq!(combining, per_order, "answer {turn}, SEED={seed}");
                }
                assert_eq!(combining.0.len(), per_order.0.len(), "SEED={seed}");
                for (combining, per_order) in combining.1.iter().zip(&per_order.1) {
                    assert_eq!(combining, per_order, "SEED={seed}");
                }
            })
            .await;
        })
        .await;
    }
}

/// A change of an order, and what was answered to it.
type Changed = (&'static str, Answer);

/// What a customer sent and got, and each change of the order.
type Dealt = (Value, Option<String>, Answer, Vec<Changed>);

/// Runs the script at once; an order is changed by whoever placed it, soon after.
async fn all_at_once(shop: &Instance, steps: &[Step], random: &mut StdRng) -> Vec<Dealt> {
    let verbs: Vec<Option<&'static str>> = steps
        .iter()
        .map(|step| match step {
            Step::Change { verb, .. } => Some(*verb),
            Step::Order { .. } => None,
        })
        .collect();
    let orders: Vec<(Value, Option<String>, Vec<&'static str>)> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Order { body, key } => {
                let changes = (0..2).filter_map(|_| *verbs.choose(random)?).collect();
                Some((body.clone(), key.clone(), changes))
            }
            Step::Change { .. } => None,
        })
        .collect();
    stream::iter(orders)
        .map(async |(body, key, changes)| {
            let got = submit(shop, &body, key.as_deref()).await;
            let mut changed = Vec::new();
            if let (StatusCode::CREATED, _, Some(id)) = &got {
                // At once with each other, too.
                let changing =
                    changes.iter().map(|verb| async move { (*verb, change(shop, id, verb).await) });
                changed = join_all(changing).await;
            }
            (body, key, got, changed)
        })
        .buffer_unordered(CUSTOMERS)
        .collect()
        .await
}

/// Stock and coupons balance, every event of every order is there, and no key has two orders.
async fn assert_balanced(bench: &Bench, before: &BTreeMap<String, i64>, dealt: &[Dealt], seed: u64) {
    let unbalanced: Vec<Value> = sqlx::query_scalar(
        "select to_jsonb(t) from (
            select product_id as name, stock, (select coalesce(sum((item ->> 'quantity')::bigint), 0)::bigint from orders,
                    jsonb_array_elements(items) as item
                    where item ->> 'productId' = product_id and status <> 'CANCELLED') as sold from products) as t",
    )
    .fetch_all(&bench.pool)
    .await
    .unwrap();
    for product in unbalanced {
        let number = |field: &str| product[field].as_i64().unwrap();
        let at_first = before[product["name"].as_str().unwrap()];
        assert_eq!(number("stock") + number("sold"), at_first, "{product}, SEED={seed}");
        assert!(number("stock") >= 0, "{product}, SEED={seed}");
    }
    let wrong_coupons = "select count(*) from coupons where used > max_uses or used <> (
        select count(*) from orders where coupon_code = code and status <> 'CANCELLED')";
    assert_eq!(bench.number(wrong_coupons).await, 0, "SEED={seed}");
    let wrong_events = "select count(*) from orders where version <> (select count(*) from outbox where order_id = orders.id)
        or not exists (select from outbox where order_id = orders.id and outbox.version = orders.version
            and convert_from(payload, 'UTF8')::jsonb #> '{order,items}' = orders.items
            and convert_from(payload, 'UTF8')::jsonb #>> '{order,status}' = orders.status
            and (convert_from(payload, 'UTF8')::jsonb #>> '{order,totalMinor}')::bigint = orders.total_minor)";
    assert_eq!(bench.number(wrong_events).await, 0, "SEED={seed}");
    let doubled = "select count(*) from (select order_id from outbox group by order_id, version having count(*) > 1) as d";
    assert_eq!(bench.number(doubled).await, 0, "SEED={seed}");
    assert_eq!(
        bench.number("select count(*) from outbox where order_id not in (select id from orders)").await,
        0
    );

    let mut by_key: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut accepted = BTreeSet::new();
    for (_, key, (status, _, id), _) in dealt {
        assert!(!status.is_server_error(), "{status}, SEED={seed}");
        if let Some(id) = id {
            accepted.insert(id.as_str());
            if let Some(key) = key {
                by_key.entry(key).or_default().insert(id);
            }
        }
    }
    assert!(by_key.values().all(|orders| orders.len() == 1), "{by_key:?}, SEED={seed}");
    let orders = bench.number("select count(*) from orders").await;
    assert_eq!(orders, i64::try_from(accepted.len()).unwrap(), "SEED={seed}");
}

/// The reference for changes: what is answered to `verb` for an order that stands as in `order`.
fn changed_alone(order: &Value, verb: &str) -> (StatusCode, Value) {
    let from = order["status"].as_str().unwrap();
    let (to, allowed) = match verb {
        "confirm" => ("CONFIRMED", from == "PENDING"),
        _ => ("CANCELLED", from != "CANCELLED"),
    };
    if !allowed {
        let problem = json!({
            "type": "urn:orderflow:problem:status-conflict",
            "title": "The order's status does not allow this",
            "status": 409,
            "detail": format!("an order that is {from} can't be {to}"),
            "replayed": false,
        });
        return (StatusCode::CONFLICT, problem);
    }
    let mut changed = order.clone();
    changed["status"] = to.into();
    changed["version"] = (order["version"].as_i64().unwrap() + 1).into();
    (StatusCode::OK, changed)
}

/// Of every order, the changes were answered as if they had come one after another: those that were made by their versions,
/// each of the others at a point where it is refused so. What the last of them answered is what is stored.
async fn assert_changed_in_turn(bench: &Bench, dealt: &[Dealt], seed: u64) {
    let mut orders: BTreeMap<&str, (Value, Vec<&Changed>)> = BTreeMap::new();
    for (_, _, (_, placed, id), changes) in dealt {
        let Some(id) = id else { continue };
        // Whoever repeats an order gets what its first request got, and changes the same one.
        let mut placed = placed.clone();
        placed["replayed"] = false.into();
        orders.entry(id).or_insert_with(|| (placed, Vec::new())).1.extend(changes);
    }
    let stored: Vec<(String, String, i64)> =
        sqlx::query_as("select id::text, status, version from orders").fetch_all(&bench.pool).await.unwrap();
    for (id, status, version) in stored {
        let (placed, changes) = &orders[id.as_str()];
        let (mut made, refused): (Vec<_>, Vec<_>) =
            changes.iter().copied().partition(|(_, (status, ..))| *status == StatusCode::OK);
        made.sort_by_key(|(_, (_, body, _))| body["version"].as_i64());
        let mut stood = vec![placed.clone()];
        for (verb, (_, body, _)) in made {
            let (expected, changed) = changed_alone(stood.last().unwrap(), verb);
            assert_eq!((expected, &changed), (StatusCode::OK, body), "{verb} {id}, SEED={seed}");
            stood.push(changed);
        }
        for (verb, (status, body, _)) in refused {
            let fits = stood.iter().any(|order| changed_alone(order, verb) == (*status, body.clone()));
            assert!(fits, "{verb} {id}: {status} {body}, which stood as {stood:?}, SEED={seed}");
        }
        let last = stood.last().unwrap();
        assert_eq!(
            (&last["status"], &last["version"]),
            (&status.into(), &version.into()),
            "{id}, SEED={seed}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_at_once_stock_coupons_orders_and_events_balance() {
    for seed in seeds() {
        bench(None, async |bench| {
            let mut random = StdRng::seed_from_u64(seed);
            let mut config = bench.config("a");
            config.writer.writer_batch =
                [1, 3, 100].choose(&mut random).unwrap().to_string().parse().unwrap();
            config.writer.writer_lanes = [1, 2, 4].choose(&mut random).unwrap().to_string().parse().unwrap();
            let shop = bench.start_with(config).await;
            let Script { products, coupons, steps } = script(&mut random, true);
            shop.load(&products, &coupons).await;
            let dealt = all_at_once(&shop, &steps, &mut random).await;
            let before = products.iter().map(|(id, _, stock)| ((*id).to_owned(), *stock)).collect();
            assert_balanced(bench, &before, &dealt, seed).await;
            assert_changed_in_turn(bench, &dealt, seed).await;
            shop.stop().await;
        })
        .await;
    }
}

/// Without cancellations stock only falls and coupons are only used up: what was refused rightly is refused at the end too.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_refused_what_is_still_there_at_the_end() {
    for seed in seeds() {
        bench(None, async |bench| {
            let mut random = StdRng::seed_from_u64(seed);
            let shop = bench.start("a").await;
            let Script { products, coupons, steps } = script(&mut random, false);
            shop.load(&products, &coupons).await;
            let dealt = all_at_once(&shop, &steps, &mut random).await;
            let before = products.iter().map(|(id, _, stock)| ((*id).to_owned(), *stock)).collect();
            assert_balanced(bench, &before, &dealt, seed).await;
            for (body, _, (status, got, _), _) in &dealt {
                let kind = got["type"].as_str().unwrap_or_default();
                if *status == StatusCode::CREATED || kind.contains("idempotency-key") {
                    continue;
                }
                let (again, ..) = submit(&shop, body, None).await;
                assert_ne!(again, StatusCode::CREATED, "{body} was refused with {got}, SEED={seed}");
            }
            shop.stop().await;
        })
        .await;
    }
}
