//! What one run happens in: a topic and a sink of its own, members, and the wires between all of them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Executor, PgPool};
use uuid::Uuid;

use super::plan::{Guarantee, Kind, Mood, Plan};
use super::run::Settings;
use super::sink::Sink;
use super::told::assignments;
use crate::kubectl::wait_for;
use crate::proof::backends::{self, Postgres, bootstrap};
use crate::proof::check::{Rule, Violation};
use crate::proof::end::End;
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

/// What a consumer says that gives up leaving its group, since its grace is over.
const OVERDUE: &str = "failed to stop within";
/// Longest that members may take to their first event: they start, join one after another, and a fault is not under way yet.
const BEGIN_DEADLINE: Duration = Duration::from_secs(60);

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
    guest: Start,
    /// Guests that came so far.
    guests: AtomicUsize,
    /// What was wrong with how guests ended.
    seen_off: Mutex<Vec<Violation>>,
    /// A fault of this run may hold calls up for longer than a member waits that is told to stop.
    may_be_overdue: bool,
    directory: Directory,
    database: String,
    _proxies: Vec<Proxy>,
}

/// A member that comes for a while.
#[derive(Debug)]
pub struct Guest {
    member: Replica,
    log: PathBuf,
}

impl Guest {
    /// Whether it has got a partition so far, by what it says.
    ///
    /// # Errors
    /// When its log can't be read.
    pub fn got_partitions(&self) -> anyhow::Result<bool> {
        Ok(!assignments(&text(&self.log)?).is_empty())
    }
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

        let pool = tables(&postgres, &database, &refused, plan.drag_of_row()).await?;
        let dead_letters = format!("{topic}.dlt");
        for (name, partitions) in [(&topic, plan.partitions), (&dead_letters, 1)] {
            // A run of the same seed may have left it.
            drop(backends::delete_topic(name).await);
            backends::create_topic(name, partitions).await?;
        }
        let sink = Sink::start(refused, Duration::from_millis(plan.drag)).await?;
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
            guests: AtomicUsize::default(),
            seen_off: Mutex::default(),
            may_be_overdue: plan.faults.iter().any(|planned| planned.fault.holds_calls_up()),
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
        self.sink.mood(Mood::Fair);
        for member in &self.members {
            member.signal(Signal::CONT).await;
        }
    }

    /// Waits until an event is at the sink.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn until_under_way(&self) -> anyhow::Result<()> {
        wait_for("the first event to be applied", BEGIN_DEADLINE, || async {
            let is_in_table: bool =
                sqlx::query_scalar("select exists (select from order_events)").fetch_one(&self.pool).await?;
            Ok((is_in_table || !self.sink.ledger().applied.is_empty()).then_some(()))
        })
        .await
    }

    /// A member more, on wires that no fault touches.
    ///
    /// # Errors
    /// When it can't be started.
    pub async fn invite(&self) -> anyhow::Result<Guest> {
        let name = format!("guest-{}", self.guests.fetch_add(1, Ordering::Relaxed));
        let log = self.folder.join(format!("{name}.log"));
        let start = Start { name, log: log.clone(), ..self.guest.clone() };
        Ok(Guest { member: Replica::start(start).await?, log })
    }

    /// Tells it to leave, and keeps what is wrong with how it does.
    pub async fn see_off(&self, Guest { member, .. }: Guest) {
        let ended = member.finish().await;
        let mut violations = self.ends_of(&member);
        // Of a member, the wires may be broken just then; a guest's never are.
        if ended.is_none() {
            let what = format!("{} did not end on SIGTERM in time", member.name);
            violations.push(Violation::of(Rule::Recovered, what));
        }
        self.seen_off.lock().unwrap_or_else(PoisonError::into_inner).extend(violations);
    }

    /// What was wrong with any end of a process so far, guests' included.
    #[must_use]
    pub fn ends(&self) -> Vec<Violation> {
        let guests = self.seen_off.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.members.iter().flat_map(|member| self.ends_of(member)).chain(guests).collect()
    }

    /// What is wrong with how its processes ended: none does unasked, or panics.
    fn ends_of(&self, member: &Replica) -> Vec<Violation> {
        let mut violations = Vec::new();
        for end in member.ends().iter().filter(|end| !(self.may_be_overdue && is_overdue(end))) {
            let unasked = end.unasked().map(|how| format!("{} ended unasked: {how}", member.name));
            let panicked = end.panicked().map(|line| format!("{} panicked: {line}", member.name));
            let what = unasked.into_iter().chain(panicked);
            violations.extend(what.map(|what| Violation::of(Rule::Standing, what)));
        }
        violations
    }

    /// When a partition was last given to a member or a guest, in milliseconds since 1970, by what they say.
    ///
    /// # Errors
    /// When a log can't be read.
    pub fn last_move(&self) -> anyhow::Result<Option<i64>> {
        let mut last: Option<i64> = None;
        for entry in fs::read_dir(&self.folder)? {
            let file = entry?.path();
            if file.extension().is_some_and(|ending| ending == "log") {
                last = last.max(assignments(&text(&file)?).into_iter().max());
            }
        }
        Ok(last)
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

/// It was told to stop, could not leave the group within its grace, and said so: what it had in hand is another's, and more can't
/// be asked of it while nobody answers. What still ran in it then may have panicked for want of a runtime.
fn is_overdue(end: &End) -> bool {
    end.told == Some(Signal::TERM) && end.status.code() == Some(1) && end.log.contains(OVERDUE)
}

fn text(log: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(log).with_context(|| format!("failed to read {}", log.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn tables(
    postgres: &Postgres,
    database: &str,
    refused: &HashMap<Uuid, i64>,
    drag_millis: u64,
) -> anyhow::Result<PgPool> {
    let pool = postgres.create(database).await?;
    pool.execute(TABLES).await?;
    if drag_millis > 0 {
        pool.execute(AssertSqlSafe(drag(drag_millis))).await?;
    }
    for (order, version) in refused {
        let check =
            format!("alter table order_events add check (order_id <> '{order}' or version <> {version})");
        pool.execute(AssertSqlSafe(check)).await?;
    }
    Ok(pool)
}

/// Has the table take its time over each row.
fn drag(millis: u64) -> String {
    format!(
        "create function drag() returns trigger language plpgsql as
             'begin perform pg_sleep({millis} / 1000.0); return new; end';
         create trigger drag before insert on order_events for each row execute function drag();"
    )
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
