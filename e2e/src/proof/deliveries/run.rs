//! One run: from a plan to a verdict.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use order_events::OrderId;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::topic_partition_list::TopicPartitionList;
use runtime::kafka::KafkaConnection;
use rustix::process::Signal;
use serde::Deserialize;
use sqlx::Row;
use uuid::Uuid;

use super::check::{Bound, Event, History, Verdict, check};
use super::plan::{Guarantee, Kind, Plan};
use super::sink::{Applied, Ledger};
use super::world::World;
use super::{cost, faults, load};
use crate::dump::dump;
use crate::proof::backends::bootstrap;
use crate::proof::check::{Rule, Violation};
use crate::proof::proxy::Directory;
use crate::proof::report::Report;

/// Longest that a healed group may go without getting on, until its lag is zero: a session's timeout, a rebalance, a claim, and
/// the longest waits of breaker and client on top of one another.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(90);
/// Pause between looks at the lag.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What all runs of a campaign share.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The consumer.
    pub consumer: PathBuf,
    /// Where each run has its folder.
    pub out: PathBuf,
    /// Keep the folder of a sound run, too.
    pub keep: bool,
    /// Which member is on which wire to Kafka.
    pub directory: Directory,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    order_id: Uuid,
    version: i64,
}

/// Runs the seed's plan; never fails: a run that could not be made is a report that says so.
pub async fn run(seed: u64, guarantee: Guarantee, settings: &Settings) -> Report {
    let began = Instant::now();
    let plan = Arc::new(Plan::of(seed, guarantee));
    let folder = settings.out.join(format!("deliveries-{guarantee:?}-{seed}"));
    let mut report = match attempt(&plan, settings, folder.clone()).await {
        Ok(report) => report,
        Err(error) => Report::broken(seed, format!("{error:#}")),
    };
    report.took_millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    report.evidence = folder.exists().then(|| folder.display().to_string());
    report
}

