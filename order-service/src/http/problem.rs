//! Errors as `application/problem+json` (RFC 9457): the one place that maps an error to a status.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use order_events::OrderId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::Violation;
use crate::domain::order::MAX_ITEMS;
use crate::http::MAX_BODY_BYTES;
use crate::store::{ChangeError, DatabaseError, PlaceError};

/// Media type of every error.
pub const CONTENT_TYPE: &str = "application/problem+json";
/// Prefix of every problem's `type`; the rest is a stable word.
pub const TYPE_PREFIX: &str = "urn:orderflow:problem:";
/// Seconds after which a refused request may be repeated: overload and a database's restart pass in this order.
const RETRY_AFTER_SECONDS: &str = "1";

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
    /// The order was not placed.
    #[error(transparent)]
    Place(PlaceError),
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
const INTERNAL: Kind = (StatusCode::INTERNAL_SERVER_ERROR, "internal", "The service failed");

impl ApiError {
    /// The stable word at the end of the problem's `type`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        self.kind().1
    }

    fn database(&self) -> Option<&DatabaseError> {
        match self {
            Self::Place(PlaceError::Database(error))
            | Self::Change(ChangeError::Database(error))
            | Self::Database(error) => Some(error),
            _ => None,
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
            Self::Place(error) => place_kind(error),
            Self::Change(error) => change_kind(error),
            Self::Database(error) => database_kind(error),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy", "Too many requests at once"),
            Self::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "timeout", "The request took too long"),
            Self::Panicked => INTERNAL,
        }
    }
}

fn place_kind(error: &PlaceError) -> Kind {
    match error {
        PlaceError::UnknownProducts(_) => {
            (StatusCode::UNPROCESSABLE_ENTITY, "unknown-product", "Unknown product")
        }
        PlaceError::InsufficientStock(_) => {
            (StatusCode::CONFLICT, "insufficient-stock", "Insufficient stock")
        }
        PlaceError::UnknownCoupon(_) => {
            (StatusCode::UNPROCESSABLE_ENTITY, "unknown-coupon", "Unknown coupon")
        }
        PlaceError::CouponExhausted(_) => {
            (StatusCode::CONFLICT, "coupon-exhausted", "The coupon has been used up")
        }
        PlaceError::Amount(_) => {
            (StatusCode::UNPROCESSABLE_ENTITY, "amount-too-large", "The amount is too large")
        }
        PlaceError::Encode(_) => INTERNAL,
        PlaceError::Database(error) => database_kind(error),
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
        // Only where it is certain that nothing was done: elsewhere it would invite a second order.
        let may_repeat = status == StatusCode::SERVICE_UNAVAILABLE
            && !self.database().is_some_and(DatabaseError::is_in_doubt);
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
        if may_repeat {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        response
    }
}

fn log(error: ApiError, word: &str) {
    // Overload is a normal state with a counter of its own; a line per refused request would make it worse.
    if matches!(error, ApiError::Busy) {
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

impl From<PlaceError> for ApiError {
    fn from(error: PlaceError) -> Self {
        Self::Place(error)
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
