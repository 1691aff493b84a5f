//! Ways to take an order, from one transaction each to a hundred in one; closed loop, so that each arm shows its most.

use std::collections::BTreeMap;

use super::store::{self, StoreArm};
use super::{Measured, Plan};
use crate::bench::environment::Environment;
use crate::bench::generate::Pace;
use crate::bench::results::{Level, Part, Rung, Spread};
use crate::bench::samples::Figures;
use crate::bench::workload::{Choice, Workload};

/// Numbers of clients.
const CLIENTS: [usize; 3] = [1, 32, 128];
/// Connections of the naive arm through HTTP: where its throughput was highest of 16, 32 and 64.
const NAIVE_CONNECTIONS: &str = "32";

/// One arm: a way to take an order, at a level.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Arm {
    Http(String),
    Store(StoreArm),
}

impl Arm {
    fn level(&self) -> Level {
        match self {
            Self::Http(_) => Level::Http,
            Self::Store(_) => Level::Store,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Http(mode) if mode == "per-order" => "naive",
            Self::Http(mode) => mode,
            Self::Store(arm) => arm.name(),
        }
    }
}

/// Which cell of the table.
type Cell = (Arm, Choice, usize);
/// What was found of each cell; the last part of the key is the arm's place among the arms.
type Found = BTreeMap<(Level, Choice, usize, usize), (Arm, Vec<Figures>)>;

/// Climbs the ladder.
///
/// # Errors
/// When a part fails.
pub async fn run(plan: &Plan) -> anyhow::Result<Part<Vec<Rung>>> {
    let environment = Environment::look(&plan.backends).await?;
    let http = plan.modes.iter().cloned().map(Arm::Http);
    let arms: Vec<Arm> = http.chain(StoreArm::ALL.map(Arm::Store)).collect();
    let mut found = Found::new();
    for repetition in 0..plan.repetitions {
        for choice in Choice::ALL {
            for clients in CLIENTS {
                // Each repetition begins with another arm, so that none always runs on a fresh or a tired machine.
                for turn in 0..arms.len() {
                    let index = (turn + repetition) % arms.len();
                    let arm = &arms[index];
                    let seed = repetition as u64;
                    let figures = climb(plan, &(arm.clone(), choice, clients), seed).await?;
                    println!(
                        "  {:?} {}, {clients} clients, {}: {:.0}/s, p50 {:.1} ms, p99 {:.1} ms, {} failed",
                        arm.level(),
                        arm.name(),
                        choice.name(),
                        figures.accepted_per_second,
                        figures.accepted_latency.p50,
                        figures.accepted_latency.p99,
                        figures.failures(),
                    );
                    let key = (arm.level(), choice, clients, index);
                    found.entry(key).or_insert_with(|| (arm.clone(), Vec::new())).1.push(figures);
                }
            }
        }
    }
    let rungs = found.iter().map(|((level, choice, clients, _), (arm, figures))| {
        let spread = |of: fn(&Figures) -> f64| Spread::of(figures.iter().map(of));
        Rung {
            level: *level,
            arm: arm.name().to_owned(),
            clients: *clients,
            choice: *choice,
            per_second: spread(|figures| figures.accepted_per_second),
            p50: spread(|figures| figures.accepted_latency.p50),
            p99: spread(|figures| figures.accepted_latency.p99),
            failures: figures.iter().map(Figures::failures).sum(),
        }
    });
    Ok(plan.part(environment, plan.window, plan.repetitions, rungs.collect()))
}

async fn climb(plan: &Plan, (arm, choice, clients): &Cell, seed: u64) -> anyhow::Result<Figures> {
    let workload = Workload::plain(*choice);
    match arm {
        Arm::Http(mode) => {
            let mut plan = plan.clone();
            if mode == "per-order" {
                plan.settings.push(("DATABASE_MAX_CONNECTIONS".to_owned(), NAIVE_CONNECTIONS.to_owned()));
            }
            let stage = plan.stage(mode).await?;
            let pace = Pace::Closed { clients: *clients };
            let measured = stage.measure(workload, pace, (plan.warm_up, plan.window), seed).await;
            stage.strike().await?;
            measured.map(|Measured { figures, .. }| figures)
        }
        Arm::Store(arm) => store::run(plan, *arm, workload, *clients, seed).await,
    }
}
