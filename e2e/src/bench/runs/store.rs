//! The ladder's arms without HTTP and without a relay, in the benchmark's own process: the price of the transaction alone.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Parser;
use order_events::{EventType, OrderEvent, OrderId, OrderItem, OrderSnapshot, OrderStatus};
use order_service::config::{WriterConfig, WriterMode};
use order_service::domain::Submission;
use order_service::metrics::WriterMetrics;
use order_service::store::orders::PlaceSettings;
use order_service::store::{database, outbox};
use order_service::writer::{Connections, Writer};
use runtime::metrics::Metrics;
use runtime::shutdown::CancellationToken;
use sqlx::PgPool;
use sqlx::types::Json;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use uuid::Uuid;

use super::Plan;
use crate::bench::backends::Arena;
use crate::bench::samples::{Figures, Outcome, Sample, Samples, short_micros};
use crate::bench::service::Service;
use crate::bench::workload::{Draft, Orders, Workload};

/// Currency of all prices.
const CURRENCY: &str = "EUR";
/// Longest wait for a lane's connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Stands in a template where the price belongs: longer than any price, so that it can't be part of one.
const PRICE: i64 = 9_007_199_254_740_991;

/// The whole order in one statement: one round trip, one row lock held for the commit alone. It takes one line and no coupon, so
/// it is a bound for comparison and not a product. The payload's prices are put into bytes that are otherwise ready.
const ONE_STATEMENT: &str = "
    with taken as (
        update products set stock = stock - 1 where product_id = $1 and stock >= 1 returning price_minor
    ), placed as (
        insert into orders (id, user_id, status, version, items, coupon_code, currency,
                            subtotal_minor, discount_minor, total_minor, created_at)
        select $2, $3, 'PENDING', 1,
               jsonb_build_array(jsonb_build_object('productId', $1, 'quantity', 1, 'unitPriceMinor', price_minor)),
               null, $4, price_minor, 0, price_minor, clock_timestamp()
        from taken returning total_minor
    )
    insert into outbox (shard, order_id, version, headers, payload)
    select $5, $2, 1, $6, convert_to(replace($7, $8, total_minor::text), 'UTF8') from placed";

/// A way to take an order at the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum StoreArm {
    /// The service's plain transaction, a connection per client.
    Naive,
    /// One statement, a connection per client.
    OneStatement,
    /// The service's combining writer, a connection per lane.
    Combining,
}

impl StoreArm {
    /// Every arm.
    pub const ALL: [Self; 3] = [Self::Naive, Self::OneStatement, Self::Combining];

    /// As it stands in the tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Naive => "naive",
            Self::OneStatement => "one statement",
            Self::Combining => "combining",
        }
    }

    /// The mode of the writer, where it is the writer that takes the order.
    const fn mode(self) -> Option<&'static str> {
        match self {
            Self::Naive => Some("per-order"),
            Self::OneStatement => None,
            Self::Combining => Some("combining"),
        }
    }
}

/// What takes the orders.
#[derive(Clone)]
enum Taker {
    Writer(Arc<Writer>),
    Statement(PgPool),
}

impl Taker {
    async fn place(&self, draft: &Draft) -> anyhow::Result<()> {
        match self {
            Self::Writer(writer) => {
                let outcome = writer.place(Submission::new(draft.parse()?, None)).await?;
                outcome.verdict.map(drop).map_err(|refusal| anyhow!("the order was refused: {refusal:?}"))
            }
            Self::Statement(pool) => one_statement(pool, draft).await,
        }
    }
}

/// The writer's settings as the service would read them.
#[derive(clap::Parser)]
struct WriterFlags {
    #[command(flatten)]
    writer: WriterConfig,
}

impl WriterFlags {
    /// The defaults, with what the plan says otherwise.
    fn read(plan: &Plan, mode: &str) -> anyhow::Result<WriterConfig> {
        let given = plan.settings.iter().filter(|(name, _)| name.starts_with("WRITER_"));
        let given = given.map(|(name, value)| format!("--{}={value}", name.to_lowercase().replace('_', "-")));
        let flags = ["bench".to_owned(), format!("--writer-mode={mode}")].into_iter().chain(given);
        Ok(Self::try_parse_from(flags)?.writer)
    }
}

