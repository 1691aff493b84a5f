//! The receiver behind the demo's HTTP sink: writes down every event it is sent, as often as it is sent, so that the
//! checker can count.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use order_events::{MAX_EVENT_BYTES, OrderEvent};
use sqlx::PgPool;

const CREATE_TABLE: &str = "create table if not exists http_events (
    seq bigint generated always as identity primary key,
    order_id uuid not null, version bigint not null, type text not null, event_id uuid not null, payload json not null,
    received_at timestamptz not null default clock_timestamp())";

/// Creates the table if it is not there.
///
/// # Errors
/// When the database refuses.
pub async fn prepare(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query(CREATE_TABLE).execute(pool).await.map(drop)
}

/// `POST /events` takes one event; `GET /readyz` says whether the database answers.
pub fn router(pool: PgPool) -> Router {
    Router::new()
        .route("/events", post(receive))
        .route("/readyz", get(ready))
        .layer(DefaultBodyLimit::max(MAX_EVENT_BYTES))
        .with_state(pool)
}

async fn ready(State(pool): State<PgPool>) -> StatusCode {
    match sqlx::query("select 1").execute(&pool).await {
        Ok(_) => StatusCode::OK,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn receive(State(pool): State<PgPool>, body: Bytes) -> (StatusCode, String) {
    let event: OrderEvent = match serde_json::from_slice(&body) {
        Ok(event) => event,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("not an order event: {error}\n")),
    };
    let insert = sqlx::query(
        "insert into http_events (order_id, version, type, event_id, payload) values ($1, $2, $3, $4, $5::json)",
    );
    let text = String::from_utf8_lossy(&body).into_owned();
    let insert = insert.bind(event.order_id.0).bind(event.version).bind(event.event_type.name());
    match insert.bind(event.event_id).bind(text).execute(&pool).await {
        Ok(_) => (StatusCode::NO_CONTENT, String::new()),
        Err(error) => {
            tracing::warn!(event_id = %event.event_id, %error, "failed to write the event down");
            (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n".to_owned())
        }
    }
}
