//! What the relay's loop does about growth: stops behind the fence, goes on after it, and drives it where it leads shard 0.

use std::time::Instant;

use super::super::state::State;
use super::super::{Relay, RelayError};
use super::driver::Asked;
use super::{Mapping, Step};

/// The shard whose leader drives the growth.
const DRIVEN_BY: i16 = 0;
/// What a growth waits for that can't be looked at.
const LOOK_FAILED: &str = "look-failed";

impl Relay {
    /// Takes in by which count keys are mapped.
    pub(in super::super) fn see_mapping(&self, state: &mut State, mapping: Option<Mapping>) {
        let now = Instant::now();
        let Some(mapping) = mapping else {
            // Nobody has recorded one yet, or the database has forgotten it.
            (state.mapping, state.unsettled) = (None, true);
            return;
        };
        match (state.fenced_since, mapping.growing_to) {
            (None, Some(to)) => {
                state.fenced_since = Some(now);
                tracing::info!(
                    partitions = mapping.partitions,
                    to,
                    "publishing rests until every group has read everything"
                );
            }
            (Some(since), None) => {
                state.fenced_since = None;
                let rested = now.saturating_duration_since(since);
                let switched = Some(mapping.partitions) != state.partitions;
                self.metrics.fenced(rested);
                if state.leases.readable().contains(&DRIVEN_BY) {
                    self.metrics.growth_ended(switched);
                }
                tracing::info!(?rested, partitions = mapping.partitions, switched, "publishing goes on");
            }
            _ => {}
        }
        if !state.knows(Some(mapping.epoch)) {
            // What was read meanwhile was not taken.
            state.pace.announce();
        }
        state.unsettled |= Some(mapping.partitions) != state.partitions;
        state.rhythm.see(mapping, now);
        state.mapping = Some(mapping);
    }

    /// Looks whether the topic has grown, and takes the next step, when that is due.
    pub(in super::super) fn grow(&self, state: &mut State, stopping: bool) {
        let now = Instant::now();
        if let Some((driver, step)) = state.growth.answer() {
            state.driver = Some(driver);
            state.rhythm.looked(step.as_ref().ok(), now);
            self.tell(state, step);
        }
        let leads = state.leases.readable().contains(&DRIVEN_BY);
        if !leads {
            if state.driver.take().is_some() {
                self.metrics.growth_waits(None);
            }
            return;
        }
        let (Some(mapping), false) = (state.mapping, stopping) else { return };
        if !state.growth.is_running() && state.rhythm.is_due(now) {
            let driver = state.driver.take().unwrap_or_default();
            let (pool, kafka, config) = (self.pool.clone(), self.kafka.clone(), self.config.clone());
            let asked = Asked { pool, kafka, config, mapping };
            state.growth.start(&state.signals.answered, driver.step(asked));
        }
    }

    fn tell(&self, state: &mut State, step: Result<Step, RelayError>) {
        let topic = &self.config.topic;
        let step = match step {
            Ok(step) => step,
            Err(error) => {
                self.metrics.growth_waits(Some(LOOK_FAILED));
                if state.rhythm.is_news(Some(LOOK_FAILED)) {
                    let error = format!("{:#}", anyhow::Error::new(error));
                    tracing::warn!(topic, error, "failed to look whether the topic has grown; trying again");
                }
                return;
            }
        };
        let waits = match &step {
            Step::Waits(obstacle) | Step::Fenced(obstacle) => Some(obstacle),
            Step::Even | Step::Stale | Step::PutUp(_) | Step::Broken | Step::Switched(_) => None,
        };
        self.metrics.growth_waits(waits.map(|obstacle| obstacle.kind()));
        let is_news = state.rhythm.is_news(waits.map(|obstacle| obstacle.kind()));
        match &step {
            Step::Waits(obstacle) if is_news => tracing::info!(
                topic, waits_for = %obstacle,
                "the topic has more partitions than keys are mapped by; the switch waits, orders go on by the old count"
            ),
            Step::PutUp(to) => tracing::info!(topic, to, "the topic has grown; put up the fence"),
            Step::Switched(to) => {
                tracing::info!(topic, partitions = to, "keys are mapped by the new count from now")
            }
            Step::Fenced(obstacle) => tracing::debug!(topic, waits_for = %obstacle, "behind the fence"),
            Step::Waits(_) | Step::Even | Step::Stale | Step::Broken => {}
        }
    }
}
