//! The report for a terminal: figures down, subjects across, then targets and failures.

use std::fmt::Write;

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::report::{Bound, Report, Spread, Target, three_digits};

/// The whole report as text.
///
/// Each cell has the median with its ratio to the baseline, and below it the range over the rounds.
pub fn print(report: &Report) -> String {
    let mut text = format!("{}\n\n", report.title);
    for (name, value) in &report.environment {
        writeln_to(&mut text, format_args!("{name}: {value}"));
    }
    for subject in &report.subjects {
        let details: Vec<_> = subject.details.iter().map(|(name, value)| format!("{name} {value}")).collect();
        writeln_to(&mut text, format_args!("{}: {}", subject.name, details.join(", ")));
    }
    writeln_to(&mut text, format_args!("\n{}\n", grid(report)));
    if let Some(baseline) = &report.baseline {
        let rounds = report.rounds();
        writeln_to(
            &mut text,
            format_args!(
                "medians of {rounds} rounds; x: median of each round's ratio to {baseline}; below: range"
            ),
        );
    }
    for target in &report.targets {
        writeln_to(&mut text, format_args!("{}", verdict(report, target)));
    }
    for (subject, reason) in &report.skipped {
        writeln_to(&mut text, format_args!("skipped {subject}: {reason}"));
    }
    for failure in &report.failures {
        let (subject, step, round) = (&failure.subject, &failure.step, failure.round);
        writeln_to(&mut text, format_args!("FAILED {subject}, {step}, round {round}: {}", failure.reason));
    }
    text
}

fn writeln_to(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a String does not fail");
}

fn grid(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let names = report.subjects.iter().map(|subject| subject.name.clone());
    table.set_header(["".to_owned(), "unit".to_owned()].into_iter().chain(names));
    for figure in &report.figures {
        let mut row = vec![Cell::new(&figure.label), Cell::new(&figure.unit)];
        for subject in &report.subjects {
            let spread = report.spread(&subject.name, &figure.key);
            let baseline = report.baseline.as_deref().filter(|_| figure.has_ratio());
            let baseline = baseline.filter(|baseline| *baseline != subject.name);
            let ratio = baseline.and_then(|baseline| report.ratio(&subject.name, &figure.key, baseline));
            row.push(Cell::new(cell(spread, ratio)).set_alignment(CellAlignment::Right));
        }
        table.add_row(row);
    }
    table
}

fn cell(spread: Option<Spread>, ratio: Option<Spread>) -> String {
    let Some(Spread { median, min, max }) = spread else {
        return "-".to_owned();
    };
    let ratio = ratio.map(|ratio| format!(" {}x", three_digits(ratio.median))).unwrap_or_default();
    format!("{}{ratio}\n{}–{}", three_digits(median), three_digits(min), three_digits(max))
}

/// One line: whether a target is met, and the measured value.
fn verdict(report: &Report, target: &Target) -> String {
    let Target { subject, figure, against, bound } = target;
    let known = report.figures.iter().find(|known| known.key == *figure);
    let label = known.map_or(figure, |known| &known.label);
    let wanted = match bound {
        Bound::AtLeast(bound) => format!(">= {bound}"),
        Bound::AtMost(bound) => format!("<= {bound}"),
    };
    let (unit, whose, reached) = match against {
        Some(against) => ("x".to_owned(), format!(" {against}"), report.ratio(subject, figure, against)),
        None => {
            let unit = known.map(|known| format!(" {}", known.unit)).unwrap_or_default();
            (unit, String::new(), report.spread(subject, figure))
        }
    };
    let question = format!("{subject}: {label} {wanted}{unit}{whose}");
    match reached {
        None => format!("not measured  {question}"),
        Some(Spread { median, min, max }) => {
            let word = if bound.holds(median) { "met   " } else { "MISSED" };
            let [median, min, max] = [median, min, max].map(three_digits);
            format!("{word}  {question}: {median}{unit} ({min}–{max})")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::drifting;

    #[test]
    fn the_table_says_what_was_reached() {
        let text = print(&drifting());
        assert!(text.contains("18.0 0.900x") && text.contains("9.00–19.0"), "{text}");
        assert!(text.contains("met     ours: TCP <1> >= 0.9x bridge: 0.900x"), "{text}");
    }

    #[test]
    fn a_missed_or_unmeasured_target_is_not_hidden() {
        let mut report = drifting();
        report.targets[0].bound = Bound::AtMost(0.8);
        assert!(print(&report).contains("MISSED  ours"));
        report.targets[0].against = Some("ovs".to_owned());
        assert!(print(&report).contains("not measured  ours"));
    }

    #[test]
    fn a_target_may_be_a_value() {
        let mut report = drifting();
        report.targets[0] =
            Target { against: None, bound: Bound::AtLeast(18.5), ..report.targets[0].clone() };
        assert!(print(&report).contains("MISSED  ours: TCP <1> >= 18.5 Gbit/s: 18.0 Gbit/s (9.00–19.0)"));
    }
}
