//! Exposition: the few figures that scaling needs of what an order service's pod serves on `/metrics`. Pure.

/// Figures of one pod, as its counters stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures {
    /// Share of the time that the writer was at work.
    pub(super) busy: Option<f64>,
    /// Age of the oldest event in the outbox, in seconds.
    pub(super) outbox_age: f64,
    /// Orders that waited at most so long (in seconds), each bucket with all below it.
    pub(super) waits: Vec<(f64, f64)>,
}

const BUSY: &str = "orderflow_writer_busy_ratio";
const OUTBOX_AGE: &str = "orderflow_outbox_oldest_age_seconds";
const WAIT_BUCKET: &str = "orderflow_writer_queue_wait_seconds_bucket";

/// Share of the orders whose wait counts: one of a hundred is nobody's standard.
const COUNTED: f64 = 0.99;

impl Figures {
    /// Reads `text`; what is not there is left out.
    pub(super) fn parse(text: &str) -> Self {
        let mut figures = Self::default();
        for line in text.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            match name {
                BUSY => figures.busy = Some(value),
                OUTBOX_AGE => figures.outbox_age = value,
                WAIT_BUCKET => figures.waits.extend(bound(labels).map(|bound| (bound, value))),
                _ => {}
            }
        }
        figures.waits.sort_by(|one, other| one.0.total_cmp(&other.0));
        figures
    }

    /// Orders so far.
    fn orders(&self) -> f64 {
        self.waits.last().map_or(0.0, |(_, orders)| *orders)
    }

    /// Orders since `before`, and how long all but one of a hundred of them waited at most, in seconds. Nothing where the pod
    /// counts from another beginning.
    pub(super) fn since(&self, before: &Self) -> Option<(f64, f64)> {
        let orders = self.orders() - before.orders();
        if orders < 0.0 || self.waits.len() != before.waits.len() || self.waits.is_empty() {
            return None;
        }
        if orders == 0.0 {
            return Some((0.0, 0.0));
        }
        let (mut below, mut under) = (0.0, 0.0);
        for ((bound, now), (_, then)) in self.waits.iter().zip(&before.waits) {
            let within = now - then;
            if within >= COUNTED * orders {
                // The last bucket has no end: its orders waited for as long as the one before it says, or longer.
                let width = if bound.is_finite() { bound - below } else { 0.0 };
                let part = (COUNTED * orders - under) / (within - under).max(1.0);
                return Some((orders, below + width * part));
            }
            (below, under) = (*bound, within);
        }
        Some((orders, below))
    }
}

/// The bucket's bound.
fn bound(labels: &str) -> Option<f64> {
    let bound = labels.split_once("le=\"")?.1.split_once('"')?.0;
    if bound == "+Inf" { Some(f64::INFINITY) } else { bound.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(counts: [u32; 3]) -> String {
        let [short, middle, all] = counts;
        format!(
            "# HELP orderflow_writer_busy_ratio Share\n# TYPE orderflow_writer_busy_ratio gauge\n\
             orderflow_writer_busy_ratio 0.75\norderflow_outbox_oldest_age_seconds 1.5\n\
             orderflow_writer_queue_wait_seconds_sum 12.5\norderflow_writer_queue_wait_seconds_count {all}\n\
             orderflow_writer_queue_wait_seconds_bucket{{le=\"0.01\"}} {short}\n\
             orderflow_writer_queue_wait_seconds_bucket{{le=\"0.05\"}} {middle}\n\
             orderflow_writer_queue_wait_seconds_bucket{{le=\"+Inf\"}} {all}\n# EOF\n"
        )
    }

    #[test]
    fn the_figures_are_found_among_others() {
        let figures = Figures::parse(&text([1, 2, 3]));
        assert_eq!((figures.busy, figures.outbox_age), (Some(0.75), 1.5));
        assert_eq!(figures.waits, [(0.01, 1.0), (0.05, 2.0), (f64::INFINITY, 3.0)]);
        assert_eq!(Figures::parse("nothing of ours 1"), Figures::default());
    }

    #[test]
    fn a_wait_is_that_of_the_orders_between_two_looks() {
        let before = Figures::parse(&text([900, 1000, 1000]));
        let since = |counts| Figures::parse(&text(counts)).since(&before).unwrap();
        assert_eq!(since([900, 1000, 1000]), (0.0, 0.0));
        let (orders, wait) = since([1000, 1100, 1100]);
        assert!((orders - 100.0).abs() < f64::EPSILON && wait <= 0.01, "{wait}");
        let (_, wait) = since([900, 1100, 1100]);
        assert!((0.04..=0.05).contains(&wait), "{wait}");
        let (_, wait) = since([900, 1000, 1100]);
        assert!((wait - 0.05).abs() < 1e-9, "beyond the last bound it is at least that: {wait}");
    }

    #[test]
    fn a_pod_that_counts_from_another_beginning_tells_nothing() {
        let before = Figures::parse(&text([900, 1000, 1000]));
        assert_eq!(Figures::parse(&text([1, 1, 1])).since(&before), None);
    }
}
