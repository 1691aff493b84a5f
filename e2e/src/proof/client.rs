//! One call of a client, and what its answer means for the ledger.

pub mod read;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use order_events::OrderStatus;
use reqwest::header::{IF_MATCH, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::ledger::{Action, Answer, Outcome, Purchase, Verb};

/// The header of an answer that was given before.
const REPLAYED: &str = "idempotent-replayed";
/// Longest wait for an answer: longer than the service's own bound of 3 s, so that mostly the service gives up first.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Stands for the word of a refusal whose body did not come in full, as from a replica that was killed in mid-answer.
pub const CUT_OFF: &str = "cut-off";

/// Makes calls.
#[derive(Clone, Debug)]
pub struct Caller {
    http: reqwest::Client,
    /// Base URLs of the replicas.
    bases: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    order_id: Uuid,
    version: i64,
    status: OrderStatus,
    total_minor: i64,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(rename = "type")]
    kind: String,
}

impl Caller {
    /// A caller of the replicas at these base URLs.
    ///
    /// # Errors
    /// When the HTTP client can't be built.
    pub fn new(bases: Vec<String>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build()?;
        Ok(Self { http, bases })
    }

    /// How many replicas there are.
    #[must_use]
    pub fn replicas(&self) -> usize {
        self.bases.len()
    }

    /// Makes the call, once.
    pub async fn call(&self, replica: usize, action: &Action) -> Outcome {
        let base = &self.bases[replica];
        let request = match action {
            Action::Create(Purchase { user, key, lines, coupon }) => {
                let items: Vec<_> = lines
                    .iter()
                    .map(|(product, units)| json!({"productId": product, "quantity": units}))
                    .collect();
                let body = json!({"userId": user, "items": items, "couponCode": coupon});
                let request = self.http.post(format!("{base}/orders")).json(&body);
                match key {
                    Some(key) => request.header("idempotency-key", key),
                    None => request,
                }
            }
            Action::Change { order, to, at } => {
                let request = self.http.post(match to {
                    Verb::Confirm => format!("{base}/orders/{order}/confirm"),
                    Verb::Cancel => format!("{base}/orders/{order}/cancel"),
                });
                match at {
                    Some(version) => request.header(IF_MATCH, format!("\"{version}\"")),
                    None => request,
                }
            }
        };
        match request.send().await {
            Ok(response) => outcome(response).await,
            // Nobody was there to be asked.
            Err(error) if error.is_connect() => Outcome::Refused { status: 0, problem: "connect".to_owned() },
            Err(error) => Outcome::Unknown { status: 0, why: format!("{:#}", anyhow::Error::new(error)) },
        }
    }
}

async fn outcome(response: Response) -> Outcome {
    let status = response.status();
    let invites_repetition = response.headers().contains_key(RETRY_AFTER);
    let replayed = response.headers().contains_key(REPLAYED);
    let body = match response.bytes().await {
        Ok(body) => body,
        // A refusal's status says it all; a success without its body does not say which order.
        Err(_) if status.is_client_error() => {
            return Outcome::Refused { status: status.as_u16(), problem: CUT_OFF.to_owned() };
        }
        Err(error) => return Outcome::Unknown { status: status.as_u16(), why: error.to_string() },
    };
    if status.is_success() {
        return match serde_json::from_slice::<Order>(&body) {
            Ok(Order { order_id, version, status, total_minor }) => {
                let mut hasher = DefaultHasher::new();
                body.hash(&mut hasher);
                let (order, body) = (order_id, hasher.finish());
                Outcome::Ok(Answer { order, version, status, total_minor, body, replayed })
            }
            Err(error) => Outcome::Unknown { status: status.as_u16(), why: error.to_string() },
        };
    }
    let problem = serde_json::from_slice::<Problem>(&body)
        .map_or_else(|_| "unreadable".to_owned(), |problem| last_word(&problem.kind));
    // By the API's own word only a 503 with Retry-After has changed nothing.
    let refused =
        status.is_client_error() || (status == StatusCode::SERVICE_UNAVAILABLE && invites_repetition);
    if refused {
        Outcome::Refused { status: status.as_u16(), problem }
    } else {
        Outcome::Unknown { status: status.as_u16(), why: problem }
    }
}

fn last_word(kind: &str) -> String {
    kind.rsplit(':').next().unwrap_or_default().to_owned()
}
