//! The client ledger: every call and how it ended, appended and flushed before that client's next call.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context;
use order_events::OrderStatus;
use serde::Serialize;
use uuid::Uuid;

/// Clients from here on are the campaign's own: they look whether the service has recovered.
pub const OWN_CLIENTS: u32 = u32::MAX - 1;

/// What a client asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase", tag = "do")]
pub enum Action {
    /// `POST /orders`.
    Create(Purchase),
    /// `POST /orders/{id}/confirm` or `/cancel`.
    #[serde(rename_all = "camelCase")]
    Change {
        /// The order.
        order: Uuid,
        /// What to make of it.
        to: Verb,
        /// The version it must have, sent as `If-Match`; any where there is none.
        at: Option<i64>,
    },
}

/// An order as a client wants it. The user is this purchase's alone: by it its orders are known in the database.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Purchase {
    /// Who buys; calls with the same user are repetitions of one purchase.
    pub user: String,
    /// The idempotency key, sent with each repetition. Without one there is only one call.
    pub key: Option<String>,
    /// Lines, product and units, in the order in which they are sent; a product may stand in several.
    pub lines: Vec<(String, i64)>,
    /// The coupon, if any.
    pub coupon: Option<String>,
}

impl Purchase {
    /// Units by product.
    #[must_use]
    pub fn items(&self) -> BTreeMap<String, i64> {
        let mut items = BTreeMap::new();
        for (product, units) in &self.lines {
            *items.entry(product.clone()).or_default() += units;
        }
        items
    }
}

/// A change of an order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verb {
    /// It becomes `CONFIRMED`.
    Confirm,
    /// It becomes `CANCELLED`.
    Cancel,
}

/// How a call ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase", tag = "is")]
pub enum Outcome {
    /// 201 or 200: it has taken effect.
    Ok(Answer),
    /// It has taken no effect for certain: a 4xx, a 503 that invites a repetition, or a refused connection.
    #[serde(rename_all = "camelCase")]
    Refused {
        /// Status, or 0 where there was no connection.
        status: u16,
        /// The last word of the problem's type.
        problem: String,
    },
    /// It may or may not have taken effect.
    #[serde(rename_all = "camelCase")]
    Unknown {
        /// Status, or 0 where there was no answer.
        status: u16,
        /// Why it is unknown.
        why: String,
    },
}

/// The order in a successful answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The order.
    pub order: Uuid,
    /// Its version.
    pub version: i64,
    /// Its status.
    pub status: OrderStatus,
    /// What is to be paid.
    pub total_minor: i64,
    /// Hash of the body's bytes.
    pub body: u64,
    /// It says that it was given before, to another call under the same key.
    pub replayed: bool,
}

/// One call.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Which client made it.
    pub client: u32,
    /// Which replica it went to.
    pub replica: usize,
    /// Microseconds from the start of the run to the call.
    pub began: u64,
    /// Microseconds from the start of the run to its end.
    pub ended: u64,
    /// What it asked for.
    pub action: Action,
    /// How it ended.
    pub outcome: Outcome,
}

/// The ledger of one run, as a file of JSON lines and in memory.
#[derive(Clone, Debug)]
pub struct Ledger {
    inner: Arc<Mutex<(BufWriter<File>, Vec<Call>)>>,
    start: Instant,
}

impl Ledger {
    /// A new ledger in `file`.
    ///
    /// # Errors
    /// When the file can't be created.
    pub fn create(file: &Path) -> anyhow::Result<Self> {
        let opened =
            File::create(file).with_context(|| format!("failed to create the ledger {}", file.display()))?;
        let inner = Arc::new(Mutex::new((BufWriter::new(opened), Vec::new())));
        Ok(Self { inner, start: Instant::now() })
    }

    /// Microseconds since the run began.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Writes a call down, and returns once it is in the file.
    ///
    /// # Errors
    /// When the file can't be written: a ledger with a gap proves nothing, so the run must end.
    pub fn record(&self, call: Call) -> anyhow::Result<()> {
        let mut guard = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, calls) = &mut *guard;
        serde_json::to_writer(&mut *file, &call).context("failed to write the ledger")?;
        file.write_all(b"\n").and_then(|()| file.flush()).context("failed to write the ledger")?;
        calls.push(call);
        Ok(())
    }

    /// Every call so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}
