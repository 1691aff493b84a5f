//! What is kept for good of a campaign of consumers: a line for each of its runs, and what the document says of them.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::check::Bound;
use super::plan::Guarantee;
use crate::proof::campaign::Verdict;
use crate::proof::report::{MIN_FAULTS, percent_bound, seconds};

/// The guarantees, as the tables have them.
const GUARANTEES: [Guarantee; 3] = [Guarantee::AtMostOnce, Guarantee::AtLeastOnce, Guarantee::ExactlyOnce];

/// A campaign: runs of neighbouring seeds of each guarantee at one commit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Campaign {
    /// Commit of the checkout, with `-dirty` when files differed from it.
    pub commit: String,
    /// When its first run ended, UTC.
    pub date: String,
    /// Its runs, by guarantee and seed.
    pub runs: Vec<Run>,
}

/// One run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// What was promised.
    pub guarantee: Guarantee,
    /// Its seed.
    pub seed: u64,
    /// What it says.
    pub verdict: Verdict,
    /// Rules that it broke.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Faults that happened, by kind.
    pub faults: BTreeMap<String, usize>,
    /// Events of the topic.
    pub events: usize,
    /// Events that are neither at the sink nor in the dead-letter topic.
    pub lost: usize,
    /// Applications beyond the first.
    pub repeated: usize,
    /// Letters in the dead-letter topic.
    pub letters: usize,
    /// … and those of them beyond the first of their record.
    pub letters_again: usize,
    /// Most of each that its faults may have cost.
    pub bound: Bound,
    /// From the end of the last fault to the recovery.
    pub recovery_millis: u64,
}

/// A line of the results, as far as it is kept.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    /// Lines of before this was told have none, and are not kept.
    guarantee: Option<Guarantee>,
    seed: u64,
    #[serde(default)]
    commit: String,
    #[serde(default)]
    ended_at: String,
    faults: Vec<Fault>,
    events: usize,
    lost: usize,
    duplicates: usize,
    #[serde(default)]
    letters: usize,
    #[serde(default)]
    letters_again: usize,
    #[serde(default)]
    bound: Bound,
    recovery_millis: u64,
    violations: Vec<Violation>,
    broken: Option<String>,
}

#[derive(Deserialize)]
struct Fault {
    kind: String,
    happened: bool,
}

#[derive(Deserialize)]
struct Violation {
    rule: String,
}

impl Campaign {
    /// The campaign that began at seed `from` and was to have `runs` runs of each guarantee that count, out of the lines of
    /// `results`. Of a seed that ran again the last run is taken.
    ///
    /// # Errors
    /// When a line can't be read, a seed is missing before there are so many, or its runs are of several commits.
    pub fn of(results: &str, from: u64, runs: usize) -> anyhow::Result<Self> {
        let mut lines = BTreeMap::<(Guarantee, u64), Line>::new();
        for (number, text) in results.lines().enumerate() {
            let line: Line = serde_json::from_str(text)
                .with_context(|| format!("failed to read line {} of the results", number + 1))?;
            if let Some(guarantee) = line.guarantee {
                lines.insert((guarantee, line.seed), line);
            }
        }
        let (mut commit, mut date) = (None, None);
        let mut found: Vec<Run> = Vec::new();
        for guarantee in GUARANTEES {
            let (mut counted, mut next) = (0, from);
            while counted < runs {
                let seed = next;
                next += 1;
                let line = lines.remove(&(guarantee, seed));
                let line = line.with_context(|| format!("seed {seed} of {guarantee:?} has not run"))?;
                let known = commit.get_or_insert_with(|| line.commit.clone());
                if *known != line.commit {
                    bail!("seed {seed} of {guarantee:?} ran at commit {}, others at {known}", line.commit);
                }
                date.get_or_insert_with(|| line.ended_at.clone());
                let run = Run::of(guarantee, line);
                counted += usize::from(run.counts());
                found.push(run);
            }
        }
        Ok(Self { commit: commit.unwrap_or_default(), date: date.unwrap_or_default(), runs: found })
    }

    /// As JSON, a line for each run, so that two campaigns can be compared line by line.
    ///
    /// # Errors
    /// None in practice: it always serialises; the type is serde's.
    pub fn to_json(&self) -> serde_json::Result<String> {
        let Self { commit, date, runs } = self;
        let lines: Vec<String> = runs.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        let (commit, date) = (serde_json::to_string(commit)?, serde_json::to_string(date)?);
        Ok(format!("{{\"commit\":{commit},\"date\":{date},\"runs\":[\n{}\n]}}\n", lines.join(",\n")))
    }

