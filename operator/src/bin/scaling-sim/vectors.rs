//! Vectors from lag to replicas: KEDA's own tests hold for the model of KEDA, and what users found wrong with it must be wrong with the
//! model, too, and right with ours.

use operator::crd::StartFrom;
use operator::scaling::{Committed, Head, Memory, Observation, Policy, Reading, Verdict, decide};

use crate::hpa::{Hpa, formula};
use crate::keda::{Keda, divisors};

/// What one pod works off, in the time to catch up, is the threshold: the lag that is one pod's.
const CATCH_UP: f64 = 60.0;
const POLICY: Policy = Policy {
    min: 0,
    max: 1000,
    target_age: 60.0,
    catch_up: CATCH_UP,
    start_from: StartFrom::Earliest,
    retention: None,
};

fn reading(log_start: i64, log_end: Option<i64>, committed: Committed) -> Reading {
    Reading { log_start: Some(log_start), log_end, committed, head: Head::NotRead, owner: None }
}

fn behind(lag: i64) -> Reading {
    reading(0, Some(1_000_000 + lag), Committed::At(1_000_000))
}

fn spread(lag: i64, partitions: i64) -> Vec<Reading> {
    (0..partitions).map(|index| behind(lag / partitions + i64::from(index < lag % partitions))).collect()
}

fn ours(readings: &[Reading], threshold: i64, from: u32) -> (u32, Verdict) {
    let mut memory = Memory::with_capacity(threshold as f64 / CATCH_UP);
    let mut look = |at: f64| {
        let seen = Observation {
            at,
            replicas: from,
            ready: from,
            rebalancing: false,
            growing: false,
            partitions: readings,
        };
        let (decision, after) = decide(&POLICY, &seen, std::mem::take(&mut memory));
        memory = after;
        (decision.replicas, decision.verdict)
    };
    look(0.0);
    look(5.0)
}

/// What KEDA and the autoscaler come to at last from so many pods; an error is nothing.
fn theirs(keda: &Keda, readings: &[Reading], from: u32) -> Option<u32> {
    let (metric, active) = keda.metric(readings)?;
    let mut hpa = Hpa::default();
    let mut replicas = hpa.poll(0, from, Some(active), 0);
    if !active {
        return Some(0);
    }
    for look in 0..60 {
        replicas = hpa.sync(look * 15, replicas, Some(metric), keda.lag_threshold, (1, 1000));
    }
    Some(replicas)
}

/// One row: where it is from, what is seen, and what each comes to. Nothing stands for a column that the source says nothing of.
struct Row {
    source: &'static str,
    readings: Vec<Reading>,
    threshold: i64,
    from: u32,
    /// Settings of KEDA beyond the threshold.
    keda: fn(&mut Keda),
    theirs: Option<Option<u32>>,
    ours: Option<(u32, Option<Verdict>)>,
}

fn row(source: &'static str, readings: Vec<Reading>, threshold: i64, from: u32) -> Row {
    Row { source, readings, threshold, from, keda: |_| {}, theirs: None, ours: None }
}

impl Row {
    fn with(self, keda: fn(&mut Keda)) -> Self {
        Self { keda, ..self }
    }

    fn theirs(self, replicas: u32) -> Self {
        Self { theirs: Some(Some(replicas)), ..self }
    }

    fn ours(self, replicas: u32) -> Self {
        Self { ours: Some((replicas, None)), ..self }
    }

    fn says(self, replicas: u32, verdict: Verdict) -> Self {
        Self { ours: Some((replicas, Some(verdict))), ..self }
    }
}

/// Rows of KEDA's own tests (`kafka_scaler_test.go`, `tests/scalers/kafka/kafka_test.go`).
fn tests_of_keda() -> Vec<Row> {
    let nothing = |end| reading(0, end, Committed::Nothing);
    let latest = |keda: &mut Keda| keda.offset_reset_policy = StartFrom::Latest;
    let mut rows = vec![
        row("committed 100, end 150", vec![reading(0, Some(150), Committed::At(100))], 1, 1)
            .theirs(1)
            .ours(1),
        row("no commit, latest, zero on invalid", vec![nothing(Some(9))], 1, 0)
            .with(|keda| {
                (keda.offset_reset_policy, keda.scale_to_zero_on_invalid_offset) = (StartFrom::Latest, true)
            })
            .theirs(0),
        row("no commit, latest", vec![nothing(Some(9))], 1, 0).with(latest).theirs(1),
        row("no commit, earliest, end missing", vec![nothing(None)], 1, 0)
            .theirs(0)
            .says(0, Verdict::LagUnknown),
        row("no commit, earliest, end missing, zero on invalid", vec![nothing(None)], 1, 0)
            .with(|keda| keda.scale_to_zero_on_invalid_offset = true)
            .theirs(0),
        row("committed 100, end missing", vec![reading(0, None, Committed::At(100))], 1, 1)
            .theirs(0)
            .says(1, Verdict::LagUnknown),
        row("two topics, one message in one of two", vec![behind(1), behind(0)], 1, 0).theirs(1).ours(1),
        row("two topics, then one in the other", vec![behind(1), behind(1)], 1, 1).theirs(2).ours(2),
        row("limit to partitions with lag: 6 on one key", vec![behind(6), behind(0), behind(0)], 1, 1)
            .with(|keda| keda.limit_to_partitions_with_lag = true)
            .theirs(1)
            .ours(1),
        row("limit to partitions with lag: 5 on another", vec![behind(6), behind(5), behind(0)], 1, 1)
            .with(|keda| keda.limit_to_partitions_with_lag = true)
            .theirs(2),
        row("persistent lag, 5 messages", vec![behind(5)], 1, 1).ours(1),
    ];
    for (lag, replicas) in [(0, 0), (1, 0), (2, 2), (7, 3)] {
        rows.push(
            row("3 partitions, activation 1", spread(lag, 3), 1, 0)
                .with(|keda| keda.activation_lag_threshold = 1)
                .theirs(replicas),
        );
    }
    for (lag, replicas) in [(10, 1), (20, 2), (40, 4), (50, 5), (99, 10), (100, 10), (101, 20)] {
        let even = |keda: &mut Keda| keda.ensure_even_distribution = true;
        rows.push(
            row("even distribution, 100 partitions", spread(lag, 100), 10, 1).with(even).theirs(replicas),
        );
    }
    for (lag, replicas) in [(5, 5), (8, 10)] {
        let even = |keda: &mut Keda| keda.ensure_even_distribution = true;
        rows.push(row("even distribution, 10 partitions", spread(lag, 10), 1, 1).with(even).theirs(replicas));
    }
    rows
}

