//! The daemon at a glance.

use vswitch::worker::WorkerCounters;

use super::{Snapshot, count};
use vswitch_model::api::{API_VERSION, Status, Worker, counters::Loop};

impl Snapshot {
    pub(crate) fn status(&self) -> Status {
        let state = &self.state;
        Status {
            name: state.switch().name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_version: API_VERSION.to_owned(),
            pid: std::process::id(),
            uptime_s: self.uptime().as_secs(),
            config: Some(self.process.config.clone()),
            networks: count(state.networks().count()),
            ports: count(state.ports().count()),
            ports_up: count(state.ports().filter(|port| self.is_up(port.id)).count()),
            macs: count(self.macs().all),
            mac_limit: state.switch().mac_limit,
            workers: self.workers(),
            warnings: self.warnings(),
        }
    }

    /// What an operator should look after: a sentence each.
    fn warnings(&self) -> Vec<String> {
        let looped = |it: Loop| {
            let Loop { network, ports: [one, other], mac, .. } = it;
            format!(
                "ports {one} and {other} are connected to each other outside of the switch (a loop in network {network}; {mac} keeps arriving at both): take one of the links away, or let a switch there run STP; or two stations have that address"
            )
        };
        let mut warnings = self.state.warnings();
        warnings.extend(self.troubles.iter().cloned());
        warnings.extend(self.loops().into_iter().map(looped));
        warnings
    }

    pub(super) fn workers(&self) -> Vec<Worker> {
        let served = |worker: usize| self.live.ports.values().filter(|port| port.worker == worker).count();
        let worker = |(number, counters): (usize, &WorkerCounters)| Worker {
            id: u16::try_from(number).unwrap_or(u16::MAX),
            ports: count(served(number)),
            turns: counters.turns.read(),
            frames: counters.frames.read(),
        };
        self.live.workers.counters().enumerate().map(worker).collect()
    }
}
