//! The campaign's HTTP sink: applies and answers as its mood is, keeps places for exactly-once groups (`docs/sinks.md`), and writes
//! down what it applied. In memory: it is the one part that is not broken.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::plan::Mood;

/// What `Mood::Slow` takes.
const SLOW: Duration = Duration::from_millis(300);
/// Longer than any client waits.
const FOR_EVER: Duration = Duration::from_secs(60);

/// An event that was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// Its order and version.
    pub event: (Uuid, i64),
    /// Its payload.
    pub payload: Vec<u8>,
    /// When, in milliseconds since 1970.
    pub at_millis: i64,
}

/// What the sink did.
#[derive(Clone, Default, Debug)]
pub struct Ledger {
    /// In order.
    pub applied: Vec<Applied>,
    /// Events it applied without saying so: whoever delivers at least once repeats them.
    pub unacknowledged: usize,
    /// Events it did not apply because of its mood: whoever delivers at most once gives them up.
    pub turned_away: usize,
    /// Requests that met a mood.
    pub moody: usize,
}

/// A running sink.
#[derive(Debug)]
pub struct Sink {
    /// Where it listens.
    pub url: String,
    inner: Arc<Inner>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Inner {
    refused: HashMap<Uuid, i64>,
    /// What it takes over each event, one after another.
    drag: Duration,
    turn: tokio::sync::Mutex<()>,
    state: Mutex<Books>,
}

#[derive(Debug)]
struct Books {
    mood: Mood,
    ledger: Ledger,
    places: BTreeMap<i32, (i64, i64)>,
}

#[derive(Deserialize)]
struct Event<'a> {
    id: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    order_id: Uuid,
    version: i64,
}

impl Sink {
    /// Starts one that refuses these versions of these orders, and takes so long over each event, one after another.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(refused: HashMap<Uuid, i64>, drag: Duration) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let url = format!("http://{}/events", listener.local_addr()?);
        let books = Books { mood: Mood::Fair, ledger: Ledger::default(), places: BTreeMap::new() };
        let (turn, state) = (tokio::sync::Mutex::default(), Mutex::new(books));
        let inner = Arc::new(Inner { refused, drag, turn, state });
        let routes = post(receive).put(claim);
        let router = Router::new().route("/events", routes).with_state(Arc::clone(&inner));
        let server = tokio::spawn(async move {
            // It ends with the run.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { url, inner, server })
    }

    /// Changes its mood.
    pub fn mood(&self, mood: Mood) {
        self.inner.books().mood = mood;
    }

    /// What it did so far.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.inner.books().ledger.clone()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Inner {
    // Plain data: a panic elsewhere can't leave it half-written.
    fn books(&self) -> MutexGuard<'_, Books> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes its time over `events`. Who hangs up meanwhile makes room for the next.
    async fn linger(&self, events: usize) {
        if !self.drag.is_zero() {
            let _turn = self.turn.lock().await;
            tokio::time::sleep(self.drag.saturating_mul(u32::try_from(events).unwrap_or(u32::MAX))).await;
        }
    }

    /// What it is asked to apply, or why it never will.
    fn read(&self, payload: &[u8]) -> Result<Applied, StatusCode> {
        let told: Told = serde_json::from_slice(payload).map_err(|_error| StatusCode::BAD_REQUEST)?;
        if self.refused.get(&told.order_id) == Some(&told.version) {
            return Err(StatusCode::UNPROCESSABLE_ENTITY);
        }
        let at_millis = jiff::Timestamp::now().as_millisecond();
        Ok(Applied { event: (told.order_id, told.version), payload: payload.to_vec(), at_millis })
    }
}

/// Passes a mood on: `Ok` where the request is to be applied.
async fn endure(inner: &Inner, events: usize) -> Result<Mood, Response> {
    let mood = {
        let mut books = inner.books();
        let mood = books.mood;
        books.ledger.moody += usize::from(mood != Mood::Fair);
        books.ledger.turned_away += if matches!(mood, Mood::Busy | Mood::Down) { events } else { 0 };
        mood
    };
    match mood {
        Mood::Busy => Err((StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]).into_response()),
        Mood::Down => Err(StatusCode::SERVICE_UNAVAILABLE.into_response()),
        Mood::Slow => {
            tokio::time::sleep(SLOW).await;
            Ok(mood)
        }
        Mood::Fair | Mood::Mute | Mood::Lying => Ok(mood),
    }
}

