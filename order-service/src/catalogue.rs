//! The catalogue on the admin port: products and coupons, loaded by the shop and never by its customers.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_request};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

use crate::domain::money::MAX_PRICE_MINOR;
use crate::domain::{CouponCode, CouponTerms, ProductId, Violation};
use crate::http::body::{self, MaxBytes};
use crate::http::extract::{Body, PathText};
use crate::http::problem::ApiError;
use crate::store::catalogue::{self, Coupon, Product};

/// Largest catalogue in one request, in bytes; a larger one is loaded in parts.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
/// Longest time for an answer: a full catalogue takes a second or two, and locks that orders hold some more.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Most units in stock, and most uses of a coupon: far beyond any shop, far below an overflow.
const MAX_COUNT: i64 = 1_000_000_000_000;

/// The catalogue's routes.
pub fn routes(pool: PgPool) -> Router {
    Router::new()
        .route("/catalogue", put(load))
        .route("/products/{id}", get(product))
        .route("/coupons/{code}", get(coupon))
        .fallback(async || ApiError::NoSuchRoute)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(MaxBytes(MAX_BODY_BYTES), body::buffer))
        .layer(map_request(assume_json))
        .layer(from_fn(in_time))
        .with_state(pool)
}

async fn in_time(request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, next.run(request)).await;
    answer.unwrap_or_else(|_| ApiError::TimedOut.into_response())
}

/// `kubectl replace --raw`, which is how a shop reaches this port from outside, names no content type.
async fn assume_json(mut request: Request) -> Request {
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().entry(header::CONTENT_TYPE).or_insert(json);
    request
}

/// Products and coupons to load.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Catalogue {
    /// Products; those that exist get the new price and stock.
    #[serde(default)]
    pub products: Vec<ProductEntry>,
    /// Coupons; those that exist get the new terms and limit, and keep their number of uses.
    #[serde(default)]
    pub coupons: Vec<CouponEntry>,
}

/// A product.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProductEntry {
    /// Its id.
    pub product_id: String,
    /// Price of one unit, in minor units.
    pub price_minor: i64,
    /// Units in stock.
    pub stock: i64,
}

/// A coupon: one of `percent_off` and `amount_off_minor` is set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CouponEntry {
    /// Its code.
    pub code: String,
    /// Percent off, 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent_off: Option<u8>,
    /// Minor units off, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount_off_minor: Option<i64>,
    /// How often it may be used.
    pub max_uses: i64,
}

/// A coupon and how often it was used.
#[derive(Clone, Debug, Serialize)]
struct CouponState {
    #[serde(flatten)]
    entry: CouponEntry,
    used: i64,
}

/// How much was loaded.
#[derive(Clone, Copy, Debug, Serialize)]
struct Loaded {
    products: usize,
    coupons: usize,
}

async fn load(
    State(pool): State<PgPool>,
    body: Result<Body<Catalogue>, ApiError>,
) -> Result<Json<Loaded>, ApiError> {
    let Body(catalogue) = body?;
    let (products, coupons) = parse(catalogue).map_err(ApiError::Invalid)?;
    catalogue::load(&pool, &products, &coupons).await?;
    tracing::info!(products = products.len(), coupons = coupons.len(), "catalogue loaded");
    Ok(Json(Loaded { products: products.len(), coupons: coupons.len() }))
}

async fn product(State(pool): State<PgPool>, PathText(id): PathText) -> Result<Json<ProductEntry>, ApiError> {
    let product_id = ProductId::parse("productId", id)?;
    let found = catalogue::product(&pool, &product_id).await?;
    let Product { product_id, price_minor, stock } =
        found.ok_or_else(|| ApiError::NoSuchEntry { kind: "product", id: product_id.to_string() })?;
    Ok(Json(ProductEntry { product_id: product_id.to_string(), price_minor, stock }))
}

async fn coupon(State(pool): State<PgPool>, PathText(code): PathText) -> Result<Json<CouponState>, ApiError> {
    let code = CouponCode::parse("code", code)?;
    let found = catalogue::coupon(&pool, &code).await?;
    let (Coupon { code, terms, max_uses }, used) =
        found.ok_or_else(|| ApiError::NoSuchEntry { kind: "coupon", id: code.to_string() })?;
    let (percent_off, amount_off_minor) = match terms {
        CouponTerms::PercentOff(percent) => (Some(percent), None),
        CouponTerms::AmountOff(amount) => (None, Some(amount)),
    };
    let entry = CouponEntry { code: code.to_string(), percent_off, amount_off_minor, max_uses };
    Ok(Json(CouponState { entry, used }))
}