async fn attempt(plan: &Arc<Plan>, settings: &Settings, folder: PathBuf) -> anyhow::Result<Report> {
    // What an earlier run of this seed left would be mistaken for this one's.
    let _ = fs::remove_dir_all(&folder);
    let orders: Vec<OrderId> = plan.orders.iter().map(|_| OrderId::generate()).collect();
    let refused: HashMap<Uuid, i64> =
        plan.refused.iter().map(|(index, version)| (orders[*index].0, *version)).collect();
    let world = World::create(plan, refused.clone(), settings, folder).await?;
    let world = Arc::new(world);
    let (loaded, (happenings, felt)) =
        tokio::join!(load::run(plan, &world.topic, &orders), faults::inject_all(&world, &plan.faults));
    world.heal().await;
    loaded?;
    let healed = Instant::now();
    let mut violations = recover(&world, plan).await?;
    let recovery = healed.elapsed();
    violations.extend(finish(&world).await);
    violations.extend(world.ends());
    let ledger = ledger(&world, plan.sink).await?;
    let topic = dump(&bootstrap(), &world.topic).await?;
    let bound = cost::bound(plan, &felt, &ledger, doubled(&topic));
    let history = gather(&world, plan.guarantee, &topic, (refused, bound), ledger).await?;
    let Verdict { violations: found, lost, repeated } = check(&history);
    violations.extend(found);
    let report = Report {
        seed: plan.seed,
        faults: happenings,
        orders: plan.orders.len(),
        events: history.topic.len(),
        duplicates: repeated,
        lost,
        recovery_millis: u64::try_from(recovery.as_millis()).unwrap_or(u64::MAX),
        violations,
        ..Report::default()
    };
    if report.is_sound() && !settings.keep {
        // The world is shared with the faults' tasks, which have ended.
        Arc::into_inner(world).context("a fault still runs")?.remove().await?;
    } else {
        fs::write(world.folder.join("plan.json"), serde_json::to_vec_pretty(&**plan)?)?;
        fs::write(world.folder.join("report.json"), serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(report)
}

/// Waits until the group has committed all of the topic.
async fn recover(world: &World, plan: &Plan) -> anyhow::Result<Vec<Violation>> {
    let (mut least, mut deadline) = (i64::MAX, Instant::now() + RECOVERY_DEADLINE);
    loop {
        // A broker that is just up may not answer yet.
        let lag = lag(&world.topic, &world.group, plan.partitions).await.unwrap_or(i64::MAX);
        if lag == 0 {
            return Ok(Vec::new());
        }
        if lag < least {
            (least, deadline) = (lag, Instant::now() + RECOVERY_DEADLINE);
        }
        if Instant::now() > deadline {
            let what = format!("the lag is {lag}, no less than {RECOVERY_DEADLINE:?} ago");
            return Ok(vec![Violation::of(Rule::Recovered, what)]);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn lag(topic: &str, group: &str, partitions: i32) -> anyhow::Result<i64> {
    let (topic, group) = (topic.to_owned(), group.to_owned());
    let look = move || {
        let connection = KafkaConnection { bootstrap_servers: bootstrap(), tls: None, sasl: None };
        let mut config = connection.client_config("proof-lag");
        let client: BaseConsumer = config.set("group.id", &group).create()?;
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition(&topic, partition);
        }
        let committed = client.committed_offsets(list, ANSWER_TIMEOUT)?;
        let mut lag = 0;
        for element in committed.elements() {
            let (low, end) = client.fetch_watermarks(&topic, element.partition(), ANSWER_TIMEOUT)?;
            lag += end - element.offset().to_raw().filter(|offset| *offset >= 0).unwrap_or(low);
        }
        anyhow::Ok(lag)
    };
    tokio::task::spawn_blocking(look).await?
}

/// Ends every member, so that sink and dead letters are final.
async fn finish(world: &World) -> Vec<Violation> {
    let mut violations = Vec::new();
    for member in &world.members {
        let ended = member.finish().await;
        let is_orderly =
            ended.is_some_and(|status| status.success() || status.signal() == Some(Signal::TERM.as_raw()));
        if !is_orderly {
            let how = ended.map_or_else(|| "not in time".to_owned(), |status| status.to_string());
            let what = format!("{} was to end on SIGTERM: {how}", member.name);
            violations.push(Violation::of(Rule::Recovered, what));
        }
    }
    violations
}

async fn ledger(world: &World, kind: Kind) -> anyhow::Result<Ledger> {
    if kind == Kind::Http {
        return Ok(world.sink.ledger());
    }
    let rows = sqlx::query(
        "select order_id, version, payload::text, (extract(epoch from delivered_at) * 1000)::bigint from order_events order by seq",
    );
    let rows = rows.fetch_all(&world.pool).await?;
    let applied = rows.iter().map(|row| {
        let payload: String = row.try_get(2)?;
        let event = (row.try_get(0)?, row.try_get(1)?);
        anyhow::Ok(Applied { event, payload: payload.into_bytes(), at_millis: row.try_get(3)? })
    });
    Ok(Ledger { applied: applied.collect::<anyhow::Result<_>>()?, ..Ledger::default() })
}

async fn gather(
    world: &World,
    guarantee: Guarantee,
    topic: &[OwnedMessage],
    (refused, bound): (HashMap<Uuid, i64>, Bound),
    ledger: Ledger,
) -> anyhow::Result<History> {
    let (topic, poison) = sorted(topic);
    let (letters, poison_letters) = sorted(&dump(&bootstrap(), &world.dead_letters).await?);
    Ok(History { guarantee, topic, poison, applied: ledger.applied, letters, poison_letters, refused, bound })
}

/// Records of the topic beyond the first of their event.
fn doubled(topic: &[OwnedMessage]) -> usize {
    let (events, others) = sorted(topic);
    topic.len() - events.len() - others.len()
}

/// Payloads of events, and those of records that are none, by key.
type Sorted = (HashMap<Event, Vec<u8>>, BTreeMap<Vec<u8>, Vec<u8>>);

fn sorted(records: &[OwnedMessage]) -> Sorted {
    let (mut events, mut others) = (HashMap::new(), BTreeMap::new());
    for record in records {
        let payload = record.payload().unwrap_or_default();
        match serde_json::from_slice::<Told>(payload) {
            Ok(told) => drop(events.insert((told.order_id, told.version), payload.to_vec())),
            Err(_) => drop(others.insert(record.key().unwrap_or_default().to_vec(), payload.to_vec())),
        }
    }
    (events, others)
}
