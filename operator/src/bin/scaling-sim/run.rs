//! Runs: a trace through one of the two scalers, and what it cost.

use operator::crd::StartFrom;
use operator::scaling::{Memory, Observation, Policy, decide};

use crate::hpa::{Hpa, POLLING, SYNC};
use crate::keda::Keda;
use crate::trace::{CAPACITY, PARTITIONS, SECONDS, Trace};
use crate::world::{Rebalance, World};

/// Seconds between two looks of ours.
pub(crate) const TICK: usize = 5;
/// What is asked for in every trace, of ours in these words.
#[expect(clippy::cast_possible_truncation, reason = "a dozen")]
pub(crate) const POLICY: Policy = Policy {
    min: 1,
    max: PARTITIONS as u32,
    target_age: 5.0,
    catch_up: 30.0,
    start_from: StartFrom::Earliest,
    retention: None,
};

/// Who decides.
pub(crate) enum Scaler {
    /// Ours, with what it remembers.
    Ours(Box<Memory>),
    /// KEDA with the autoscaler.
    Keda(Keda, Hpa),
}

impl Scaler {
    /// Ours, knowing nothing.
    pub(crate) fn ours() -> Self {
        Self::Ours(Box::default())
    }

    /// KEDA with a threshold.
    pub(crate) fn keda(lag_threshold: i64) -> Self {
        Self::Keda(Keda::new(lag_threshold), Hpa::default())
    }

    /// How many pods there should be now.
    fn look(&mut self, world: &World<'_>) -> (u32, Option<String>) {
        let (second, replicas) = (world.second, world.group.replicas());
        match self {
            Self::Ours(memory) if second.is_multiple_of(TICK) => {
                let partitions = world.readings();
                let seen = Observation {
                    at: second as f64,
                    replicas,
                    ready: u32::try_from(world.group.members().len()).unwrap_or(u32::MAX),
                    rebalancing: world.group.rebalancing(),
                    growing: false,
                    partitions: &partitions,
                };
                let (decision, after) = decide(&POLICY, &seen, *std::mem::take(memory));
                **memory = after;
                (decision.replicas, Some(decision.verdict.to_string()))
            }
            Self::Keda(keda, hpa) if second.is_multiple_of(SYNC) => {
                let metric = keda.metric(&world.readings());
                let mut replicas = replicas;
                if second.is_multiple_of(POLLING) {
                    replicas = hpa.poll(second, replicas, metric.map(|metric| metric.1), POLICY.min);
                }
                let bounds = (POLICY.min, POLICY.max);
                (hpa.sync(second, replicas, metric.map(|metric| metric.0), keda.lag_threshold, bounds), None)
            }
            _ => (replicas, None),
        }
    }
}

/// What a run cost, and its course.
#[derive(Clone, Debug, Default)]
pub(crate) struct Score {
    /// Seconds in which a record had been waiting for longer than it may.
    pub(crate) over: u32,
    /// Pods, summed up over the seconds.
    pub(crate) pod_seconds: u32,
    pub(crate) rebalances: u32,
    /// How often it went the other way than the time before.
    pub(crate) turns: u32,
    /// Age of the oldest record, in seconds, by second.
    pub(crate) ages: Vec<f64>,
    /// Pods by second.
    pub(crate) pods: Vec<u32>,
    /// What the arrivals alone would need, in pods, by second.
    pub(crate) offered: Vec<f64>,
    /// Verdicts in the order in which they came, each once.
    pub(crate) verdicts: Vec<String>,
}

/// Runs a trace from its begin to its end, beginning with as many pods as hold its first second.
pub(crate) fn run(trace: &Trace, rebalance: Rebalance, mut scaler: Scaler) -> Score {
    let mut world = World::new(trace, rebalance, pods_at_first(trace));
    let mut score = Score::default();
    let mut last_step = 0;
    while world.second < SECONDS {
        score.offered.push(trace.offered(world.second) / CAPACITY);
        world.step();
        let age = world.oldest();
        let before = world.group.replicas();
        score.over += u32::from(age > POLICY.target_age);
        score.pod_seconds += before;
        score.ages.push(age);
        score.pods.push(before);
        let (replicas, verdict) = scaler.look(&world);
        if let Some(verdict) = verdict.filter(|verdict| !score.verdicts.contains(verdict)) {
            score.verdicts.push(verdict);
        }
        let step = replicas.cmp(&before) as i32;
        if step != 0 {
            score.turns += u32::from(step + last_step == 0);
            last_step = step;
            world.group.scale(replicas);
        }
    }
    score.rebalances = world.group.rebalances;
    score
}

/// As many pods as hold what arrives in the first second: neither scaler is judged by how it comes to its feet.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a handful of pods")]
fn pods_at_first(trace: &Trace) -> u32 {
    ((trace.offered(0) / CAPACITY).ceil() as u32).max(POLICY.min)
}
