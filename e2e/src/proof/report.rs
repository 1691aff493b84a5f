//! What a run came to, as a line for people and a line of JSON; and what all runs came to.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::check::refusals::IN_PROGRESS;
use super::check::{Rule, Violation};
use super::faults::Happening;
use super::ledger::{Call, OWN_CLIENTS, Outcome};
use super::points::POINTS;

/// Faults that must have happened for a run to count.
pub const MIN_FAULTS: usize = 2;
/// Of a hundred calls of a campaign so many must have a definite answer: by far the most have, and the others find nobody there, or
/// no room, while a fault lasts. That something is sold out is such an answer, so a shop that is empty early takes none away.
const LEAST_ANSWERED_PERCENT: usize = 50;
/// Words of refusals that put a caller off instead: nobody is there or has room, or what becomes of the key is not known yet.
const PUT_OFF: [&str; 4] = ["connect", "busy", "unavailable", IN_PROGRESS];
/// Violations shown of one run; the file has all.
const SHOWN: usize = 12;

/// One run.
#[derive(Clone, Default, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Commit of the checkout, with `-dirty` when files differ from it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub commit: String,
    /// When it ended, UTC.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ended_at: String,
    /// What became of each fault.
    pub faults: Vec<Happening>,
    /// Calls by outcome.
    pub calls: Counts,
    /// Refused calls by the word that they were refused with.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub refusals: BTreeMap<String, usize>,
    /// Orders in the database.
    pub orders: usize,
    /// Events recorded.
    pub events: usize,
    /// Records beyond the first of their event; of deliveries, applications beyond the first.
    pub duplicates: usize,
    /// Of deliveries: events that are neither at the sink nor in the dead-letter topic.
    pub lost: usize,
    /// Processes that found no database or no port at their start; each was started again.
    pub ended_at_start: Vec<String>,
    /// From the end of the last fault until every replica took orders and the outbox was empty.
    pub recovery_millis: u64,
    /// The whole run.
    pub took_millis: u64,
    /// Every breach of a rule.
    pub violations: Vec<Violation>,
    /// Why the run could not be made or judged.
    pub broken: Option<String>,
    /// Where its evidence is.
    pub evidence: Option<String>,
}

/// Calls of clients, the campaign itself left out, by outcome.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// 201 and 200.
    pub ok: usize,
    /// Definite refusals.
    pub refused: usize,
    /// No or no clear answer.
    pub unknown: usize,
}

impl Counts {
    /// Counts the calls.
    #[must_use]
    pub fn of(calls: &[Call]) -> Self {
        let mut counts = Self::default();
        for call in calls.iter().filter(|call| call.client < OWN_CLIENTS) {
            match call.outcome {
                Outcome::Ok(_) => counts.ok += 1,
                Outcome::Refused { .. } => counts.refused += 1,
                Outcome::Unknown { .. } => counts.unknown += 1,
            }
        }
        counts
    }
}

/// Refused calls of clients, the campaign itself left out, by word.
#[must_use]
pub fn refusals(calls: &[Call]) -> BTreeMap<String, usize> {
    let mut refusals = BTreeMap::new();
    for call in calls.iter().filter(|call| call.client < OWN_CLIENTS) {
        if let Outcome::Refused { problem, .. } = &call.outcome {
            *refusals.entry(problem.clone()).or_default() += 1;
        }
    }
    refusals
}

impl Report {
    /// A run that could not be made.
    #[must_use]
    pub fn broken(seed: u64, why: String) -> Self {
        Self { seed, broken: Some(why), ..Self::default() }
    }

