//! Service: how many pods take orders, by how long orders wait for their transaction and how busy the pods' writers are.

use super::signals::Seconds;
use super::sink::Sink;
use super::window::Window;
use super::{Decision, Observation, Verdict};

/// A writer that is busier makes orders wait by chance alone.
const FULL: f64 = 0.8;
/// So busy a step leaves the writers, out or in: between the two lies what keeps it from swinging.
const EASY: f64 = 0.6;
/// Orders that wait while writers are less busy wait for something else: a lock, a slow disk.
const AT_WORK: f64 = 0.5;
/// Pressure that lasts for less is a burst that the queue is there for.
const LASTS: Seconds = 10.0;
/// Fewer pods are asked for only when they would have held for so long.
const WINDOW: Seconds = 120.0;
/// What new pods take shows once they have been up for so long.
const SETTLES: Seconds = 15.0;
/// Events that wait for so long wait for the relay or for Kafka. No pod that might publish them is taken away then.
const RELAY_BEHIND: Seconds = 60.0;

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServicePolicy {
    /// Fewest pods.
    pub min: u32,
    /// Most pods.
    pub max: u32,
    /// How long an order may wait for its transaction, in seconds.
    pub target_wait: Seconds,
}

/// What a pod did between two looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pod {
    /// Share of the time that its writer was at work.
    pub busy: f64,
    /// Orders per second that it took.
    pub orders: f64,
    /// How long all but one of a hundred of them waited at most, in seconds.
    pub wait: Seconds,
}

/// What was seen of the service in one tick.
#[derive(Clone, Copy, Debug)]
pub struct ServiceObservation<'a> {
    /// When, in seconds.
    pub at: Seconds,
    /// Pods that were asked for.
    pub replicas: u32,
    /// Pods that are up.
    pub ready: u32,
    /// The pods; nothing when one of them could not be read.
    pub pods: Option<&'a [Pod]>,
    /// How long the oldest event has been waiting in the outbox, in seconds.
    pub outbox_age: Seconds,
}

/// What a decision needs of the ticks before it.
#[derive(Clone, Debug, Default)]
pub struct ServiceMemory {
    pressed: Option<Seconds>,
    window: Window,
    sink: Sink,
    ready: u32,
    undisturbed: Seconds,
}

/// How many pods should take orders. Pure: the same inputs give the same answer.
#[must_use]
pub fn decide_service(
    policy: &ServicePolicy,
    seen: &ServiceObservation<'_>,
    mut memory: ServiceMemory,
) -> (Decision, ServiceMemory) {
    let Some(pods) = seen.pods.filter(|pods| !pods.is_empty()) else {
        memory.pressed = None;
        memory.window.clear();
        let replicas = seen.replicas.clamp(policy.min, policy.max.max(policy.min));
        let reason = "the figures of the service's pods could not be read: replicas are held".to_owned();
        return (Decision { replicas, verdict: Verdict::LagUnknown, reason }, memory);
    };
    let count = pods.len() as f64;
    let busy: f64 = pods.iter().map(|pod| pod.busy).sum();
    let late = pods.iter().any(|pod| pod.wait > policy.target_wait);
    let pressed = busy >= FULL * count || (late && busy >= AT_WORK * count);
    memory.watch(seen, pressed, late, pods.iter().map(|pod| pod.orders).sum::<f64>() / count);

    let easy = whole(busy / EASY).max(policy.min);
    let settled = seen.ready >= seen.replicas;
    let needed = if memory.lasts(seen.at) && settled { easy.max(seen.replicas + 1) } else { seen.replicas };
    let limit = memory.sink.limit(seen.at);
    let out = limit.map_or(needed, |limit| needed.min(limit.max(policy.min)));
    let held_up = !settled || late || pressed || seen.outbox_age > RELAY_BEHIND;
    let fewer = if held_up { seen.replicas } else { easy.min(seen.replicas) };
    let replicas = if out > seen.replicas || limit.is_some_and(|limit| limit < seen.replicas) {
        out
    } else {
        memory.window.held(WINDOW, seen.at, fewer).min(seen.replicas)
    };
    let replicas = replicas.clamp(policy.min, policy.max.max(policy.min));
    memory.window.push(WINDOW, seen.at, if out > seen.replicas { out } else { fewer });
    if replicas != seen.replicas {
        let capacity = pods.iter().map(|pod| pod.orders).sum::<f64>() / count;
        memory.sink.stepped(seen.replicas, replicas, seen.at, capacity);
    }
    let (verdict, reason) = if limit.is_some_and(|limit| needed > limit) {
        (Verdict::SinkSaturated, "more pods did not take more orders: the last step was taken back")
    } else if needed > policy.max {
        (Verdict::AtMaximum, "more than maxReplicas are needed")
    } else if seen.outbox_age > RELAY_BEHIND {
        (
            Verdict::RelayBehind,
            "events wait in the outbox: Kafka or the relay is behind, and pods do not help",
        )
    } else if late || replicas > seen.replicas {
        (Verdict::CatchingUp, "orders wait for longer than they may")
    } else {
        (Verdict::WithinTarget, "no order waits for longer than it may")
    };
    (Decision { replicas, verdict, reason: reason.to_owned() }, memory)
}

