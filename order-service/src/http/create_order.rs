//! `POST /orders`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;

use super::Api;
use super::extract::{Body, KeyHeader};
use super::problem::{self, ApiError, Problem};
use super::view::{self, OrderView};
use crate::domain::{NewOrder, Order, Submission};
use crate::metrics::OrderAction;
use crate::store::Outcome;

/// Header of an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// What is ordered.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateOrder {
    /// Who orders: printable, at most 128 characters.
    #[schema(
        min_length = 1,
        max_length = 128,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub user_id: String,
    /// 1 to 100 lines; equal products are merged into one line.
    #[schema(min_items = 1, max_items = 100)]
    pub items: Vec<CreateOrderItem>,
    /// A coupon to use.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._:-]+$")]
    pub coupon_code: Option<String>,
}

/// One line of what is ordered.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateOrderItem {
    /// The product's id in the catalogue.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._:-]+$")]
    pub product_id: String,
    /// Units, 1 to 1,000,000 per product.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub quantity: i64,
}

/// Places an order: takes stock and coupon and records its event, all or nothing.
#[utoipa::path(
    post, path = "/orders", request_body = CreateOrder,
    params(
        ("Idempotency-Key" = Option<String>, Header, nullable = false,
         pattern = r#"^([!#-~][!-~]{0,254}|"([!#-\[\]-~]|\\["\\]){1,255}")$"#,
         description = "The client's name for this request, 1 to 255 visible ASCII characters, plain or as a quoted string. A repetition of key and order gets the first answer again, a refusal too, with Idempotent-Replayed: true"),
    ),
    responses(
        (status = 201, description = "The order, PENDING; Location and ETag are set", body = OrderView,
         headers(
            ("Location" = String, description = "Path of the order"),
            ("ETag" = String, description = "Its version"),
            ("Idempotent-Replayed" = bool, description = "Set when this is the answer to an earlier request with the same key"),
         )),
        (status = 400, description = "The body is not JSON, or the Idempotency-Key breaks its rule", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Insufficient stock, the coupon has been used up, or the first request with this Idempotency-Key is still at work (with Retry-After)", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not sent as JSON", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A rule is broken, product or coupon are unknown, or the Idempotency-Key was used for another order", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Overload, or the database is away; see Retry-After", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "Took too long; whether it took effect is unknown", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn create_order(
    State(api): State<Arc<Api>>,
    key: Result<KeyHeader, ApiError>,
    body: Result<Body<CreateOrder>, ApiError>,
) -> Response {
    let placed = place(&api, key, body).await;
    let word = match &placed {
        Ok(Outcome { replayed: true, .. }) => "replayed",
        Ok(Outcome { verdict: Ok(_), .. }) => "accepted",
        Ok(Outcome { verdict: Err(refusal), .. }) => problem::refusal_word(refusal),
        Err(error) => error.word(),
    };
    api.metrics.order(OrderAction::Create, word);
    match placed {
        Ok(outcome) => answer(outcome),
        Err(error) => error.into_response(),
    }
}

async fn place(
    api: &Api,
    key: Result<KeyHeader, ApiError>,
    body: Result<Body<CreateOrder>, ApiError>,
) -> Result<Outcome, ApiError> {
    let KeyHeader(key) = key?;
    let Body(CreateOrder { user_id, items, coupon_code }) = body?;
    let items = items.into_iter().map(|item| (item.product_id, item.quantity)).collect();
    let new = NewOrder::parse(user_id, items, coupon_code).map_err(ApiError::Invalid)?;
    Ok(api.writer.place(Submission::new(new, key)).await?)
}

/// The first answer and every later one to the same key are made here, from the same parts.
fn answer(Outcome { verdict, replayed }: Outcome) -> Response {
    let mut response = match verdict {
        Ok(order) => created(order),
        Err(refusal) => ApiError::Refused(refusal).into_response(),
    };
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

fn created(order: Order) -> Response {
    let location = format!("/orders/{}", order.id);
    let mut response = view::answer(StatusCode::CREATED, order);
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
