//! What a caller gets instead of an outcome.

use std::sync::Arc;
use std::time::Duration;

use crate::store::{DatabaseError, PlaceError};

/// Why nothing is known of an order, or can be.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// Too many orders wait, or this one waited too long: nothing was done.
    #[error("too many orders are waiting; try again")]
    Overloaded {
        /// When it may be worth another try.
        retry_after: Duration,
    },
    /// This order can't be placed.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The transaction failed that this order was part of; the writer has logged it.
    #[error(transparent)]
    Batch(Arc<DatabaseError>),
    /// The writer broke off over this order; whether it was placed is unknown.
    #[error("the writer broke off; whether the order was placed is unknown")]
    BrokeOff,
}

impl WriterError {
    /// The database's failure, if it is one.
    #[must_use]
    pub fn database(&self) -> Option<&DatabaseError> {
        match self {
            Self::Place(PlaceError::Database(error)) => Some(error),
            Self::Batch(error) => Some(error),
            _ => None,
        }
    }
}
