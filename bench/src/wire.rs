//! A wire matrix: rounds of sites of systems of loads, the systems interleaved.
//!
//! Every round measures every system once at each site, in fresh namespaces, and starts with a different one each time,
//! so that neither a slow minute of the machine nor a position in the order affects only one system.

use std::time::{Duration, Instant};

use crate::{
    environment,
    error::{Error, Result},
    interrupt,
    lab::{self, Lab},
    probes::{Load, Usage, contact, verify},
    report::{Better, Failure, Figure, Reading, Report, Subject, Target},
    systems::{self, System},
    underlay::Underlay,
};

/// Time limit from readiness to the first frame.
const CONTACT: Duration = Duration::from_secs(15);

/// Parameters of the measurement.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Title of the comparison.
    pub title: &'static str,
    /// Number of rounds.
    pub rounds: u32,
    /// Duration of each load.
    pub time: Duration,
    /// The sites.
    pub sites: Vec<Site>,
    /// The system that ratios refer to.
    pub baseline: &'static str,
    /// The targets.
    pub targets: Vec<Target>,
}

/// A setup in which systems are measured.
#[derive(Clone, Debug)]
pub struct Site {
    /// The link of its two hosts; `None`: one host.
    pub underlay: Option<Underlay>,
    /// The loads of each system.
    pub loads: Vec<Load>,
}

impl Site {
    /// The figure with its name at this site.
    fn figure(&self, figure: Figure) -> Figure {
        match self.underlay {
            None => figure,
            Some(underlay) => figure.within(&underlay.to_string()),
        }
    }
}

/// Runs a whole matrix.
///
/// A failing system is reported and the others continue; Ctrl-C ends the run with the results so far.
///
/// # Errors
/// Fails when leftovers of an earlier run cannot be removed.
pub fn run(plan: &Plan, systems: &[Box<dyn System>]) -> Result<Report> {
    lab::sweep()?;
    let baseline = systems.iter().find(|system| system.name() == plan.baseline);
    let mut report = Report {
        title: plan.title.to_owned(),
        baseline: baseline.map(|system| system.name()),
        environment: environment::describe(),
        subjects: systems.iter().map(|system| subject(system.as_ref())).collect(),
        targets: plan.targets.clone(),
        ..Report::default()
    };
    let settings = format!("{} rounds, {:?} each load", plan.rounds, plan.time);
    report.environment.insert("settings".to_owned(), settings);
    for round in 1..=plan.rounds {
        let first = (round as usize - 1) % systems.len().max(1);
        for site in &plan.sites {
            for system in systems[first..].iter().chain(&systems[..first]) {
                let mut visit = Visit { plan, round, site, system: system.as_ref(), report: &mut report };
                match visit.measure() {
                    Ok(()) => {}
                    Err(Error::Interrupted) => return Ok(interrupted(report, round)),
                    Err(error) => visit.fail("setup", &error),
                }
            }
        }
    }
    Ok(report)
}

fn subject(system: &dyn System) -> Subject {
    let version = system.version().unwrap_or_else(|error| format!("unknown ({error})"));
    Subject { name: system.name(), details: [("version".to_owned(), version)].into() }
}

fn interrupted(mut report: Report, round: u32) -> Report {
    let [subject, step, reason] = ["all", "run", "interrupted"].map(str::to_owned);
    report.failures.push(Failure { round, subject, step, reason });
    report
}

/// One system at one site in one round.
struct Visit<'a> {
    plan: &'a Plan,
    round: u32,
    site: &'a Site,
    system: &'a dyn System,
    report: &'a mut Report,
}

impl Visit<'_> {
    fn measure(&mut self) -> Result<()> {
        interrupt::check()?;
        let lab = Lab::create(self.site.underlay)?;
        let before = Usage::now()?;
        // The start time is what a user waits: from empty namespaces until the system reports readiness and a frame has
        // arrived.
        let start = Instant::now();
        let running = self.system.setup(&lab)?;
        contact::first_frame(&lab, CONTACT)?;
        self.record(vec![starts(start.elapsed())]);
        verify(&lab)?;
        self.describe(&lab, running.remark)?;
        for load in &self.site.loads {
            match load.run(&lab, self.plan.time) {
                Ok(readings) => self.record(readings),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => self.fail(&load.to_string(), &error),
            }
        }
        let memory = Figure::new("memory", "memory of the switch", "MiB", Better::Lower);
        let resident = running.resident().map(|bytes| memory.is(bytes as f64 / f64::from(1 << 20)));
        let usage = Usage::now()? - before;
        let steal = Figure::new("steal", "CPU time stolen", "%", Better::Lower);
        self.record(resident.into_iter().chain([steal.is(usage.steal / usage.total * 100.0)]).collect());
        Ok(())
    }

    fn record(&mut self, readings: Vec<Reading>) {
        let (round, rounds, name) = (self.round, self.plan.rounds, self.system.name());
        let here = |Reading { figure, value }| Reading { figure: self.site.figure(figure), value };
        let readings: Vec<_> = readings.into_iter().map(here).collect();
        for Reading { figure, value } in &readings {
            eprintln!("round {round}/{rounds}  {name:<14} {} {value:.3} {}", figure.label, figure.unit);
        }
        self.report.record(round, &name, readings);
    }

    fn fail(&mut self, step: &str, error: &Error) {
        let (round, subject, reason) = (self.round, self.system.name(), error.to_string());
        let step =
            self.site.underlay.map_or_else(|| step.to_owned(), |underlay| format!("{underlay}: {step}"));
        eprintln!("round {round}: {subject}, {step}: {reason}");
        self.report.failures.push(Failure { round, subject, step, reason });
    }

    /// Records the settings of the containers' interfaces, and those needed for the system to work, once the payload
    /// has been verified.
    fn describe(&mut self, lab: &Lab, remark: Option<&str>) -> Result<()> {
        let mut details = systems::inspect(&lab.a)?;
        if let (Some(underlay), Some(mtu)) = (self.site.underlay, details.remove("mtu")) {
            details.insert(format!("mtu {underlay}"), mtu);
        }
        details.insert("payload".to_owned(), "verified".to_owned());
        details.extend(remark.map(|remark| ("remark".to_owned(), remark.to_owned())));
        let name = self.system.name();
        if let Some(subject) = self.report.subjects.iter_mut().find(|subject| subject.name == name) {
            subject.details.extend(details);
        }
        Ok(())
    }
}

fn starts(time: Duration) -> Reading {
    Figure::new("start", "start to first frame", "ms", Better::Lower).is(time.as_secs_f64() * 1e3)
}
