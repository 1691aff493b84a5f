//! Why the store refused or failed. `DatabaseError` is the database's fault; the other enums are a step's answers.

use std::future::Future;
use std::io;
use std::time::Duration;

use order_events::codec::EncodeError;
use order_events::{OrderId, OrderStatus};
use sqlx::Error;

use crate::domain::{Order, Refusal, StatusConflict};

/// The step that makes a transaction take effect.
pub const COMMIT: &str = "commit";
/// The step before which a transaction has done nothing.
pub const BEGIN: &str = "begin";

/// Longest wait for one statement, connection included: above the server's own limit (10 s), and an end to waiting for a server
/// that vanished without a word, which no other limit is: TCP itself waits a quarter of an hour for it, or for ever.
const STATEMENT_DEADLINE: Duration = Duration::from_secs(12);
/// The same for a statement that waits for no lock and no disk.
const PROMPT_DEADLINE: Duration = Duration::from_secs(2);

/// Runs one statement, or a few, within a deadline. What is given up may have taken effect.
///
/// # Errors
/// The statement's own, or that time ran out, which counts as unavailability.
pub async fn bounded<T>(
    step: &'static str,
    statement: impl Future<Output = sqlx::Result<T>>,
) -> Result<T, DatabaseError> {
    within(STATEMENT_DEADLINE, statement).await.map_err(DatabaseError::during(step))
}

/// As [`bounded`], for what the server does at once or not at all.
///
/// # Errors
/// As [`bounded`].
pub async fn prompt<T>(
    step: &'static str,
    statement: impl Future<Output = sqlx::Result<T>>,
) -> Result<T, DatabaseError> {
    within(PROMPT_DEADLINE, statement).await.map_err(DatabaseError::during(step))
}

pub(super) async fn within<T>(
    deadline: Duration,
    statement: impl Future<Output = sqlx::Result<T>>,
) -> sqlx::Result<T> {
    let ended = tokio::time::timeout(deadline, statement).await;
    ended.unwrap_or_else(|_| Err(sqlx::Error::Io(io::Error::from(io::ErrorKind::TimedOut))))
}

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
            // A protocol error is a proxy in front of a server that is away: it accepts, and hangs up in the handshake.
            Error::Io(_)
            | Error::Tls(_)
            | Error::Protocol(_)
            | Error::PoolTimedOut
            | Error::PoolClosed
            | Error::WorkerCrashed => true,
            Error::Database(_) => self.sql_state().is_some_and(|state| {
                // Classes: connection, insufficient resources, operator intervention (shutdown, cancelled by timeout),
                // and by themselves: lock timeout, read-only (a primary that became a standby), idle or long transactions, conflicts.
                ["08", "53", "57"].iter().any(|class| state.starts_with(class))
                    || ["55P03", "25006", "25P03", "25P04", "40001", "40P01"].contains(&state.as_str())
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

    /// True when the failure leaves open whether the transaction took effect. A pooler in between words the loss of its server
    /// as an error of the database, a server says that it is going down when it may have committed already, and one whose disk is
    /// full may have written the commit itself and failed over what comes after it: so only what says that it was rolled back is
    /// believed.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        // Class: integrity constraint; by themselves: serialization failure, constraint at commit, deadlock, failed transaction.
        let rolled_back = |state: String| {
            state.starts_with("23") || ["40001", "40002", "40P01", "25P02"].contains(&state.as_str())
        };
        self.step == COMMIT && !self.sql_state().is_some_and(rolled_back)
    }

    /// True when the transaction waited too long for a lock that another holds.
    #[must_use]
    pub fn is_lock_timeout(&self) -> bool {
        self.sql_state().as_deref() == Some("55P03")
    }

    fn sql_state(&self) -> Option<String> {
        self.source.as_database_error()?.code().map(Into::into)
    }
}

/// What became of an order that was submitted: both are answers, and both are given again to a repetition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The order, `PENDING`, or why it was refused.
    pub verdict: Result<Order, Refusal>,
    /// True when this is the answer to an earlier request with the same idempotency key.
    pub replayed: bool,
}

/// Why an idempotency key can't be used for this request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyConflict {
    /// It was used for another order.
    #[error("this Idempotency-Key was used for another order; a new order needs a new key")]
    Reused,
    /// Its first request is still at work.
    #[error("a request with this Idempotency-Key is being worked on; repeat it in a moment for its answer")]
    InProgress,
}

/// Why nothing can be said of an order. Nothing changed, unless the connection broke during the commit.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The idempotency key stands in the way.
    #[error(transparent)]
    Key(#[from] KeyConflict),
    /// The event can't be recorded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// Why an order was not changed. Nothing changed, unless the connection broke during the commit.
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
        assert!(
            failed(Error::Protocol("unexpected response from SSLRequest: 0x00".to_owned())).is_unavailable()
        );
        assert!(!failed(Error::RowNotFound).is_unavailable());
        assert!(!failed(Error::PoolTimedOut).is_conflict());
    }

    /// What a server says, with nothing but a code.
    #[derive(Debug)]
    struct Says(&'static str);

    impl std::fmt::Display for Says {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Says {}

    impl sqlx::error::DatabaseError for Says {
        fn message(&self) -> &str {
            self.0
        }

        fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
            Some(self.0.into())
        }

        fn kind(&self) -> sqlx::error::ErrorKind {
            sqlx::error::ErrorKind::Other
        }

        fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
            self
        }
    }

    #[test]
    fn a_commit_that_failed_is_in_doubt_unless_the_server_says_that_it_was_rolled_back() {
        let failed = |step, code| DatabaseError { step, source: Error::Database(Box::new(Says(code))) };
        for code in ["53100", "58030", "57P01", "08006", "40003", "XX000"] {
            assert!(failed(COMMIT, code).is_in_doubt(), "{code}");
            assert!(!failed("take stock", code).is_in_doubt(), "{code}");
        }
        for code in ["23505", "40001", "40P01", "25P02"] {
            assert!(!failed(COMMIT, code).is_in_doubt(), "{code}");
        }
        assert!(DatabaseError { step: COMMIT, source: Error::PoolTimedOut }.is_in_doubt());
    }
}
