//! What a consumer counts. Labels are kinds out of fixed sets, never data.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// One label with a value out of a fixed set.
pub type Label = [(&'static str, &'static str); 1];

/// The consumer's metrics, shared by its parts.
#[derive(Clone, Debug)]
pub struct ConsumerMetrics {
    /// Events that the sink applied.
    pub delivered: Counter,
    /// Records written to the dead-letter topic, by reason.
    pub dead_lettered: Family<Label, Counter>,
    /// Failed calls of the sink, by kind.
    pub sink_errors: Family<Label, Counter>,
    /// Attempts after the first at the same work.
    pub retries: Counter,
    /// 1 while the sink is not called because it is down.
    pub sink_down: Gauge,
    /// Events that were delivered before, by their order's version, and are not again.
    pub repeated: Counter,
    /// Events before which a version of their order is missing: something was lost, here or before.
    pub missing: Counter,
    /// Records that the commit said are done already.
    pub already_done: Counter,
    /// Keys whose records go to the dead-letter topic, in the whole group.
    pub stuck_keys: Gauge,
    /// Failed writes to the dead-letter topic, by kind.
    pub dead_letter_errors: Family<Label, Counter>,
    /// Records that wait because the dead-letter topic does not take them. Not zero for long: a person must look.
    pub dead_letter_blocked: Gauge,
    /// Records given up by an at-most-once group.
    pub lost: Counter,
    /// Time from a commit's request to the broker's answer, in seconds.
    pub commit_seconds: Histogram,
    /// Commits that failed.
    pub commit_errors: Counter,
    /// Times the group's member was made anew because it heard of no broker.
    pub members_replaced: Counter,
    /// Times somebody else claimed a partition of this member at the sink.
    pub fenced: Counter,
    /// Times the sink's place was not where this member left it.
    pub place_jumps: Counter,
    /// Records read and not done.
    pub in_flight: Gauge,
    /// Time for which the same record has been the oldest of its partition that is not done, in seconds; of several the longest.
    pub oldest_in_hand_seconds: Gauge,
    /// Partitions this member has.
    pub assigned_partitions: Gauge,
    /// Time from an event's record in the order service to its delivery, in seconds.
    pub event_age_seconds: Histogram,
}

impl ConsumerMetrics {
    /// The metrics, known to `registry`.
    #[must_use]
    pub fn registered(registry: &mut Registry) -> Self {
        let metrics = Self {
            delivered: Counter::default(),
            dead_lettered: Family::default(),
            sink_errors: Family::default(),
            retries: Counter::default(),
            sink_down: Gauge::default(),
            repeated: Counter::default(),
            missing: Counter::default(),
            already_done: Counter::default(),
            stuck_keys: Gauge::default(),
            dead_letter_errors: Family::default(),
            dead_letter_blocked: Gauge::default(),
            lost: Counter::default(),
            // 1 ms to 16 s: a commit within the loopback takes some milliseconds, a broker's fail-over some seconds.
            commit_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            commit_errors: Counter::default(),
            members_replaced: Counter::default(),
            fenced: Counter::default(),
            place_jumps: Counter::default(),
            in_flight: Gauge::default(),
            oldest_in_hand_seconds: Gauge::default(),
            assigned_partitions: Gauge::default(),
            // 2 ms to 18 h: the path takes some milliseconds, a backlog may be a night old.
            event_age_seconds: Histogram::new(exponential_buckets(0.002, 2.0, 25)),
        };
        metrics.describe(registry);
        metrics
    }

    fn describe(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("orderflow_consumer");
        registry.register("delivered", "Events that the sink applied", self.delivered.clone());
        registry.register(
            "dead_lettered",
            "Records written to the dead-letter topic",
            self.dead_lettered.clone(),
        );
        registry.register("sink_errors", "Failed calls of the sink", self.sink_errors.clone());
        registry.register("retries", "Attempts after the first at the same work", self.retries.clone());
        registry.register(
            "sink_down",
            "1 while the sink is not called because it is down",
            self.sink_down.clone(),
        );
        registry.register(
            "repeated",
            "Events that were delivered before and are not again",
            self.repeated.clone(),
        );
        registry.register(
            "missing",
            "Events before which a version of their order is missing",
            self.missing.clone(),
        );
        registry.register(
            "already_done",
            "Records read that the commit said are done",
            self.already_done.clone(),
        );
        registry.register(
            "stuck_keys",
            "Keys of the group whose records go to the dead-letter topic",
            self.stuck_keys.clone(),
        );
        registry.register(
            "dead_letter_errors",
            "Failed writes to the dead-letter topic",
            self.dead_letter_errors.clone(),
        );
        registry.register(
            "dead_letter_blocked",
            "Records that wait because the dead-letter topic does not take them",
            self.dead_letter_blocked.clone(),
        );
        registry.register("lost", "Records given up by an at-most-once group", self.lost.clone());
        self.describe_group(registry);
    }

    fn describe_group(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "commit",
            "Time from a commit's request to the broker's answer",
            Unit::Seconds,
            self.commit_seconds.clone(),
        );
        registry.register("commit_errors", "Commits that failed", self.commit_errors.clone());
        registry.register(
            "members_replaced",
            "Times the group's member was made anew because it heard of no broker",
            self.members_replaced.clone(),
        );
        registry.register(
            "fenced",
            "Times somebody else claimed a partition of this member at the sink",
            self.fenced.clone(),
        );
        registry.register(
            "place_jumps",
            "Times the sink's place was not where this member left it",
            self.place_jumps.clone(),
        );
        registry.register("in_flight", "Records read and not done", self.in_flight.clone());
        registry.register_with_unit(
            "oldest_in_hand",
            "Longest time for which one record has been the oldest of its partition that is not done",
            Unit::Seconds,
            self.oldest_in_hand_seconds.clone(),
        );
        registry.register(
            "assigned_partitions",
            "Partitions this member has",
            self.assigned_partitions.clone(),
        );
        registry.register_with_unit(
            "event_age",
            "Time from an event's record in the order service to its delivery",
            Unit::Seconds,
            self.event_age_seconds.clone(),
        );
    }
}

/// Adds one to `family` under `value` of the label `name`.
pub fn count(family: &Family<Label, Counter>, name: &'static str, value: &'static str) {
    family.get_or_create(&[(name, value)]).inc();
}

/// A length as a gauge's value.
#[must_use]
pub fn gauge(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_shown_under_the_consumers_prefix() {
        let registry = runtime::metrics::Metrics::default();
        let metrics = registry.register(ConsumerMetrics::registered);
        metrics.delivered.inc();
        count(&metrics.dead_lettered, "reason", "Schema");
        let text = registry.render();
        assert!(text.contains("orderflow_consumer_delivered_total 1"), "{text}");
        assert!(text.contains("orderflow_consumer_dead_lettered_total{reason=\"Schema\"} 1"), "{text}");
        assert!(text.contains("orderflow_consumer_event_age_seconds_count 0"), "{text}");
    }
}
