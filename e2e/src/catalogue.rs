//! What the shop sells in the demo and the tests, loaded through the admin port.

use std::time::Duration;

use serde_json::json;

use crate::kubectl::{kubectl_with_input, wait_for};
use crate::names::{NAMESPACE, PIPELINE};

/// Products in the catalogue.
pub const PRODUCTS: usize = 20;
/// A coupon of 10 %.
pub const COUPON: &str = "TENOFF";
/// Units of each product: more than any run here sells.
const STOCK: i64 = 10_000_000;
/// Uses of the coupon: more than any run here spends.
const COUPON_USES: i64 = 10_000_000;
/// Longest wait for the order service to take the catalogue.
const DEADLINE: Duration = Duration::from_secs(120);

/// The name of the `index`-th product.
#[must_use]
pub fn product(index: usize) -> String {
    format!("sku-{:02}", index % PRODUCTS)
}

/// Loads the catalogue through the API server's proxy: the admin port is not reachable from outside the cluster.
///
/// # Errors
/// When the order service does not take it within two minutes.
pub async fn load() -> anyhow::Result<()> {
    let products: Vec<_> = (0..PRODUCTS)
        .map(|index| json!({"productId": product(index), "priceMinor": 500 + 125 * index, "stock": STOCK}))
        .collect();
    let coupons = [json!({"code": COUPON, "percentOff": 10, "maxUses": COUPON_USES})];
    let body = json!({"products": products, "coupons": coupons}).to_string();
    let path = format!(
        "/api/v1/namespaces/{NAMESPACE}/services/{PIPELINE}-order-service-admin:admin/proxy/catalogue"
    );
    wait_for("the order service to take the catalogue", DEADLINE, || async {
        kubectl_with_input(&["replace", "--raw", &path, "-f", "-"], &body).await.map(Some)
    })
    .await?;
    Ok(())
}