/// What users found wrong with KEDA and the autoscaler together.
fn defects() -> Vec<Row> {
    let mut rows = vec![
        row("39 of 10 in 3 partitions: one idle", spread(39, 3), 10, 3).theirs(4).says(3, Verdict::AtMaximum),
        row("19 of 10 in one partition", spread(19, 1), 10, 1).theirs(2).ours(1),
        row("keda#4791", spread(43_697, 24), 1000, 22).theirs(22).says(24, Verdict::AtMaximum),
        row("one partition has it all", [300, 10, 10, 10].map(behind).into(), 100, 1)
            .theirs(4)
            .says(2, Verdict::HotPartition),
        row(
            "keda#7936: the log's start is at its end",
            vec![reading(1_000_000, Some(1_000_000), Committed::Nothing)],
            1000,
            0,
        )
        .theirs(1)
        .says(0, Verdict::WithinTarget),
        Row {
            theirs: Some(None),
            ..row("the brokers do not answer", vec![], 10, 3).says(3, Verdict::LagUnknown)
        },
    ];
    for lag in 26..30 {
        for from in 3..=if lag < 28 { 4 } else { 5 } {
            rows.push(row("keda#4483", spread(lag, 5), 5, from).theirs(6).ours(5));
        }
    }
    for partitions in 12..=100_u32 {
        let lag = 20 * i64::from(partitions);
        let less = row("saturated, from one below", spread(lag, i64::from(partitions)), 10, partitions - 1);
        rows.push(less.theirs(partitions - 1).ours(partitions));
    }
    rows
}

#[test]
fn lag_becomes_replicas_as_the_vectors_say() {
    for row in tests_of_keda().into_iter().chain(defects()) {
        let Row { source, readings, threshold, from, .. } = &row;
        if let Some(expected) = row.theirs {
            let mut keda = Keda::new(*threshold);
            (row.keda)(&mut keda);
            assert_eq!(theirs(&keda, readings, *from), expected, "KEDA: {source} from {from}");
        }
        if let Some((replicas, verdict)) = row.ours {
            let found = ours(readings, *threshold, *from);
            assert_eq!(found.0, replicas, "ours: {source} from {from}: {found:?}");
            assert!(verdict.is_none_or(|verdict| verdict == found.1), "ours: {source}: {found:?}");
        }
    }
}

#[test]
fn the_lag_of_a_partition_is_that_of_kedas_own_tests() {
    let keda = Keda::new(10);
    assert_eq!(keda.lag(&reading(0, Some(150), Committed::At(100))), Some(50));
    assert_eq!(keda.lag(&reading(0, None, Committed::At(100))), Some(0), "and no error");
    let kept_nothing = reading(1_000_000, Some(1_000_000), Committed::Nothing);
    assert_eq!(keda.lag(&kept_nothing), Some(1_000_000), "keda#7936");
    assert_eq!(kept_nothing.backlog(StartFrom::Earliest).unwrap().records, 0, "ours");
}

#[test]
fn divisors_are_those_of_kedas_own_test() {
    assert_eq!(divisors(10), [1, 2, 5, 10]);
    assert_eq!(divisors(13), [1, 13]);
    assert_eq!(divisors(25), [1, 5, 25]);
    assert_eq!(divisors(100), [1, 2, 4, 5, 10, 20, 25, 50, 100]);
}

#[test]
fn every_count_from_91_to_99_is_a_fixed_point_of_a_saturated_topic_of_100() {
    let (metric, _) = Keda::new(10).metric(&spread(100_000, 100)).unwrap();
    let fixed: Vec<_> = (1..=100).filter(|pods| formula(metric, 10, *pods) == *pods).collect();
    assert_eq!(fixed, (91..=100).collect::<Vec<_>>());
}
