//! Figures measured in memory: number of repeats, duration and unit.
//!
//! Every figure is measured [`REPEATS`] times on one pinned core (those of [`overhead`] differ, as documented there);
//! the median is the figure, the extremes its spread.

use std::{
    fmt,
    time::{Duration, Instant},
};

use crate::{forward, overhead, tunnel};

/// Number of measurements per figure.
pub const REPEATS: usize = 7;

/// Measures all figures whose name contains `filter`, and calls `report` with each when it is done. `quick` measures a
/// tenth as long.
pub fn run(quick: bool, filter: &str, report: impl FnMut(&Figure)) {
    pin(0);
    let mut report = report;
    let time = Duration::from_millis(if quick { 20 } else { 200 });
    let mut figures = Figures { clock: Clock { time }, filter, report: &mut report };
    forward::run(&mut figures);
    overhead::run(&mut figures);
    tunnel::run(&mut figures);
}

/// Measures selected figures.
pub struct Figures<'a> {
    clock: Clock,
    filter: &'a str,
    report: &'a mut dyn FnMut(&Figure),
}

impl fmt::Debug for Figures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Figures").field("filter", &self.filter).finish_non_exhaustive()
    }
}

impl Figures<'_> {
    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    /// Measures one figure, in millions of what `measure` returns, if it is selected.
    pub(crate) fn take(&mut self, name: String, unit: &'static str, measure: &mut dyn FnMut() -> f64) {
        if self.asks_for(&name) {
            self.tell(name, unit, (0..REPEATS).map(|_| measure() / 1e6).collect());
        }
    }

    /// Whether the figure is selected.
    pub(crate) fn asks_for(&self, name: &str) -> bool {
        name.contains(self.filter)
    }

    /// Reports the figure with these `values`, if it is selected.
    pub(crate) fn tell(&mut self, name: String, unit: &'static str, mut values: Vec<f64>) {
        values.sort_by(f64::total_cmp);
        if let [lowest, .., highest] = values[..]
            && self.asks_for(&name)
        {
            let median = values[values.len() / 2];
            (self.report)(&Figure { name, median, lowest, highest, unit });
        }
    }
}

/// One measured figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// The median of the repeats.
    pub median: f64,
    /// The lowest of them.
    pub lowest: f64,
    /// The highest of them.
    pub highest: f64,
    /// Unit of the numbers.
    pub unit: &'static str,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, median, lowest, highest, unit } = self;
        write!(f, "{name:<44} {median:>9.2} {unit:<10} ({lowest:.2} to {highest:.2})")
    }
}

/// A value that is created when a figure first needs it.
pub(crate) struct Lazy<T> {
    value: Option<T>,
    make: Option<Box<dyn FnOnce() -> T>>,
}

impl<T> Lazy<T> {
    /// `make` makes it.
    pub(crate) fn new(make: impl FnOnce() -> T + 'static) -> Self {
        Self { value: None, make: Some(Box::new(make)) }
    }

    /// The value, created on first use.
    pub(crate) fn get(&mut self) -> &mut T {
        let make = &mut self.make;
        self.value.get_or_insert_with(|| make.take().expect("made once")())
    }
}

/// Duration of a measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) time: Duration,
}

impl Clock {
    /// A fraction of this duration.
    pub(crate) fn divided(self, parts: u32) -> Self {
        Self { time: self.time / parts }
    }

    /// Calls `step`, which does some work and returns its amount and duration, repeatedly: work per second. The slowest
    /// twentieth of the steps, in which the kernel ran something else, is discarded.
    pub(crate) fn rate(&self, mut step: impl FnMut() -> (usize, Duration)) -> f64 {
        let end = Instant::now() + self.time;
        let mut steps = Vec::new();
        while Instant::now() < end {
            let (work, time) = step();
            steps.push(time.as_secs_f64() / work as f64);
        }
        steps.sort_by(f64::total_cmp);
        steps.truncate((steps.len() - steps.len() / 20).max(1));
        steps.len() as f64 / steps.iter().sum::<f64>()
    }
}

/// Pins the calling thread to one core. If that is not permitted, the figures only spread more.
pub(crate) fn pin(core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    let _ = rustix::thread::sched_setaffinity(None, &cores);
}
