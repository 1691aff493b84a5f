//! Orders: placed, changed and read. Placing and changing are one transaction each, event included.

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use jiff::Timestamp;
use order_events::{EventType, OrderId, OrderItem};
use sqlx::postgres::PgRow;
use sqlx::types::{Json, Uuid};
use sqlx::{Connection, FromRow, PgConnection, PgPool, Row};

use super::error::{
    BEGIN, COMMIT, ChangeError, CorruptOrder, DatabaseError, KeyConflict, Outcome, PlaceError,
};
use super::idempotency::{self, Claim};
use super::outbox::RecordError;
use super::{coupons, outbox, stock};
use crate::domain::{Change, NewOrder, Order, Refusal, Submission, UserId};

/// What [`Order::from_row`] reads, column by column: with `*`, a column that a later version adds would break the statements
/// that an earlier one has prepared, while both run during an update.
macro_rules! order_columns {
    () => {
        "orders.id, orders.user_id, orders.status, orders.version, orders.items, orders.coupon_code, orders.currency,
         orders.subtotal_minor, orders.discount_minor, orders.total_minor,
         (extract(epoch from orders.created_at) * 1000000)::bigint as created_micros"
    };
}
pub(super) use order_columns;

/// Attempts at a transaction that loses against others, the first included. Locks are taken in one order everywhere,
/// so even a second attempt is rare.
const MAX_ATTEMPTS: usize = 5;
/// First pause between attempts.
const FIRST_RETRY: Duration = Duration::from_millis(5);

/// What every order is placed by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlaceSettings {
    /// ISO 4217 code of all prices.
    pub currency: Arc<str>,
    /// How long a request is known by its idempotency key.
    pub key_lifetime: Duration,
}

/// Places the order in a transaction of its own: take the key → check and take stock → create the order (`PENDING`) →
/// validate the coupon and compute the discount → save → record `OrderCreated`; all or nothing.
///
/// This is the plain path, one statement per step: what [`batch`](super::batch) does for many orders at once must come to
/// the same.
///
/// # Errors
/// A [`PlaceError`]; nothing changed then, unless the connection broke during the commit.
pub async fn place(
    pool: &PgPool,
    submission: &Submission,
    settings: &PlaceSettings,
) -> Result<Outcome, PlaceError> {
    (|| place_once(pool, submission, settings))
        .retry(retries())
        .when(|error| matches!(error, PlaceError::Database(error) if error.is_conflict()))
        .await
}

async fn place_once(
    pool: &PgPool,
    Submission { new, keyed_by }: &Submission,
    PlaceSettings { currency, key_lifetime }: &PlaceSettings,
) -> Result<Outcome, PlaceError> {
    let mut tx = pool.begin().await.map_err(DatabaseError::during(BEGIN))?;
    let Some(keyed_by) = keyed_by else {
        let verdict = serve(&mut tx, new, currency).await?;
        if verdict.is_ok() {
            tx.commit().await.map_err(DatabaseError::during(COMMIT))?;
        }
        return Ok(Outcome { verdict, replayed: false });
    };

    for claim in idempotency::claim(&mut tx, &[keyed_by], *key_lifetime).await? {
        match claim {
            Claim::Ours => {}
            Claim::Answered(outcome) => return Ok(outcome),
            Claim::Conflict(conflict) => return Err(conflict.into()),
        }
    }
    // A refusal takes back what it did until then, and nothing of the key.
    let mut order = tx.begin().await.map_err(DatabaseError::during("set a savepoint"))?;
    let verdict = serve(&mut order, new, currency).await?;
    let ended = if verdict.is_ok() { order.commit().await } else { order.rollback().await };
    ended.map_err(DatabaseError::during("leave the savepoint"))?;
    let ours =
        idempotency::finish(&mut tx, keyed_by, verdict.as_ref().map(|order| order.id), *key_lifetime).await?;
    if !ours {
        return Err(KeyConflict::InProgress.into());
    }
    tx.commit().await.map_err(DatabaseError::during(COMMIT))?;
    Ok(Outcome { verdict, replayed: false })
}

/// Takes stock and coupon, creates the order and records its event; a refusal leaves it to the caller to take that back.
async fn serve(
    connection: &mut PgConnection,
    new: &NewOrder,
    currency: &str,
) -> Result<Result<Order, Refusal>, PlaceError> {
    let now = Timestamp::now();
    let items = match stock::take(connection, &new.lines).await? {
        Ok(items) => items,
        Err(refusal) => return Ok(Err(refusal)),
    };

    let mut order = match Order::pending(&new.user_id, items, currency, now) {
        Ok(order) => order,
        Err(too_large) => return Ok(Err(too_large.into())),
    };
    create(connection, &order).await?;

    if let Some(code) = &new.coupon_code {
        match coupons::redeem(connection, code).await? {
            Ok(terms) => order.apply_coupon(code, terms),
            Err(refusal) => return Ok(Err(refusal)),
        }
        save_amounts(connection, &order).await?;
    }

    outbox::record(connection, &order, EventType::OrderCreated, order.created_at).await?;
    Ok(Ok(order))
}

/// Which versions of an order the caller is willing to change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expected {
    /// Whatever version it is at.
    Any,
    /// One of these.
    OneOf(Vec<i64>),
}

impl Expected {
    fn allows(&self, version: i64) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(versions) => versions.contains(&version),
        }
    }
}

/// Confirms or cancels an order, with its event, in one transaction; a cancellation gives stock and coupon back.
///
/// # Errors
/// A [`ChangeError`]; nothing changed then, unless the connection broke during the commit.
pub async fn change(
    pool: &PgPool,
    id: OrderId,
    change: Change,
    expected: &Expected,
) -> Result<Order, ChangeError> {
    (|| change_once(pool, id, change, expected))
        .retry(retries())
        .when(|error| matches!(error, ChangeError::Database(error) if error.is_conflict()))
        .await
}