    /// What the document says of it; its runs stand in `file`, beside the document.
    #[must_use]
    pub fn in_words(&self, file: &str) -> String {
        let Self { commit, date, runs } = self;
        let seeds = runs.iter().map(|run| run.seed);
        let counted = runs.iter().filter(|run| run.counts()).count();
        let mut out = String::new();
        line(
            &mut out,
            &format!(
                "Seeds {} to {} of each guarantee at commit {commit}, {date}: {} runs, {counted} of them counted. {}",
                seeds.clone().min().unwrap_or_default(),
                seeds.max().unwrap_or_default(),
                runs.len(),
                verdict(runs, counted),
            ),
        );
        line(&mut out, &format!("Run by run: [{file}]({file}).\n"));
        self.figures(&mut out);
        self.faults(&mut out);
        out
    }

    /// Each beside the most that it was allowed, summed over the runs.
    fn figures(&self, out: &mut String) {
        line(
            out,
            "| guarantee | runs | counted | events | lost, at most | repeated, at most | letters | repeated, at most | median recovery |",
        );
        line(out, "|---|---|---|---|---|---|---|---|---|");
        for guarantee in GUARANTEES {
            let runs: Vec<&Run> = self.runs.iter().filter(|run| run.guarantee == guarantee).collect();
            let sum = |part: fn(&Run) -> usize| runs.iter().map(|run| part(run)).sum::<usize>();
            let counted: Vec<&&Run> = runs.iter().filter(|run| run.counts()).collect();
            let mut recoveries: Vec<u64> = counted.iter().map(|run| run.recovery_millis).collect();
            recoveries.sort_unstable();
            let median = recoveries.get(recoveries.len() / 2).copied().unwrap_or_default();
            line(
                out,
                &format!(
                    "| {guarantee:?} | {} | {} | {} | {}, {} | {}, {} | {} | {}, {} | {} |",
                    runs.len(),
                    counted.len(),
                    sum(|run| run.events),
                    sum(|run| run.lost),
                    sum(|run| run.bound.lost),
                    sum(|run| run.repeated),
                    sum(|run| run.bound.repeated),
                    sum(|run| run.letters),
                    sum(|run| run.letters_again),
                    sum(|run| run.bound.letters),
                    seconds(median),
                ),
            );
        }
    }

    /// How often each kind happened, under each guarantee.
    fn faults(&self, out: &mut String) {
        let mut kinds = BTreeMap::<&str, BTreeMap<Guarantee, usize>>::new();
        for run in &self.runs {
            for (kind, times) in &run.faults {
                *kinds.entry(kind).or_default().entry(run.guarantee).or_default() += times;
            }
        }
        line(out, "\n| fault | AtMostOnce | AtLeastOnce | ExactlyOnce |\n|---|---|---|---|");
        for (kind, times) in kinds {
            let [most, least, exactly] =
                GUARANTEES.map(|guarantee| times.get(&guarantee).copied().unwrap_or_default());
            line(out, &format!("| {kind} | {most} | {least} | {exactly} |"));
        }
    }
}

fn verdict(runs: &[Run], counted: usize) -> String {
    let unsound: Vec<String> = runs
        .iter()
        .filter(|run| run.verdict == Verdict::Unsound)
        .map(|run| format!("{} of {:?} ({})", run.seed, run.guarantee, run.rules.join(", ")))
        .collect();
    if !unsound.is_empty() {
        return format!("Rules were broken by seeds {}.", unsound.join(", "));
    }
    let bound = percent_bound(counted);
    format!("No rule was broken: with 95 % confidence less than {bound:.1} % of such runs would break one.")
}

/// Writing to a String does not fail.
fn line(out: &mut String, words: &str) {
    let _ = writeln!(out, "{words}");
}

