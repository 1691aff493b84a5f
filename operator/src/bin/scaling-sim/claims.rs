//! What docs/scaling.md claims of the comparison, so that it fails when it stops being true.

use std::sync::LazyLock;

use crate::compare::{CAREFUL, Comparison, SWEEP, compare};
use crate::run::{Scaler, run};
use crate::trace::{Trace, Trouble};
use crate::world::Rebalance;

static COOPERATIVE: LazyLock<Vec<Comparison>> = LazyLock::new(|| compare(Rebalance::Cooperative, &SWEEP));

fn of(name: &str) -> &'static Comparison {
    COOPERATIVE.iter().find(|comparison| comparison.trace.name == name).unwrap()
}

#[test]
fn on_every_trace_ours_is_no_later_and_no_dearer_than_a_careful_keda_and_better_in_one() {
    let stop_the_world = compare(Rebalance::StopTheWorld, &[CAREFUL]);
    for comparison in COOPERATIVE.iter().chain(&stop_the_world) {
        let (ours, keda) = (&comparison.ours, comparison.careful());
        let name = comparison.trace.name;
        assert!(ours.over <= keda.over, "{name}: over target {} > {}", ours.over, keda.over);
        assert!(ours.pod_seconds <= keda.pod_seconds, "{name}: {} > {}", ours.pod_seconds, keda.pod_seconds);
        assert!(ours.over < keda.over || ours.pod_seconds < keda.pod_seconds, "{name}: the same");
    }
}

#[test]
fn no_threshold_of_the_sweep_is_better_in_both() {
    for comparison in COOPERATIVE.iter() {
        assert!(comparison.better_thresholds().is_empty(), "{}", comparison.trace.name);
    }
}

#[test]
fn a_constant_load_comes_to_rest() {
    let loads: [fn(usize, usize) -> f64; 7] =
        [|_, _| 0.0, |_, _| 8.0, |_, _| 60.0, |_, _| 99.0, |_, _| 133.0, |_, _| 210.0, |_, _| 390.0];
    for arrivals in loads {
        let trace = Trace { name: "constant", title: "", arrivals, trouble: Trouble::Nothing };
        for rebalance in [Rebalance::Cooperative, Rebalance::StopTheWorld] {
            let score = run(&trace, rebalance, Scaler::ours());
            let rate = arrivals(0, 0);
            assert!(score.turns <= 2, "{rate}: {} turns", score.turns);
            let last = &score.pods[1800..];
            assert!(last.iter().all(|pods| *pods == last[0]), "{rate}: it still changes");
        }
    }
}

#[test]
fn verdicts_name_what_is_wrong() {
    for (name, verdict) in [
        ("hot-key", "HotPartition"),
        ("stalled-partition", "PartitionStalled"),
        ("saturated-sink", "SinkSaturated"),
        ("broker-restart", "LagUnknown"),
    ] {
        assert!(of(name).ours.verdicts.iter().any(|said| said == verdict), "{:?}", of(name).ours.verdicts);
    }
}

#[test]
fn a_stalled_partition_and_a_broker_that_is_away_bring_no_pods() {
    let (before, stalled) = of("stalled-partition").ours.pods[..1500].split_at(300);
    assert!(stalled.iter().all(|pods| Some(pods) <= before.last()), "it was enough before");
    let away = &of("broker-restart").ours.pods[605..720];
    assert!(away.iter().all(|pods| *pods == away[0]));
}
