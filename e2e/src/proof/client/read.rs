//! What replicas say to who reads, once the service has recovered: each order in full, and a few users' lists.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::ETAG;
use serde::Deserialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::Caller;
use crate::proof::history::{Reads, Shown, StoredOrder};

/// Longest until something can be read: as long as a replica may take to take orders.
const DEADLINE: Duration = Duration::from_secs(40);
/// Pause before it is asked for again.
const PAUSE: Duration = Duration::from_millis(150);

/// An order as the API shows it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OrderView {
    order_id: Uuid,
    user_id: String,
    status: String,
    version: i64,
    items: Vec<ItemView>,
    coupon_code: Option<String>,
    currency: String,
    subtotal_minor: i64,
    discount_minor: i64,
    total_minor: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ItemView {
    product_id: String,
    quantity: i64,
    unit_price_minor: i64,
}

/// A user's orders: fewer than a page has room for, since each user buys once.
#[derive(Deserialize)]
struct Page {
    orders: Vec<Listed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    order_id: Uuid,
}

/// What came of asking once: status, entity tag, and the body if it came in full.
type Answered = (StatusCode, Option<String>, Option<Bytes>);

impl Caller {
    /// What the replicas, each in turn, say of each of the orders, and which orders they list of each of the users.
    pub async fn read_back(&self, orders: BTreeSet<Uuid>, users: Vec<String>) -> Reads {
        let mut reads = Reads::default();
        for (turn, order) in orders.into_iter().enumerate() {
            let answer = self.get(turn, &format!("/orders/{order}"), &mut reads.failures).await;
            reads.orders.push((order, answer.and_then(|(tag, body)| shown(tag, &body))));
        }
        for (turn, user) in users.into_iter().enumerate() {
            // Names of users are plain letters, digits and dashes.
            let answer = self.get(turn, &format!("/orders?userId={user}"), &mut reads.failures).await;
            reads.lists.push((user, answer.and_then(|(_, body)| listed(&body))));
        }
        reads
    }

    /// Entity tag and body of what is there. A connection that a fault left dead may fail a read, and a fail point may still be on
    /// its way, so it is asked for again for a while; but a 500 is an answer that no fault excuses.
    async fn get(
        &self,
        turn: usize,
        path: &str,
        failures: &mut Vec<String>,
    ) -> Option<(Option<String>, Bytes)> {
        let replica = turn % self.replicas();
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.get_once(replica, path).await {
                Some((StatusCode::OK, tag, Some(body))) => return Some((tag, body)),
                Some((StatusCode::INTERNAL_SERVER_ERROR, ..)) => {
                    failures.push(format!("replica {replica} answered 500 to GET {path}"));
                    return None;
                }
                _ if Instant::now() > deadline => return None,
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn get_once(&self, replica: usize, path: &str) -> Option<Answered> {
        let response = self.http.get(format!("{}{path}", self.bases[replica])).send().await.ok()?;
        let status = response.status();
        let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        Some((status, tag, response.bytes().await.ok()))
    }
}

fn shown(tag: Option<String>, body: &[u8]) -> Option<Shown> {
    let OrderView {
        order_id,
        user_id,
        status,
        version,
        items,
        coupon_code,
        currency,
        subtotal_minor,
        discount_minor,
        total_minor,
    } = serde_json::from_slice(body).ok()?;
    let lines_minor = items.iter().map(|item| item.quantity.saturating_mul(item.unit_price_minor)).sum();
    let order = StoredOrder {
        id: order_id,
        user: user_id,
        status,
        version,
        items: items.into_iter().map(|item| (item.product_id, item.quantity)).collect(),
        coupon: coupon_code,
        currency,
        subtotal_minor,
        discount_minor,
        total_minor,
    };
    Some(Shown { order, lines_minor, tag })
}

fn listed(body: &[u8]) -> Option<Vec<Uuid>> {
    let Page { orders } = serde_json::from_slice(body).ok()?;
    Some(orders.into_iter().map(|order| order.order_id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: &str = r#"{"orderId":"00000000-0000-0000-0000-000000000001","status":"PENDING","version":1,"userId":"u1",
        "items":[{"productId":"tea","quantity":2,"unitPriceMinor":100},{"productId":"cup","quantity":1,"unitPriceMinor":50}],
        "couponCode":"TEN","currency":"CHF","subtotalMinor":250,"discountMinor":25,"totalMinor":225,
        "createdAt":"2026-11-28T19:36:00Z"}"#;

    #[test]
    fn an_order_is_read_in_full_and_its_lines_are_added_up() {
        let read = shown(Some("\"1\"".to_owned()), ORDER.as_bytes()).unwrap();
        assert_eq!((read.order.id, read.order.user.as_str()), (Uuid::from_u128(1), "u1"));
        assert_eq!(
            read.order.items.into_iter().collect::<Vec<_>>(),
            [("cup".to_owned(), 1), ("tea".to_owned(), 2)]
        );
        assert_eq!((read.lines_minor, read.order.total_minor), (250, 225));
        assert_eq!(shown(None, b"{}"), None);
    }

    #[test]
    fn a_list_is_read_as_the_ids_on_it() {
        let page = format!(r#"{{"orders":[{ORDER}]}}"#);
        assert_eq!(listed(page.as_bytes()), Some(vec![Uuid::from_u128(1)]));
        assert_eq!(listed(br#"{"orders":[]}"#), Some(Vec::new()));
        assert_eq!(listed(b"[]"), None);
    }
}
