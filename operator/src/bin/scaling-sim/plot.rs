//! Plots as SVG: age of the oldest record above, pods below, ours and KEDA's over the same hour.

use std::fmt::Write;

use crate::compare::Comparison;
use crate::run::POLICY;
use crate::trace::SECONDS;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 470.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = WIDTH - 20.0;
/// Top and bottom of the two parts.
const AGES: (f64, f64) = (60.0, 230.0);
const PODS: (f64, f64) = (265.0, 425.0);
/// Told apart by the colour-blind too (Okabe and Ito).
const OURS: &str = "#0072b2";
const KEDA: &str = "#d55e00";
const GREY: &str = "#999";
/// Seconds between two points of an age.
const POINT: usize = 10;

/// The plot of a trace.
pub(crate) fn svg(comparison: &Comparison) -> String {
    let (ours, keda) = (&comparison.ours, comparison.careful());
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="#333">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>
<text x="{LEFT}" y="22" font-size="15" font-weight="bold">{}</text>
"##,
        comparison.trace.title
    );
    let mut left = LEFT;
    for (name, colour) in
        [("ours", OURS), ("KEDA and autoscaler", KEDA), ("target; what arrivals alone need", GREY)]
    {
        // Writing to a String does not fail.
        let _ = writeln!(svg, r#"<rect x="{left}" y="34" width="10" height="10" fill="{colour}"/>"#);
        text(&mut svg, (left + 14.0, 43.0), "start", name);
        left += 30.0 + 6.5 * name.chars().count() as f64;
    }
    let highest = ours.ages.iter().chain(&keda.ages).copied().fold(2.0 * POLICY.target_age, f64::max);
    frame(&mut svg, AGES, highest, "oldest record, s");
    let most = ours.pods.iter().chain(&keda.pods).copied().max().unwrap_or(1);
    let arrivals = ours.offered.iter().copied().fold(f64::from(most), f64::max);
    frame(&mut svg, PODS, arrivals, "pods");
    for minute in (0..=SECONDS / 60).step_by(10) {
        text(&mut svg, (x(minute * 60), PODS.1 + 18.0), "middle", &minute.to_string());
    }
    text(&mut svg, (f64::midpoint(LEFT, RIGHT), HEIGHT - 8.0), "middle", "minutes");
    let target = y(AGES, highest, POLICY.target_age);
    let _ = writeln!(svg, r#"<path d="M{LEFT} {target:.1}H{RIGHT}" stroke="{GREY}" stroke-dasharray="4"/>"#);
    line(&mut svg, GREY, &every_point(PODS, arrivals, &ours.offered));
    for (score, colour) in [(keda, KEDA), (ours, OURS)] {
        line(&mut svg, colour, &every_point(AGES, highest, &score.ages));
        let pods: Vec<_> = score.pods.iter().map(|pods| f64::from(*pods)).collect();
        line(&mut svg, colour, &every_change(PODS, arrivals, &pods));
    }
    svg + "</svg>\n"
}

fn x(second: usize) -> f64 {
    LEFT + second as f64 / SECONDS as f64 * (RIGHT - LEFT)
}

fn y((top, bottom): (f64, f64), highest: f64, value: f64) -> f64 {
    bottom - value / (highest * 1.05) * (bottom - top)
}

/// The highest value of each span, so that no peak is left out.
fn every_point(part: (f64, f64), highest: f64, values: &[f64]) -> Vec<(f64, f64)> {
    let of = |(index, span): (usize, &[f64])| {
        (x(index * POINT), y(part, highest, span.iter().copied().fold(0.0, f64::max)))
    };
    values.chunks(POINT).enumerate().map(of).collect()
}

/// A corner for each change.
fn every_change(part: (f64, f64), highest: f64, values: &[f64]) -> Vec<(f64, f64)> {
    let mut points = Vec::new();
    let mut last = None;
    for (second, value) in values.iter().enumerate() {
        if last != Some(*value) {
            points.extend(last.map(|last| (x(second), y(part, highest, last))));
            points.push((x(second), y(part, highest, *value)));
            last = Some(*value);
        }
    }
    points.extend(last.map(|last| (x(values.len()), y(part, highest, last))));
    points
}

fn line(svg: &mut String, colour: &str, points: &[(f64, f64)]) {
    let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        svg,
        r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="1.5"/>"#,
        points.join(" ")
    );
}

fn frame(svg: &mut String, part: (f64, f64), highest: f64, words: &str) {
    let (top, bottom) = part;
    let step = [1.0, 2.0, 5.0].map(|unit| unit * 10_f64.powf((highest / 5.0).log10().floor()));
    let step = step.into_iter().find(|step| highest / step <= 8.0).unwrap_or(highest).max(1.0);
    for mark in (0..10).map(|index| f64::from(index) * step).filter(|mark| *mark <= highest) {
        let at = y(part, highest, mark);
        let _ =
            writeln!(svg, r##"<line x1="{LEFT}" x2="{RIGHT}" y1="{at:.1}" y2="{at:.1}" stroke="#ddd"/>"##);
        text(svg, (LEFT - 6.0, at + 4.0), "end", &mark.to_string());
    }
    let _ = writeln!(svg, r##"<path d="M{LEFT} {top}V{bottom}H{RIGHT}" fill="none" stroke="#333"/>"##);
    let middle = f64::midpoint(top, bottom);
    let _ = writeln!(
        svg,
        r#"<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">{words}</text>"#
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{words}</text>"#);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_steps_has_a_corner_for_each_change_and_ends_with_the_trace() {
        let corners = every_change(PODS, 4.0, &[1.0, 1.0, 3.0, 3.0, 2.0]);
        assert_eq!(corners.len(), 1 + 2 + 2 + 1);
        assert!(corners.iter().all(|(_, y)| (PODS.0..=PODS.1).contains(y)));
    }

    #[test]
    fn no_peak_of_an_age_is_left_out() {
        let mut ages = vec![0.0; 100];
        ages[57] = 9.0;
        let highest = every_point(AGES, 9.0, &ages).into_iter().map(|(_, y)| y).fold(f64::MAX, f64::min);
        assert!((highest - y(AGES, 9.0, 9.0)).abs() < 1e-9);
    }
}
