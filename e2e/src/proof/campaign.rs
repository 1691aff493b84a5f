//! What is kept of a campaign for good: a line for each of its runs, small enough to stand beside the document.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::report::{Counts, MIN_FAULTS};

/// A campaign: runs of neighbouring seeds at one commit. Who only shows it needs no more of each than a [`Run`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Campaign<R = Run> {
    /// Commit of the checkout, with `-dirty` when files differed from it.
    pub commit: String,
    /// When its first run ended, UTC.
    pub date: String,
    /// Its runs, by seed.
    pub runs: Vec<R>,
}

/// A run as it is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeptRun {
    /// What is shown of it.
    #[serde(flatten)]
    pub run: Run,
    /// Refused calls by the word that they were refused with; none in campaigns from before they were counted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refusals: BTreeMap<String, usize>,
}

/// One run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Its seed.
    pub seed: u64,
    /// What it says.
    pub verdict: Verdict,
    /// Rules that it broke.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Faults that happened, by kind or fail point.
    pub faults: BTreeMap<String, usize>,
    /// Calls by outcome.
    pub calls: Counts,
    /// Orders in the database.
    pub orders: usize,
    /// Events recorded.
    pub events: usize,
    /// Records of the topic beyond the first of their event.
    pub duplicates: usize,
    /// From the end of the last fault to the recovery.
    pub recovery_millis: u64,
}

/// What a run says of the service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Enough went wrong, and no rule was broken.
    Sound,
    /// A rule was broken.
    Unsound,
    /// Too few faults happened for it to say anything.
    TooFewFaults,
    /// It could not be made or judged.
    Broken,
}

/// A line of the results, as far as it is kept.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    seed: u64,
    #[serde(default)]
    commit: String,
    #[serde(default)]
    ended_at: String,
    faults: Vec<Fault>,
    calls: Counts,
    #[serde(default)]
    refusals: BTreeMap<String, usize>,
    orders: usize,
    events: usize,
    duplicates: usize,
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

impl Campaign<KeptRun> {
    /// The campaign that began at seed `from` and was to have `runs` runs that count, out of the lines of `results`. Of a
    /// seed that ran again the last run is taken.
    ///
    /// # Errors
    /// When a line can't be read, a seed is missing before there are so many, or its runs are of several commits.
    pub fn of(results: &str, from: u64, runs: usize) -> anyhow::Result<Self> {
        let lines: Vec<Line> = read_lines(results)?;
        let mut by_seed: BTreeMap<u64, Line> = lines.into_iter().map(|line| (line.seed, line)).collect();
        let (mut commit, mut date) = (None, None);
        let mut found: Vec<KeptRun> = Vec::new();
        while found.iter().filter(|kept| kept.run.counts()).count() < runs {
            let seed = from + found.len() as u64;
            let line = by_seed.remove(&seed).with_context(|| format!("seed {seed} has not run"))?;
            let known = commit.get_or_insert_with(|| line.commit.clone());
            if *known != line.commit {
                bail!("seed {seed} ran at commit {}, those before at {known}", line.commit);
            }
            date.get_or_insert_with(|| line.ended_at.clone());
            found.push(KeptRun::of(line));
        }
        Ok(Self { commit: commit.unwrap_or_default(), date: date.unwrap_or_default(), runs: found })
    }
}

impl<R: Serialize> Campaign<R> {
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
}

impl KeptRun {
    fn of(line: Line) -> Self {
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
        let Line { seed, calls, refusals, orders, events, duplicates, recovery_millis, .. } = line;
        let run = Run { seed, verdict, rules, faults, calls, orders, events, duplicates, recovery_millis };
        Self { run, refusals }
    }
}

impl Run {
    /// Enough went wrong in it for its soundness to say something.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.verdict != Verdict::Broken && self.faults.values().sum::<usize>() >= MIN_FAULTS
    }
}

/// A planted bug that was caught.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Caught {
    /// Program and name, as of its patch.
    pub mutant: String,
    /// Commit that it was planted into.
    pub commit: String,
    /// The seed that caught it.
    pub seed: u64,
    /// The rules that it broke there.
    pub rules: Vec<String>,
}

