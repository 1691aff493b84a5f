//! The `http` sink: one POST per event, in CloudEvents' HTTP binary mode.

mod places;

use std::fmt::Write as _;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url, redirect};

use super::{Applied, Claimed, Decoded, Sink, SinkError};

/// A sink that does not accept a connection within this is down; its answer may take longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Posts at once for one partition, at most: beyond it a sink gains nothing and this process holds too many connections.
const MOST_POSTS: usize = 256;
/// Most events of a batch: beyond some hundred a batch saves nothing more and only takes a sink longer. In bytes it is bound by
/// what a partition may have in hand (4 MiB).
const MOST_OF_A_BATCH: usize = 500;
/// Most CloudEvents attributes passed on. Ours has eight; servers refuse header blocks of more than some kilobytes,
/// and a hostile record may carry thousands.
const MAX_ATTRIBUTES: usize = 64;
/// An answer's body is read up to here, so that its connection can be used again; a longer one costs a new
/// connection instead of memory.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Prefix of CloudEvents attributes in a record's headers (Kafka binding §3.2.3.1).
const KAFKA_PREFIX: &str = "ce_";

/// Kind of [`SinkError`]: what is asked there does not do what it is asked for.
pub(super) const NOT_AN_ENDPOINT: &str = "NotAnEndpoint";

/// One POST per event.
#[derive(Debug)]
pub struct HttpSink {
    client: Client,
    url: Url,
    group: String,
    topic: String,
    timeout: Duration,
}

/// Why the sink could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("failed to set up the HTTP client")]
pub struct BadHttpClient(#[source] reqwest::Error);

impl HttpSink {
    /// A sink that posts to `url`, for `group` and `topic`, and waits up to `timeout` for an answer.
    ///
    /// # Errors
    /// When no client can be made, such as without a TLS provider.
    pub fn new(url: Url, timeout: Duration, group: &str, topic: &str) -> Result<Self, BadHttpClient> {
        let client = Client::builder()
            .timeout(timeout)
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirected POST may turn into a GET, and 2xx would then mean that nothing was applied.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("orderflow-consumer/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(BadHttpClient)?;
        Ok(Self { client, url, group: group.to_owned(), topic: topic.to_owned(), timeout })
    }

    async fn post(&self, decoded: &Decoded) -> Result<(), SinkError> {
        let request = self.client.post(self.url.clone()).headers(headers_of(decoded)?);
        let request = self
            .named(request, decoded.record.partition)
            .body(decoded.record.value.clone().unwrap_or_default());
        let response = request.send().await.map_err(|error| classify(&error))?;
        let (status, retry_after) = (response.status(), retry_after(response.headers()));
        read_to_end(response).await;
        verdict(status, retry_after)
    }
}

impl Sink for HttpSink {
    fn batch_limit(&self) -> usize {
        1
    }

    fn patience(&self) -> Duration {
        self.timeout
    }

    fn apply_limit(&self) -> usize {
        MOST_OF_A_BATCH
    }

    fn lanes(&self) -> usize {
        MOST_POSTS
    }

    fn deliver<'a>(&'a self, batch: &'a [Decoded]) -> BoxFuture<'a, Result<(), SinkError>> {
        async move {
            for decoded in batch {
                self.post(decoded).await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn claim(&self, partition: i32, begin: i64) -> BoxFuture<'_, Result<Claimed, SinkError>> {
        self.take_place(partition, begin).boxed()
    }

    fn apply<'a>(
        &'a self,
        claimed: &'a Claimed,
        batch: &'a [Decoded],
        until: i64,
    ) -> BoxFuture<'a, Result<Applied, SinkError>> {
        self.move_place(claimed, batch, until).boxed()
    }
}

/// What an answer's status means. 2xx: applied. 408, 425, 429 and 5xx: not now. 401, 403, 404, 405, 407 and 501 tell of wrong
/// credentials or a wrong URL, as does anything outside 2xx, 4xx and 5xx: they concern every event, and dead-lettering
/// them all would not mend it. Other 4xx: this event, never.
fn verdict(status: StatusCode, retry_after: Option<Duration>) -> Result<(), SinkError> {
    let message = format!("HTTP status {}", status.as_u16());
    match status.as_u16() {
        200..=299 => Ok(()),
        429 => Err(SinkError::Unavailable { kind: "TooManyRequests", message, retry_after }),
        408 | 425 | 500 | 502..=599 => {
            Err(SinkError::Unavailable { kind: "ServerError", message, retry_after })
        }
        401 | 403 | 407 => Err(SinkError::unavailable("NotAuthorized", message)),
        404 | 405 | 501 => Err(SinkError::unavailable(NOT_AN_ENDPOINT, message)),
        400..=499 => Err(SinkError::rejected("ClientError", message)),
        _ => Err(SinkError::unavailable(NOT_AN_ENDPOINT, message)),
    }
}

fn classify(error: &reqwest::Error) -> SinkError {
    // The URL may carry a token; the error's text must not.
    let mut message = String::from("no answer");
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        // Writing to a String does not fail.
        let _ = write!(message, ": {inner}");
        cause = inner.source();
    }
    if error.is_timeout() {
        SinkError::unavailable("Timeout", message)
    } else if error.is_connect() {
        SinkError::unavailable("Connect", message)
    } else if error.is_builder() {
        SinkError::rejected("Request", message)
    } else {
        SinkError::unavailable("Connection", message)
    }
}

/// `Retry-After`, as seconds or as a date (RFC 9110 §10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    Duration::try_from(date.timestamp().duration_since(jiff::Timestamp::now())).ok()
}

