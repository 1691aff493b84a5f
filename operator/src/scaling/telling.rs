//! Telling: which verdict is told, so that statuses and Events do not follow every tick.

use super::signals::Seconds;
use super::{Decision, Verdict};

/// A verdict that comes without another number of pods is told once it has lasted for so long: a rebalance, a hiccup and a record that
/// is a little late come and go.
const LASTS: Seconds = 10.0;

/// What is told of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The word.
    pub verdict: Verdict,
    /// The sentence.
    pub reason: String,
}

/// What was told, and what may be told next.
#[derive(Clone, Debug, Default)]
pub struct Telling {
    told: Option<Told>,
    next: Option<(Told, Seconds)>,
}

impl Telling {
    /// What is told, once anything is.
    #[must_use]
    pub const fn told(&self) -> Option<&Told> {
        self.told.as_ref()
    }

    /// Takes a decision of now; `replicas` were asked for before. Returns whether something else is told since.
    pub fn hear(&mut self, at: Seconds, decision: &Decision, replicas: u32) -> bool {
        let said = Told { verdict: decision.verdict, reason: decision.reason.clone() };
        if self.told.as_ref() == Some(&said) {
            self.next = None;
            return false;
        }
        let since = match &self.next {
            Some((next, since)) if *next == said => *since,
            _ => at,
        };
        if decision.replicas != replicas || at - since >= LASTS {
            self.told = Some(said);
            self.next = None;
            return true;
        }
        self.next = Some((said, since));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(verdict: Verdict, replicas: u32) -> Decision {
        Decision { replicas, verdict, reason: verdict.to_string() }
    }

    fn told(telling: &Telling) -> Option<Verdict> {
        telling.told().map(|told| told.verdict)
    }

    #[test]
    fn a_verdict_is_told_once_it_has_lasted() {
        let mut telling = Telling::default();
        assert!(!telling.hear(0.0, &decision(Verdict::LagUnknown, 1), 1));
        assert!(!telling.hear(5.0, &decision(Verdict::WithinTarget, 1), 1));
        assert!(!telling.hear(10.0, &decision(Verdict::WithinTarget, 1), 1));
        assert!(telling.hear(15.0, &decision(Verdict::WithinTarget, 1), 1));
        assert_eq!(told(&telling), Some(Verdict::WithinTarget));
        assert!(!telling.hear(20.0, &decision(Verdict::WithinTarget, 1), 1), "it was told already");
    }

    #[test]
    fn what_comes_and_goes_is_not_told() {
        let mut telling = Telling::default();
        for at in [0.0, 10.0] {
            telling.hear(at, &decision(Verdict::WithinTarget, 2), 2);
        }
        for at in (15..200).step_by(10) {
            assert!(!telling.hear(f64::from(at), &decision(Verdict::Rebalancing, 2), 2));
            assert!(!telling.hear(f64::from(at) + 5.0, &decision(Verdict::WithinTarget, 2), 2));
        }
        assert_eq!(told(&telling), Some(Verdict::WithinTarget));
    }

    #[test]
    fn a_step_is_told_at_once_with_its_reason() {
        let mut telling = Telling::default();
        assert!(telling.hear(0.0, &decision(Verdict::CatchingUp, 3), 1));
        assert_eq!(told(&telling), Some(Verdict::CatchingUp));
    }
}
