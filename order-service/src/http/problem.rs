//! Errors as `application/problem+json` (RFC 9457): the one place that maps an error to a status.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use order_events::OrderId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::order::MAX_ITEMS;
use crate::domain::{Refusal, Violation};
use crate::http::MAX_BODY_BYTES;
use crate::store::{ChangeError, DatabaseError, KeyConflict, PlaceError};
use crate::writer::error::WriterError;

/// Media type of every error.
pub const CONTENT_TYPE: &str = "application/problem+json";
/// Prefix of every problem's `type`; the rest is a stable word.
pub const TYPE_PREFIX: &str = "urn:orderflow:problem:";
/// Seconds after which a refused request may be repeated: overload and a database's restart pass in this order.
const RETRY_AFTER_SECONDS: u64 = 1;
/// Most seconds that a client is asked to stay away: what is expected from a queue beyond that is no more than a guess.
const MAX_RETRY_AFTER_SECONDS: u64 = 30;

/// The body of an error.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// What kind of problem, as a stable URN to program against.
    #[serde(rename = "type")]
    #[schema(example = "urn:orderflow:problem:insufficient-stock")]
    pub problem_type: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong with this request.
    pub detail: String,
}

/// Everything that a request can be answered with instead of what it asked for.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The body is not JSON, or broke off.
    #[error("{0}")]
    Malformed(String),
    /// The body is JSON, but not of the expected shape.
    #[error("{0}")]
    Shape(String),
    /// The body's media type is not JSON.
    #[error("send the body as content-type application/json")]
    ContentType,
    /// The body is too large.
    #[error(
        "the body is too large: an order takes at most {MAX_BODY_BYTES} bytes and {MAX_ITEMS} lines, a larger catalogue is loaded in parts"
    )]
    BodyTooLarge,
    /// A path segment, query or header does not parse.
    #[error("{0}")]
    BadParameter(String),
    /// The input breaks rules; all of them are named.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Violation>),
    /// No such route.
    #[error("there is nothing at this path; see /openapi.json")]
    NoSuchRoute,
    /// The route has no such method.
    #[error("this path does not take this method; the Allow header names those it takes")]
    MethodNotAllowed,
    /// No such order.
    #[error("no order {0}")]
    NoSuchOrder(OrderId),
    /// No such product or coupon.
    #[error("no {kind} {id}")]
    NoSuchEntry {
        /// `product` or `coupon`.
        kind: &'static str,
        /// The id that was asked for.
        id: String,
    },
    /// The shop's rules refuse the order.
    #[error(transparent)]
    Refused(Refusal),
    /// Nothing is known of the order.
    #[error(transparent)]
    Writer(#[from] WriterError),
    /// The order was not changed.
    #[error(transparent)]
    Change(ChangeError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Too many requests at once.
    #[error("the service is at its limit; try again")]
    Busy,
    /// The request took too long.
    #[error("the request took too long; whether it took effect is unknown: look before repeating it")]
    TimedOut,
    /// A handler panicked.
    #[error("the service failed on this request")]
    Panicked,
}

/// What to say when the database broke off during a commit.
const IN_DOUBT: &str = "the database broke off during the commit; whether the request took effect is unknown: look before repeating it";

/// Status, word and title of a problem.
type Kind = (StatusCode, &'static str, &'static str);

const NOT_FOUND: Kind = (StatusCode::NOT_FOUND, "not-found", "Not found");
const UNAVAILABLE: Kind =
    (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "The service is not available right now");
const BUSY: Kind = (StatusCode::SERVICE_UNAVAILABLE, "busy", "Too many requests at once");
const INTERNAL: Kind = (StatusCode::INTERNAL_SERVER_ERROR, "internal", "The service failed");

impl ApiError {
    /// The stable word at the end of the problem's `type`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        self.kind().1
    }

    fn database(&self) -> Option<&DatabaseError> {
        match self {
            Self::Writer(error) => error.database(),
            Self::Change(ChangeError::Database(error)) | Self::Database(error) => Some(error),
            _ => None,
        }
    }

    /// Seconds after which the request may be repeated: only where it is certain that nothing was done, or that the key
    /// finds out what was; elsewhere it would invite a second order.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Writer(WriterError::Overloaded { retry_after }) => {
                Some((retry_after.as_secs() + 1).clamp(RETRY_AFTER_SECONDS, MAX_RETRY_AFTER_SECONDS))
            }
            Self::Writer(WriterError::Place(PlaceError::Key(KeyConflict::InProgress))) => {
                Some(RETRY_AFTER_SECONDS)
            }
            _ if self.kind().0 != StatusCode::SERVICE_UNAVAILABLE => None,
            _ if self.database().is_some_and(DatabaseError::is_in_doubt) => None,
            _ => Some(RETRY_AFTER_SECONDS),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, "malformed-body", "The body is not JSON"),
            Self::Shape(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "unexpected-body", "The body is not as described")
            }
            Self::ContentType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type", "Unsupported media type")
            }
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large"),
            Self::BadParameter(_) => (StatusCode::BAD_REQUEST, "bad-parameter", "A parameter does not parse"),
            Self::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid", "The request breaks a rule"),
            Self::NoSuchRoute | Self::NoSuchOrder(_) | Self::NoSuchEntry { .. } => NOT_FOUND,
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed")
            }
            Self::Refused(refusal) => refusal_kind(refusal),
            Self::Writer(error) => writer_kind(error),
            Self::Change(error) => change_kind(error),
            Self::Database(error) => database_kind(error),
            Self::Busy => BUSY,
            Self::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "timeout", "The request took too long"),
            Self::Panicked => INTERNAL,
        }
    }
}

