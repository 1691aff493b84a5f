//! What the figures are held against: for each goal, what is wanted and what was found. Pure.

use super::results::{Headline, LongRun, Results};

/// Orders per second that are to be sustained.
const SUSTAINED: f64 = 5_000.0;
/// Milliseconds within which 99 of 100 are to be answered at that load.
const SUSTAINED_P99: f64 = 100.0;
/// The same at half of it.
const HALF_P99: f64 = 30.0;
/// Orders per second of one product.
const ONE_PRODUCT: f64 = 3_000.0;
/// Events per second out of a backlog of a million.
const DRAIN: f64 = 50_000.0;
/// Events of such a backlog.
const BACKLOG: i64 = 1_000_000;
/// Orders per second at which the way into Kafka is timed.
const TIMED_LOAD: f64 = 1_000.0;
/// Milliseconds from the answer until the event is in Kafka: median, and 99 of 100.
const INTO_KAFKA: (f64, f64) = (5.0, 30.0);
/// Seconds after an overload within which the service answers as before it.
const RECOVERED: f64 = 10.0;
/// Share of what is due that a schedule may miss by chance.
const NEARLY: f64 = 0.99;

/// One line to be met.
#[derive(Clone, PartialEq, Debug)]
pub struct Goal {
    /// What is wanted.
    pub wanted: String,
    /// What was found.
    pub found: String,
    /// Whether that is enough.
    pub met: bool,
}

impl Goal {
    fn new(wanted: String, found: Option<(String, bool)>) -> Self {
        let (found, met) = found.unwrap_or_else(|| ("not measured".to_owned(), false));
        Self { wanted, found, met }
    }
}

/// Every goal, with what of it was found. Smoke runs count as not measured.
#[must_use]
pub fn goals(results: &Results) -> Vec<Goal> {
    let headline = results.headline.as_ref().filter(|part| !part.quick).map(|part| &part.found);
    vec![
        Goal::new(
            format!("{SUSTAINED:.0} orders/s sustained, p99 ≤ {SUSTAINED_P99:.0} ms"),
            headline
                .and_then(|found| run(found, "most sustained"))
                .map(|run| sustained(run, SUSTAINED, SUSTAINED_P99)),
        ),
        Goal::new(
            format!("p99 ≤ {HALF_P99:.0} ms at half of that"),
            headline
                .and_then(|found| run(found, "half of it"))
                .map(|run| sustained(run, SUSTAINED / 2.0, HALF_P99)),
        ),
        Goal::new(
            format!("{ONE_PRODUCT:.0} orders/s of one product"),
            headline
                .and_then(|found| run(found, "one product"))
                .map(|run| sustained(run, ONE_PRODUCT, f64::INFINITY)),
        ),
        Goal::new(format!("{DRAIN:.0} events/s out of a backlog of {BACKLOG}"), drained(results)),
        Goal::new(
            format!(
                "from the answer into Kafka at {TIMED_LOAD:.0} orders/s: p50 ≤ {:.0} ms, p99 ≤ {:.0} ms",
                INTO_KAFKA.0, INTO_KAFKA.1
            ),
            into_kafka(results),
        ),
        Goal::new(
            format!(
                "4× overload: 503 with Retry-After, nothing else, and as before within {RECOVERED:.0} s of its end"
            ),
            headline.and_then(recovered),
        ),
    ]
}

fn run<'a>(headline: &'a Headline, name: &str) -> Option<&'a LongRun> {
    headline.runs.iter().find(|run| run.name == name || run.name == format!("{name} (not sustained)"))
}

fn sustained(run: &LongRun, wanted: f64, within: f64) -> (String, bool) {
    let (accepted, p99) = (run.figures.accepted_per_second, run.figures.accepted_latency.p99);
    let met = run.figures.kept_up() && accepted >= wanted * NEARLY && p99 <= within;
    (format!("{accepted:.0}/s, p99 {p99:.1} ms"), met)
}

fn drained(results: &Results) -> Option<(String, bool)> {
    let part = results.drain.as_ref().filter(|part| !part.quick)?;
    let drain = part.found.iter().find(|drain| drain.events >= BACKLOG && drain.orders_per_second <= 0.0)?;
    Some((format!("{:.0}/s", drain.per_second.median), drain.per_second.median >= DRAIN))
}

fn into_kafka(results: &Results) -> Option<(String, bool)> {
    let part = results.latency.as_ref().filter(|part| !part.quick)?;
    let step = part.found.iter().find(|step| (step.offered - TIMED_LOAD).abs() < 1.0)?;
    let (p50, p99) = (step.kafka_p50.median, step.kafka_p99.median);
    Some((
        format!("p50 {p50:.1} ms, p99 {p99:.1} ms"),
        step.kept_up && p50 <= INTO_KAFKA.0 && p99 <= INTO_KAFKA.1,
    ))
}

fn recovered(headline: &Headline) -> Option<(String, bool)> {
    let overload = headline.overload.as_ref()?;
    let during = &overload.during;
    let within = overload.recovered_after.is_some_and(|seconds| seconds <= RECOVERED);
    let after =
        overload.recovered_after.map_or("never".to_owned(), |seconds| format!("after {seconds:.1} s"));
    let found = format!(
        "{} shed, {} other answers, {} broken; accepted ones p99 {:.0} ms from when they were sent; as before {after}",
        during.shed, during.others, during.broken, during.accepted_served.p99
    );
    Some((found, during.shed > 0 && during.others == 0 && during.broken == 0 && within))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::environment::Environment;
    use crate::bench::results::{Audit, LogWork, Part};
    use crate::bench::samples::{Figures, Latency};
    use crate::bench::usage::Usage;

    fn long_run(name: &str, per_second: f64, p99: f64) -> LongRun {
        LongRun {
            name: name.to_owned(),
            figures: Figures {
                offered_per_second: per_second,
                accepted_per_second: per_second,
                accepted: 1,
                accepted_latency: Latency { p99, ..Latency::default() },
                ..Figures::default()
            },
            usage: Usage::default(),
            log: LogWork::default(),
            orders_per_batch: 0.0,
            resident_mib: 0.0,
            drained_after: 0.0,
            audit: Audit::default(),
        }
    }

    fn measured(runs: Vec<LongRun>, quick: bool) -> Results {
        let headline = Headline { runs, overload: None };
        let part = Part {
            environment: Environment::default(),
            quick,
            seconds: 60.0,
            repetitions: 1,
            found: headline,
        };
        Results { headline: Some(part), ..Results::default() }
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        assert!(goals(&Results::default()).iter().all(|goal| !goal.met && goal.found == "not measured"));
        let quick = measured(vec![long_run("most sustained", 9_000.0, 1.0)], true);
        assert_eq!(goals(&quick)[0].found, "not measured");
    }

    #[test]
    fn a_goal_is_met_by_load_and_latency_together() {
        let met = |per_second, p99| {
            let results = measured(vec![long_run("half of it", per_second, p99)], false);
            goals(&results)[1].met
        };
        assert!(met(2_500.0, 30.0));
        assert!(!met(2_500.0, 31.0));
        assert!(!met(2_000.0, 10.0));
    }
}
