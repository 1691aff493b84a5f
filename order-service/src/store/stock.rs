//! Stock: taken by an order, given back by a cancellation. Never below zero.

use std::collections::{BTreeMap, BTreeSet};

use order_events::OrderItem;
use sqlx::PgConnection;

use super::error::{DatabaseError, bounded};
use crate::domain::allot::StockedProduct;
use crate::domain::{ProductId, Refusal, Shelf};

/// Takes the units of every line, or none of them, and answers the lines with their prices or why it took none.
///
/// The rows are locked in the order of their ids, so two orders over the same products never wait for each other in a
/// circle; under the locks the stock that is checked is the stock that is taken from.
///
/// # Errors
/// When the database fails.
pub async fn take(
    connection: &mut PgConnection,
    lines: &BTreeMap<ProductId, i64>,
) -> Result<Result<Vec<OrderItem>, Refusal>, DatabaseError> {
    let ids: Vec<&str> = lines.keys().map(ProductId::as_str).collect();
    let quantities: Vec<i64> = lines.values().copied().collect();
    let shelf = Shelf::new(lock(connection, &ids).await?, Vec::new());
    let items = match shelf.priced(lines) {
        Ok(items) => items,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let taken = sqlx::query(
        "update products set stock = stock - wanted.quantity
         from unnest($1::text[], $2::bigint[]) as wanted (product_id, quantity)
         where products.product_id = wanted.product_id and stock >= wanted.quantity",
    )
    .bind(&ids)
    .bind(&quantities)
    .execute(connection)
    .await
    .map_err(DatabaseError::during("take stock"))?;
    // The rows are locked and were checked: anything else would be a bug, and must not become an order.
    assert_eq!(taken.rows_affected(), ids.len() as u64, "stock changed under its lock");
    Ok(Ok(items))
}

/// Gives the units of the lines back.
///
/// # Errors
/// When the database fails.
pub async fn give_back(connection: &mut PgConnection, items: &[OrderItem]) -> Result<(), DatabaseError> {
    let ids: Vec<&str> = items.iter().map(|item| item.product_id.as_str()).collect();
    let quantities: Vec<i64> = items.iter().map(|item| item.quantity).collect();
    lock(connection, &ids).await?;
    sqlx::query(
        "update products set stock = stock + returned.quantity
         from unnest($1::text[], $2::bigint[]) as returned (product_id, quantity)
         where products.product_id = returned.product_id",
    )
    .bind(&ids)
    .bind(&quantities)
    .execute(connection)
    .await
    .map_err(DatabaseError::during("give stock back"))?;
    Ok(())
}

/// Those of the products that another transaction keeps locked just now.
///
/// # Errors
/// When the database fails.
pub async fn locked(
    connection: &mut PgConnection,
    products: &BTreeSet<ProductId>,
) -> Result<BTreeSet<ProductId>, DatabaseError> {
    let ids: Vec<&str> = products.iter().map(ProductId::as_str).collect();
    // A statement by itself is a transaction: the locks are let go at its end.
    let statement = sqlx::query_scalar(
        "with free as (
             select product_id from products where product_id = any($1) for no key update skip locked)
         select product_id from products where product_id = any($1) and product_id not in (select product_id from free)",
    );
    let locked: Vec<String> =
        bounded("look for locked products", statement.bind(&ids).fetch_all(connection)).await?;
    Ok(products.iter().filter(|product| locked.iter().any(|id| id == product.as_str())).cloned().collect())
}

/// Locks the products that exist, in the order of their ids, and answers them.
pub(super) async fn lock(
    connection: &mut PgConnection,
    ids: &[&str],
) -> Result<Vec<StockedProduct>, DatabaseError> {
    let rows: Vec<(String, i64, i64)> = sqlx::query_as(
        "select product_id, price_minor, stock from products where product_id = any($1)
         order by product_id for no key update",
    )
    .bind(ids)
    .fetch_all(connection)
    .await
    .map_err(DatabaseError::during("lock products"))?;
    let stocked =
        |(product_id, price_minor, left)| StockedProduct { product_id, price_minor, left, taken: 0 };
    Ok(rows.into_iter().map(stocked).collect())
}
