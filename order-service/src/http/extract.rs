//! From the parts of a request to values, with a problem for each way in which they may be wrong.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use order_events::OrderId;
use serde::de::DeserializeOwned;

use super::problem::ApiError;
use crate::domain::IdempotencyKey;
use crate::store::orders::Expected;

/// Name of the header by which a repeated request is known.
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// The body as JSON of exactly the type's fields.
#[derive(Clone, Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(JsonRejection::MissingJsonContentType(_)) => Err(ApiError::ContentType),
            Err(JsonRejection::JsonDataError(error)) => Err(ApiError::Shape(error.body_text())),
            Err(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(ApiError::BodyTooLarge),
            Err(error) => Err(ApiError::Malformed(error.body_text())),
        }
    }
}

/// The order id in the path.
#[derive(Clone, Copy, Debug)]
pub struct OrderPath(pub OrderId);

impl<S: Send + Sync> FromRequestParts<S> for OrderPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let PathText(text) = PathText::from_request_parts(parts, state).await?;
        let id = text
            .parse()
            .map_err(|_| ApiError::BadParameter("the order id in the path must be a UUID".to_owned()))?;
        Ok(Self(id))
    }
}

/// The one variable segment of the path, as text.
#[derive(Clone, Debug)]
pub struct PathText(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathText {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|error| ApiError::BadParameter(error.body_text()))?;
        Ok(Self(text))
    }
}

/// The query, of exactly the type's fields.
#[derive(Clone, Debug)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(params) = Query::<T>::from_request_parts(parts, state)
            .await
            .map_err(|error| ApiError::BadParameter(error.body_text()))?;
        Ok(Self(params))
    }
}

/// The versions that `If-Match` names; without the header, any.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IfMatch(pub Expected);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let mut versions = Vec::new();
        let mut headers = parts.headers.get_all(header::IF_MATCH).iter().peekable();
        if headers.peek().is_none() {
            return Ok(Self(Expected::Any));
        }
        for value in headers {
            let text = value.to_str().map_err(|_| malformed_if_match())?.trim();
            if text == "*" {
                return Ok(Self(Expected::Any));
            }
            versions.extend(parse_tags(text).ok_or_else(malformed_if_match)?);
        }
        Ok(Self(Expected::OneOf(versions)))
    }
}

/// The versions in a list of entity tags of ours, which commas part unless they stand within quotes (RFC 9110, 8.8.3). A tag of
/// another form is well-formed but names no version of ours: it is 0, which no order has, and so is a weak tag, since `If-Match`
/// compares strongly (RFC 9110, 13.1.1).
fn parse_tags(text: &str) -> Option<Vec<i64>> {
    let (mut versions, mut rest) = (Vec::new(), text);
    loop {
        let tag = rest.trim_start();
        let (weak, opaque) = tag.strip_prefix("W/").map_or((false, tag), |opaque| (true, opaque));
        let (version, after) = opaque.strip_prefix('"')?.split_once('"')?;
        // Strong comparison is by the bytes: "01" and "+1" are not the tag of version 1.
        let named = version.parse().ok().filter(|named: &i64| !weak && named.to_string() == version);
        versions.push(named.unwrap_or(0));
        match after.trim() {
            "" => return Some(versions),
            more => rest = more.strip_prefix(',')?,
        }
    }
}

fn malformed_if_match() -> ApiError {
    ApiError::BadParameter("If-Match must be * or a list of entity tags such as \"1\"".to_owned())
}

/// The request's `Idempotency-Key`, if it has one: the key as it is, or as a quoted string of RFC 8941.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyHeader(pub Option<IdempotencyKey>);

