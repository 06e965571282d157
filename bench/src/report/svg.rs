//! The report as a picture: one panel of bars per headline figure, each with every subject.
//!
//! It has its own background and follows the reader's light or dark scheme, so it is legible in either.

use std::fmt::Write;

use crate::report::{Better, Figure, Report, three_digits};

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 20.0;
const NAMES: f64 = 170.0;
const VALUES: f64 = 150.0;
const ROW: f64 = 22.0;
const BAR: f64 = 14.0;
const TITLE: f64 = 30.0;
const GAP: f64 = 18.0;

const STYLE: &str = "
  .ground { fill: #ffffff; stroke: #d0d7de }
  text { fill: #1f2328; font: 13px system-ui, sans-serif }
  .title { font-weight: 600 }
  .quiet { fill: #59636e; font-size: 12px }
  .bar { fill: #8c959f }
  .ours { fill: #1a7f64 }
  .base { fill: #6e7ff3 }
  .range { stroke: #1f2328; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117; stroke: #3d444d }
    text { fill: #e6edf3 }
    .quiet { fill: #9198a1 }
    .bar { fill: #6e7681 }
    .ours { fill: #3fb68b }
    .base { fill: #7d8bf5 }
    .range { stroke: #e6edf3 }
  }
";

/// Draws the headline figures as an SVG document.
pub fn chart(report: &Report) -> String {
    let panels: Vec<_> = report.figures.iter().filter(|figure| figure.headline).collect();
    let mut body = String::new();
    let mut y = MARGIN + 14.0;
    label(&mut body, MARGIN, y, "title", &report.title);
    y += 20.0;
    let words = ["date", "kernel", "cpu"].iter().filter_map(|name| report.environment.get(*name));
    let words: Vec<_> = words.map(String::as_str).collect();
    let rounds = format!("medians of {} rounds, whiskers from least to greatest", report.rounds());
    for line in [words.join(" · "), rounds] {
        label(&mut body, MARGIN, y, "quiet", &line);
        y += GAP;
    }
    for figure in panels {
        y = panel(&mut body, report, figure, y);
    }
    let height = y + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"ground\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\"/>\n{body}</svg>\n",
        escape(&report.title),
        WIDTH - 1.0,
        height - 1.0
    )
}

/// Draws one figure from `top` on and returns the top of the next one.
fn panel(body: &mut String, report: &Report, figure: &Figure, top: f64) -> f64 {
    let direction = match figure.better {
        Better::Higher => "more is better",
        Better::Lower => "less is better",
    };
    let heading = format!("{} — {}, {direction}", figure.label, figure.unit);
    label(body, MARGIN, top + 16.0, "title", &heading);
    let spreads = report.subjects.iter().map(|subject| report.spread(&subject.name, &figure.key));
    let spreads: Vec<_> = spreads.collect();
    let longest = spreads.iter().flatten().map(|spread| spread.max).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - 2.0 * MARGIN - NAMES - VALUES) / longest;
    let (mut y, left) = (top + TITLE, MARGIN + NAMES);
    for (subject, spread) in report.subjects.iter().zip(spreads) {
        let base = y + BAR - 2.0;
        label(body, MARGIN, base, "", &subject.name);
        if let Some(spread) = spread {
            let baseline = report.baseline.as_deref();
            let class = match subject.name.as_str() {
                name if Some(name) == baseline => "bar base",
                name if name.starts_with("vswitchd") => "bar ours",
                _ => "bar",
            };
            let [length, min, max] = [spread.median, spread.min, spread.max].map(|value| value * scale);
            rect(body, class, left, y, length);
            whisker(body, left + min, left + max, y + BAR / 2.0);
            let against = baseline.filter(|baseline| *baseline != subject.name);
            let ratio = against.and_then(|baseline| report.ratio(&subject.name, &figure.key, baseline));
            let ratio = ratio.map(|ratio| format!("  ({}x)", three_digits(ratio.median))).unwrap_or_default();
            let value = format!("{}{ratio}", three_digits(spread.median));
            label(body, left + length.max(max) + 8.0, base, "", &value);
        } else {
            label(body, left, base, "quiet", "no result");
        }
        y += ROW;
    }
    y + GAP
}

fn rect(body: &mut String, class: &str, x: f64, y: f64, width: f64) {
    let size = format!("width=\"{width:.1}\" height=\"{BAR}\"");
    put(body, format_args!("<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" {size} rx=\"2\"/>"));
}

fn whisker(body: &mut String, from: f64, to: f64, y: f64) {
    let (above, below) = (y - 3.0, y + 3.0);
    let path =
        format!("M{from:.1} {y:.1}H{to:.1}M{from:.1} {above:.1}V{below:.1}M{to:.1} {above:.1}V{below:.1}");
    put(body, format_args!("<path class=\"range\" d=\"{path}\"/>"));
}

fn label(body: &mut String, x: f64, y: f64, class: &str, text: &str) {
    let text = escape(text);
    put(body, format_args!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"));
}

fn put(body: &mut String, element: std::fmt::Arguments<'_>) {
    writeln!(body, "{element}").expect("writing to a String does not fail");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::drifting;

    #[test]
    fn every_subject_has_a_bar_and_the_longest_fits() {
        let picture = chart(&drifting());
        assert_eq!(picture.matches("class=\"bar").count(), 2, "{picture}");
        assert!(picture.contains("TCP &lt;1&gt;") && !picture.contains("TCP <1>"));
        assert!(picture.contains("width=\"500.0\""), "20 Gbit/s take the whole width: {picture}");
    }

    #[test]
    fn a_subject_without_result_is_still_shown() {
        let mut report = drifting();
        report.samples.retain(|sample| sample.subject != "ours");
        assert!(chart(&report).contains("no result"));
    }
}