/// Runs `clients` loops with a connection each.
///
/// # Errors
/// When the database can't be prepared.
pub async fn run(
    plan: &Plan,
    arm: StoreArm,
    workload: Workload,
    clients: usize,
    seed: u64,
) -> anyhow::Result<Figures> {
    let arena = Arena::create(&plan.backends).await?;
    // It brings the schema and the catalogue, and goes.
    Service::start_with_catalogue(&plan.binary, &arena, &[]).await?.stop().await?;
    let (taker, pool, writing) = taker(plan, arm, &arena, clients).await?;
    let start = Instant::now();
    let end = plan.warm_up + plan.window;
    let mut loops = JoinSet::new();
    for client in 0..clients {
        let orders = Orders::new(workload, seed.wrapping_mul(1000) + client as u64);
        loops.spawn(client_loop(taker.clone(), orders, start, end));
    }
    let mut samples = Samples::default();
    for calls in loops.join_all().await {
        samples.merge(Samples { calls, accepted: Vec::new() });
    }
    if let Some((lanes, stop)) = writing {
        stop.cancel();
        lanes.await??;
    }
    pool.close().await;
    arena.remove().await?;
    Ok(samples.figures(plan.warm_up, end))
}

/// The lanes of a combining writer at work, and what stops them.
type Writing = (JoinHandle<anyhow::Result<()>>, CancellationToken);

/// What takes the orders, its connections, and what works beside it.
async fn taker(
    plan: &Plan,
    arm: StoreArm,
    arena: &Arena,
    clients: usize,
) -> anyhow::Result<(Taker, PgPool, Option<Writing>)> {
    let Some(mode) = arm.mode() else {
        let pool = arena.connections(u32::try_from(clients)?).await?;
        return Ok((Taker::Statement(pool.clone()), pool, None));
    };
    let config = WriterFlags::read(plan, mode)?;
    // The lanes of a combining writer connect by themselves.
    let pool_size = if config.writer_mode == WriterMode::PerOrder { clients } else { 1 };
    let pool = arena.connections(u32::try_from(pool_size)?).await?;
    let options = database::connect_options(&arena.database_url().into())?;
    let connections = Connections { pool: pool.clone(), options, timeout: CONNECT_TIMEOUT };
    let settings = PlaceSettings { currency: CURRENCY.into(), key_lifetime: config.idempotency_ttl };
    // Nobody relays, so nobody is woken.
    let wake = Arc::default();
    let metrics = WriterMetrics::register(&Metrics::default());
    let (writer, lanes) = Writer::new(&config, connections, settings, wake, metrics);
    let stop = CancellationToken::new();
    let writing =
        (config.writer_mode == WriterMode::Combining).then(|| (tokio::spawn(lanes.run(stop.clone())), stop));
    Ok((Taker::Writer(Arc::new(writer)), pool, writing))
}

async fn client_loop(taker: Taker, mut orders: Orders, start: Instant, end: Duration) -> Vec<Sample> {
    let mut calls = Vec::new();
    loop {
        let due = start.elapsed();
        if due >= end {
            return calls;
        }
        let placed = taker.place(&orders.draw()).await;
        let outcome = if placed.is_ok() { Outcome::Accepted } else { Outcome::Broken };
        let latency = short_micros(start.elapsed() - due);
        calls.push(Sample { due: short_micros(due), unsent_for: 0, latency, outcome });
    }
}

async fn one_statement(pool: &PgPool, draft: &Draft) -> anyhow::Result<()> {
    let (order, product) = (OrderId::generate(), draft.first_product());
    let encoded = template(order, &draft.user(), &product).encode()?;
    let placed = sqlx::query(ONE_STATEMENT)
        .bind(&product)
        .bind(order.0)
        .bind(draft.user())
        .bind(CURRENCY)
        .bind(outbox::shard_of(order))
        .bind(Json(&encoded.headers))
        .bind(std::str::from_utf8(&encoded.payload)?)
        .bind(PRICE.to_string())
        .execute(pool)
        .await?;
    (placed.rows_affected() == 1).then_some(()).context("out of stock")
}

/// The event of an order of one unit, with [`PRICE`] for its price.
#[must_use]
pub fn template(order_id: OrderId, user: &str, product: &str) -> OrderEvent {
    let item = OrderItem { product_id: product.to_owned(), quantity: 1, unit_price_minor: PRICE };
    OrderEvent {
        event_id: Uuid::now_v7(),
        order_id,
        version: 1,
        event_type: EventType::OrderCreated,
        occurred_at: jiff::Timestamp::now(),
        order: OrderSnapshot {
            user_id: user.to_owned(),
            status: OrderStatus::Pending,
            items: vec![item],
            coupon_code: None,
            currency: CURRENCY.to_owned(),
            subtotal_minor: PRICE,
            discount_minor: 0,
            total_minor: PRICE,
        },
    }
}