/// The planted bugs that were caught, out of the lines of `results`, by name: of each the last time, and those only that
/// `is_planted` knows.
///
/// # Errors
/// When a line can't be read.
pub fn caught(results: &str, is_planted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<Caught>> {
    let lines: Vec<Caught> = read_lines(results)?;
    let last: BTreeMap<String, Caught> =
        lines.into_iter().map(|caught| (caught.mutant.clone(), caught)).collect();
    Ok(last.into_values().filter(|caught| is_planted(&caught.mutant)).collect())
}

/// What [`Campaign::to_json`] or the mutants' file hold.
///
/// # Errors
/// When the file is there and can't be read.
pub fn load<T: DeserializeOwned>(file: &Path) -> anyhow::Result<Option<T>> {
    if !file.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(file)?;
    Ok(Some(serde_json::from_str(&text).with_context(|| format!("failed to read {}", file.display()))?))
}

fn read_lines<T: DeserializeOwned>(text: &str) -> anyhow::Result<Vec<T>> {
    let parsed = text.lines().enumerate().map(|(number, line)| {
        serde_json::from_str(line)
            .with_context(|| format!("failed to read line {} of the results", number + 1))
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::check::{Rule, Violation};
    use crate::proof::faults::Happening;
    use crate::proof::report::Report;

    /// The results' line of a run with so many faults that happened and one that did not.
    fn line(seed: u64, happened: usize, commit: &str) -> String {
        let fault = |happened| Happening { kind: "disk full".to_owned(), happened, detail: String::new() };
        let mut faults: Vec<Happening> = (0..happened).map(|_| fault(true)).collect();
        faults.push(fault(false));
        let refusals = BTreeMap::from([("busy".to_owned(), 7)]);
        let mut report = Report { seed, faults, commit: commit.to_owned(), refusals, ..Report::default() };
        if seed == 3 {
            let broken = Violation::of(Rule::Kept, "an order".to_owned());
            report.violations = vec![broken.clone(), broken];
        }
        serde_json::to_string(&report).unwrap()
    }

    #[test]
    fn a_campaign_is_the_runs_from_a_seed_on_until_enough_of_them_count() {
        let lines = [line(1, 2, "old"), line(2, 2, "a"), line(1, 3, "a"), line(3, 2, "a"), line(4, 1, "a")];
        let campaign = Campaign::of(&lines.join("\n"), 1, 3).unwrap();
        assert_eq!(campaign.commit, "a", "the first run of seed 1 was replaced");
        let runs = campaign.runs.iter().map(|kept| &kept.run);
        let runs: Vec<_> = runs.map(|run| (run.seed, run.verdict, run.rules.len())).collect();
        assert_eq!(runs, [(1, Verdict::Sound, 0), (2, Verdict::Sound, 0), (3, Verdict::Unsound, 1)]);
        assert_eq!(campaign.runs[0].run.faults, BTreeMap::from([("disk full".to_owned(), 3)]));
        assert_eq!(campaign.runs[0].refusals, BTreeMap::from([("busy".to_owned(), 7)]));
        assert!(Campaign::of(&lines.join("\n"), 1, 4).is_err(), "seed 4 does not count, and 5 has not run");
        let mixed = [line(1, 2, "a"), line(2, 2, "b")];
        assert!(Campaign::of(&mixed.join("\n"), 1, 2).is_err(), "of two commits");
    }

    #[test]
    fn what_is_written_is_read_again_a_run_a_line_and_two_hundred_of_them_are_small() {
        let lines: Vec<String> = (1..=200).map(|seed| line(seed, 4, "a")).collect();
        let campaign = Campaign::of(&lines.join("\n"), 1, 200).unwrap();
        let json = campaign.to_json().unwrap();
        assert_eq!(json.lines().count(), 202);
        assert_eq!(serde_json::from_str::<Campaign<KeptRun>>(&json).unwrap(), campaign);
        assert!(json.len() < 100_000, "{} bytes", json.len());
        let shown: Campaign = serde_json::from_str(&json).unwrap();
        assert_eq!(shown.runs[199], campaign.runs[199].run, "without what is kept beside");
    }

    #[test]
    fn a_campaign_from_before_refusals_were_counted_by_word_is_read_as_having_none() {
        let campaign = Campaign::of(&line(1, 4, "a"), 1, 1).unwrap();
        let older =
            Campaign { runs: vec![campaign.runs[0].run.clone()], commit: String::new(), date: String::new() };
        let read: Campaign<KeptRun> = serde_json::from_str(&older.to_json().unwrap()).unwrap();
        assert_eq!(read.runs, [KeptRun { run: older.runs[0].clone(), refusals: BTreeMap::new() }]);
        let line = line(1, 4, "a").replace(r#""refusals":{"busy":7},"#, "");
        assert!(Campaign::of(&line, 1, 1).unwrap().runs[0].refusals.is_empty(), "{line}");
    }

    #[test]
    fn of_each_planted_bug_the_last_catch_is_kept() {
        let caught_by = |mutant: &str, seed| {
            format!(r#"{{"mutant":"{mutant}","commit":"a","seed":{seed},"rules":["C2"]}}"#)
        };
        let lines = [caught_by("a/b", 1), caught_by("a/gone", 2), caught_by("a/b", 3)].join("\n");
        let caught = caught(&lines, |name| name != "a/gone").unwrap();
        assert_eq!(caught.iter().map(|caught| caught.seed).collect::<Vec<_>>(), [3]);
    }
}