impl<S: Send + Sync> FromRequestParts<S> for KeyHeader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let mut headers = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(value) = headers.next() else { return Ok(Self(None)) };
        let refused = |problem| ApiError::BadParameter(format!("{IDEMPOTENCY_KEY}: {problem}"));
        if headers.next().is_some() {
            return Err(refused("may stand once in a request".to_owned()));
        }
        // What is no text can't be visible ASCII: it fails as an empty key does.
        let text = value.to_str().ok().and_then(|text| unquoted(text.trim())).unwrap_or_default();
        let key = IdempotencyKey::parse(IDEMPOTENCY_KEY, text);
        key.map(|key| Self(Some(key))).map_err(|violation| refused(violation.problem))
    }
}

/// The content of a quoted string, or a text without quotes around it as it is.
fn unquoted(text: &str) -> Option<String> {
    let Some(rest) = text.strip_prefix('"') else { return Some(text.to_owned()) };
    let mut content = String::with_capacity(rest.len());
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return chars.as_str().is_empty().then_some(content),
            '\\' => content.push(chars.next().filter(|escaped| ['"', '\\'].contains(escaped))?),
            plain => content.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http;

    use super::*;

    async fn if_match(values: &[&str]) -> Option<Expected> {
        let mut request = http::Request::builder();
        for value in values {
            request = request.header(header::IF_MATCH, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        IfMatch::from_request_parts(&mut parts, &()).await.ok().map(|IfMatch(expected)| expected)
    }

    #[tokio::test]
    async fn if_match_names_versions_by_strong_tags() {
        let one_of = |versions: &[i64]| Some(Expected::OneOf(versions.to_vec()));
        assert_eq!(if_match(&[]).await, Some(Expected::Any));
        assert_eq!(if_match(&["*"]).await, Some(Expected::Any));
        assert_eq!(if_match(&["\"1\""]).await, one_of(&[1]));
        assert_eq!(if_match(&["\"1\", \"2\"", "\"3\""]).await, one_of(&[1, 2, 3]));
        assert_eq!(if_match(&["W/\"1\""]).await, one_of(&[0]));
        assert_eq!(if_match(&["\"another\""]).await, one_of(&[0]));
        assert_eq!(if_match(&["\"01\", \"+1\""]).await, one_of(&[0, 0]));
        assert_eq!(
            if_match(&["\"a, b\" , \"2\""]).await,
            one_of(&[0, 2]),
            "a comma within quotes parts nothing"
        );
        for malformed in ["1", "\"1", "", "\"1\"\"2\"", "\"1\",", "\"1\" \"2\""] {
            assert_eq!(if_match(&[malformed]).await, None, "{malformed}");
        }
    }

    async fn key(values: &[&[u8]]) -> Result<Option<String>, String> {
        let mut request = http::Request::builder();
        for value in values {
            request = request.header(IDEMPOTENCY_KEY, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let key = KeyHeader::from_request_parts(&mut parts, &()).await;
        key.map(|KeyHeader(key)| key.map(|key| key.as_str().to_owned())).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn an_idempotency_key_is_plain_or_quoted() {
        assert_eq!(key(&[]).await, Ok(None));
        for (value, content) in
            [("abc-1", "abc-1"), ("\"abc-1\"", "abc-1"), ("\"a\\\"b\\\\\"", "a\"b\\"), ("a\"b", "a\"b")]
        {
            assert_eq!(key(&[value.as_bytes()]).await, Ok(Some(content.to_owned())), "{value}");
        }
    }

    #[tokio::test]
    async fn a_bad_idempotency_key_is_refused_by_name() {
        let long = "x".repeat(256);
        for bad in
            ["", "\"\"", "\"abc", "\"a\"b", "\"a\"; q=1", "\"a\\b\"", "a b", "\"a b\"", "\u{e4}", &long]
        {
            let error = key(&[bad.as_bytes()]).await.unwrap_err();
            assert!(error.starts_with("Idempotency-Key: "), "{bad:?}: {error}");
        }
        assert!(key(&[b"a", b"a"]).await.is_err());
        assert!(key(&[b"\xff"]).await.is_err());
    }
}
