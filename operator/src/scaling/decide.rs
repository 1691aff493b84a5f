//! Decide: the fewest pods of which the fullest keeps up and works its backlog off in time.

use super::fit;
use super::memory::{Memory, Track};
use super::signals::{Seconds, needs_a_first_pod};
use super::verdict::{Verdict, named};
use super::{Age, Decision, Observation, Policy};

/// Fewer pods are asked for only when they would have held for so many times the time to catch up, and for so long at least: a step
/// in and another out again cost two rebalances, each with a backlog to catch up with.
const WINDOW_CATCH_UPS: f64 = 2.0;
const LEAST_WINDOW: Seconds = 60.0;
/// Where it is unknown what a pod can do, one fewer is tried after so many windows: such a try may fail, and costs two rebalances then.
const BLIND_WINDOWS: f64 = 5.0;
/// Part of a pod's capacity that must stay free for it to be one pod fewer: what scales in does not scale out again by itself.
const HEADROOM: f64 = 0.1;
/// Most that a pod may be overfull before there is another, as a part of its capacity.
const STRETCH: f64 = 0.1;
/// Records that wait for longer than this part of the retention are at risk.
const RETENTION_SHARE: f64 = 0.5;
/// How long records that were lost are told of.
const LOSS_TOLD: Seconds = 600.0;

/// How many pods the group should have. Pure: the same inputs give the same answer.
#[must_use]
pub fn decide(policy: &Policy, seen: &Observation<'_>, mut memory: Memory) -> (Decision, Memory) {
    let partitions = u32::try_from(seen.partitions.len()).unwrap_or(u32::MAX);
    let backlogs: Option<Vec<_>> =
        seen.partitions.iter().map(|reading| reading.backlog(policy.start_from)).collect();
    let Some(backlogs) = backlogs.filter(|backlogs| !backlogs.is_empty()) else {
        memory.lose_sight(seen.at);
        let reason = "the group's place or the log could not be read: replicas are held";
        return (held(policy, seen, Verdict::LagUnknown, reason), memory);
    };
    memory.take_down(policy, seen, &backlogs);
    if seen.rebalancing {
        let reason = "the group is dealing out its partitions anew: replicas are held";
        return (held(policy, seen, Verdict::Rebalancing, reason), memory);
    }
    if seen.growing || memory.growing(seen) {
        let reason = "the topic is being given more partitions: replicas are held";
        let held = held(policy, seen, Verdict::Growing, reason);
        // The new partitions are used only once every group has a place in them, and a group at rest gets none.
        return (Decision { replicas: held.replicas.max(1), ..held }, memory);
    }
    let Some(view) = View::new(policy, seen, &memory) else {
        let reason = "rates are known after a second look: replicas are held";
        return (held(policy, seen, Verdict::LagUnknown, reason), memory);
    };
    let most = policy.max.min(partitions);
    let least = policy.min.min(most);
    let needed = view.needed();
    let limit = memory.sink.limit(seen.at);
    let out = limit.map_or(needed, |limit| needed.min(limit.max(least)));
    let fewer = if view.settled() { view.enough() } else { seen.replicas };
    let wanted = if out > seen.replicas { out } else { fewer };
    let blind = if memory.capacity.known().is_none() { BLIND_WINDOWS } else { 1.0 };
    let window = blind * LEAST_WINDOW.max(WINDOW_CATCH_UPS * policy.catch_up);
    let replicas = if limit.is_some_and(|limit| limit < seen.replicas) || out > seen.replicas {
        out
    } else {
        memory.wanted.held(window, seen.at, wanted).min(seen.replicas)
    };
    let replicas = replicas.clamp(least, most);
    let (verdict, reason) = view.verdict(needed, replicas, most, limit);
    memory.wanted.push(window, seen.at, wanted);
    if let Some(capacity) = memory.capacity.known().filter(|_| replicas != seen.replicas) {
        memory.sink.stepped(seen.replicas, replicas, seen.at, capacity);
    }
    (Decision { replicas, verdict, reason }, memory)
}

/// No change, but for the bounds that the user set.
fn held(policy: &Policy, seen: &Observation<'_>, verdict: Verdict, reason: &str) -> Decision {
    let replicas = seen.replicas.clamp(policy.min, policy.max.max(policy.min));
    Decision { replicas, verdict, reason: reason.to_owned() }
}

