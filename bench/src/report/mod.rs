//! Results: figures, samples, ratios, targets.
//!
//! A machine drifts between rounds: frequency, other guests, steal. So a ratio is computed within each round, where
//! both systems had the same conditions, and the median of these ratios is reported; the ratio of two medians would
//! compare a good minute of one system with a bad one of another.

mod json;
mod svg;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::{json::load, json::save, svg::chart, table::print};

/// Direction of improvement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// A rate.
    Higher,
    /// A cost or a delay.
    Lower,
}

/// A measured quantity: a row of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figure {
    /// Its stable name in files and targets.
    pub key: String,
    /// Its display name.
    pub label: String,
    /// Its unit.
    pub unit: String,
    /// Direction of improvement.
    pub better: Better,
    /// Whether it is in the chart.
    pub headline: bool,
}

impl Figure {
    /// Creates a figure that is not in the chart.
    pub fn new(key: impl Into<String>, label: impl Into<String>, unit: &str, better: Better) -> Self {
        Self { key: key.into(), label: label.into(), unit: unit.to_owned(), better, headline: false }
    }

    /// The same, in the chart or not.
    #[must_use]
    pub fn headline(self, headline: bool) -> Self {
        Self { headline, ..self }
    }

    /// The same, measured at one of several places.
    #[must_use]
    pub fn within(self, place: &str) -> Self {
        let Self { key, label, .. } = &self;
        Self { key: format!("{place}.{key}"), label: format!("{place}: {}", label.trim_start()), ..self }
    }

    /// Whether its ratios are meaningful. Those of shares and loss counts, which may be close to zero, are not.
    pub fn has_ratio(&self) -> bool {
        !["%", "segments"].contains(&self.unit.as_str())
    }

    /// One reading of it.
    pub fn is(self, value: f64) -> Reading {
        Reading { figure: self, value }
    }
}

/// A figure with its value, as a probe returns it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// What was measured.
    pub figure: Figure,
    /// Value in the figure's unit.
    pub value: f64,
}

/// One value of one subject in one round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Counted from 1.
    pub round: u32,
    /// The subject's name.
    pub subject: String,
    /// The figure's key.
    pub figure: String,
    /// In the figure's unit.
    pub value: f64,
}

/// A compared system: a column of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its short name.
    pub name: String,
    /// Its version, settings and remarks.
    pub details: BTreeMap<String, String>,
}

/// A target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// The subject.
    pub subject: String,
    /// The figure's key.
    pub figure: String,
    /// The subject to divide by. `None`: the bound is in the figure's own unit.
    pub against: Option<String>,
    /// The bound of the ratio or the figure.
    pub bound: Bound,
}

/// The bound of a target.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Bound {
    /// Whether a value meets the bound.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

/// A failure of a subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Counted from 1.
    pub round: u32,
    /// The subject.
    pub subject: String,
    /// The failed step.
    pub step: String,
    /// The reason.
    pub reason: String,
}

/// Median and range of some samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Computes them; `None` without values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { median: f64::midpoint(low, high), min, max })
    }
}

/// The results of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Title of the run.
    pub title: String,
    /// The subject that ratios refer to, if any.
    pub baseline: Option<String>,
    /// Machine, kernel, date, settings.
    pub environment: BTreeMap<String, String>,
    /// The subjects, in the order of the columns.
    pub subjects: Vec<Subject>,
    /// The figures, in the order of the rows.
    pub figures: Vec<Figure>,
    /// Every value.
    pub samples: Vec<Sample>,
    /// The targets.
    pub targets: Vec<Target>,
    /// Skipped subjects, with the reason.
    pub skipped: BTreeMap<String, String>,
    /// Failures.
    pub failures: Vec<Failure>,
}

impl Report {
    /// Adds the readings of a probe. Values that are not numbers (a rate over zero time) are omitted.
    pub fn record(&mut self, round: u32, subject: &str, readings: Vec<Reading>) {
        for Reading { figure, value } in readings {
            if value.is_finite() {
                let (subject, key) = (subject.to_owned(), figure.key.clone());
                self.samples.push(Sample { round, subject, figure: key, value });
            }
            if self.figures.iter().all(|known| known.key != figure.key) {
                self.figures.push(figure);
            }
        }
    }

    /// Median and range over the rounds.
    pub fn spread(&self, subject: &str, figure: &str) -> Option<Spread> {
        Spread::of(self.samples_of(subject, figure).map(|sample| sample.value))
    }

    /// Median and range of the ratios within each round that has both.
    pub fn ratio(&self, subject: &str, figure: &str, against: &str) -> Option<Spread> {
        let divisors: BTreeMap<_, _> =
            self.samples_of(against, figure).map(|sample| (sample.round, sample.value)).collect();
        let paired = self.samples_of(subject, figure);
        Spread::of(paired.filter_map(|sample| Some(sample.value / divisors.get(&sample.round)?)))
    }

    /// The number of rounds that have a sample.
    pub fn rounds(&self) -> usize {
        self.samples.iter().map(|sample| sample.round).collect::<BTreeSet<_>>().len()
    }

    fn samples_of<'a>(&'a self, subject: &'a str, figure: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.subject == subject && sample.figure == figure)
    }
}

/// A number with at most three significant digits.
fn three_digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two subjects on a machine that halves its speed in the second round.
    pub(crate) fn drifting() -> Report {
        let mut report = Report { baseline: Some("bridge".to_owned()), ..Report::default() };
        let figure = Figure::new("tcp1", "TCP <1>", "Gbit/s", Better::Higher).headline(true);
        for (round, bridge, ours) in [(1, 20.0, 18.0), (2, 10.0, 9.0), (3, 20.0, 19.0)] {
            report.record(round, "bridge", vec![figure.clone().is(bridge)]);
            report.record(round, "ours", vec![figure.clone().is(ours)]);
        }
        for name in ["bridge", "ours"] {
            report.subjects.push(Subject { name: name.to_owned(), ..Subject::default() });
        }
        let bound = Bound::AtLeast(0.9);
        let [subject, figure, against] = ["ours", "tcp1", "bridge"].map(str::to_owned);
        report.targets.push(Target { subject, figure, against: Some(against), bound });
        report
    }

    #[test]
    fn ratios_are_paired_by_round() {
        let report = drifting();
        let ratio = report.ratio("ours", "tcp1", "bridge").unwrap();
        assert_eq!(ratio, Spread { median: 0.9, min: 0.9, max: 0.95 });
        assert_eq!(report.rounds(), 3);
    }

    #[test]
    fn rounds_that_one_side_misses_give_no_ratio() {
        let mut report = drifting();
        report.samples.retain(|sample| sample.subject != "bridge" || sample.round == 3);
        assert_eq!(report.ratio("ours", "tcp1", "bridge").unwrap().median, 0.95);
        assert_eq!(report.ratio("ours", "tcp1", "nobody"), None);
    }

    #[test]
    fn the_median_of_an_even_number_is_between() {
        assert_eq!(Spread::of([4.0, 1.0, 2.0, f64::NAN, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn numbers_keep_three_digits() {
        let shown = [1234.5, 99.94, 9.876, 0.0123, 0.0].map(three_digits);
        assert_eq!(shown, ["1234", "99.9", "9.88", "0.012", "0"]);
    }
}
