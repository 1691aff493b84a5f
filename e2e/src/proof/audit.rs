//! The audit in the run's database: every event that was put into the outbox, written by a trigger in the same
//! transaction, so that it holds what committed and nothing else; and the reading of all that the database knows.

use anyhow::Context;
use sqlx::Row;
use sqlx::postgres::{PgPool, PgRow};
use sqlx::types::{Json, Uuid};

use super::history::{Event, StoredOrder};

/// That (order, version) is unique is for the checker to say: a constraint here would make the service fail on its own
/// mistake instead of showing it.
const INSTALL: &str = "
    create schema proof;
    create table proof.audit (
        seq      bigint generated always as identity primary key,
        xid      xid8 not null default pg_current_xact_id(),
        at       timestamptz not null default clock_timestamp(),
        order_id uuid not null,
        version  bigint not null,
        headers  jsonb not null,
        payload  bytea not null
    );
    create function proof.record() returns trigger language plpgsql as $$
    begin
        insert into proof.audit (order_id, version, headers, payload)
        values (new.order_id, new.version, to_jsonb(new.headers), new.payload);
        return null;
    end $$;
    create trigger proof_audit after insert on outbox for each row execute function proof.record();
";

/// Installs the trigger. The service must have made its schema.
///
/// # Errors
/// When the database fails.
pub async fn install(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::raw_sql(INSTALL).execute(pool).await.context("failed to install the audit")?;
    Ok(())
}

/// Every event that was recorded, in the order of recording.
///
/// # Errors
/// When the database fails.
pub async fn events(pool: &PgPool) -> anyhow::Result<Vec<Event>> {
    let rows = sqlx::query("select order_id, version, headers, payload from proof.audit order by seq");
    rows.fetch_all(pool).await.context("failed to read the audit")?.iter().map(event).collect()
}

fn event(row: &PgRow) -> anyhow::Result<Event> {
    let Json(headers) = row.try_get("headers")?;
    Ok(Event {
        order: row.try_get("order_id")?,
        version: row.try_get("version")?,
        headers,
        payload: row.try_get("payload")?,
    })
}

/// Every order.
///
/// # Errors
/// When the database fails.
pub async fn orders(pool: &PgPool) -> anyhow::Result<Vec<StoredOrder>> {
    let rows = sqlx::query(
        "select id, user_id, status, version, coupon_code, currency, subtotal_minor, discount_minor, total_minor,
                (select jsonb_object_agg(item ->> 'productId', (item ->> 'quantity')::bigint)
                 from jsonb_array_elements(items) as item) as items
         from orders order by id",
    );
    rows.fetch_all(pool).await.context("failed to read the orders")?.iter().map(order).collect()
}

fn order(row: &PgRow) -> anyhow::Result<StoredOrder> {
    let Json(items) = row.try_get("items")?;
    Ok(StoredOrder {
        id: row.try_get("id")?,
        user: row.try_get("user_id")?,
        status: row.try_get("status")?,
        version: row.try_get("version")?,
        items,
        coupon: row.try_get("coupon_code")?,
        currency: row.try_get("currency")?,
        subtotal_minor: row.try_get("subtotal_minor")?,
        discount_minor: row.try_get("discount_minor")?,
        total_minor: row.try_get("total_minor")?,
    })
}

/// Units left of each product.
///
/// # Errors
/// When the database fails.
pub async fn stock(pool: &PgPool) -> anyhow::Result<Vec<(String, i64)>> {
    let rows = sqlx::query_as("select product_id, stock from products").fetch_all(pool);
    rows.await.context("failed to read the stock")
}

/// Uses of each coupon.
///
/// # Errors
/// When the database fails.
pub async fn coupon_uses(pool: &PgPool) -> anyhow::Result<Vec<(String, i64)>> {
    let rows = sqlx::query_as("select code, used from coupons").fetch_all(pool);
    rows.await.context("failed to read the coupons")
}

/// Deadlocks in the database since the server last crashed: a crash forgets its statistics.
///
/// # Errors
/// When the database fails.
pub async fn deadlocks(pool: &PgPool) -> anyhow::Result<i64> {
    let counted =
        sqlx::query_scalar("select deadlocks from pg_stat_database where datname = current_database()");
    counted.fetch_one(pool).await.context("failed to read the statistics")
}

/// Order and version of each event in the outbox.
///
/// # Errors
/// When the database fails.
pub async fn outbox(pool: &PgPool) -> anyhow::Result<Vec<(Uuid, i64)>> {
    let rows = sqlx::query_as("select order_id, version from outbox").fetch_all(pool);
    rows.await.context("failed to read the outbox")
}

/// Rows that wait in the outbox, and orders that the relay has parked.
///
/// # Errors
/// When the database fails.
pub async fn waiting(pool: &PgPool) -> anyhow::Result<(i64, i64)> {
    let outbox = sqlx::query_scalar("select count(*) from outbox").fetch_one(pool).await?;
    let parks: bool =
        sqlx::query_scalar("select to_regclass('relay_parked') is not null").fetch_one(pool).await?;
    if !parks {
        return Ok((outbox, 0));
    }
    let parked = sqlx::query_scalar("select count(*) from relay_parked").fetch_one(pool).await?;
    Ok((outbox, parked))
}