async fn change_once(
    pool: &PgPool,
    id: OrderId,
    change: Change,
    expected: &Expected,
) -> Result<Order, ChangeError> {
    let mut tx = pool.begin().await.map_err(DatabaseError::during(BEGIN))?;
    // Everything after this, the version and the outbox id above all, happens under the order's lock.
    let mut order = lock(&mut tx, id).await?.ok_or(ChangeError::NotFound(id))?;
    if !expected.allows(order.version) {
        return Err(ChangeError::Stale { current: order.version });
    }
    let event_type = order.change(change)?;
    if change == Change::Cancel {
        stock::give_back(&mut tx, &order.items).await?;
        if let Some(code) = &order.coupon_code {
            coupons::give_back(&mut tx, code).await?;
        }
    }
    save_status(&mut tx, &order).await?;
    outbox::record(&mut tx, &order, event_type, Timestamp::now()).await?;
    fail::fail_point!("change::before_commit");
    tx.commit().await.map_err(DatabaseError::during(COMMIT))?;
    fail::fail_point!("change::after_commit");
    Ok(order)
}

/// The order, if it exists.
///
/// # Errors
/// When the database fails.
pub async fn get(pool: &PgPool, id: OrderId) -> Result<Option<Order>, DatabaseError> {
    sqlx::query_as(concat!("select ", order_columns!(), " from orders where id = $1"))
        .bind(id.0)
        .fetch_optional(pool)
        .await
        .map_err(DatabaseError::during("read the order"))
}

/// Orders of the user, newest first, at most `limit`, those older than `before` if given.
///
/// # Errors
/// When the database fails.
pub async fn list(
    pool: &PgPool,
    user_id: &UserId,
    limit: i64,
    before: Option<OrderId>,
) -> Result<Vec<Order>, DatabaseError> {
    sqlx::query_as(concat!(
        "select ",
        order_columns!(),
        " from orders where user_id = $1 and id < coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
         order by id desc limit $3",
    ))
    .bind(user_id.as_str())
    .bind(before.map(|id| id.0))
    .bind(limit)
    .fetch_all(pool)
    .await
    .map_err(DatabaseError::during("list orders"))
}

async fn create(connection: &mut PgConnection, order: &Order) -> Result<(), DatabaseError> {
    sqlx::query(
        "insert into orders (id, user_id, status, version, items, coupon_code, currency,
                             subtotal_minor, discount_minor, total_minor, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'epoch'::timestamptz + $11 * interval '1 microsecond')",
    )
    .bind(order.id.0)
    .bind(&order.user_id)
    .bind(order.status.name())
    .bind(order.version)
    .bind(Json(&order.items))
    .bind(&order.coupon_code)
    .bind(&order.currency)
    .bind(order.subtotal_minor)
    .bind(order.discount_minor)
    .bind(order.total_minor)
    .bind(order.created_at.as_microsecond())
    .execute(connection)
    .await
    .map_err(DatabaseError::during("create the order"))?;
    Ok(())
}

async fn save_amounts(connection: &mut PgConnection, order: &Order) -> Result<(), DatabaseError> {
    sqlx::query("update orders set coupon_code = $2, discount_minor = $3, total_minor = $4 where id = $1")
        .bind(order.id.0)
        .bind(&order.coupon_code)
        .bind(order.discount_minor)
        .bind(order.total_minor)
        .execute(connection)
        .await
        .map_err(DatabaseError::during("save the discount"))?;
    Ok(())
}

async fn lock(connection: &mut PgConnection, id: OrderId) -> Result<Option<Order>, DatabaseError> {
    sqlx::query_as(concat!("select ", order_columns!(), " from orders where id = $1 for update"))
        .bind(id.0)
        .fetch_optional(connection)
        .await
        .map_err(DatabaseError::during("lock the order"))
}

async fn save_status(connection: &mut PgConnection, order: &Order) -> Result<(), DatabaseError> {
    sqlx::query("update orders set status = $2, version = $3 where id = $1")
        .bind(order.id.0)
        .bind(order.status.name())
        .bind(order.version)
        .execute(connection)
        .await
        .map_err(DatabaseError::during("save the order"))?;
    Ok(())
}

fn retries() -> ExponentialBuilder {
    ExponentialBuilder::default().with_min_delay(FIRST_RETRY).with_jitter().with_max_times(MAX_ATTEMPTS - 1)
}

impl From<RecordError> for PlaceError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Encode(error) => Self::Encode(error),
            RecordError::Database(error) => Self::Database(error),
        }
    }
}

impl From<RecordError> for ChangeError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Encode(error) => Self::Encode(error),
            RecordError::Database(error) => Self::Database(error),
        }
    }
}

impl FromRow<'_, PgRow> for Order {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let id = OrderId(row.try_get::<Uuid, _>("id")?);
        let status: String = row.try_get("status")?;
        let status = status
            .parse()
            .map_err(|_| sqlx::Error::Decode(Box::new(CorruptOrder { id, status: status.clone() })))?;
        let Json(items): Json<Vec<OrderItem>> = row.try_get("items")?;
        let created_at = Timestamp::from_microsecond(row.try_get("created_micros")?)
            .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        Ok(Self {
            id,
            user_id: row.try_get("user_id")?,
            status,
            version: row.try_get("version")?,
            items,
            coupon_code: row.try_get("coupon_code")?,
            currency: row.try_get("currency")?,
            subtotal_minor: row.try_get("subtotal_minor")?,
            discount_minor: row.try_get("discount_minor")?,
            total_minor: row.try_get("total_minor")?,
            created_at,
        })
    }
}
