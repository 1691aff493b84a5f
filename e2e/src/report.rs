//! The table that a run ends with.

use std::fmt::Write;

use crate::api::Outcome;
use crate::check::Hop;
use crate::evidence::Judged;
use crate::load::Call;

/// The table of one run.
#[must_use]
pub fn table(calls: &[Call], judged: &Judged) -> String {
    let findings = &judged.findings;
    let count = |wanted: fn(&Outcome) -> bool| calls.iter().filter(|call| wanted(&call.outcome)).count();
    let hops = || std::iter::once(&findings.topic).chain(findings.sinks.values());
    let sum = |part: fn(&Hop) -> usize| hops().map(part).sum::<usize>();
    let mut rows = vec![
        ("orders posted".to_owned(), calls.len().to_string()),
        ("orders accepted".to_owned(), count(|outcome| matches!(outcome, Outcome::Accepted(_))).to_string()),
        ("orders refused".to_owned(), count(|outcome| matches!(outcome, Outcome::Refused(_))).to_string()),
        ("orders unanswered".to_owned(), count(|outcome| matches!(outcome, Outcome::Unknown(_))).to_string()),
        ("events recorded".to_owned(), findings.expected.to_string()),
        ("events published".to_owned(), findings.topic.distinct.to_string()),
    ];
    for (group, hop) in &findings.sinks {
        rows.push((format!("delivered to {group}"), hop.distinct.to_string()));
    }
    rows.extend([
        ("lost".to_owned(), (findings.unrecorded + sum(|hop| hop.lost)).to_string()),
        ("duplicated".to_owned(), findings.duplicated().to_string()),
        ("out of order".to_owned(), sum(|hop| hop.out_of_order).to_string()),
        ("altered or invented".to_owned(), sum(|hop| hop.altered + hop.ghosts).to_string()),
        ("end to end p50".to_owned(), millis(judged.end_to_end.value_at_quantile(0.50))),
        ("end to end p99".to_owned(), millis(judged.end_to_end.value_at_quantile(0.99))),
    ]);
    draw(&rows)
}

fn millis(micros: u64) -> String {
    format!("{}.{} ms", micros / 1000, micros % 1000 / 100)
}

fn draw(rows: &[(String, String)]) -> String {
    let left = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let right = rows.iter().map(|(_, value)| value.len()).max().unwrap_or_default();
    let line = format!("+-{}-+-{}-+\n", "-".repeat(left), "-".repeat(right));
    let mut text = line.clone();
    for (name, value) in rows {
        // Writing to a String does not fail.
        let _ = writeln!(text, "| {name:<left$} | {value:>right$} |");
    }
    text + &line
}