impl ServiceMemory {
    fn watch(&mut self, seen: &ServiceObservation<'_>, pressed: bool, late: bool, orders: f64) {
        self.pressed = if pressed { self.pressed.or(Some(seen.at)) } else { None };
        if seen.ready != self.ready {
            self.undisturbed = seen.at;
            self.ready = seen.ready;
        }
        let group = Observation {
            at: seen.at,
            replicas: seen.replicas,
            ready: seen.ready,
            rebalancing: false,
            growing: false,
            partitions: &[],
        };
        self.sink.settled(&group, self.undisturbed);
        if seen.at - self.undisturbed < SETTLES {
            return;
        }
        // Pods that are busy and let nobody wait too long do all there is to do: what they would do with more is not known.
        if pressed && late {
            self.sink.judge(seen.at, orders);
        } else if !late {
            self.sink.not_busy();
        }
    }

    /// Whether the pressure has lasted, with all the pods that there are.
    fn lasts(&self, at: Seconds) -> bool {
        self.pressed.is_some_and(|since| at - since >= LASTS) && at - self.undisturbed >= SETTLES
    }
}

/// As many pods as that, in whole.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some pods, and not below none")]
fn whole(pods: f64) -> u32 {
    // Sums of fractions err in the last digits.
    (pods - 1e-9).ceil().max(0.0) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: ServicePolicy = ServicePolicy { min: 1, max: 6, target_wait: 0.05 };

    /// Looks every 5 s at pods that are all alike; `pods` makes them of how many there are.
    fn run(from: u32, looks: usize, pods: impl Fn(f64) -> Pod, outbox_age: Seconds) -> Vec<Decision> {
        let (mut memory, mut replicas, mut decisions) = (ServiceMemory::default(), from, Vec::new());
        for look in 0..looks {
            let alike = vec![pods(f64::from(replicas)); replicas as usize];
            let at = look as f64 * 5.0;
            let seen = ServiceObservation { at, replicas, ready: replicas, pods: Some(&alike), outbox_age };
            let (decision, after) = decide_service(&POLICY, &seen, memory);
            memory = after;
            replicas = decision.replicas;
            decisions.push(decision);
        }
        decisions
    }

    /// Pods that do 100 orders per second each.
    fn under(load: f64) -> impl Fn(f64) -> Pod {
        move |pods| {
            let busy = (load / pods / 100.0).min(1.0);
            Pod { busy, orders: busy * 100.0, wait: if busy > 0.9 { 0.3 } else { 0.01 } }
        }
    }

    #[test]
    fn writers_that_are_full_get_help_and_no_more_than_they_need() {
        let decisions = run(1, 40, under(170.0), 0.0);
        assert_eq!(decisions[1].replicas, 1, "a burst is what the queue is there for");
        assert_eq!(decisions.last().unwrap().replicas, 3);
        assert_eq!(decisions.last().unwrap().verdict, Verdict::WithinTarget);
        assert!(decisions.windows(2).all(|pair| pair[0].replicas <= pair[1].replicas));
    }

    #[test]
    fn fewer_pods_are_asked_for_after_a_window_in_one_step() {
        let replicas: Vec<_> = run(5, 60, under(50.0), 0.0).iter().map(|said| said.replicas).collect();
        assert!(replicas[..24].iter().all(|pods| *pods == 5));
        assert_eq!(replicas.last(), Some(&1));
    }

    #[test]
    fn orders_that_wait_for_something_else_than_the_writer_bring_no_pods() {
        let locked = |_: f64| Pod { busy: 0.2, orders: 10.0, wait: 0.4 };
        let decisions = run(2, 40, locked, 0.0);
        assert!(decisions.iter().all(|said| said.replicas == 2));
        assert_eq!(decisions.last().unwrap().verdict, Verdict::CatchingUp);
    }

    #[test]
    fn a_step_after_which_no_more_orders_are_taken_is_taken_back() {
        // The database takes 150 a second, from however many pods.
        let saturated = |pods: f64| Pod { busy: 1.0, orders: 150.0 / pods, wait: 0.5 };
        let decisions = run(2, 40, saturated, 0.0);
        assert!(decisions.iter().any(|said| said.replicas > 2));
        let last = decisions.last().unwrap();
        assert_eq!((last.replicas, last.verdict), (2, Verdict::SinkSaturated));
    }

    #[test]
    fn the_maximum_is_told_and_kept() {
        let last = run(1, 40, under(2000.0), 0.0).pop().unwrap();
        assert_eq!((last.replicas, last.verdict), (6, Verdict::AtMaximum));
    }

    #[test]
    fn while_events_wait_in_the_outbox_no_pod_is_taken_away() {
        let decisions = run(3, 60, under(10.0), 300.0);
        assert!(decisions.iter().all(|said| said.replicas == 3));
        assert_eq!(decisions.last().unwrap().verdict, Verdict::RelayBehind);
    }

    #[test]
    fn what_could_not_be_read_changes_nothing() {
        let seen = ServiceObservation { at: 0.0, replicas: 3, ready: 3, pods: None, outbox_age: 0.0 };
        let (decision, _) = decide_service(&POLICY, &seen, ServiceMemory::default());
        assert_eq!((decision.replicas, decision.verdict), (3, Verdict::LagUnknown));
    }

    proptest! {
        #[test]
        fn a_constant_load_comes_to_rest_and_turns_at_most_once(load in 0.0..1000.0_f64, from in 1_u32..6) {
            let replicas: Vec<_> = run(from, 200, under(load), 0.0).iter().map(|said| said.replicas).collect();
            let steps: Vec<_> = replicas.windows(2).map(|pair| pair[1].cmp(&pair[0])).filter(|step| step.is_ne()).collect();
            let turns = steps.windows(2).filter(|pair| pair[0] != pair[1]).count();
            prop_assert!(turns <= 1, "{load}: {replicas:?}");
            prop_assert!(replicas.iter().all(|pods| (POLICY.min..=POLICY.max).contains(pods)));
        }
    }
}
