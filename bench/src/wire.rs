//! A wire matrix: rounds of sites of systems of loads, the systems interleaved.
//!
//! Every round visits every system once at each site, in fresh namespaces, and starts with another one each time, so that
//! neither a slow minute of the machine nor a place in the row belongs to one system.

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

/// How long a system may take from ready to the first frame.
const CONTACT: Duration = Duration::from_secs(15);

/// What to measure, and how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is compared, for people.
    pub title: &'static str,
    /// How often every system is visited at each site.
    pub rounds: u32,
    /// How long each load lasts.
    pub time: Duration,
    /// Where systems are visited.
    pub sites: Vec<Site>,
    /// The system that ratios are given to.
    pub baseline: &'static str,
    /// What is to be reached.
    pub targets: Vec<Target>,
}

/// A place where systems are visited.
#[derive(Clone, Debug)]
pub struct Site {
    /// What joins its two hosts; `None`: it has one.
    pub underlay: Option<Underlay>,
    /// What is put on each system.
    pub loads: Vec<Load>,
}

impl Site {
    /// The figure as it is called at this site.
    fn figure(&self, figure: Figure) -> Figure {
        match self.underlay {
            None => figure,
            Some(underlay) => figure.within(&underlay.to_string()),
        }
    }
}

/// Runs a whole matrix.
///
/// A system that fails is reported and the others go on; ctrl-C ends the run with what there is so far.
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
        // The time to start is what a user waits: from empty namespaces until the system says that it is ready
        // and a frame has crossed.
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
        let steal = Figure::new("steal", "CPU time stolen meanwhile", "%", Better::Lower);
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

    /// Notes the settings of the containers' interfaces, and what had to be set for the system to work,
    /// once the payload has been verified.
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