/// The answer to something that was applied.
async fn answer(mood: Mood, good: Response) -> Response {
    match mood {
        Mood::Mute => {
            tokio::time::sleep(FOR_EVER).await;
            good
        }
        Mood::Lying => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        _ => good,
    }
}

async fn receive(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> Response {
    if headers.contains_key("orderflow-epoch") {
        return apply_batch(&inner, &headers, &body).await;
    }
    let mood = match endure(&inner, 1).await {
        Ok(mood) => mood,
        Err(answer) => return answer,
    };
    inner.linger(1).await;
    match inner.read(&body) {
        Ok(applied) => {
            let mut books = inner.books();
            books.ledger.unacknowledged += usize::from(matches!(mood, Mood::Mute | Mood::Lying));
            books.ledger.applied.push(applied);
        }
        Err(refusal) => return refusal.into_response(),
    }
    answer(mood, StatusCode::NO_CONTENT.into_response()).await
}

async fn apply_batch(inner: &Inner, headers: &HeaderMap, body: &[u8]) -> Response {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.parse::<i64>().ok();
    let (Some(partition), Some(epoch), Some(place), Some(next), Ok(events)) = (
        number("orderflow-partition").and_then(|partition| i32::try_from(partition).ok()),
        number("orderflow-epoch"),
        number("orderflow-place"),
        number("orderflow-next"),
        serde_json::from_slice::<Vec<Event<'_>>>(body),
    ) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let mood = match endure(inner, events.len()).await {
        Ok(mood) => mood,
        Err(answer) => return answer,
    };
    inner.linger(events.len()).await;
    let read: Result<Vec<Applied>, StatusCode> = events
        .iter()
        .filter(|event| !event.id.is_empty())
        .map(|event| inner.read(event.data.get().as_bytes()))
        .collect();
    {
        let mut books = inner.books();
        match books.places.get(&partition).copied() {
            Some((known, at)) if known == epoch && at == place => {}
            Some((known, at)) => return conflict(known, at),
            None => return conflict(0, 0),
        }
        let applied = match read {
            Ok(applied) => applied,
            Err(refusal) => return refusal.into_response(),
        };
        books.ledger.unacknowledged +=
            if matches!(mood, Mood::Mute | Mood::Lying) { applied.len() } else { 0 };
        books.ledger.applied.extend(applied);
        books.places.insert(partition, (epoch, next));
    }
    answer(mood, StatusCode::NO_CONTENT.into_response()).await
}

fn conflict(epoch: i64, next: i64) -> Response {
    (StatusCode::CONFLICT, axum::Json(json!({"epoch": epoch, "next": next}))).into_response()
}

async fn claim(State(inner): State<Arc<Inner>>, headers: HeaderMap) -> Response {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(partition), Some(begin)) = (
        text("orderflow-partition").and_then(|text| text.parse::<i32>().ok()),
        text("orderflow-begin").and_then(|text| text.parse::<i64>().ok()),
    ) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let mood = match endure(&inner, 0).await {
        Ok(mood) => mood,
        Err(answer) => return answer,
    };
    let (epoch, next) = {
        let mut books = inner.books();
        let known = books.places.get(&partition).copied();
        let epoch = known.map_or(0, |(epoch, _)| epoch) + 1;
        let next = known.map_or(begin, |(_, next)| next);
        books.places.insert(partition, (epoch, next));
        (epoch, next)
    };
    answer(mood, axum::Json(json!({"epoch": epoch, "next": next})).into_response()).await
}
