//! Why the store refused or failed. `DatabaseError` is the database's fault; the other enums are a step's answers.

use order_events::codec::EncodeError;
use order_events::{OrderId, OrderStatus};
use sqlx::Error;

use crate::domain::{AmountTooLarge, CouponCode, ProductId, StatusConflict};

/// The step that makes a transaction take effect.
pub const COMMIT: &str = "commit";

/// A statement failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {step}")]
pub struct DatabaseError {
    /// What was being done, such as `take stock`.
    pub step: &'static str,
    /// What the driver says.
    #[source]
    pub source: Error,
}

impl DatabaseError {
    /// Turns a driver's error into one that names the step.
    pub fn during(step: &'static str) -> impl FnOnce(Error) -> Self {
        move |source| Self { step, source }
    }

    /// True when the transaction lost against another and was rolled back for certain: it can be tried again.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        // serialization_failure, deadlock_detected
        matches!(self.sql_state().as_deref(), Some("40001" | "40P01"))
    }

    /// True when the database is away, full or too slow rather than asked something wrong.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match &self.source {
            Error::Io(_) | Error::Tls(_) | Error::PoolTimedOut | Error::PoolClosed | Error::WorkerCrashed => {
                true
            }
            Error::Database(_) => self.sql_state().is_some_and(|state| {
                // Classes: connection, insufficient resources, operator intervention (shutdown, cancelled by timeout),
                // and by themselves: lock timeout, read-only (a primary that became a standby), conflicts.
                ["08", "53", "57"].iter().any(|class| state.starts_with(class))
                    || ["55P03", "25006", "25P03", "40001", "40P01"].contains(&state.as_str())
            }),
            _ => false,
        }
    }

    /// True when the server does not know what was asked for.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        // feature_not_supported, syntax_error, undefined_column, undefined_function, undefined_table
        self.sql_state()
            .is_some_and(|state| ["0A000", "42601", "42703", "42883", "42P01"].contains(&state.as_str()))
    }

    /// True when the failure leaves open whether the transaction took effect.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.step == COMMIT && self.source.as_database_error().is_none()
    }

    fn sql_state(&self) -> Option<String> {
        self.source.as_database_error()?.code().map(Into::into)
    }
}

/// Why an order was not placed. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Products that the catalogue does not have.
    #[error("unknown products: {}", list(.0))]
    UnknownProducts(Vec<ProductId>),
    /// There is less in stock than was asked for.
    #[error("insufficient stock: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    InsufficientStock(Vec<Shortage>),
    /// No such coupon.
    #[error("unknown coupon {0}")]
    UnknownCoupon(CouponCode),
    /// The coupon was used as often as it may be.
    #[error("coupon {0} has been used up")]
    CouponExhausted(CouponCode),
    /// The sum overflows.
    #[error(transparent)]
    Amount(#[from] AmountTooLarge),
    /// The event can't be recorded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// A product of which there is too little.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{product_id} ({available} left, {wanted} wanted)")]
pub struct Shortage {
    /// The product.
    pub product_id: ProductId,
    /// Units in stock.
    pub available: i64,
    /// Units asked for.
    pub wanted: i64,
}

fn list(ids: &[ProductId]) -> String {
    ids.iter().map(ProductId::as_str).collect::<Vec<_>>().join(", ")
}

/// Why an order was not changed. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// No such order.
    #[error("no order {0}")]
    NotFound(OrderId),
    /// The order is not at a version the caller knows.
    #[error("the order is at version {current}, which If-Match does not name")]
    Stale {
        /// The version it is at.
        current: i64,
    },
    /// Its status does not allow the change.
    #[error(transparent)]
    Status(#[from] StatusConflict),
    /// The event can't be recorded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// A stored row that this program can't have written.
#[derive(Debug, thiserror::Error)]
#[error("stored order {id} has status {status:?}, which this version does not know (known: {})", known())]
pub(super) struct CorruptOrder {
    pub(super) id: OrderId,
    pub(super) status: String,
}

fn known() -> String {
    [OrderStatus::Pending, OrderStatus::Confirmed, OrderStatus::Cancelled].map(OrderStatus::name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_connection_is_unavailability_and_a_missing_row_is_not() {
        let failed = |source| DatabaseError { step: "test", source };
        assert!(failed(Error::PoolTimedOut).is_unavailable());
        assert!(!failed(Error::RowNotFound).is_unavailable());
        assert!(!failed(Error::PoolTimedOut).is_conflict());
    }
}
