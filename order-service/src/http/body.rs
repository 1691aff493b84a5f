//! Reads a request's body before anything answers, so that the answer always arrives.

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;

use super::problem::ApiError;

/// How much of a body that is too large is read and thrown away, in bytes. A server that answers and closes while its
/// client still writes makes the client's kernel drop the answer; beyond this, sparing the network is worth more.
const MAX_DISCARDED_BYTES: u64 = 8 * 1024 * 1024;

/// Most bytes that a router's bodies may have.
#[derive(Clone, Copy, Debug)]
pub struct MaxBytes(pub usize);

/// Hands the request on with its whole body in memory, or refuses one that is too large.
pub async fn buffer(State(MaxBytes(limit)): State<MaxBytes>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match read(body, limit).await {
        Ok(bytes) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Err(error) => error.into_response(),
    }
}

async fn read(body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    if body.size_hint().lower() > MAX_DISCARDED_BYTES {
        return Err(ApiError::BodyTooLarge);
    }
    let mut chunks = body.into_data_stream();
    let (mut bytes, mut size) = (Vec::new(), 0_u64);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::Malformed(format!("the body broke off: {error}")))?;
        size += chunk.len() as u64;
        if size > MAX_DISCARDED_BYTES {
            return Err(ApiError::BodyTooLarge);
        }
        if size <= limit as u64 {
            bytes.extend_from_slice(&chunk);
        }
    }
    if size > limit as u64 { Err(ApiError::BodyTooLarge) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn size_of(bytes: usize, limit: usize) -> Option<usize> {
        read(Body::from(vec![b' '; bytes]), limit).await.ok().map(|bytes| bytes.len())
    }

    #[tokio::test]
    async fn a_body_up_to_the_limit_is_kept_and_a_larger_one_refused() {
        assert_eq!(size_of(0, 10).await, Some(0));
        assert_eq!(size_of(10, 10).await, Some(10));
        assert_eq!(size_of(11, 10).await, None);
    }
}
