//! One run: from a plan to a verdict.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::Timestamp;
use rdkafka::message::{Headers, Message, OwnedMessage};

use super::audit;
use super::backends::bootstrap;
use super::check::repetitions::disturbances;
use super::check::{Rule, Verdict, Violation, check};
use super::client::Caller;
use super::end::End;
use super::faults;
use super::history::{History, Reads, Record};
use super::ledger::Ledger;
use super::plan::Plan;
use super::plan::shop::PROBE;
use super::report::{Counts, Report, refusals};
use super::workload::Workload;
use super::world::World;
use crate::dump::dump;

/// Longest that a healed service may take until it takes orders again, and until it has published more of what waits. Twice what was
/// ever seen, and less than the minute after which the relay looks at everything again: what only that finds was lost.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(40);
/// Pause between looks at the outbox.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Pause between two probes of a replica.
const PROBE_EVERY: Duration = Duration::from_millis(100);

/// What PostgreSQL logs when it ends a transaction that waits in a circle.
const DEADLOCK: &str = "deadlock detected";
/// Fewest orders of a run that proves anything. The fewest seen were six, of a lone replica that was frozen nearly throughout.
const LEAST_ORDERS: usize = 3;

/// What all runs of a campaign share.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The order service, built with its fail points.
    pub service: PathBuf,
    /// Where each run has its folder.
    pub out: PathBuf,
    /// Keep the folder of a sound run, too.
    pub keep: bool,
    /// Commit of the checkout.
    pub commit: String,
}

/// Runs the seed's plan; never fails: a run that could not be made is a report that says so.
pub async fn run(seed: u64, settings: &Settings) -> Report {
    let began = Instant::now();
    let plan = Arc::new(Plan::of(seed));
    let folder = settings.out.join(format!("seed-{seed}"));
    let mut report = match attempt(&plan, settings, folder.clone()).await {
        Ok(report) => report,
        Err(error) => Report::broken(seed, format!("{error:#}")),
    };
    report.commit.clone_from(&settings.commit);
    report.ended_at = Timestamp::now().strftime("%Y-%m-%d %H:%M").to_string();
    report.took_millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    report.evidence = folder.exists().then(|| folder.display().to_string());
    report
}

async fn attempt(plan: &Arc<Plan>, settings: &Settings, folder: PathBuf) -> anyhow::Result<Report> {
    // What an earlier run of this seed left would be mistaken for this one's.
    let _ = fs::remove_dir_all(&folder);
    let world = Arc::new(World::create(plan, &settings.service, folder).await?);
    write(&world.folder.join("plan.json"), &**plan)?;
    let ledger = Ledger::create(&world.folder.join("calls.jsonl"))?;
    let caller = Caller::new(world.replicas.iter().map(|replica| replica.http.clone()).collect())?;
    let workload = Workload::new(Arc::clone(plan), caller, ledger.clone());

    let (worked, mut happenings) = tokio::join!(workload.run(), faults::inject_all(&world, &plan.faults));
    worked?;
    world.heal().await?;
    let healed = Instant::now();
    let mut violations = recover(&world, &workload).await?;
    let recovery = healed.elapsed();
    let (mut recovered, mut read) = (None, Reads::default());
    // A service that does not recover need not answer.
    if violations.is_empty() {
        recovered = Some(ledger.now());
        workload.ask_again().await?;
        // What came of that may be an order that was never placed before.
        violations.extend(drained(&world).await?);
        read = workload.read_back().await;
    }
    violations.extend(finish(&world).await);
    let mut logs = Vec::new();
    for replica in &world.replicas {
        let log = fs::read_to_string(world.folder.join(format!("{}.log", replica.name)))?;
        happenings.extend(faults::points(replica, &log));
        logs.push(log);
    }
    let ends = ends(&world);
    violations.extend(astray(&world, &ends));

    let happened = happenings.iter().filter(|fault| fault.happened).count();
    let logs = logs.iter().map(String::as_str);
    let known = History {
        recovered,
        read,
        in_hand: plan.in_hand(),
        disturbances: disturbances(plan.replicas, happened, ends.len(), logs),
        ..History::default()
    };
    let history = gather(&world, plan, &ledger, known).await?;
    let Verdict { violations: found, events, duplicates } = check(&history);
    violations.extend(found);
    violations.extend(idle(&history));
    let report = Report {
        seed: plan.seed,
        faults: happenings,
        calls: Counts::of(&history.calls),
        refusals: refusals(&history.calls),
        orders: history.orders.len(),
        events,
        duplicates,
        ended_at_start: ended_at_start(&ends),
        recovery_millis: u64::try_from(recovery.as_millis()).unwrap_or(u64::MAX),
        violations,
        ..Report::default()
    };
    if report.is_sound() && !settings.keep {
        // The world is shared with the faults' tasks, which have ended.
        Arc::into_inner(world).context("a fault still runs")?.remove().await?;
    } else {
        write(&world.folder.join("history.json"), &history)?;
        write(&world.folder.join("report.json"), &report)?;
    }
    Ok(report)
}