/// The stable word at the end of a refusal's `type`.
pub(super) fn refusal_word(refusal: &Refusal) -> &'static str {
    refusal_kind(refusal).1
}

fn refusal_kind(refusal: &Refusal) -> Kind {
    match refusal {
        Refusal::UnknownProducts(_) => {
            (StatusCode::UNPROCESSABLE_ENTITY, "unknown-product", "Unknown product")
        }
        Refusal::InsufficientStock(_) => (StatusCode::CONFLICT, "insufficient-stock", "Insufficient stock"),
        Refusal::UnknownCoupon(_) => (StatusCode::UNPROCESSABLE_ENTITY, "unknown-coupon", "Unknown coupon"),
        Refusal::CouponExhausted(_) => {
            (StatusCode::CONFLICT, "coupon-exhausted", "The coupon has been used up")
        }
        Refusal::AmountTooLarge => {
            (StatusCode::UNPROCESSABLE_ENTITY, "amount-too-large", "The amount is too large")
        }
    }
}

fn writer_kind(error: &WriterError) -> Kind {
    match error {
        WriterError::Overloaded { .. } => BUSY,
        WriterError::Place(PlaceError::Key(KeyConflict::Reused)) => {
            (StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused", "The key belongs to another order")
        }
        WriterError::Place(PlaceError::Key(KeyConflict::InProgress)) => {
            (StatusCode::CONFLICT, "idempotency-key-in-progress", "The first request is still at work")
        }
        WriterError::Place(PlaceError::Encode(_)) | WriterError::BrokeOff => INTERNAL,
        WriterError::Place(PlaceError::Database(error)) => database_kind(error),
        WriterError::Batch(error) => database_kind(error),
    }
}

fn change_kind(error: &ChangeError) -> Kind {
    match error {
        ChangeError::NotFound(_) => NOT_FOUND,
        ChangeError::Stale { .. } => {
            (StatusCode::PRECONDITION_FAILED, "stale", "The order has changed meanwhile")
        }
        ChangeError::Status(_) => {
            (StatusCode::CONFLICT, "status-conflict", "The order's status does not allow this")
        }
        ChangeError::Encode(_) => INTERNAL,
        ChangeError::Database(error) => database_kind(error),
    }
}

fn database_kind(error: &DatabaseError) -> Kind {
    if error.is_unavailable() { UNAVAILABLE } else { INTERNAL }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, word, title) = self.kind();
        let detail = match (status, self.database()) {
            (StatusCode::INTERNAL_SERVER_ERROR, _) => "see the service's log".to_owned(),
            (_, Some(error)) if error.is_in_doubt() => IN_DOUBT.to_owned(),
            (_, Some(_)) => "the database did not answer in time; nothing changed, try again".to_owned(),
            (_, None) => self.to_string(),
        };
        let retry_after = self.retry_after();
        if status.is_server_error() {
            log(self, word);
        }
        let problem = Problem {
            problem_type: format!("{TYPE_PREFIX}{word}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail,
        };
        let mut response = (status, axum::Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

fn log(error: ApiError, word: &str) {
    // Overload is a normal state with a counter of its own; a line per refused request would make it worse. What failed a
    // whole batch was logged where it did.
    if let ApiError::Busy
    | ApiError::Writer(WriterError::Overloaded { .. } | WriterError::Batch(_) | WriterError::BrokeOff) =
        error
    {
        return;
    }
    let unavailable = error.database().is_some_and(DatabaseError::is_unavailable);
    let error = format!("{:#}", anyhow::Error::new(error));
    // An absent database passes by itself; a failure of ours does not.
    if unavailable {
        tracing::warn!(problem = word, error, "request failed");
    } else {
        tracing::error!(problem = word, error, "request failed");
    }
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        Self::Change(error)
    }
}

impl From<Violation> for ApiError {
    fn from(violation: Violation) -> Self {
        Self::Invalid(vec![violation])
    }
}
