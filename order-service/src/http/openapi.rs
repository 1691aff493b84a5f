//! `GET /openapi.json`: the description of this API, generated from its handlers.

use axum::Json;
use utoipa::OpenApi;
use utoipa::openapi;

use super::{cancel_order, confirm_order, create_order, get_order, list_orders};

/// The API as OpenAPI 3.1.
#[derive(OpenApi, Clone, Copy, Debug)]
#[openapi(
    info(
        title = "orderflow order service",
        description = "Orders whose events reach Kafka in order and without loss."
    ),
    paths(
        create_order::create_order,
        get_order::get_order,
        list_orders::list_orders,
        confirm_order::confirm_order,
        cancel_order::cancel_order,
    )
)]
pub struct ApiDescription;

/// Serves the description.
pub async fn openapi() -> Json<openapi::OpenApi> {
    Json(ApiDescription::openapi())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_is_openapi_3_1_and_names_every_route() {
        let description = serde_json::to_value(ApiDescription::openapi()).unwrap();
        assert_eq!(description["openapi"], "3.1.0");
        for (path, method) in [
            ("/orders", "post"),
            ("/orders", "get"),
            ("/orders/{id}", "get"),
            ("/orders/{id}/confirm", "post"),
            ("/orders/{id}/cancel", "post"),
        ] {
            assert!(description["paths"][path][method].is_object(), "{method} {path}");
        }
    }
}
