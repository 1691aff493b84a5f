//! Plots as SVG: lines over two logarithmic axes, and groups of bars, both with the extremes of their repetitions.

use std::fmt::Write;

use super::results::Spread;

/// Width of every plot.
const WIDTH: f64 = 860.0;
/// Height of every plot.
const HEIGHT: f64 = 430.0;
/// Where the axes stand: left, top, right, bottom.
const FRAME: (f64, f64, f64, f64) = (70.0, 60.0, WIDTH - 20.0, HEIGHT - 60.0);
/// Told apart by the colour-blind too (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// A named row of values, each with its place on the x axis.
#[derive(Clone, Debug)]
pub struct Series {
    /// As the legend names it.
    pub name: String,
    /// Place and value.
    pub points: Vec<(f64, Spread)>,
}

/// What a plot says in words.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    /// Above the plot.
    pub title: &'a str,
    /// Below the x axis.
    pub x: &'a str,
    /// Beside the y axis.
    pub y: &'a str,
}

/// Lines with bands from lowest to highest, both axes logarithmic.
#[must_use]
pub fn lines(words: Words<'_>, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|series| &series.points);
    let x = Scale::log(points().map(|point| point.0), FRAME.0, FRAME.2);
    let values = points().flat_map(|point| [point.1.min, point.1.max]);
    let y = Scale::log(values.filter(|value| *value > 0.0), FRAME.3, FRAME.1);
    let mut svg = begin(words, &y);
    for place in series.iter().flat_map(|series| &series.points).map(|point| point.0) {
        text(&mut svg, (x.at(place), FRAME.3 + 18.0), "middle", &number(place));
    }
    for (series, colour) in series.iter().zip(COLOURS) {
        let at = |place: f64, value: f64| format!("{:.1},{:.1}", x.at(place), y.at(value));
        let line: Vec<_> = series.points.iter().map(|(place, spread)| at(*place, spread.median)).collect();
        let band = series.points.iter().map(|(place, spread)| at(*place, spread.max));
        let back = series.points.iter().rev().map(|(place, spread)| at(*place, spread.min));
        let band: Vec<_> = band.chain(back).collect();
        // Writing to a String does not fail.
        let _ = writeln!(svg, r#"<polygon points="{}" fill="{colour}" opacity="0.15"/>"#, band.join(" "));
        let _ = writeln!(
            svg,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
            line.join(" ")
        );
        for point in line {
            let (cx, cy) = point.split_once(',').unwrap_or_default();
            let _ = writeln!(svg, r#"<circle cx="{cx}" cy="{cy}" r="3" fill="{colour}"/>"#);
        }
    }
    end(svg, series)
}

/// Bars from zero, one group per name; a series' points are placed by the index of their group.
#[must_use]
pub fn bars(words: Words<'_>, groups: &[String], series: &[Series]) -> String {
    let highest =
        series.iter().flat_map(|series| &series.points).map(|point| point.1.max).fold(1.0, f64::max);
    let y = Scale::linear(highest, FRAME.3, FRAME.1);
    let mut svg = begin(words, &y);
    let group_width = (FRAME.2 - FRAME.0) / groups.len().max(1) as f64;
    let bar = group_width * 0.8 / series.len().max(1) as f64;
    for (index, group) in groups.iter().enumerate() {
        let middle = FRAME.0 + group_width * (index as f64 + 0.5);
        text(&mut svg, (middle, FRAME.3 + 18.0), "middle", group);
    }
    for (row, (series, colour)) in series.iter().zip(COLOURS.iter().cycle()).enumerate() {
        for (place, spread) in &series.points {
            let left = FRAME.0 + group_width * (place + 0.1) + bar * row as f64;
            let (top, middle) = (y.at(spread.median), left + bar / 2.0);
            let height = FRAME.3 - top;
            let _ = writeln!(
                svg,
                r#"<rect x="{left:.1}" y="{top:.1}" width="{:.1}" height="{height:.1}" fill="{colour}"/>"#,
                bar - 1.0
            );
            let _ = writeln!(
                svg,
                r##"<line x1="{middle:.1}" x2="{middle:.1}" y1="{:.1}" y2="{:.1}" stroke="#333"/>"##,
                y.at(spread.min),
                y.at(spread.max)
            );
        }
    }
    end(svg, series)
}

/// From values to places on the plot, with the values that are marked.
struct Scale {
    log: bool,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    marks: Vec<f64>,
}

impl Scale {
    fn log(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) =
            values.fold((f64::MAX, f64::MIN_POSITIVE), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = (low.min(high) / 1.3, high * 1.3);
        let decades = (-3..6).map(|exponent| 10_f64.powi(exponent));
        let marks = decades.flat_map(|decade| [decade, 2.0 * decade, 5.0 * decade]);
        let marks = marks.filter(|mark| (low..=high).contains(mark)).collect();
        Self { log: true, low: low.ln(), high: high.ln(), from, to, marks }
    }

    fn linear(high: f64, from: f64, to: f64) -> Self {
        let step = [1.0, 2.0, 5.0].map(|unit| unit * 10_f64.powf((high / 5.0).log10().floor()));
        let step = step.into_iter().find(|step| high / step <= 8.0).unwrap_or(high);
        let marks = (0..10).map(|index| f64::from(index) * step).filter(|mark| *mark <= high).collect();
        Self { log: false, low: 0.0, high: high * 1.05, from, to, marks }
    }

    fn at(&self, value: f64) -> f64 {
        let value = if self.log { value.max(f64::MIN_POSITIVE).ln().max(self.low) } else { value };
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }
}

fn begin(words: Words<'_>, y: &Scale) -> String {
    let (left, top, right, bottom) = FRAME;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="#333">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>
<text x="{left}" y="22" font-size="15" font-weight="bold">{}</text>
"##,
        words.title
    );
    for mark in &y.marks {
        let at = y.at(*mark);
        let _ =
            writeln!(svg, r##"<line x1="{left}" x2="{right}" y1="{at:.1}" y2="{at:.1}" stroke="#ddd"/>"##);
        text(&mut svg, (left - 6.0, at + 4.0), "end", &number(*mark));
    }
    let _ = writeln!(svg, r##"<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#333"/>"##);
    text(&mut svg, (f64::midpoint(left, right), HEIGHT - 18.0), "middle", words.x);
    let middle = f64::midpoint(top, bottom);
    let _ = writeln!(
        svg,
        r#"<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">{}</text>"#,
        words.y
    );
    svg
}

fn end(mut svg: String, series: &[Series]) -> String {
    let mut left = FRAME.0;
    for (series, colour) in series.iter().zip(COLOURS) {
        let _ = writeln!(svg, r#"<rect x="{left}" y="34" width="10" height="10" fill="{colour}"/>"#);
        text(&mut svg, (left + 14.0, 43.0), "start", &series.name);
        left += 30.0 + 6.5 * series.name.chars().count() as f64;
    }
    svg + "</svg>\n"
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{words}</text>"#);
}

fn number(value: f64) -> String {
    if value >= 1000.0 { format!("{}k", value / 1000.0) } else { format!("{value}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, values: &[f64]) -> Series {
        let spread = |value: f64| Spread { median: value, min: value * 0.9, max: value * 1.1 };
        let points = values.iter().enumerate().map(|(index, value)| (index as f64 + 1.0, spread(*value)));
        Series { name: name.to_owned(), points: points.collect() }
    }

    #[test]
    fn every_point_of_a_plot_lies_within_its_frame() {
        let words = Words { title: "t", x: "x", y: "y" };
        let svg = lines(words, &[series("a", &[0.2, 3.0, 900.0]), series("b", &[1.0, 1.0])]);
        let places = svg.split("<circle cx=\"").skip(1).map(|rest| {
            let mut numbers = rest.split('"').step_by(2);
            let mut next = || numbers.next().unwrap().parse::<f64>().unwrap();
            (next(), next())
        });
        let places: Vec<_> = places.collect();
        assert_eq!(places.len(), 5);
        for (x, y) in places {
            assert!((FRAME.0..=FRAME.2).contains(&x) && (FRAME.1..=FRAME.3).contains(&y), "{x} {y}");
        }
    }

    #[test]
    fn a_plot_of_bars_has_one_for_each_value_and_its_legend() {
        let words = Words { title: "t", x: "x", y: "y" };
        let svg =
            bars(words, &["g".to_owned(), "h".to_owned()], &[series("a", &[1.0, 2.0]), series("b", &[3.0])]);
        assert_eq!(svg.matches("<rect").count(), 1 + 3 + 2);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }
}