/// The catalogue's entries by their rules, or everything that breaks one.
fn parse(catalogue: Catalogue) -> Result<(Vec<Product>, Vec<Coupon>), Vec<Violation>> {
    let Catalogue { products, coupons } = catalogue;
    let mut violations = Vec::new();
    let products: Vec<Product> = products
        .into_iter()
        .enumerate()
        .filter_map(|(index, entry)| parse_product(&format!("products[{index}]"), entry, &mut violations))
        .collect();
    let coupons: Vec<Coupon> = coupons
        .into_iter()
        .enumerate()
        .filter_map(|(index, entry)| parse_coupon(&format!("coupons[{index}]"), entry, &mut violations))
        .collect();
    unique("products", products.iter().map(|product| product.product_id.as_str()), &mut violations);
    unique("coupons", coupons.iter().map(|coupon| coupon.code.as_str()), &mut violations);
    if violations.is_empty() { Ok((products, coupons)) } else { Err(violations) }
}

fn parse_product(at: &str, entry: ProductEntry, violations: &mut Vec<Violation>) -> Option<Product> {
    let ProductEntry { product_id, price_minor, stock } = entry;
    within(&format!("{at}.priceMinor"), price_minor, MAX_PRICE_MINOR, violations);
    within(&format!("{at}.stock"), stock, MAX_COUNT, violations);
    match ProductId::parse(&format!("{at}.productId"), product_id) {
        Ok(product_id) => Some(Product { product_id, price_minor, stock }),
        Err(violation) => {
            violations.push(violation);
            None
        }
    }
}

fn parse_coupon(at: &str, entry: CouponEntry, violations: &mut Vec<Violation>) -> Option<Coupon> {
    let CouponEntry { code, percent_off, amount_off_minor, max_uses } = entry;
    within(&format!("{at}.maxUses"), max_uses, MAX_COUNT, violations);
    let terms = match (percent_off, amount_off_minor) {
        (Some(percent @ 1..=100), None) => Ok(CouponTerms::PercentOff(percent)),
        (None, Some(amount @ 1..=MAX_PRICE_MINOR)) => Ok(CouponTerms::AmountOff(amount)),
        _ => Err(Violation::new(
            at,
            format!(
                "must have either percentOff from 1 to 100 or amountOffMinor from 1 to {MAX_PRICE_MINOR}"
            ),
        )),
    };
    let code = CouponCode::parse(&format!("{at}.code"), code).map_err(|violation| violations.push(violation));
    let terms = terms.map_err(|violation| violations.push(violation));
    Some(Coupon { code: code.ok()?, terms: terms.ok()?, max_uses })
}

fn within(field: &str, value: i64, most: i64, violations: &mut Vec<Violation>) {
    if !(0..=most).contains(&value) {
        violations.push(Violation::new(field, format!("must be 0 to {most}, not {value}")));
    }
}

fn unique<'a>(field: &str, names: impl Iterator<Item = &'a str>, violations: &mut Vec<Violation>) {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            violations.push(Violation::new(field, format!("names {name} twice")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_json(json: &str) -> Result<(Vec<Product>, Vec<Coupon>), String> {
        let catalogue: Catalogue = serde_json::from_str(json).map_err(|error| error.to_string())?;
        parse(catalogue).map_err(|violations| violations[0].to_string())
    }

    #[test]
    fn a_catalogue_is_read_by_its_rules() {
        let (products, coupons) = parse_json(
            r#"{"products":[{"productId":"p1","priceMinor":100,"stock":5}],
                "coupons":[{"code":"TEN","percentOff":10,"maxUses":3},{"code":"FIVER","amountOffMinor":500,"maxUses":1}]}"#,
        )
        .unwrap();
        assert_eq!((products.len(), coupons.len()), (1, 2));
        assert_eq!(coupons[0].terms, CouponTerms::PercentOff(10));
        assert_eq!(coupons[1].terms, CouponTerms::AmountOff(500));
    }

    #[test]
    fn an_entry_that_breaks_a_rule_is_named() {
        for (json, message) in [
            (
                r#"{"products":[{"productId":"p1","priceMinor":-1,"stock":5}]}"#,
                "products[0].priceMinor: must be 0 to",
            ),
            (
                r#"{"products":[{"productId":"p1","priceMinor":1,"stock":-5}]}"#,
                "products[0].stock: must be 0 to",
            ),
            (
                r#"{"products":[{"productId":"p 1","priceMinor":1,"stock":5}]}"#,
                "products[0].productId: must be 1 to 64",
            ),
            (r#"{"coupons":[{"code":"A","percentOff":0,"maxUses":1}]}"#, "coupons[0]: must have either"),
            (
                r#"{"coupons":[{"code":"A","percentOff":5,"amountOffMinor":5,"maxUses":1}]}"#,
                "coupons[0]: must have either",
            ),
            (r#"{"coupons":[{"code":"A","maxUses":1}]}"#, "coupons[0]: must have either"),
            (
                r#"{"products":[{"productId":"p","priceMinor":1,"stock":5},{"productId":"p","priceMinor":1,"stock":6}]}"#,
                "products: names p twice",
            ),
            (r#"{"goods":[]}"#, "unknown field `goods`"),
        ] {
            let error = parse_json(json).unwrap_err();
            assert!(error.starts_with(message), "{json}: {error}");
        }
    }
}
