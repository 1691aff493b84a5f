//! The ladder's part of the document, and its plots.

use std::collections::BTreeMap;

use super::{row, spread, table};
use crate::bench::plot::{self, Series, Words};
use crate::bench::results::{Level, Rung};
use crate::bench::workload::Choice;

/// The rungs of a level: by product choice and clients, then by arm.
type Table<'a> = BTreeMap<(Choice, usize), BTreeMap<&'a str, &'a Rung>>;

fn by_row(level: Level, rungs: &[Rung]) -> (Table<'_>, Vec<&str>) {
    let (mut table, mut arms) = (Table::new(), Vec::new());
    for rung in rungs.iter().filter(|rung| rung.level == level) {
        if !arms.contains(&rung.arm.as_str()) {
            arms.push(&rung.arm);
        }
        table.entry((rung.choice, rung.clients)).or_default().insert(&rung.arm, rung);
    }
    (table, arms)
}

pub(super) fn ladder(out: &mut String, level: Level, rungs: &[Rung]) {
    let (rows, arms) = by_row(level, rungs);
    let heads: Vec<_> = arms.iter().map(|arm| format!("{arm}: orders/s, p50, p99 ms")).collect();
    let mut head = vec!["products", "clients"];
    head.extend(heads.iter().map(String::as_str));
    table(out, &head);
    for ((choice, clients), by_arm) in rows {
        let mut cells = vec![choice.name().to_owned(), clients.to_string()];
        cells.extend(arms.iter().map(|arm| by_arm.get(arm).map_or_else(String::new, |rung| rung_cell(rung))));
        row(out, &cells);
    }
}

fn rung_cell(rung: &Rung) -> String {
    let failed = if rung.failures > 0 { format!("; {} failed", rung.failures) } else { String::new() };
    format!("{}, {:.1}, {:.1}{failed}", spread(rung.per_second), rung.p50.median, rung.p99.median)
}

pub(super) fn plot(level: Level, rungs: &[Rung]) -> String {
    let (rows, arms) = by_row(level, rungs);
    let groups: Vec<_> =
        rows.keys().map(|(choice, clients)| format!("{}, {clients}", choice.name())).collect();
    let series: Vec<_> = arms
        .iter()
        .map(|arm| {
            let points = rows.values().enumerate();
            let points =
                points.filter_map(|(index, by_arm)| Some((index as f64, by_arm.get(arm)?.per_second)));
            Series { name: (*arm).to_owned(), points: points.collect() }
        })
        .collect();
    let words =
        Words { title: "Orders per second, by way to take them", x: "products, clients", y: "orders/s" };
    plot::bars(words, &groups, &series)
}
