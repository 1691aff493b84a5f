//! Products and coupons, as the shop loads them.

use sqlx::PgPool;

use super::coupons::{self, StoredTerms};
use super::error::{COMMIT, DatabaseError};
use crate::domain::{CouponCode, CouponTerms, ProductId};

/// A product on sale.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Product {
    /// Its id.
    pub product_id: ProductId,
    /// Price of one unit, in minor units.
    pub price_minor: i64,
    /// Units in stock.
    pub stock: i64,
}

/// A coupon on offer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Coupon {
    /// Its code.
    pub code: CouponCode,
    /// What it takes off.
    pub terms: CouponTerms,
    /// How often it may be used.
    pub max_uses: i64,
}

/// Loads products and coupons, all or nothing: those that exist get the new price and stock, terms and limit; how often
/// a coupon was used stays. Both lists are free of duplicates.
///
/// # Errors
/// When the database fails.
pub async fn load(pool: &PgPool, products: &[Product], coupons: &[Coupon]) -> Result<(), DatabaseError> {
    let mut tx = pool.begin().await.map_err(DatabaseError::during("begin loading the catalogue"))?;
    let ids: Vec<&str> = products.iter().map(|product| product.product_id.as_str()).collect();
    let prices: Vec<i64> = products.iter().map(|product| product.price_minor).collect();
    let stocks: Vec<i64> = products.iter().map(|product| product.stock).collect();
    // Sorted, so that rows are locked in the order in which orders lock them.
    sqlx::query(
        "insert into products (product_id, price_minor, stock)
         select * from unnest($1::text[], $2::bigint[], $3::bigint[]) as loaded (product_id, price_minor, stock)
         order by product_id collate \"C\"
         on conflict (product_id) do update set price_minor = excluded.price_minor, stock = excluded.stock",
    )
    .bind(&ids)
    .bind(&prices)
    .bind(&stocks)
    .execute(&mut *tx)
    .await
    .map_err(DatabaseError::during("load products"))?;

    let codes: Vec<&str> = coupons.iter().map(|coupon| coupon.code.as_str()).collect();
    let (percents, amounts): (Vec<Option<i16>>, Vec<Option<i64>>) = coupons
        .iter()
        .map(|coupon| match coupon.terms {
            CouponTerms::PercentOff(percent) => (Some(i16::from(percent)), None),
            CouponTerms::AmountOff(amount) => (None, Some(amount)),
        })
        .unzip();
    let limits: Vec<i64> = coupons.iter().map(|coupon| coupon.max_uses).collect();
    sqlx::query(
        "insert into coupons (code, percent_off, amount_off_minor, max_uses)
         select * from unnest($1::text[], $2::smallint[], $3::bigint[], $4::bigint[])
                  as loaded (code, percent_off, amount_off_minor, max_uses)
         order by code collate \"C\"
         on conflict (code) do update set percent_off = excluded.percent_off,
             amount_off_minor = excluded.amount_off_minor, max_uses = excluded.max_uses",
    )
    .bind(&codes)
    .bind(&percents)
    .bind(&amounts)
    .bind(&limits)
    .execute(&mut *tx)
    .await
    .map_err(DatabaseError::during("load coupons"))?;
    tx.commit().await.map_err(DatabaseError::during(COMMIT))
}

/// Price and stock of the product, if it exists.
///
/// # Errors
/// When the database fails.
pub async fn product(pool: &PgPool, product_id: &ProductId) -> Result<Option<Product>, DatabaseError> {
    let found: Option<(i64, i64)> =
        sqlx::query_as("select price_minor, stock from products where product_id = $1")
            .bind(product_id.as_str())
            .fetch_optional(pool)
            .await
            .map_err(DatabaseError::during("read the product"))?;
    Ok(found.map(|(price_minor, stock)| Product { product_id: product_id.clone(), price_minor, stock }))
}

/// The coupon and how often it was used, if it exists.
///
/// # Errors
/// When the database fails.
pub async fn coupon(pool: &PgPool, code: &CouponCode) -> Result<Option<(Coupon, i64)>, DatabaseError> {
    type Columns = (Option<i16>, Option<i64>, i64, i64);
    let found: Option<Columns> =
        sqlx::query_as("select percent_off, amount_off_minor, max_uses, used from coupons where code = $1")
            .bind(code.as_str())
            .fetch_optional(pool)
            .await
            .map_err(DatabaseError::during("read the coupon"))?;
    Ok(found.map(|(percent_off, amount_off_minor, max_uses, used)| {
        let terms: StoredTerms = (percent_off, amount_off_minor);
        (Coupon { code: code.clone(), terms: coupons::terms(terms), max_uses }, used)
    }))
}