    /// No rule was broken.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.broken.is_none() && self.violations.is_empty()
    }

    /// One of these rules was broken, whatever else was.
    #[must_use]
    pub fn breaks(&self, rules: &[Rule]) -> bool {
        self.broken.is_none() && self.violations.iter().any(|violation| rules.contains(&violation.rule))
    }

    /// Calls with a definite answer: what was asked for, or why it can't be had.
    #[must_use]
    pub fn answered(&self) -> usize {
        let put_off: usize = PUT_OFF.iter().filter_map(|word| self.refusals.get(*word)).sum();
        self.calls.ok + self.calls.refused.saturating_sub(put_off)
    }

    /// Faults that happened.
    #[must_use]
    pub fn happened(&self) -> usize {
        self.faults.iter().filter(|fault| fault.happened).count()
    }

    /// Enough went wrong in it for its soundness to say something.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.broken.is_none() && self.happened() >= MIN_FAULTS
    }

    /// For people: a line, and what is wrong if anything is.
    #[must_use]
    pub fn line(&self) -> String {
        let Counts { ok, refused, unknown } = self.calls;
        self.told(&format!(
            "calls {ok} ok {refused} refused {unknown} unknown; {} events, {} duplicates",
            self.events, self.duplicates
        ))
    }

    /// The same of a run of deliveries.
    #[must_use]
    pub fn delivery_line(&self) -> String {
        self.told(&format!("{} events, {} lost, {} repeated", self.events, self.lost, self.duplicates))
    }

    fn told(&self, figures: &str) -> String {
        let verdict = match (&self.broken, self.is_sound(), self.counts()) {
            (Some(why), ..) => return format!("seed {}: BROKEN, no verdict: {why}", self.seed),
            (None, true, true) => "sound",
            (None, true, false) => "sound, not counted: too few faults happened",
            (None, false, _) => "UNSOUND",
        };
        let happened: Vec<&str> =
            self.faults.iter().filter(|fault| fault.happened).map(|fault| fault.kind.as_str()).collect();
        let mut text = format!(
            "seed {}: {verdict}; {figures}; recovered in {}; took {}; {} of {} faults: {}",
            self.seed,
            seconds(self.recovery_millis),
            seconds(self.took_millis),
            happened.len(),
            self.faults.len(),
            happened.join(", "),
        );
        if !self.ended_at_start.is_empty() {
            // Writing to a String does not fail.
            let _ = write!(text, "; ended at their start: {}", self.ended_at_start.join(", "));
        }
        for violation in self.violations.iter().take(SHOWN) {
            let _ = write!(text, "\n    {violation}");
        }
        if self.violations.len() > SHOWN {
            let _ = write!(text, "\n    … and {} more", self.violations.len() - SHOWN);
        }
        if let (false, Some(folder)) = (self.is_sound(), &self.evidence) {
            let _ = write!(text, "\n    evidence: {folder}");
        }
        text
    }
}

/// What all runs of deliveries came to.
#[must_use]
pub fn totals(reports: &[Report]) -> String {
    let sum = |part: fn(&Report) -> usize| reports.iter().map(part).sum::<usize>();
    let head = format!(
        "{} events, {} lost, {} repeated; ",
        sum(|report| report.events),
        sum(|report| report.lost),
        sum(|report| report.duplicates)
    );
    head + &outcome(reports, BTreeMap::new())
}

/// What all runs came to.
#[must_use]
pub fn summary(reports: &[Report]) -> String {
    let sum = |part: fn(&Report) -> usize| reports.iter().map(part).sum::<usize>();
    let mut refusals: BTreeMap<&str, usize> = BTreeMap::new();
    for (word, times) in reports.iter().flat_map(|report| &report.refusals) {
        *refusals.entry(word).or_default() += times;
    }
    let refusals: Vec<String> = refusals.iter().map(|(word, times)| format!("{times} {word}")).collect();
    let head = format!(
        "{} calls ok, {} refused ({}), {} unknown; {} events, {} duplicates; ",
        sum(|report| report.calls.ok),
        sum(|report| report.calls.refused),
        refusals.join(", "),
        sum(|report| report.calls.unknown),
        sum(|report| report.events),
        sum(|report| report.duplicates),
    );
    head + &outcome(reports, POINTS.map(|point| (point, 0)).into())
}

/// Runs, recoveries, faults by `kinds` and others, and the verdict.
fn outcome<'a>(reports: &'a [Report], mut kinds: BTreeMap<&'a str, usize>) -> String {
    let counted: Vec<&Report> = reports.iter().filter(|report| report.counts()).collect();
    let unsound: Vec<String> = reports
        .iter()
        .filter(|report| report.broken.is_none() && !report.is_sound())
        .map(|report| report.seed.to_string())
        .collect();
    let broken = reports.iter().filter(|report| report.broken.is_some()).count();
    let mut text = format!(
        "{} runs counted, {} with too few faults, {broken} broken\n",
        counted.len(),
        reports.len() - counted.len() - broken,
    );
    let mut recoveries: Vec<u64> = counted.iter().map(|report| report.recovery_millis).collect();
    recoveries.sort_unstable();
    if let Some(longest) = recoveries.last() {
        let _ = writeln!(
            text,
            "recovery: median {}, longest {}",
            seconds(recoveries[recoveries.len() / 2]),
            seconds(*longest)
        );
    }
    for fault in reports.iter().flat_map(|report| &report.faults).filter(|fault| fault.happened) {
        *kinds.entry(&fault.kind).or_default() += 1;
    }
    for (kind, count) in kinds {
        let _ = writeln!(text, "  {count:>5} × {kind}");
    }
    if unsound.is_empty() && !counted.is_empty() {
        let bound = percent_bound(counted.len());
        let _ = writeln!(
            text,
            "no rule was broken: with 95 % confidence less than {bound:.1} % of such runs would break one"
        );
    } else if !unsound.is_empty() {
        let _ = writeln!(text, "UNSOUND: seeds {}", unsound.join(", "));
    }
    text
}

