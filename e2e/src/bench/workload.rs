//! What is ordered: which products, by whom, with or without a coupon.

use std::io::Write;

use anyhow::anyhow;
use order_service::domain::NewOrder;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

/// Products in the catalogue.
pub const PRODUCTS: usize = 1000;
/// Users that order.
const USERS: u32 = 10_000;
/// Units of each product, and uses of the coupon: more than any run here takes.
const PLENTY: i64 = 1_000_000_000;
/// A coupon of 10 %.
const COUPON: &str = "TENOFF";

/// Which products are asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, clap::ValueEnum)]
pub enum Choice {
    /// Each as often as any other.
    Uniform,
    /// The n-th most popular one 1/n as often as the most popular one.
    Zipf,
    /// Always the same one.
    One,
}

impl Choice {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Uniform, Self::Zipf, Self::One];

    /// As it stands in the tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "Zipf",
            Self::One => "one SKU",
        }
    }
}

/// The kind of orders of a run.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Which products.
    pub choice: Choice,
    /// Most lines of one order; each order has 1 to this many, evenly.
    pub max_lines: usize,
    /// Of 100 orders, how many use the coupon.
    pub coupon_percent: u32,
    /// Whether each request carries an `Idempotency-Key` of its own.
    pub idempotency_keys: bool,
}

impl Workload {
    /// One unit of one product, as in the anchor.
    #[must_use]
    pub const fn plain(choice: Choice) -> Self {
        Self { choice, max_lines: 1, coupon_percent: 0, idempotency_keys: false }
    }

    /// What a shop sees: one to three lines, popular products, a coupon in every tenth order, safe retries.
    #[must_use]
    pub const fn mixed() -> Self {
        Self { choice: Choice::Zipf, max_lines: 3, coupon_percent: 10, idempotency_keys: true }
    }
}

/// Products and coupon, as the admin port takes them.
#[must_use]
pub fn catalogue() -> Value {
    let products: Vec<_> = (0..PRODUCTS)
        .map(|index| json!({"productId": product(index), "priceMinor": 500 + index, "stock": PLENTY}))
        .collect();
    json!({"products": products, "coupons": [{"code": COUPON, "percentOff": 10, "maxUses": PLENTY}]})
}

/// The name of a product.
#[must_use]
pub fn product(index: usize) -> String {
    format!("sku-{index:04}")
}

/// Draws one order after another; the seed decides all of them.
#[derive(Clone, Debug)]
pub struct Orders {
    workload: Workload,
    random: StdRng,
    /// Share of the products up to and with this one, for Zipf.
    popularity: Vec<f64>,
}

/// One order, drawn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Draft {
    user: u32,
    products: Vec<usize>,
    coupon: bool,
    key: Option<Uuid>,
}

impl Orders {
    /// Orders of this kind.
    #[must_use]
    pub fn new(workload: Workload, seed: u64) -> Self {
        let mut sum = 0.0;
        let mut popularity: Vec<f64> = (1..=PRODUCTS)
            .map(|rank| {
                sum += 1.0 / rank as f64;
                sum
            })
            .collect();
        popularity.iter_mut().for_each(|share| *share /= sum);
        Self { workload, random: StdRng::seed_from_u64(seed), popularity }
    }

    /// The next order.
    pub fn draw(&mut self) -> Draft {
        let lines = self.random.random_range(1..=self.workload.max_lines);
        Draft {
            user: self.random.random_range(0..USERS),
            products: (0..lines).map(|_| self.product()).collect(),
            coupon: self.random.random_range(0..100) < self.workload.coupon_percent,
            key: self.workload.idempotency_keys.then(|| Uuid::from_u128(self.random.random())),
        }
    }

    fn product(&mut self) -> usize {
        match self.workload.choice {
            Choice::One => 0,
            Choice::Uniform => self.random.random_range(0..PRODUCTS),
            Choice::Zipf => {
                let share: f64 = self.random.random();
                self.popularity.partition_point(|up_to| *up_to <= share).min(PRODUCTS - 1)
            }
        }
    }
}

impl Draft {
    /// The order's only product, for an arm that takes one line.
    #[must_use]
    pub fn first_product(&self) -> String {
        product(self.products.first().copied().unwrap_or_default())
    }

    /// Who orders.
    #[must_use]
    pub fn user(&self) -> String {
        format!("user-{:05}", self.user)
    }

    /// The order as the store takes it.
    ///
    /// # Errors
    /// When the service's own parser refuses it.
    pub fn parse(&self) -> anyhow::Result<NewOrder> {
        let items = self.products.iter().map(|index| (product(*index), 1)).collect();
        NewOrder::parse(self.user(), items, self.coupon.then(|| COUPON.to_owned())).map_err(|violations| {
            anyhow!("the service would refuse what the benchmark orders: {violations:?}")
        })
    }

    /// The whole HTTP request, written over what `request` held.
    pub fn render(&self, request: &mut Vec<u8>) {
        let mut body = format!("{{\"userId\":\"user-{:05}\",\"items\":[", self.user);
        for (position, index) in self.products.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            body.push_str(&format!("{comma}{{\"productId\":\"sku-{index:04}\",\"quantity\":1}}"));
        }
        body.push(']');
        if self.coupon {
            body.push_str(&format!(",\"couponCode\":\"{COUPON}\""));
        }
        body.push('}');
        let length = body.len();
        request.clear();
        // Writing to a Vec does not fail.
        let _ = write!(
            request,
            "POST /orders HTTP/1.1\r\nhost: orders\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
        );
        if let Some(key) = self.key {
            let _ = write!(request, "idempotency-key: {key}\r\n");
        }
        let _ = write!(request, "\r\n{body}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn popular_products_are_drawn_as_often_as_zipf_says() {
        let mut orders = Orders::new(Workload::plain(Choice::Zipf), 3);
        let mut drawn = vec![0_u32; PRODUCTS];
        (0..200_000).for_each(|_| drawn[orders.draw().products[0]] += 1);
        let harmonic: f64 = (1..=PRODUCTS).map(|rank| 1.0 / rank as f64).sum();
        for rank in [1, 2, 10] {
            let expected = 200_000.0 / harmonic / rank as f64;
            let seen = f64::from(drawn[rank - 1]);
            assert!((seen / expected - 1.0).abs() < 0.05, "rank {rank}: {seen} drawn, {expected} expected");
        }
    }

    #[test]
    fn a_request_is_rendered_as_the_service_parses_it() {
        let mut orders = Orders::new(Workload::mixed(), 5);
        let mut request = Vec::new();
        for _ in 0..100 {
            let draft = orders.draw();
            draft.render(&mut request);
            let text = String::from_utf8(request.clone()).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
            assert!(head.contains("idempotency-key: "), "{head}");
            let value: Value = serde_json::from_str(body).unwrap();
            assert_eq!(value["items"].as_array().unwrap().len(), draft.products.len());
            assert_eq!(value["couponCode"].is_string(), draft.coupon);
            draft.parse().unwrap();
        }
    }
}
