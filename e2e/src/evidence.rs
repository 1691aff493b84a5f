//! Gathers the evidence of one run from the real parts, once everything has arrived.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, UNIX_EPOCH};

use hdrhistogram::Histogram;
use rdkafka::Message;
use sqlx::PgPool;
use uuid::Uuid;

use crate::api::Outcome;
use crate::check::{Evidence, Findings, Seen, check};
use crate::database::{self, Delivered};
use crate::dump;
use crate::kubectl::wait_for;
use crate::load::Call;
use crate::names::{DATA_PLATFORM_DB, GROUP_HTTP, GROUP_POSTGRES, KAFKA, ORDERS_DB, TOPIC};

/// Where the evidence lies.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The order service's database.
    pub orders: PgPool,
    /// The data platform's database.
    pub data_platform: PgPool,
}

/// A run judged, with its latencies.
#[derive(Debug)]
pub struct Judged {
    /// The verdict.
    pub findings: Findings,
    /// From when an order was due until its row stood in the data platform, in microseconds.
    pub end_to_end: Histogram<u64>,
}

impl Sources {
    /// The local cluster's databases.
    ///
    /// # Errors
    /// None in practice: the URLs are constants.
    pub fn local() -> anyhow::Result<Self> {
        Ok(Self {
            orders: database::connect(ORDERS_DB)?,
            data_platform: database::connect(DATA_PLATFORM_DB)?,
        })
    }

    /// Waits until every event of the run has reached both sinks and the outbox is empty.
    ///
    /// # Errors
    /// After `deadline`, with the counts as they are then.
    pub async fn wait_until_delivered(&self, run: &str, deadline: Duration) -> anyhow::Result<()> {
        let waited = wait_for("every event to be delivered", deadline, || async {
            let (expected, counts) = self.counts(run).await?;
            let all_there = counts.values().all(|count| *count >= expected);
            Ok((all_there && database::outbox_rows(&self.orders).await? == 0).then_some(()))
        });
        match waited.await {
            Ok(()) => Ok(()),
            Err(error) => {
                let (expected, counts) = self.counts(run).await?;
                let waiting = database::outbox_rows(&self.orders).await?;
                Err(error.context(format!(
                    "expected {expected} events, delivered {counts:?}; the outbox holds {waiting} rows"
                )))
            }
        }
    }

    /// Events the database says there are, and how many of them each group has delivered.
    ///
    /// # Errors
    /// When a query fails.
    pub async fn counts(&self, run: &str) -> anyhow::Result<(i64, BTreeMap<&'static str, i64>)> {
        let expected = database::expected_count(&self.orders, run).await?;
        let (postgres, http) = database::delivered_counts(&self.data_platform, GROUP_POSTGRES, run).await?;
        Ok((expected, BTreeMap::from([(GROUP_POSTGRES, postgres), (GROUP_HTTP, http)])))
    }

    /// Gathers all evidence of the run and judges it.
    ///
    /// # Errors
    /// When a source can't be read.
    pub async fn judge(&self, run: &str, calls: &[Call]) -> anyhow::Result<Judged> {
        let orders = database::orders(&self.orders, run).await?;
        let sinks = self.sinks(run).await?;
        let end_to_end = end_to_end(calls, sinks.get(GROUP_POSTGRES).map_or(&[], Vec::as_slice))?;
        let evidence = Evidence {
            accepted: accepted(calls).map(|(order, _)| order).collect(),
            topic: topic_of(run).await?,
            sinks: sinks
                .into_iter()
                .map(|(name, rows)| (name.to_owned(), rows.into_iter().map(|row| row.seen).collect()))
                .collect(),
            orders,
        };
        Ok(Judged { findings: check(&evidence), end_to_end })
    }

    async fn sinks(&self, run: &str) -> anyhow::Result<BTreeMap<&'static str, Vec<Delivered>>> {
        let postgres = database::delivered_to_postgres(&self.data_platform, GROUP_POSTGRES, run).await?;
        let http = database::delivered_over_http(&self.data_platform, run).await?;
        Ok(BTreeMap::from([(GROUP_POSTGRES, postgres), (GROUP_HTTP, http)]))
    }
}

/// The run's events in the topic, by partition and offset.
async fn topic_of(run: &str) -> anyhow::Result<Vec<Seen>> {
    let records = dump::dump(KAFKA, TOPIC).await?;
    let mut seen = Vec::new();
    for record in &records {
        if let Some(event) = dump::order_event(record).filter(|event| event.order.user_id.starts_with(run)) {
            let payload = record.payload().unwrap_or_default();
            seen.push(Seen::new(event.order_id.0, event.version, record.partition(), payload));
        }
    }
    Ok(seen)
}

fn accepted(calls: &[Call]) -> impl Iterator<Item = (Uuid, &Call)> {
    calls.iter().filter_map(|call| match call.outcome {
        Outcome::Accepted(order) => Some((order.0, call)),
        Outcome::Refused(_) | Outcome::Unknown(_) => None,
    })
}

fn end_to_end(calls: &[Call], delivered: &[Delivered]) -> anyhow::Result<Histogram<u64>> {
    let due: HashMap<Uuid, i64> = accepted(calls)
        .map(|(order, call)| {
            let since_epoch = call.due.duration_since(UNIX_EPOCH).unwrap_or_default();
            (order, i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
        })
        .collect();
    let mut histogram = Histogram::new(3)?;
    for row in delivered.iter().filter(|row| row.seen.version == 1) {
        if let Some(due) = due.get(&row.seen.order) {
            histogram.record(u64::try_from(row.at_micros - due).unwrap_or(0))?;
        }
    }
    Ok(histogram)
}