/// Fail points that no run has hit.
#[must_use]
pub fn points_missed(reports: &[Report]) -> Vec<&'static str> {
    let hit = |point: &str| {
        reports.iter().flat_map(|report| &report.faults).any(|fault| fault.happened && fault.kind == point)
    };
    POINTS.into_iter().filter(|point| !hit(point)).collect()
}

/// No failure in n independent runs: with 95 % confidence the rate of failing runs is below 3/n, here in percent.
#[must_use]
pub fn percent_bound(runs: usize) -> f64 {
    300.0 / count(runs)
}

/// True when so few of the clients' calls had a definite answer that putting them off may be all that the service is good at.
#[must_use]
pub fn refuses_most(reports: &[Report]) -> bool {
    let sum = |part: fn(&Report) -> usize| reports.iter().map(part).sum::<usize>();
    let all = sum(|report| report.calls.ok + report.calls.refused + report.calls.unknown);
    sum(Report::answered) * 100 < all * LEAST_ANSWERED_PERCENT
}

/// As seconds with one decimal.
#[must_use]
pub fn seconds(millis: u64) -> String {
    format!("{}.{} s", millis / 1000, millis % 1000 / 100)
}

/// Runs are few: far below 2⁵², where an `f64` begins to skip integers.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn count(runs: usize) -> f64 {
    runs as f64
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::proof::check::Rule;
    use crate::proof::ledger::{Action, Verb};

    fn with_faults(happened: usize) -> Report {
        let fault = |happened| Happening { kind: POINTS[0].to_owned(), happened, detail: String::new() };
        let mut faults: Vec<Happening> = (0..happened).map(|_| fault(true)).collect();
        faults.push(fault(false));
        Report { faults, ..Report::default() }
    }

    #[test]
    fn a_run_counts_only_with_two_faults_that_happened() {
        assert!(!with_faults(1).counts());
        assert!(with_faults(2).counts());
        assert!(!Report { broken: Some("docker".to_owned()), ..with_faults(2) }.counts());
    }

    #[test]
    fn the_summary_bounds_the_rate_only_if_every_run_was_sound() {
        let sound = vec![with_faults(2); 200];
        assert!(summary(&sound).contains("less than 1.5 %"), "{}", summary(&sound));
        let mut unsound = sound;
        unsound[3].seed = 77;
        unsound[3].violations.push(Violation::of(Rule::Kept, "an order".to_owned()));
        assert!(summary(&unsound).contains("UNSOUND: seeds 77"));
        assert!(!summary(&unsound).contains("95 %"));
    }

    #[test]
    fn a_point_that_was_never_hit_is_named() {
        assert_eq!(points_missed(&[with_faults(1)]), POINTS[1..]);
    }

    #[test]
    fn a_campaign_in_which_less_than_half_of_the_calls_had_a_definite_answer_proves_nothing() {
        let with = |word: &str, refused| {
            let calls = Counts { ok: 10, refused, unknown: 1 };
            Report { calls, refusals: BTreeMap::from([(word.to_owned(), refused)]), ..Report::default() }
        };
        assert!(!refuses_most(&[with("insufficient-stock", 500)]), "what is sold out is no want of service");
        for word in PUT_OFF {
            assert!(!refuses_most(&[with(word, 9)]), "{word}");
            assert!(refuses_most(&[with(word, 10)]), "{word}");
            assert!(!refuses_most(&[with(word, 10), with("stale", 1)]), "{word}");
        }
    }

    #[test]
    fn refusals_of_clients_are_counted_by_word_and_the_campaign_s_own_are_not() {
        let call = |client, problem: &str| Call {
            client,
            replica: 0,
            began: 0,
            ended: 1,
            action: Action::Change { order: Uuid::nil(), to: Verb::Cancel, at: None },
            outcome: Outcome::Refused { status: 409, problem: problem.to_owned() },
        };
        let calls = [call(1, "busy"), call(2, "stale"), call(2, "busy"), call(OWN_CLIENTS, "busy")];
        let counted = refusals(&calls);
        assert_eq!(counted, BTreeMap::from([("busy".to_owned(), 2), ("stale".to_owned(), 1)]));
        let report = Report { refusals: counted, ..Report::default() };
        assert!(summary(&[report]).contains("refused (2 busy, 1 stale)"));
    }
}
