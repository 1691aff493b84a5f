//! Coupons: used by an order, given back by a cancellation. Never used more often than allowed.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use super::error::{DatabaseError, bounded};
use crate::domain::allot::StockedCoupon;
use crate::domain::{CouponCode, CouponTerms, Refusal};

/// Columns of a coupon's terms, as they are stored: exactly one of them is set.
pub(super) type StoredTerms = (Option<i16>, Option<i64>);

/// Uses the coupon once and answers its terms, or why it can't be used.
///
/// # Errors
/// When the database fails.
pub async fn redeem(
    connection: &mut PgConnection,
    code: &CouponCode,
) -> Result<Result<CouponTerms, Refusal>, DatabaseError> {
    let terms: Option<StoredTerms> = sqlx::query_as(
        "update coupons set used = used + 1 where code = $1 and used < max_uses
         returning percent_off, amount_off_minor",
    )
    .bind(code.as_str())
    .fetch_optional(&mut *connection)
    .await
    .map_err(DatabaseError::during("use coupon"))?;
    if let Some(terms) = terms {
        return Ok(Ok(self::terms(terms)));
    }
    let exists: bool = sqlx::query_scalar("select exists (select from coupons where code = $1)")
        .bind(code.as_str())
        .fetch_one(connection)
        .await
        .map_err(DatabaseError::during("look for coupon"))?;
    let refusal = if exists { Refusal::CouponExhausted } else { Refusal::UnknownCoupon };
    Ok(Err(refusal(code.clone())))
}

/// Those of the coupons that another transaction keeps locked just now.
///
/// # Errors
/// When the database fails.
pub async fn locked(
    connection: &mut PgConnection,
    codes: &BTreeSet<CouponCode>,
) -> Result<BTreeSet<CouponCode>, DatabaseError> {
    let wanted: Vec<&str> = codes.iter().map(CouponCode::as_str).collect();
    // A statement by itself is a transaction: the locks are let go at its end.
    let statement = sqlx::query_scalar(
        "with free as (
             select code from coupons where code = any($1) for no key update skip locked)
         select code from coupons where code = any($1) and code not in (select code from free)",
    );
    let locked: Vec<String> =
        bounded("look for locked coupons", statement.bind(&wanted).fetch_all(connection)).await?;
    Ok(codes.iter().filter(|code| locked.iter().any(|locked| locked == code.as_str())).cloned().collect())
}

/// Locks the coupons that exist, in the order of their codes, and answers them.
pub(super) async fn lock(
    connection: &mut PgConnection,
    codes: &[&str],
) -> Result<Vec<StockedCoupon>, DatabaseError> {
    let rows: Vec<(String, Option<i16>, Option<i64>, i64)> = sqlx::query_as(
        "select code, percent_off, amount_off_minor, max_uses - used from coupons where code = any($1)
         order by code for no key update",
    )
    .bind(codes)
    .fetch_all(connection)
    .await
    .map_err(DatabaseError::during("lock coupons"))?;
    let stocked = |(code, percent_off, amount_off_minor, left)| StockedCoupon {
        code,
        terms: terms((percent_off, amount_off_minor)),
        left,
        taken: 0,
    };
    Ok(rows.into_iter().map(stocked).collect())
}

/// Gives one use of the coupon back.
///
/// # Errors
/// When the database fails.
pub async fn give_back(connection: &mut PgConnection, code: &str) -> Result<(), DatabaseError> {
    sqlx::query("update coupons set used = used - 1 where code = $1 and used > 0")
        .bind(code)
        .execute(connection)
        .await
        .map_err(DatabaseError::during("give coupon back"))?;
    Ok(())
}

/// The terms that the columns state; the table's checks keep them within their ranges.
pub(super) fn terms((percent_off, amount_off_minor): StoredTerms) -> CouponTerms {
    match percent_off {
        Some(percent) => CouponTerms::PercentOff(u8::try_from(percent).unwrap_or_default()),
        None => CouponTerms::AmountOff(amount_off_minor.unwrap_or_default()),
    }
}
