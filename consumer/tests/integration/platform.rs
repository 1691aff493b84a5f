//! A data platform: an HTTP server that writes down what it gets and answers as the test says.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

/// What the platform was sent.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) idempotency_key: String,
    pub(crate) body: Vec<u8>,
    pub(crate) headers: wiremock::http::HeaderMap,
}

/// What it answers: a status, after a while.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer(pub(crate) u16, pub(crate) Duration);

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self(status, Duration::ZERO)
    }
}

type Rule = Box<dyn Fn(&Received) -> Answer + Send + Sync>;

pub(crate) struct Platform {
    server: MockServer,
    state: Arc<State>,
}

struct State {
    received: Mutex<Vec<Received>>,
    rule: Mutex<Rule>,
}

impl Platform {
    /// One that answers every request by `rule`.
    pub(crate) async fn answering(rule: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        let state = Arc::new(State { received: Mutex::default(), rule: Mutex::new(Box::new(rule)) });
        let server = MockServer::start().await;
        Mock::given(any()).respond_with(Recorder(Arc::clone(&state))).mount(&server).await;
        Self { server, state }
    }

    /// From now on it answers by `rule`.
    pub(crate) fn answer(&self, rule: impl Fn(&Received) -> Answer + Send + Sync + 'static) {
        *self.state.rule.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(rule);
    }

    pub(crate) fn url(&self) -> String {
        format!("{}/events", self.server.uri())
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Idempotency keys in the order in which they came.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.received().into_iter().map(|received| received.idempotency_key).collect()
    }
}

struct Recorder(Arc<State>);

impl Respond for Recorder {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let key = request.headers.get("idempotency-key").and_then(|value| value.to_str().ok());
        let received = Received {
            idempotency_key: key.unwrap_or_default().to_owned(),
            body: request.body.clone(),
            headers: request.headers.clone(),
        };
        let Answer(status, delay) = self.0.rule.lock().unwrap_or_else(PoisonError::into_inner)(&received);
        self.0.received.lock().unwrap_or_else(PoisonError::into_inner).push(received);
        ResponseTemplate::new(status).set_delay(delay)
    }
}