/// The partitions at one tick, with everything known that a decision needs.
struct View<'a> {
    policy: &'a Policy,
    seen: &'a Observation<'a>,
    memory: &'a Memory,
    parts: Vec<Part>,
}

/// One partition at one tick; rates in records per second.
struct Part {
    arrivals: f64,
    drain: f64,
    records: f64,
    age: Age,
    /// Most that it is read, however many pods there are.
    ceiling: f64,
    /// Whether nobody gets on with it. `suspect`: perhaps; it is not counted, for pods would not help it.
    stalled: bool,
    suspect: bool,
}

/// For which count of pods a load is reckoned.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    Stay,
    Out,
    In,
}

impl Part {
    fn new(track: &Track, at: Seconds) -> Option<Self> {
        let last = track.history.samples().next_back()?;
        Some(Self {
            arrivals: track.history.arrivals()?,
            drain: track.history.drain()?,
            records: last.records as f64,
            age: track.age?,
            ceiling: track.ceiling(at),
            stalled: track.stalled(),
            suspect: track.suspect(),
        })
    }

    /// What it asks of a pod: what arrives, and its backlog within the time to catch up. A step has its price: moved partitions
    /// rest while the group deals them out, and until new pods are up the backlog goes on growing.
    fn load(&self, step: Step, view: &View<'_>) -> f64 {
        if self.suspect {
            return 0.0;
        }
        let pause = self.arrivals * view.memory.pause;
        let growth = match step {
            Step::Stay => 0.0,
            Step::Out => pause + (self.arrivals - self.drain).max(0.0) * view.memory.start,
            Step::In => pause,
        };
        self.arrivals + (self.records + growth) / view.policy.catch_up
    }
}

impl<'a> View<'a> {
    fn new(policy: &'a Policy, seen: &'a Observation<'a>, memory: &'a Memory) -> Option<Self> {
        let parts = memory.tracks.iter().map(|track| Part::new(track, seen.at));
        Some(Self { policy, seen, memory, parts: parts.collect::<Option<_>>()? })
    }

    fn loads(&self, step: Step) -> Vec<f64> {
        self.parts.iter().map(|part| part.load(step, self).min(part.ceiling)).collect()
    }

    /// How full a pod may be. An overload of a part s lets the age settle at s times the time to catch up, before it grows on;
    /// half the target is given to that.
    fn allowed(&self, capacity: f64) -> f64 {
        capacity * (1.0 + STRETCH.min(self.policy.target_age / 2.0 / self.policy.catch_up))
    }

    /// The fewest pods that any work needs: one, as soon as there is some. A group at rest rests on until a record has waited
    /// for so long that a pod, which has to start first, comes in time by half the target.
    fn first_pod(&self) -> u32 {
        let patience = (self.policy.target_age / 2.0 - self.memory.start).max(0.0);
        let due = |part: &Part| match part.age {
            Age::Nothing => false,
            // How old it is nobody knows.
            Age::AtLeast(_) => true,
            Age::Known(age) => age >= patience,
        };
        let work = match self.seen.replicas {
            0 => self.parts.iter().any(due),
            _ => self.parts.iter().any(|part| part.records > 0.0 || part.arrivals > 0.0),
        };
        u32::from(work || needs_a_first_pod(self.seen.partitions, self.policy.start_from))
    }

    /// Pods that are needed: those there are, if they hold, or the fewest more that do.
    fn needed(&self) -> u32 {
        let current = self.seen.replicas;
        let first = self.first_pod().max(current);
        if first == 0 {
            return 0;
        }
        // Records that wait too long wait for pods that are full, or nearly: what was reached comes near to what they can.
        let reached = Some(self.memory.capacity.at_least()).filter(|reached| self.late() && *reached > 0.0);
        let Some(capacity) = self.memory.capacity.known().or(reached) else { return first };
        if current > 0 && self.holds(capacity) {
            return current;
        }
        fit::fewest(&self.loads(Step::Out), capacity, self.allowed(capacity)).max(first)
    }

