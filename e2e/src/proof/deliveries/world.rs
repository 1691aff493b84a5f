//! What one run happens in: a topic and a sink of its own, members, and the wires between all of them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use sqlx::{AssertSqlSafe, Executor, PgPool};
use uuid::Uuid;

use super::plan::{Guarantee, Kind, Plan};
use super::run::Settings;
use super::sink::Sink;
use crate::proof::backends::{self, Postgres, bootstrap};
use crate::proof::check::{Rule, Violation};
use crate::proof::proxy::{Chooser, Directory, Link, Proxy};
use crate::proof::replica::{Replica, Start};

/// Connections of members to PostgreSQL say that they are of this group.
pub const GROUP: &str = "proof-deliveries";

/// The sink's tables, as it makes them itself, but that nothing hides a repetition.
const TABLES: &str = r#"
create table order_events (
    seq bigint generated always as identity, "group" text, topic text, partition int, "offset" bigint, order_id uuid,
    version bigint, type text, event_id uuid, payload json, delivered_at timestamptz default clock_timestamp());
create table order_events_place (
    "group" text, topic text, partition int, next_offset bigint not null, epoch bigint not null,
    primary key ("group", topic, partition));"#;

/// Everything a fault can touch.
#[derive(Debug)]
pub struct World {
    /// The members.
    pub members: Vec<Replica>,
    /// The wire from each member to PostgreSQL.
    pub to_postgres: Vec<Link>,
    /// The wire from each member to Kafka.
    pub to_kafka: Vec<Link>,
    /// PostgreSQL.
    pub postgres: Postgres,
    /// The run's database, without a proxy between.
    pub pool: PgPool,
    /// The HTTP sink.
    pub sink: Sink,
    /// The run's topic.
    pub topic: String,
    /// … and where its dead letters go.
    pub dead_letters: String,
    /// The run's group.
    pub group: String,
    /// The run's folder, for logs and evidence.
    pub folder: PathBuf,
    /// How a member is started that joins for a while.
    pub guest: Start,
    guests: Mutex<Vec<Violation>>,
    directory: Directory,
    database: String,
    _proxies: Vec<Proxy>,
}

impl World {
    /// Creates it, members started.
    ///
    /// # Errors
    /// When a backend does not come up.
    pub async fn create(
        plan: &Plan,
        refused: HashMap<Uuid, i64>,
        settings: &Settings,
        folder: PathBuf,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
        let (database, topic) = (format!("deliveries_{}", plan.seed), format!("deliveries-{}", plan.seed));
        let postgres = Postgres::new(false);
        let name = |name: char| format!("member-{name}-{}", plan.seed);
        let names: Vec<String> = ('a'..).take(plan.members).map(name).collect();
        let mut seeds = (1..).map(|number: u64| plan.seed ^ (number << 32));
        let mut links = || -> Vec<Link> { seeds.by_ref().take(plan.members).map(Link::new).collect() };
        let (to_postgres, to_kafka) = (links(), links());
        let mut proxies = Vec::new();
        for link in &to_postgres {
            proxies.push(Proxy::listen(0, postgres.port, Chooser::Only(link.clone())).await?);
        }
        let ports: Vec<u16> = proxies.iter().map(|proxy| proxy.port).collect();
        names.iter().zip(&to_kafka).for_each(|(name, link)| settings.directory.enter(name, link.clone()));

        let pool = tables(&postgres, &database, &refused).await?;
        let dead_letters = format!("{topic}.dlt");
        for (name, partitions) in [(&topic, plan.partitions), (&dead_letters, 1)] {
            // A run of the same seed may have left it.
            drop(backends::delete_topic(name).await);
            backends::create_topic(name, partitions).await?;
        }
        let sink = Sink::start(refused).await?;
        let group = format!("{GROUP}-{}", Uuid::new_v4().simple());
        let environment = environment(plan, &topic, &dead_letters, &group, &sink);
        let start = |name: String, port: u16| {
            let mut environment = environment.clone();
            let url = format!("postgres://postgres@127.0.0.1:{port}/{database}");
            environment.insert("SINK_DATABASE_URL".to_owned(), url);
            let log = folder.join(format!("{name}.log"));
            Start { name, program: settings.consumer.clone(), environment, log }
        };
        let guest = start("guest".to_owned(), postgres.port);
        let mut members = Vec::new();
        for (name, port) in names.into_iter().zip(ports) {
            members.push(Replica::start(start(name, port)).await?);
        }
        Ok(Self {
            members,
            to_postgres,
            to_kafka,
            postgres,
            pool,
            sink,
            topic,
            dead_letters,
            group,
            folder,
            guest,
            guests: Mutex::default(),
            directory: settings.directory.clone(),
            database,
            _proxies: proxies,
        })
    }

