//! The consumers' part of the document.

use super::{line, millis, row, spread, table, thousands};
use crate::bench::results::{Consumers, SlowKey};

/// Its tables.
pub(super) fn consumers(out: &mut String, found: &Consumers) {
    let events = thousands(found.events as f64);
    line(
        out,
        &format!(
            "\n{events} events in three partitions, into an HTTP sink that takes so long over each; events/s:\n"
        ),
    );
    table(out, &["the sink takes", "one after another in each partition", "keys side by side", "times"]);
    for drain in &found.keys {
        let times = drain.by_key.median / drain.by_partition.median.max(f64::EPSILON);
        row(
            out,
            &[
                format!("{} ms", drain.pause_millis),
                spread(drain.by_partition),
                spread(drain.by_key),
                format!("{times:.1}"),
            ],
        );
    }
    let published = found.published;
    line(
        out,
        &format!(
            "\n10,000 records of 0–5 ms (`LANES=64`): **{:.2} s** [{:.2}–{:.2}]; published for Confluent's Parallel Consumer: 22 s serial, 2.1 s by key.",
            published.median, published.min, published.max
        ),
    );
    line(out, &format!("\n{events} events into PostgreSQL, by guarantee:\n"));
    table(out, &["guarantee", "rows/s"]);
    for price in &found.prices {
        row(out, &[price.guarantee.clone(), spread(price.per_second)]);
    }
    let SlowKey { per_second, p50, p99 } = &found.slow_key;
    line(
        out,
        &format!(
            "\n{per_second:.0} events/s into a sink that takes 5 ms, and a second over those of one order; age of the *other* orders' events at delivery, in ms:\n"
        ),
    );
    table(out, &["", "p50", "p99"]);
    row(out, &["without the slow order".to_owned(), millis(p50.0), millis(p99.0)]);
    row(out, &["with it".to_owned(), millis(p50.1), millis(p99.1)]);
}
