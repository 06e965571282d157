//! The daemon at a glance.

use vswitch::worker::WorkerCounters;

use super::{Snapshot, count};
use vswitch_model::{
    DeviceSpec,
    api::{API_VERSION, Status, Trouble, TroubleKind, Worker, counters::Loop},
};

/// Frames that a peer may leave unanswered before that is a trouble: some ARP requests to stations that do not exist.
const SILENCE: u64 = 20;

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
            troubles: self.troubles(),
            acceleration: Some(self.accelerations()),
            busy: self.process.progress.now(),
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
        warnings.extend(self.problems.warnings.iter().cloned());
        warnings.extend(self.loops().into_iter().map(looped));
        warnings
    }

    /// What does not work at the moment.
    fn troubles(&self) -> Vec<Trouble> {
        let mut troubles = self.problems.troubles.clone();
        troubles.extend(self.process.outages.troubles());
        let no_tunnel = self.tunnel_endpoint().is_none();
        for port in self.state.ports() {
            let of = Some(port.spec.name.to_string());
            let device = &port.spec.device;
            match self.why_down(port.id) {
                Some(detail) if device.endpoint().is_some() => {
                    troubles.push(Trouble { kind: TroubleKind::Tunnel, of: None, detail });
                }
                // The trouble is the endpoint's.
                Some(_) if no_tunnel && device.is_tunnel() && self.vxlan().is_some() => {}
                Some(detail) => troubles.push(Trouble { kind: TroubleKind::Port, of, detail }),
                None => {
                    let totals = self.totals(port.id);
                    let DeviceSpec::Peer(peer) = device else { continue };
                    if totals.tx_frames >= SILENCE && totals.rx_frames == 0 {
                        let detail = format!(
                            "{} frames were sent to {} and none came back: is vswitchd up there, with this host as a peer, and does \
                             nothing on the way drop UDP? `vswitchctl peer probe {}` tries",
                            totals.tx_frames, peer.remote, port.spec.name
                        );
                        troubles.push(Trouble { kind: TroubleKind::Peer, of, detail });
                    }
                }
            }
        }
        let (macs, limit) = (count(self.macs().all), self.state.switch().mac_limit);
        if macs >= limit {
            let detail = format!(
                "the MAC table holds {macs} addresses, all it can: find the port with the most (`vswitchctl port ls`) and give \
                 it a mac_limit, or raise switch.mac_limit"
            );
            troubles.push(Trouble { kind: TroubleKind::Table, of: None, detail });
        }
        troubles
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
