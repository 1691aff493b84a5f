//! Bad input at the public port: a problem document with a fitting status, and nothing changed.

use e2e::api::OrderApi;
use e2e::catalogue::product;
use e2e::kubectl::kubectl;
use e2e::names::{NAMESPACE, ORDER_API, PIPELINE};
use serde_json::{Value, json};

use crate::support::ready;

async fn stock(product: &str) -> Value {
    let service = format!("{PIPELINE}-order-service-admin:admin");
    let path = format!("/api/v1/namespaces/{NAMESPACE}/services/{service}/proxy/products/{product}");
    serde_json::from_str::<Value>(&kubectl(&["get", "--raw", &path]).await.unwrap()).unwrap()["stock"].clone()
}

fn order(product: &str, quantity: impl Into<Value>) -> Value {
    json!({"userId": "bad-input", "items": [{"productId": product, "quantity": quantity.into()}]})
}

#[tokio::test]
async fn bad_input_gets_a_problem_document_and_changes_nothing() {
    let sources = ready().await;
    let api = OrderApi::new(ORDER_API).unwrap();
    let known = product(0);
    let count = || async {
        sqlx::query_scalar::<_, i64>("select count(*) from orders").fetch_one(&sources.orders).await.unwrap()
    };
    let before = (count().await, stock(&known).await);
    let many: Vec<Value> = (0..10_000).map(|_| json!({"productId": known, "quantity": 1})).collect();
    let mut wrong_coupon = order(&known, 1);
    wrong_coupon["couponCode"] = json!("NO-SUCH-COUPON");
    let cases: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("malformed JSON", b"{\"userId\": ".to_vec(), &[400]),
        ("not an object", b"[]".to_vec(), &[400, 422]),
        ("unknown product", order("no-such-product", 1).to_string().into(), &[404, 409, 422]),
        ("quantity 0", order(&known, 0).to_string().into(), &[422]),
        ("negative quantity", order(&known, -1).to_string().into(), &[422]),
        ("quantity of i64::MAX", order(&known, i64::MAX).to_string().into(), &[409, 422]),
        (
            "quantity beyond i64",
            br#"{"userId":"u","items":[{"productId":"sku-00","quantity":99999999999999999999}]}"#.to_vec(),
            &[400, 422],
        ),
        ("fraction as quantity", order(&known, 1.5).to_string().into(), &[400, 422]),
        ("no items", json!({"userId": "u", "items": []}).to_string().into(), &[422]),
        ("10,000 items", json!({"userId": "u", "items": many}).to_string().into(), &[413, 422]),
        ("wrong coupon", wrong_coupon.to_string().into(), &[404, 409, 422]),
        ("unknown field", json!({"userId": "u", "items": [], "x": 1}).to_string().into(), &[400, 422]),
        ("body too large", vec![b' '; 200_000], &[413]),
    ];
    for (what, body, statuses) in cases {
        let (status, kind, text) = api.post_raw("/orders", "application/json", body).await.unwrap();
        println!("{what:<22} → {status} {}", text.chars().take(160).collect::<String>());
        assert!(statuses.contains(&status), "{what}: {status} {text}");
        assert_eq!(kind, "application/problem+json", "{what}: {text}");
        let problem: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(problem["status"], status, "{what}: {text}");
        assert!(problem["title"].is_string() && problem["type"].is_string(), "{what}: {text}");
    }
    assert_eq!((count().await, stock(&known).await), before);
}
