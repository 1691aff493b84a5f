//! Sink: whether the last step out brought what it should. Where it did not, something behind the pods is the limit.

use super::Observation;
use super::signals::Seconds;

/// A step must bring at least this share of what its pods could read, or the sink is saturated.
const LEAST_GAIN: f64 = 0.5;
/// For how long nothing is added after a step that brought nothing. It doubles with each in a row.
const HOLD: Seconds = 300.0;
/// Longest such time: a sink that was mended is noticed within it.
const MAX_HOLD: Seconds = 3600.0;
/// A step whose pods are not up after this is not judged any more.
const PATIENCE: Seconds = 300.0;

/// A step out that has still to show what it brought.
#[derive(Clone, Copy, Debug)]
struct Step {
    from: u32,
    to: u32,
    began: Seconds,
    /// Whether its pods are up.
    up: bool,
    /// What a pod read before it, in records per second.
    capacity: f64,
}

/// How many pods the sink has use for.
#[derive(Clone, Copy, Debug)]
struct Limit {
    replicas: u32,
    until: Seconds,
}

/// What steps out have brought.
#[derive(Clone, Debug, Default)]
pub(super) struct Sink {
    step: Option<Step>,
    limit: Option<Limit>,
    failures: u32,
}

impl Sink {
    /// A step was decided. One that follows before the last was judged is judged together with it.
    pub(super) fn stepped(&mut self, from: u32, to: u32, at: Seconds, capacity: f64) {
        let first = self.step.filter(|step| step.from < to);
        self.step = (to > from).then_some(Step {
            from: first.map_or(from, |step| step.from),
            to,
            began: at,
            up: false,
            capacity: first.map_or(capacity, |step| step.capacity),
        });
    }

    /// Notes that the pods of the step are up; the answer is how long that took, in seconds.
    pub(super) fn settled(&mut self, seen: &Observation<'_>, undisturbed: Seconds) -> Option<Seconds> {
        let step = self.step.as_mut()?;
        let took = undisturbed - step.began;
        if seen.at - step.began > PATIENCE {
            self.step = None;
        } else if !step.up && !seen.rebalancing && seen.ready >= step.to && took >= 0.0 {
            step.up = true;
            return Some(took);
        }
        None
    }

    /// Busy pods read so many records per second each. The answer is whether that is what pods can do, rather than what the
    /// sink takes.
    pub(super) fn judge(&mut self, at: Seconds, per_pod: f64) -> bool {
        if self.limit(at).is_some() {
            return false;
        }
        let Some(step) = self.step else { return true };
        if !step.up {
            return false;
        }
        self.step = None;
        let (from, to) = (f64::from(step.from), f64::from(step.to));
        let gained = per_pod * to - step.capacity * from;
        if gained >= LEAST_GAIN * step.capacity * (to - from) {
            self.failures = 0;
            return true;
        }
        let hold = (HOLD * 2.0_f64.powi(self.failures.try_into().unwrap_or(i32::MAX))).min(MAX_HOLD);
        self.failures += 1;
        let enough = (step.from..step.to).find(|pods| step.capacity * f64::from(*pods) >= per_pod * to);
        self.limit = Some(Limit { replicas: enough.unwrap_or(step.to), until: at + hold });
        false
    }

    /// No pod is busy: the step, if there was one, was enough.
    pub(super) fn not_busy(&mut self) {
        if self.step.is_some_and(|step| step.up) {
            self.step = None;
            self.failures = 0;
        }
    }

    /// How many pods the sink has use for, while it is believed to be saturated.
    pub(super) fn limit(&self, at: Seconds) -> Option<u32> {
        self.limit.filter(|limit| at < limit.until).map(|limit| limit.replicas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(at: Seconds, ready: u32) -> Observation<'static> {
        Observation { at, replicas: ready, ready, rebalancing: false, growing: false, partitions: &[] }
    }

    fn after_a_step(from: u32, to: u32) -> Sink {
        let mut sink = Sink::default();
        sink.stepped(from, to, 100.0, 100.0);
        assert!(!sink.judge(110.0, 50.0), "its pods are not up");
        assert_eq!(sink.settled(&seen(115.0, to), 113.0), Some(13.0));
        sink
    }

    #[test]
    fn a_step_that_brought_most_of_what_it_should_was_right() {
        let mut sink = after_a_step(2, 4);
        assert!(sink.judge(130.0, 80.0));
        assert_eq!(sink.limit(130.0), None);
    }

    #[test]
    fn after_a_step_that_lowered_the_throughput_it_goes_back_and_holds() {
        let mut sink = after_a_step(2, 4);
        assert!(!sink.judge(130.0, 45.0));
        assert_eq!((sink.limit(131.0), sink.limit(130.0 + HOLD)), (Some(2), None));
    }

    #[test]
    fn a_step_that_brought_a_little_keeps_the_pods_that_the_sink_has_use_for() {
        let mut sink = after_a_step(1, 6);
        assert!(!sink.judge(130.0, 45.0), "270 of 600");
        assert_eq!(sink.limit(131.0), Some(3));
    }

    #[test]
    fn each_failure_in_a_row_holds_for_longer() {
        let mut sink = after_a_step(2, 4);
        let mut at = 130.0;
        sink.judge(at, 45.0);
        for hold in [600.0, 1200.0, 2400.0, 3600.0, 3600.0] {
            at += 4000.0;
            sink.stepped(2, 4, at, 100.0);
            sink.settled(&seen(at, 4), at);
            sink.judge(at, 45.0);
            assert_eq!((sink.limit(at + hold - 1.0), sink.limit(at + hold)), (Some(2), None));
        }
    }

    #[test]
    fn a_step_after_which_no_pod_is_busy_was_right() {
        let mut sink = after_a_step(2, 4);
        sink.not_busy();
        assert!(sink.judge(130.0, 10.0), "a later slowness is not the step's");
    }

    #[test]
    fn pods_that_never_come_up_are_no_proof_against_the_sink() {
        let mut sink = Sink::default();
        sink.stepped(2, 4, 0.0, 100.0);
        assert_eq!(sink.settled(&seen(PATIENCE + 1.0, 2), 0.0), None);
        assert!(sink.judge(PATIENCE + 2.0, 10.0));
    }
}
