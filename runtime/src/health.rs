//! What a program says of itself: alive, and ready or why not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shared state behind `/livez` and `/readyz`.
///
/// Ready means that every named condition is met. Alive means that every heartbeat was renewed within its bound:
/// a loop that hangs makes the kubelet restart the pod.
#[derive(Clone, Default, Debug)]
pub struct Health {
    state: Arc<Mutex<State>>,
}

#[derive(Default, Debug)]
struct State {
    unmet: BTreeMap<&'static str, String>,
    beats: BTreeMap<&'static str, (Instant, Duration)>,
}

impl Health {
    /// A state with every one of `conditions` unmet until [`Health::met`] is called for it.
    #[must_use]
    pub fn waiting_for(conditions: &[&'static str]) -> Self {
        let unmet = conditions.iter().map(|name| (*name, "not started".to_owned())).collect();
        Self { state: Arc::new(Mutex::new(State { unmet, beats: BTreeMap::new() })) }
    }

    /// The named condition is met.
    pub fn met(&self, name: &'static str) {
        self.lock().unmet.remove(name);
    }

    /// The named condition is not met, and why.
    pub fn unmet(&self, name: &'static str, reason: impl Into<String>) {
        self.lock().unmet.insert(name, reason.into());
    }

    /// The named loop went round; it will again within `bound`.
    pub fn beat(&self, name: &'static str, bound: Duration) {
        self.lock().beats.insert(name, (Instant::now(), bound));
    }

    /// The named loop ended as it should; it beats no more.
    pub fn retire(&self, name: &'static str) {
        self.lock().beats.remove(name);
    }

    /// Conditions that are not met, with reasons; empty when ready.
    #[must_use]
    pub fn not_ready(&self) -> Vec<String> {
        self.lock().unmet.iter().map(|(name, reason)| format!("{name}: {reason}")).collect()
    }

    /// Loops that have not gone round within their bound; empty when alive.
    #[must_use]
    pub fn not_alive(&self) -> Vec<String> {
        let now = Instant::now();
        self.lock()
            .beats
            .iter()
            .filter(|(_, (last, bound))| now.duration_since(*last) > *bound)
            .map(|(name, (last, bound))| {
                format!("{name}: silent for {:?}, bound {bound:?}", now.duration_since(*last))
            })
            .collect()
    }

    // The state is a plain map: a panic elsewhere can't leave it half-written.
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_only_when_every_condition_is_met() {
        let health = Health::waiting_for(&["database", "kafka"]);
        health.met("database");
        assert_eq!(health.not_ready(), ["kafka: not started"]);
        health.met("kafka");
        assert!(health.not_ready().is_empty());
        health.unmet("shutdown", "draining");
        assert_eq!(health.not_ready(), ["shutdown: draining"]);
    }

    #[test]
    fn is_alive_until_a_heartbeat_is_overdue() {
        let health = Health::default();
        health.beat("loop", Duration::from_secs(60));
        assert!(health.not_alive().is_empty());
        health.beat("loop", Duration::ZERO);
        assert_eq!(health.not_alive().len(), 1);
        health.retire("loop");
        assert!(health.not_alive().is_empty());
    }
}