    /// Ends every fault.
    pub async fn heal(&self) {
        for link in self.to_postgres.iter().chain(&self.to_kafka) {
            link.heal();
        }
        self.sink.mood(super::plan::Mood::Fair);
        for member in &self.members {
            member.signal(rustix::process::Signal::CONT).await;
        }
    }

    /// Keeps what was wrong with how a guest ended.
    pub fn saw_off(&self, guest: &Replica) {
        let mut violations = ends_of(guest);
        // Of a member, the wires may be broken just then; a guest's never are.
        if guest.hung() > 0 {
            violations.push(Violation::of(
                Rule::Recovered,
                format!("{} did not end on SIGTERM in time", guest.name),
            ));
        }
        self.guests.lock().unwrap_or_else(PoisonError::into_inner).extend(violations);
    }

    /// What was wrong with any end of a process so far, guests' included.
    #[must_use]
    pub fn ends(&self) -> Vec<Violation> {
        let guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.members.iter().flat_map(ends_of).chain(guests).collect()
    }

    /// Removes database, topics and folder.
    ///
    /// # Errors
    /// When a backend fails.
    pub async fn remove(self) -> anyhow::Result<()> {
        self.members.iter().for_each(|member| self.directory.strike(&member.name));
        self.pool.close().await;
        self.postgres.drop_database(&self.database).await?;
        backends::delete_topic(&self.topic).await?;
        backends::delete_topic(&self.dead_letters).await?;
        fs::remove_dir_all(&self.folder)
            .with_context(|| format!("failed to remove {}", self.folder.display()))
    }
}

/// What is wrong with how its processes ended: none does unasked, or panics.
fn ends_of(member: &Replica) -> Vec<Violation> {
    let name = &member.name;
    let mut violations = Vec::new();
    for end in member.ends() {
        let unasked = end.unasked().map(|how| format!("{name} ended unasked: {how}"));
        let panicked = end.panicked().map(|line| format!("{name} panicked: {line}"));
        violations
            .extend(unasked.into_iter().chain(panicked).map(|what| Violation::of(Rule::Standing, what)));
    }
    violations
}

async fn tables(postgres: &Postgres, database: &str, refused: &HashMap<Uuid, i64>) -> anyhow::Result<PgPool> {
    let pool = postgres.create(database).await?;
    pool.execute(TABLES).await?;
    for (order, version) in refused {
        let check =
            format!("alter table order_events add check (order_id <> '{order}' or version <> {version})");
        pool.execute(AssertSqlSafe(check)).await?;
    }
    Ok(pool)
}

fn environment(
    plan: &Plan,
    topic: &str,
    dead_letters: &str,
    group: &str,
    sink: &Sink,
) -> BTreeMap<String, String> {
    let settings = plan.settings.iter().map(|(name, value)| (*name, value.clone()));
    let own = [
        ("KAFKA_BOOTSTRAP_SERVERS", bootstrap()),
        ("TOPIC", topic.to_owned()),
        ("GROUP", group.to_owned()),
        ("DEAD_LETTER_TOPIC", dead_letters.to_owned()),
        ("DELIVERY", delivery(plan.guarantee).to_owned()),
        ("SINK", if plan.sink == Kind::Http { "http" } else { "postgres" }.to_owned()),
        ("SINK_HTTP_URL", sink.url.clone()),
    ];
    settings.chain(own).map(|(name, value)| (name.to_owned(), value)).collect()
}

const fn delivery(guarantee: Guarantee) -> &'static str {
    match guarantee {
        Guarantee::AtMostOnce => "AtMostOnce",
        Guarantee::AtLeastOnce => "AtLeastOnce",
        Guarantee::ExactlyOnce => "ExactlyOnce",
    }
}