    /// Whether the pods there are hold. Under the assignment they have, where it is known and theirs, else the worst.
    fn holds(&self, capacity: f64) -> bool {
        let loads: Vec<_> = self.loads(Step::Stay).into_iter().map(|load| load.min(capacity)).collect();
        let owners: Option<Vec<_>> = self.seen.partitions.iter().map(|reading| reading.owner).collect();
        match owners {
            Some(owners) if self.seen.ready == self.seen.replicas => {
                fit::fullest_of(&loads, &owners) <= self.allowed(capacity)
            }
            _ => fit::fewest(&loads, capacity, self.allowed(capacity)) <= self.seen.replicas,
        }
    }

    /// Whether fewer pods may be thought of at all: every pod is up, and no record waits too long that a pod could read.
    fn settled(&self) -> bool {
        // When all that is left stands still, it is the sink or the program, and nothing is known of the load.
        let idle = self.parts.iter().all(|part| part.suspect || part.records == 0.0);
        let outage = idle && self.parts.iter().filter(|part| part.suspect).count() * 2 > self.parts.len();
        self.seen.ready >= self.seen.replicas && !outage && !self.late()
    }

    /// Whether a record waits too long that a pod could read.
    fn late(&self) -> bool {
        self.parts.iter().any(|part| !part.suspect && part.age.seconds() > self.policy.target_age)
    }

    /// The fewest pods that would hold with something to spare.
    fn enough(&self) -> u32 {
        // The step must be worked off in time, and when it is there must be something to spare.
        let (step, then) = (self.loads(Step::In), self.loads(Step::Stay));
        let fit = |capacity: f64| {
            let spare = fit::fewest(&then, capacity, capacity * (1.0 - HEADROOM));
            fit::fewest(&step, capacity, capacity).max(spare)
        };
        let enough = match self.memory.capacity.known() {
            Some(capacity) => fit(capacity),
            // What a pod can do was never seen, and will not be while there are too many: one fewer, and it will.
            None => fit(self.memory.capacity.at_least()).min(self.seen.replicas.saturating_sub(1)),
        };
        enough.max(self.first_pod()).min(self.seen.replicas)
    }

    fn verdict(&self, needed: u32, replicas: u32, most: u32, limit: Option<u32>) -> (Verdict, String) {
        let which = |test: &dyn Fn(&Part) -> bool| -> Vec<usize> {
            self.parts.iter().enumerate().filter(|(_, part)| test(part)).map(|(index, _)| index).collect()
        };
        let endangered =
            self.policy.retention.map_or(vec![], |kept| which(&|p| p.age.seconds() > kept * RETENTION_SHARE));
        let lost = self.memory.lost_within(self.seen.at, LOSS_TOLD);
        let stalled = which(&|part| part.stalled);
        let full = self.memory.capacity.known().unwrap_or(f64::INFINITY);
        let hot = which(&|part| part.load(Step::Stay, self) > self.allowed(full.min(part.ceiling)));
        let late = which(&|part| part.age.seconds() > self.policy.target_age);
        if lost {
            (Verdict::RetentionRisk, "records were deleted before the group read them".into())
        } else if !endangered.is_empty() {
            let place = named(&endangered);
            (Verdict::RetentionRisk, format!("records of {place} wait for half the retention and longer"))
        } else if !stalled.is_empty() {
            let place = named(&stalled);
            (Verdict::PartitionStalled, format!("nobody gets on with {place}: more pods would not help"))
        } else if limit.is_some_and(|limit| needed > limit) {
            (Verdict::SinkSaturated, "more pods did not deliver more: the last step was taken back".into())
        } else if !hot.is_empty() && hot.len() * 2 <= self.parts.len() {
            let place = named(&hot);
            (Verdict::HotPartition, format!("{place} alone brings more than one pod or one key works off"))
        } else if needed > most || (replicas == most && !hot.is_empty()) {
            (Verdict::AtMaximum, self.maximum(most))
        } else if replicas > self.seen.replicas || !late.is_empty() {
            (Verdict::CatchingUp, "records wait for longer than they may: it is being worked off".into())
        } else {
            (Verdict::WithinTarget, "no record waits for longer than it may".into())
        }
    }

    fn maximum(&self, most: u32) -> String {
        if self.policy.max <= most {
            format!("more than maxReplicas ({most}) are needed")
        } else {
            format!("more pods than partitions ({most}) would be needed")
        }
    }
}
