//! Everything that is known of one run once it is quiet: what the checker judges.

use std::collections::BTreeMap;

use serde::Serialize;
use uuid::Uuid;

use super::ledger::Call;
use super::plan::Shop;

/// The ledgers of one run.
#[derive(Clone, Default, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// What was there to buy.
    pub shop: Shop,
    /// Partitions of the topic.
    pub partitions: i32,
    /// Every call of every client.
    pub calls: Vec<Call>,
    /// The orders in the database.
    pub orders: Vec<StoredOrder>,
    /// Every event that a committed transaction put into the outbox, in the order of recording.
    pub audit: Vec<Event>,
    /// Order and version of what still waits in the outbox: nothing, unless the service did not recover.
    pub waiting: Vec<(Uuid, i64)>,
    /// Every record of the topic, by partition and offset.
    pub topic: Vec<Record>,
    /// Units left of each product.
    pub stock: BTreeMap<String, i64>,
    /// Uses of each coupon.
    pub coupon_uses: BTreeMap<String, i64>,
    /// What could be read after the recovery.
    pub read: Reads,
    /// Deadlocks that PostgreSQL had to resolve.
    pub deadlocks: i64,
    /// Microseconds from the start of the run to its recovery, after which every purchase with a key was asked for once
    /// more; none where it did not recover.
    pub recovered: Option<u64>,
    /// Most events that a relay may have in hand.
    pub in_hand: usize,
    /// How often a relay may have lost what it had in hand.
    pub disturbances: usize,
}

/// What could be read of a run once the service had recovered.
#[derive(Clone, Default, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reads {
    /// What `GET /orders/{id}` said of each order; `None` where there was no answer that says it.
    pub orders: Vec<(Uuid, Option<Shown>)>,
    /// The orders on `GET /orders?userId=` of some users; `None` where there was no answer that says it.
    pub lists: Vec<(String, Option<Vec<Uuid>>)>,
    /// Answers that say that the service failed.
    pub failures: Vec<String>,
}

/// An order as a reader is shown it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    /// What it is shown as.
    pub order: StoredOrder,
    /// Units times price, over its lines.
    pub lines_minor: i64,
    /// Its entity tag.
    pub tag: Option<String>,
}

/// An order as it is stored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredOrder {
    /// Its identity.
    pub id: Uuid,
    /// Who bought: names the purchase.
    pub user: String,
    /// `PENDING`, `CONFIRMED` or `CANCELLED`.
    pub status: String,
    /// How many events it has had.
    pub version: i64,
    /// Units by product.
    pub items: BTreeMap<String, i64>,
    /// The coupon used.
    pub coupon: Option<String>,
    /// ISO 4217 code of the amounts.
    pub currency: String,
    /// Sum of the lines.
    pub subtotal_minor: i64,
    /// What the coupon took off.
    pub discount_minor: i64,
    /// What is to be paid.
    pub total_minor: i64,
}

/// An event in the audit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// The order.
    pub order: Uuid,
    /// Its version.
    pub version: i64,
    /// The record's headers, in order.
    pub headers: Vec<(String, String)>,
    /// The record's value.
    #[serde(serialize_with = "as_text")]
    pub payload: Vec<u8>,
}

/// A record of the topic.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Where it stands.
    pub partition: i32,
    /// Where it stands in its partition.
    pub offset: i64,
    /// Its key.
    pub key: String,
    /// Its headers, in order.
    pub headers: Vec<(String, String)>,
    /// Its value.
    #[serde(serialize_with = "as_text")]
    pub payload: Vec<u8>,
}

fn as_text<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}