async fn read_to_end(mut response: Response) {
    let mut read = 0;
    // The status has decided already; a body that breaks off changes nothing.
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > MAX_ANSWER_BYTES {
            return;
        }
    }
}

fn headers_of(Decoded { record, event }: &Decoded) -> Result<HeaderMap, SinkError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let key = HeaderValue::from_str(&event.event_id.to_string())
        .map_err(|error| SinkError::rejected("Request", error.to_string()))?;
    headers.insert(HeaderName::from_static("idempotency-key"), key);
    let named = record.named_headers().map_err(|error| SinkError::rejected("Request", error.to_string()))?;
    let attributes =
        named.into_iter().filter_map(|(name, value)| Some((name.strip_prefix(KAFKA_PREFIX)?, value)));
    for (attribute, value) in attributes.take(MAX_ATTRIBUTES) {
        // A name that HTTP can't carry is not a CloudEvents attribute either.
        if let (Ok(name), Ok(value)) =
            (HeaderName::try_from(format!("ce-{attribute}")), HeaderValue::try_from(percent_encoded(value)))
        {
            headers.insert(name, value);
        }
    }
    Ok(headers)
}

/// An attribute's value as CloudEvents' HTTP binding §3.1.3.2 wants it: printable ASCII but for space, `"` and `%`
/// as it is, every other byte as `%XX`.
fn percent_encoded(value: &[u8]) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value {
        match byte {
            b'"' | b'%' | 0..=b' ' | 0x7f.. => {
                // Writing to a String does not fail.
                let _ = write!(text, "%{byte:02X}");
            }
            _ => text.push(char::from(*byte)),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{event, record};
    use rdkafka::message::Header;

    #[test]
    fn every_status_means_one_thing() {
        for code in 100..=999 {
            let Ok(status) = StatusCode::from_u16(code) else { continue };
            let verdict = verdict(status, None);
            match code {
                200..=299 => assert!(verdict.is_ok(), "{code}"),
                401 | 403 | 404 | 405 | 407 | 408 | 425 | 429 => {
                    assert!(matches!(verdict, Err(SinkError::Unavailable { .. })), "{code}");
                }
                400..=499 => assert!(matches!(verdict, Err(SinkError::Rejected { .. })), "{code}"),
                _ => assert!(matches!(verdict, Err(SinkError::Unavailable { .. })), "{code}"),
            }
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let asked = |text: &str| {
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(text).expect("ASCII"))]))
        };
        assert_eq!(asked("120"), Some(Duration::from_secs(120)));
        assert!(
            asked("Fri, 31 Dec 2100 23:59:59 GMT").is_some_and(|wait| wait > Duration::from_secs(86_400))
        );
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT"), None, "the past asks for nothing");
        assert_eq!(asked("soon"), None);
    }

    #[test]
    fn attributes_become_headers_and_the_event_id_the_idempotency_key() {
        let event = event(1);
        let mut record = record(&event, 0);
        record.headers = record
            .headers
            .insert(Header { key: "ce_shop", value: Some("Zoë's \"100%\"") })
            .insert(Header { key: "ce_not a name", value: Some("x") })
            .insert(Header { key: "internal", value: Some("stays here") });
        let id = event.event_id.to_string();
        let headers = headers_of(&Decoded { record, event }).expect("headers");
        assert_eq!(headers["ce-id"], id.as_str());
        assert_eq!(headers["ce-type"], "dev.orderflow.OrderCreated.v1");
        assert_eq!(headers["idempotency-key"], id.as_str());
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["ce-shop"], "Zo%C3%AB's%20%22100%25%22");
        assert!(!headers.contains_key("internal"));
    }

    #[test]
    fn a_record_with_thousands_of_attributes_is_cut_not_a_crash() {
        let event = event(1);
        let mut record = record(&event, 0);
        for index in 0..40_000 {
            record.headers = record.headers.insert(Header { key: &format!("ce_x{index}"), value: Some("x") });
        }
        let headers = headers_of(&Decoded { record, event }).expect("headers");
        assert!(headers.len() <= MAX_ATTRIBUTES + 2);
    }
}