impl Run {
    fn of(guarantee: Guarantee, line: Line) -> Self {
        let mut faults = BTreeMap::new();
        for fault in line.faults.into_iter().filter(|fault| fault.happened) {
            *faults.entry(fault.kind).or_default() += 1;
        }
        let mut rules: Vec<String> = line.violations.into_iter().map(|violation| violation.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        let verdict = match (&line.broken, rules.is_empty()) {
            (Some(_), _) => Verdict::Broken,
            (None, false) => Verdict::Unsound,
            (None, true) if faults.values().sum::<usize>() < MIN_FAULTS => Verdict::TooFewFaults,
            (None, true) => Verdict::Sound,
        };
        let Line { seed, events, lost, duplicates, letters, letters_again, bound, recovery_millis, .. } =
            line;
        Self {
            guarantee,
            seed,
            verdict,
            rules,
            faults,
            events,
            lost,
            repeated: duplicates,
            letters,
            letters_again,
            bound,
            recovery_millis,
        }
    }

    /// Enough went wrong in it for its soundness to say something.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.verdict != Verdict::Broken && self.faults.values().sum::<usize>() >= MIN_FAULTS
    }
}

#[cfg(test)]
mod tests {
    use super::super::run::Judged;
    use super::*;
    use crate::proof::check::{self, Rule};
    use crate::proof::faults::Happening;
    use crate::proof::report::Report;

    /// The results' line of a run with so many faults that happened.
    fn judged(guarantee: Guarantee, seed: u64, happened: usize, is_sound: bool) -> String {
        let fault = Happening { kind: "rolling restart".to_owned(), happened: true, detail: String::new() };
        let broken = check::Violation::of(Rule::Delivered, "an order".to_owned());
        let report = Report {
            seed,
            commit: "abc".to_owned(),
            ended_at: "2026-11-29 10:00".to_owned(),
            faults: vec![fault; happened],
            events: 100,
            duplicates: 3,
            recovery_millis: 1_200,
            violations: if is_sound { Vec::new() } else { vec![broken] },
            ..Report::default()
        };
        let bound = Bound { lost: 1, repeated: 7, letters: 2 };
        let judged = Judged { guarantee, bound, letters: 5, letters_again: 1, report };
        serde_json::to_string(&judged).unwrap()
    }

    fn results(is_sound: bool) -> String {
        let lines = GUARANTEES.map(|guarantee| {
            let one = |seed, happened| judged(guarantee, seed, happened, is_sound || seed != 3);
            [one(1, 2), one(2, 1), one(3, 2), one(1, 3)].join("\n")
        });
        lines.join("\n")
    }

    #[test]
    fn a_campaign_is_the_runs_of_each_guarantee_from_a_seed_on_until_enough_of_them_count() {
        let campaign = Campaign::of(&results(true), 1, 2).unwrap();
        assert_eq!((campaign.commit.as_str(), campaign.runs.len()), ("abc", 9));
        let run = &campaign.runs[0];
        assert_eq!((run.faults["rolling restart"], run.repeated, run.bound.repeated), (3, 3, 7), "ran again");
        assert!(Campaign::of(&results(true), 1, 3).is_err(), "seed 4 has not run");
        let json = campaign.to_json().unwrap();
        assert_eq!(serde_json::from_str::<Campaign>(&json).unwrap(), campaign);
        let mixed = results(true) + "\n" + &judged(Guarantee::ExactlyOnce, 3, 2, true).replace("abc", "old");
        assert!(Campaign::of(&mixed, 1, 2).is_err(), "of two commits");
    }

    #[test]
    fn lines_that_do_not_say_of_which_guarantee_they_are_are_not_kept() {
        let old = judged(Guarantee::AtMostOnce, 1, 2, true).replace(r#""guarantee":"AtMostOnce","#, "");
        assert!(Campaign::of(&old, 1, 1).is_err());
    }

    #[test]
    fn the_tables_have_sums_beside_what_was_allowed_and_the_words_name_who_broke_a_rule() {
        let sound = Campaign::of(&results(true), 1, 2).unwrap().in_words("proof/deliveries.json");
        let row = "| AtLeastOnce | 3 | 2 | 300 | 0, 3 | 9, 21 | 15 | 3, 6 | 1.2 s |";
        assert!(sound.contains(row) && sound.contains("| rolling restart | 6 | 6 | 6 |"), "{sound}");
        assert!(sound.contains("Seeds 1 to 3") && sound.contains("less than 50.0 %"), "{sound}");
        let unsound = Campaign::of(&results(false), 1, 2).unwrap().in_words("x");
        assert!(unsound.contains("3 of AtMostOnce (C4)") && !unsound.contains("95 %"), "{unsound}");
    }
}
