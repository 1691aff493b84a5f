//! The order API as a client sees it.

use std::time::Duration;

use order_events::OrderId;
use serde::Deserialize;
use serde_json::json;

/// Longest that a client waits for one answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A client of the order service.
#[derive(Clone, Debug)]
pub struct OrderApi {
    base: String,
    http: reqwest::Client,
}

/// How a call ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// 201: the order is taken.
    Accepted(OrderId),
    /// A definite no, with its status.
    Refused(u16),
    /// No answer: the order may or may not have been taken.
    Unknown(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Taken {
    order_id: OrderId,
}

impl OrderApi {
    /// A client of the service at `base`, such as `http://127.0.0.1:8080`.
    ///
    /// # Errors
    /// When the HTTP client can't be built.
    pub fn new(base: &str) -> anyhow::Result<Self> {
        // reqwest wants a TLS provider even where no TLS is spoken.
        runtime::tls::install_provider();
        let http = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).no_proxy().build()?;
        Ok(Self { base: base.to_owned(), http })
    }

    /// Posts an order of one unit of `product`.
    pub async fn create(&self, user: &str, product: &str, coupon: Option<&str>) -> Outcome {
        let body =
            json!({"userId": user, "items": [{"productId": product, "quantity": 1}], "couponCode": coupon});
        let answer = match self.http.post(format!("{}/orders", self.base)).json(&body).send().await {
            Ok(answer) => answer,
            Err(error) => return Outcome::Unknown(error.to_string()),
        };
        let status = answer.status().as_u16();
        if status != 201 {
            return Outcome::Refused(status);
        }
        match answer.json::<Taken>().await {
            Ok(taken) => Outcome::Accepted(taken.order_id),
            Err(error) => Outcome::Unknown(error.to_string()),
        }
    }

    /// Posts to `/orders/{id}/{verb}`, where the verb is `confirm` or `cancel`; true when it was done.
    pub async fn change(&self, order: OrderId, verb: &str) -> bool {
        let url = format!("{}/orders/{order}/{verb}", self.base);
        self.http.post(url).send().await.is_ok_and(|answer| answer.status().is_success())
    }

    /// Sends `body` as it is and returns status, content type and answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn post_raw(
        &self,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<(u16, String, String)> {
        let request = self.http.post(format!("{}{path}", self.base)).header("content-type", content_type);
        let answer = request.body(body).send().await?;
        let status = answer.status().as_u16();
        let header =
            answer.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = header.to_owned();
        Ok((status, kind, answer.text().await?))
    }
}