/// Every end of a process so far, with its replica's name.
fn ends(world: &World) -> Vec<(&str, End)> {
    let all = world.replicas.iter().map(|replica| (replica.name.as_str(), replica.ends()));
    all.flat_map(|(name, ends)| ends.into_iter().map(move |end| (name, end))).collect()
}

/// Ends that nobody asked for, panics, and stops that took too long.
fn astray(world: &World, ends: &[(&str, End)]) -> Vec<Violation> {
    let unasked = ends.iter().filter_map(|(name, end)| {
        Some(Violation::of(Rule::Standing, format!("{name} ended unasked: {}", end.unasked()?)))
    });
    let panicked = ends.iter().filter_map(|(name, end)| {
        Some(Violation::of(
            Rule::Standing,
            format!("{name} panicked, and not by its fail point alone: {}", end.panicked()?),
        ))
    });
    let hung = world.replicas.iter().filter(|replica| replica.hung() > 0).map(|replica| {
        let what = format!("{} did not end on SIGTERM in time, {} times", replica.name, replica.hung());
        Violation::of(Rule::Recovered, what)
    });
    unasked.chain(panicked).chain(hung).collect()
}

fn ended_at_start(ends: &[(&str, End)]) -> Vec<String> {
    let at_start = ends.iter().filter(|(_, end)| end.at_start());
    at_start.map(|(name, end)| format!("{name} ({})", end.status)).collect()
}

/// A run that took hardly an order proves nothing.
fn idle(history: &History) -> Option<Violation> {
    let orders = history.orders.iter().filter(|order| !order.items.contains_key(PROBE)).count();
    (orders < LEAST_ORDERS)
        .then(|| Violation::of(Rule::Founded, format!("only {orders} orders were taken beside the probes")))
}

/// Waits until every replica takes orders and nothing waits in the outbox.
async fn recover(world: &World, workload: &Workload) -> anyhow::Result<Vec<Violation>> {
    let deadline = Instant::now() + RECOVERY_DEADLINE;
    for index in 0..world.replicas.len() {
        let mut attempt = 0;
        while !workload.probe(index, attempt).await? {
            attempt += 1;
            if Instant::now() > deadline {
                let what =
                    format!("{} took no order within {RECOVERY_DEADLINE:?}", world.replicas[index].name);
                return Ok(vec![Violation::of(Rule::Recovered, what)]);
            }
            tokio::time::sleep(PROBE_EVERY).await;
        }
    }
    drained(world).await
}

/// Waits until nothing waits in the outbox.
async fn drained(world: &World) -> anyhow::Result<Vec<Violation>> {
    let (mut least, mut deadline) = (i64::MAX, Instant::now() + RECOVERY_DEADLINE);
    loop {
        let (outbox, parked) = audit::waiting(&world.pool).await?;
        if outbox == 0 && parked == 0 {
            return Ok(Vec::new());
        }
        if outbox < least {
            (least, deadline) = (outbox, Instant::now() + RECOVERY_DEADLINE);
        }
        if Instant::now() > deadline {
            let what = format!(
                "{outbox} events wait in the outbox and {parked} orders are parked, no fewer than {RECOVERY_DEADLINE:?} ago"
            );
            return Ok(vec![Violation::of(Rule::Recovered, what)]);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Ends every replica, so that the topic is final. How each ended is for [`astray`] to judge, as with every end.
async fn finish(world: &World) -> Vec<Violation> {
    let mut violations = Vec::new();
    for replica in &world.replicas {
        if replica.finish().await.is_none() {
            let what = format!("{} was to end on SIGTERM, and did not in time", replica.name);
            violations.push(Violation::of(Rule::Recovered, what));
        }
    }
    violations
}

/// All that is in the database and the topic, beside what is known.
async fn gather(world: &World, plan: &Plan, ledger: &Ledger, known: History) -> anyhow::Result<History> {
    let pool = &world.pool;
    // A crash forgets the statistics, but not what was logged.
    let logged = world.postgres.container.logged(&world.began, DEADLOCK).await?;
    let deadlocks = audit::deadlocks(pool).await?.max(i64::try_from(logged)?);
    Ok(History {
        shop: plan.shop.clone(),
        partitions: plan.partitions,
        calls: ledger.calls(),
        orders: audit::orders(pool).await?,
        audit: audit::events(pool).await?,
        waiting: audit::outbox(pool).await?,
        topic: dump(&bootstrap(), &world.topic).await?.iter().map(record).collect(),
        stock: audit::stock(pool).await?.into_iter().collect(),
        coupon_uses: audit::coupon_uses(pool).await?.into_iter().collect(),
        deadlocks,
        ..known
    })
}

fn record(message: &OwnedMessage) -> Record {
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let headers = message
        .headers()
        .map(|headers| headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect());
    Record {
        partition: message.partition(),
        offset: message.offset(),
        key: text(message.key()),
        headers: headers.unwrap_or_default(),
        payload: message.payload().unwrap_or_default().to_vec(),
    }
}

fn write(file: &Path, value: &impl serde::Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_vec_pretty(value)?;
    fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))
}
