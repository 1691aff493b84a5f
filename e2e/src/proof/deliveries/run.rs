//! One run: from a plan to a verdict.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::Timestamp;
use order_events::OrderId;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::TopicPartitionList;
use runtime::kafka::KafkaConnection;
use serde::Serialize;
use sqlx::Row;
use uuid::Uuid;

use super::check::{Bound, History, Verdict, check};
use super::cost::Felt;
use super::plan::{Guarantee, Kind, Plan};
use super::record::Record;
use super::sink::{Applied, Ledger};
use super::world::World;
use super::{cost, faults, load};
use crate::dump::dump;
use crate::proof::backends::bootstrap;
use crate::proof::check::{Rule, Violation};
use crate::proof::faults::Happening;
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
    /// Commit of the checkout.
    pub commit: String,
    /// Which member is on which wire to Kafka.
    pub directory: Directory,
}

/// A run judged: a line of the results.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    /// What was promised.
    pub guarantee: Guarantee,
    /// What its faults may have cost at most.
    pub bound: Bound,
    /// Letters in the dead-letter topic.
    pub letters: usize,
    /// … and those of them beyond the first of their record.
    pub letters_again: usize,
    /// What it came to.
    #[serde(flatten)]
    pub report: Report,
}

/// Runs the seed's plan; never fails: a run that could not be made is a report that says so.
pub async fn run(seed: u64, guarantee: Guarantee, settings: &Settings) -> Judged {
    let began = Instant::now();
    let plan = Arc::new(Plan::of(seed, guarantee));
    let folder = settings.out.join(format!("deliveries-{guarantee:?}-{seed}"));
    let mut judged = attempt(&plan, settings, folder.clone()).await.unwrap_or_else(|error| Judged {
        guarantee,
        bound: Bound::default(),
        letters: 0,
        letters_again: 0,
        report: Report::broken(seed, format!("{error:#}")),
    });
    let report = &mut judged.report;
    report.commit.clone_from(&settings.commit);
    report.ended_at = Timestamp::now().strftime("%Y-%m-%d %H:%M").to_string();
    report.took_millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    report.evidence = folder.exists().then(|| folder.display().to_string());
    judged
}

async fn attempt(plan: &Arc<Plan>, settings: &Settings, folder: PathBuf) -> anyhow::Result<Judged> {
    // What an earlier run of this seed left would be mistaken for this one's.
    let _ = fs::remove_dir_all(&folder);
    let orders: Vec<OrderId> = plan.orders.iter().map(|_| OrderId::generate()).collect();
    let refused: HashMap<Uuid, i64> =
        plan.refused.iter().map(|(index, version)| (orders[*index].0, *version)).collect();
    let world = Arc::new(World::create(plan, refused.clone(), settings, folder).await?);
    let (happenings, tried) = go_through(plan, &world, &orders).await?;
    world.heal().await;
    let healed = Instant::now();
    let mut violations = recover(&world, plan).await?;
    let recovery = healed.elapsed();
    violations.extend(finish(&world).await);
    violations.extend(world.ends());
    let history = gather(&world, plan, refused, &tried).await?;
    let Verdict { violations: found, lost, repeated, letters_again } = check(&history);
    violations.extend(found);
    let report = Report {
        seed: plan.seed,
        faults: happenings,
        orders: plan.orders.len(),
        events: history.events(),
        duplicates: repeated,
        lost,
        recovery_millis: u64::try_from(recovery.as_millis()).unwrap_or(u64::MAX),
        violations,
        ..Report::default()
    };
    let (guarantee, letters) = (plan.guarantee, history.letters.len());
    let judged = Judged { guarantee, bound: history.bound, letters, letters_again, report };
    if judged.report.is_sound() && !settings.keep {
        // The world is shared with the faults' tasks, which have ended.
        Arc::into_inner(world).context("a fault still runs")?.remove().await?;
    } else {
        fs::write(world.folder.join("plan.json"), serde_json::to_vec_pretty(&**plan)?)?;
        fs::write(world.folder.join("report.json"), serde_json::to_vec_pretty(&judged)?)?;
    }
    Ok(judged)
}

/// The load and the faults: side by side, or, behind a backlog, one after the other. What became of each fault, and when it was
/// tried.
async fn go_through(
    plan: &Plan,
    world: &Arc<World>,
    orders: &[OrderId],
) -> anyhow::Result<(Vec<Happening>, Vec<Felt>)> {
    if plan.is_backlog {
        load::run(plan, &world.topic, orders).await?;
        world.until_under_way().await?;
        return Ok(faults::inject_all(world, &plan.faults).await);
    }
    let (loaded, injected) =
        tokio::join!(load::run(plan, &world.topic, orders), faults::inject_all(world, &plan.faults));
    loaded?;
    Ok(injected)
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

/// Ends every member, so that sink and dead letters are final. How they ended is told by [`World::ends`].
async fn finish(world: &World) -> Vec<Violation> {
    let mut violations = Vec::new();
    for member in &world.members {
        if member.finish().await.is_none() {
            let what = format!("{} did not end on SIGTERM in time", member.name);
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
    plan: &Plan,
    refused: HashMap<Uuid, i64>,
    tried: &[Felt],
) -> anyhow::Result<History> {
    let topic = records(&world.topic).await?;
    let letters = records(&world.dead_letters).await?;
    let ledger = ledger(world, plan.sink).await?;
    let unknown = cost::unknown(&topic, &ledger, world.last_move()?);
    let written: Vec<i64> = letters.iter().map(|letter| letter.at_millis).collect();
    let bound = cost::bound(plan, tried, &ledger, &written, unknown);
    Ok(History { guarantee: plan.guarantee, topic, applied: ledger.applied, letters, refused, bound })
}

async fn records(topic: &str) -> anyhow::Result<Vec<Record>> {
    Ok(dump(&bootstrap(), topic).await?.iter().map(Record::of).collect())
}
