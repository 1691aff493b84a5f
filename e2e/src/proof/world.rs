//! What one run happens in: a database and a topic of its own, replicas, and the wires between all of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;
use sqlx::{Connection, PgPool};

use super::audit;
use super::backends::{self, Container, KAFKA, KAFKA_PORT, KAFKA_PROXY_PORT, Postgres, bootstrap};
use super::faults::servers::docker_time;
use super::plan::{Plan, Shop, Terms};
use super::proxy::{Chooser, Directory, Link, Proxy};
use super::replica::{Replica, Start};
use crate::kubectl::wait_for;

/// Longest wait for a replica to become ready.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// Longest wait for one answer on the admin port.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything a fault can touch.
#[derive(Debug)]
pub struct World {
    /// The replicas.
    pub replicas: Vec<Replica>,
    /// The wire from each replica to PostgreSQL.
    pub to_postgres: Vec<Link>,
    /// The wire from each replica to Kafka.
    pub to_kafka: Vec<Link>,
    /// Kafka.
    pub kafka: Container,
    /// PostgreSQL.
    pub postgres: Postgres,
    /// The run's database, without a proxy between.
    pub pool: PgPool,
    /// The run's topic.
    pub topic: String,
    /// The run's folder, for logs and ledgers.
    pub folder: PathBuf,
    /// When it was created, as docker reads it.
    pub began: String,
    database: String,
    _proxies: Vec<Proxy>,
}

impl World {
    /// Creates it, replicas ready and catalogue loaded, with every fail point of the plan armed.
    ///
    /// # Errors
    /// When a backend or the service does not come up.
    pub async fn create(plan: &Plan, service: &Path, folder: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
        let began = docker_time()?;
        let (database, topic) = (format!("proof_{}", plan.seed), format!("proof-{}", plan.seed));
        let (kafka, postgres) = (Container::named(KAFKA), Postgres::new(plan.fills_disk()));
        kafka.mend().await?;
        postgres.container.mend().await?;
        let names: Vec<String> = ('a'..).take(plan.replicas).map(|name| format!("replica-{name}")).collect();
        let mut seeds = (1..).map(|number: u64| plan.seed ^ (number << 32));
        let mut links = || -> Vec<Link> { seeds.by_ref().take(plan.replicas).map(Link::new).collect() };
        let (to_postgres, to_kafka) = (links(), links());
        let mut proxies = Vec::new();
        for link in &to_postgres {
            proxies.push(Proxy::listen(0, postgres.port, Chooser::Only(link.clone())).await?);
        }
        let ports: Vec<u16> = proxies.iter().map(|proxy| proxy.port).collect();
        let directory = Directory::new(plan.seed);
        names.iter().zip(&to_kafka).for_each(|(name, link)| directory.enter(name, link.clone()));
        let chooser = Chooser::ByKafkaClient(directory);
        proxies.push(Proxy::listen(KAFKA_PROXY_PORT, KAFKA_PORT, chooser).await?);

        let pool = postgres.create(&database).await?;
        // A run of the same seed may have left its topic.
        drop(backends::delete_topic(&topic).await);
        backends::create_topic(&topic, plan.partitions).await?;
        let mut replicas = Vec::new();
        for (name, port) in names.into_iter().zip(ports) {
            let mut environment: BTreeMap<String, String> =
                plan.settings.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
            let url = format!("postgres://postgres@127.0.0.1:{port}/{database}");
            environment.extend(
                [("DATABASE_URL", url), ("KAFKA_BOOTSTRAP_SERVERS", bootstrap()), ("TOPIC", topic.clone())]
                    .map(|(key, value)| (key.to_owned(), value)),
            );
            let log = folder.join(format!("{name}.log"));
            let start = Start { name, program: service.to_owned(), environment, log };
            replicas.push(Replica::start(start).await?);
        }
        let world = Self {
            replicas,
            to_postgres,
            to_kafka,
            kafka,
            postgres,
            pool,
            topic,
            folder,
            began,
            database,
            _proxies: proxies,
        };
        world.open_shop(plan).await?;
        Ok(world)
    }

    /// Schema, audit and catalogue; then every replica starts anew with its first fail point, so that no point is
    /// spent on an idle service.
    async fn open_shop(&self, plan: &Plan) -> anyhow::Result<()> {
        for replica in &self.replicas {
            until_ready(replica).await?;
        }
        audit::install(&self.pool).await?;
        load(&self.replicas[0], &plan.shop).await?;
        for (replica, points) in self.replicas.iter().zip(&plan.points) {
            if !points.is_empty() {
                replica.arm(points.iter().copied());
                if replica.restart().await.is_none() {
                    bail!("{} did not end on SIGTERM before the run began", replica.name);
                }
            }
        }
        for replica in &self.replicas {
            until_ready(replica).await?;
        }
        Ok(())
    }

    /// Ends every fault: wires, containers, fail points; and waits until both backends answer, whose own start is not the
    /// service's to answer for.
    ///
    /// # Errors
    /// When a container can't be started or does not answer.
    pub async fn heal(&self) -> anyhow::Result<()> {
        for link in self.to_postgres.iter().chain(&self.to_kafka) {
            link.heal();
        }
        for replica in &self.replicas {
            replica.arm([]);
            replica.signal(rustix::process::Signal::CONT).await;
        }
        self.kafka.mend().await?;
        self.postgres.container.mend().await?;
        self.postgres.connect("postgres").await?.close().await?;
        backends::kafka_answers().await
    }

    /// Removes database, topic and folder: what a run with nothing to show leaves behind.
    ///
    /// # Errors
    /// When a backend fails.
    pub async fn remove(self) -> anyhow::Result<()> {
        self.pool.close().await;
        self.postgres.drop_database(&self.database).await?;
        backends::delete_topic(&self.topic).await?;
        fs::remove_dir_all(&self.folder)
            .with_context(|| format!("failed to remove {}", self.folder.display()))
    }
}

/// Waits until the replica is ready; a fail point may end it meanwhile.
async fn until_ready(replica: &Replica) -> anyhow::Result<()> {
    let http = http()?;
    let url = format!("{}/readyz", replica.admin);
    wait_for(&format!("{} to be ready", replica.name), READY_DEADLINE, || async {
        Ok(http.get(&url).send().await?.status().is_success().then_some(()))
    })
    .await
}

/// Loads the catalogue as a shop does.
async fn load(replica: &Replica, shop: &Shop) -> anyhow::Result<()> {
    let products = shop.products.iter().map(
        |(id, product)| json!({"productId": id, "priceMinor": product.price_minor, "stock": product.stock}),
    );
    let coupons = shop.coupons.iter().map(|(code, coupon)| match coupon.terms {
        Terms::PercentOff(percent) => json!({"code": code, "percentOff": percent, "maxUses": coupon.limit}),
        Terms::AmountOffMinor(amount) => {
            json!({"code": code, "amountOffMinor": amount, "maxUses": coupon.limit})
        }
    });
    let body = json!({"products": products.collect::<Vec<_>>(), "coupons": coupons.collect::<Vec<_>>()});
    let answer = http()?.put(format!("{}/catalogue", replica.admin)).json(&body).send().await?;
    if !answer.status().is_success() {
        bail!("failed to load the catalogue: {}", answer.text().await?);
    }
    Ok(())
}

fn http() -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder().timeout(ADMIN_TIMEOUT).no_proxy().build()?)
}
