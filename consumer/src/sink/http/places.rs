//! Exactly once over HTTP: a sink that keeps the group's places with what it applies. The contract is in `docs/sinks.md`.

use std::collections::BTreeMap;

use reqwest::header::CONTENT_TYPE;
use reqwest::{RequestBuilder, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{HttpSink, KAFKA_PREFIX, MAX_ANSWER_BYTES, MAX_ATTRIBUTES, classify, retry_after, verdict};
use crate::sink::{Applied, Claimed, Decoded, NO_PLACES, SinkError};

const BATCH: &str = "application/cloudevents-batch+json";

/// What the sink says of a place.
#[derive(Clone, Copy, Deserialize, Debug)]
struct Place {
    /// Rises with every claim.
    epoch: i64,
    /// The offset that comes next.
    next: i64,
}

/// An event in CloudEvents' JSON format: attributes beside the payload, whose bytes stay as they are.
#[derive(Serialize)]
struct CloudEvent<'a> {
    #[serde(flatten)]
    attributes: BTreeMap<&'a str, String>,
    datacontenttype: &'static str,
    data: &'a RawValue,
}

impl HttpSink {
    pub(super) async fn take_place(&self, partition: i32, begin: i64) -> Result<Claimed, SinkError> {
        let request = self.named(self.client.put(self.url.clone()), partition);
        let response =
            request.header("orderflow-begin", begin).send().await.map_err(|error| classify(&error))?;
        verdict(response.status(), retry_after(response.headers()))?;
        let Place { epoch, next } = read_place(response).await?;
        Ok(Claimed { partition, epoch, place: next })
    }

    pub(super) async fn move_place(
        &self,
        claimed: &Claimed,
        batch: &[Decoded],
        until: i64,
    ) -> Result<Applied, SinkError> {
        let events = batch.iter().map(cloud_event).collect::<Result<Vec<_>, _>>()?;
        let body =
            serde_json::to_vec(&events).map_err(|error| SinkError::rejected("Request", error.to_string()))?;
        let request = self.named(self.client.post(self.url.clone()), claimed.partition);
        let request = request
            .header(CONTENT_TYPE, BATCH)
            .header("orderflow-epoch", claimed.epoch)
            .header("orderflow-place", claimed.place)
            .header("orderflow-next", until)
            .body(body);
        let response = request.send().await.map_err(|error| classify(&error))?;
        if response.status() != StatusCode::CONFLICT {
            let (status, retry_after) = (response.status(), retry_after(response.headers()));
            super::read_to_end(response).await;
            return verdict(status, retry_after).map(|()| Applied::Moved);
        }
        let Place { epoch, next } = read_place(response).await?;
        Ok(if epoch == claimed.epoch { Applied::Found(next) } else { Applied::Fenced })
    }

    pub(super) fn named(&self, request: RequestBuilder, partition: i32) -> RequestBuilder {
        request
            .header("orderflow-group", &self.group)
            .header("orderflow-topic", &self.topic)
            .header("orderflow-partition", partition)
    }
}

/// An answer that says no place is not one of a sink that keeps places: an outage, until somebody mends the sink or the group.
async fn read_place(mut response: reqwest::Response) -> Result<Place, SinkError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| classify(&error))? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER_BYTES {
            break;
        }
    }
    serde_json::from_slice(&body).map_err(|error| {
        SinkError::unavailable(
            NO_PLACES,
            format!("the sink does not keep places as docs/sinks.md says: {error}"),
        )
    })
}

fn cloud_event(Decoded { record, event }: &Decoded) -> Result<CloudEvent<'_>, SinkError> {
    let refused = |error: &dyn std::fmt::Display| SinkError::rejected("Request", error.to_string());
    let named = record.named_headers().map_err(|error| refused(&error))?;
    let mut attributes = BTreeMap::new();
    let ours = named.into_iter().filter_map(|(name, value)| Some((name.strip_prefix(KAFKA_PREFIX)?, value)));
    for (attribute, value) in ours.filter(|(name, _)| !name.starts_with("data")).take(MAX_ATTRIBUTES) {
        attributes.insert(attribute, String::from_utf8_lossy(value).into_owned());
    }
    attributes.insert("id", event.event_id.to_string());
    let data = serde_json::from_slice(record.value.as_deref().unwrap_or_default());
    Ok(CloudEvent {
        attributes,
        datacontenttype: "application/json",
        data: data.map_err(|error| SinkError::rejected("NotUtf8", error.to_string()))?,
    })
}

#[cfg(test)]
mod tests {
    use rdkafka::message::{Header, OwnedHeaders};

    use super::*;
    use crate::record::tests::{event, record};

    #[test]
    fn headers_that_are_no_attributes_take_no_attributes_place() {
        let event = event(1);
        let mut record = record(&event, 3);
        let others = (0..2 * MAX_ATTRIBUTES).fold(OwnedHeaders::new(), |headers, nth| {
            headers.insert(Header { key: &format!("trace-{nth}"), value: Some("x") })
        });
        let named = record.named_headers().expect("named");
        record.headers = named
            .into_iter()
            .fold(others, |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        let decoded = Decoded { record, event };
        let cloud_event = cloud_event(&decoded).expect("valid");
        assert_eq!(cloud_event.attributes["type"], "dev.orderflow.OrderCreated.v1");
    }

    #[test]
    fn a_batch_holds_attributes_and_the_payload_as_it_was() {
        let event = event(1);
        let record = record(&event, 3);
        let payload = String::from_utf8(record.value.clone().expect("a value").to_vec()).expect("text");
        let decoded = Decoded { record, event };
        let text = serde_json::to_string(&cloud_event(&decoded).expect("valid")).expect("encodes");
        assert!(text.contains(&format!("\"data\":{payload}")), "{text}");
        let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read["id"], decoded.event.event_id.to_string());
        assert_eq!(read["specversion"], "1.0");
    }
}
