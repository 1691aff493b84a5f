//! Stock: taken by an order, given back by a cancellation. Never below zero.

use std::collections::BTreeMap;

use order_events::OrderItem;
use sqlx::PgConnection;

use super::error::{DatabaseError, PlaceError, Shortage};
use crate::domain::ProductId;

/// Takes the units of every line, or none of them, and answers the lines with their prices.
///
/// The rows are locked in the order of their ids, so two orders over the same products never wait for each other in a
/// circle; under the locks the stock that is checked is the stock that is taken from.
///
/// # Errors
/// [`PlaceError::UnknownProducts`] or [`PlaceError::InsufficientStock`], naming all of them.
pub async fn take(
    connection: &mut PgConnection,
    lines: &BTreeMap<ProductId, i64>,
) -> Result<Vec<OrderItem>, PlaceError> {
    let ids: Vec<&str> = lines.keys().map(ProductId::as_str).collect();
    let quantities: Vec<i64> = lines.values().copied().collect();
    let found = lock(connection, &ids).await?;
    let items = priced(lines, &found)?;
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
    Ok(items)
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

/// Locks the products that exist, in the order of their ids, and answers (id, price, stock).
async fn lock(connection: &mut PgConnection, ids: &[&str]) -> Result<Vec<(String, i64, i64)>, DatabaseError> {
    sqlx::query_as(
        "select product_id, price_minor, stock from products where product_id = any($1)
         order by product_id for no key update",
    )
    .bind(ids)
    .fetch_all(connection)
    .await
    .map_err(DatabaseError::during("lock products"))
}

fn priced(
    lines: &BTreeMap<ProductId, i64>,
    found: &[(String, i64, i64)],
) -> Result<Vec<OrderItem>, PlaceError> {
    let by_id: BTreeMap<&str, (i64, i64)> =
        found.iter().map(|(id, price, stock)| (id.as_str(), (*price, *stock))).collect();
    let (mut unknown, mut short, mut items) = (Vec::new(), Vec::new(), Vec::new());
    for (product_id, &wanted) in lines {
        match by_id.get(product_id.as_str()) {
            None => unknown.push(product_id.clone()),
            Some(&(_, available)) if available < wanted => {
                short.push(Shortage { product_id: product_id.clone(), available, wanted });
            }
            Some(&(unit_price_minor, _)) => items.push(OrderItem {
                product_id: product_id.as_str().to_owned(),
                quantity: wanted,
                unit_price_minor,
            }),
        }
    }
    if !unknown.is_empty() {
        return Err(PlaceError::UnknownProducts(unknown));
    }
    if !short.is_empty() {
        return Err(PlaceError::InsufficientStock(short));
    }
    Ok(items)
}
