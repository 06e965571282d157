//! The workers' plan, rebuilt after every change.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use vswitch::{
    addr::PortId,
    counters::NetworkCounters,
    device::Device,
    plan::{Plan, Port, Receiver},
    topology::Topology,
};

use super::{Edge, EdgeNetwork};
use crate::{
    device::OpenDevice,
    state::{Layout, State},
};

impl Edge {
    /// The layout of `state` with the ports that have a device.
    pub(super) fn layout(&mut self, state: &State) -> Layout {
        let mut layout = state.layout().clone();
        layout.ports.retain(|rules| self.ports.get(&rules.id).is_some_and(|port| self.is_up(port)));
        self.direct(&mut layout, state);
        let with_services: BTreeSet<_> = state.services().map(|it| it.spec.network.clone()).collect();
        for name in with_services {
            let id = state.network(&name).map(|network| network.id);
            layout.networks.iter_mut().filter(|it| Some(it.id) == id).for_each(|it| it.answers = true);
        }
        layout
    }

    /// A plan of this layout.
    pub(super) fn plan(&mut self, state: &State, layout: &Layout) -> Plan {
        self.captures.rename(state);
        let topology = layout.build().expect("the state's rules let no contradiction through");
        let slots = self.ports.keys().last().map_or(0, |last| last.index() + 1);
        self.count_networks(state);
        let limited = state.networks().filter_map(|it| Some((it.id, it.spec.options.mac_limit?)));
        self.fdb.limit_networks(limited);
        let networks = self.networks.keys().last().map_or(0, |last| last.index() + 1);
        let balance = self.balance(state, layout);
        let mut plan = Plan {
            topology,
            balance,
            neighbours: Arc::clone(&self.remote.neighbours),
            ports: vec![None; slots],
            mirrors: layout.mirrors.clone(),
            captures: self.captures.sessions(),
            networks: vec![None; networks],
            busy_poll: Duration::from_micros(state.switch().busy_poll.into()),
            ..Plan::empty(Arc::clone(&self.fdb))
        };
        for (id, network) in &self.networks {
            plan.networks[id.index()] = Some(Arc::clone(&network.counters));
        }
        for (&id, port) in &self.ports {
            let Some(device) = port.device.as_ref().ok().and_then(OpenDevice::device) else { continue };
            plan.ports[id.index()] = Some(self.port_of_plan(id, Arc::clone(&device), &plan.topology));
            plan.receivers.push(Receiver { key: port.key, device, port: id, worker: port.worker });
        }
        if let Some(tunnel) = self.tunnel() {
            self.lay(&tunnel, state, &mut plan);
        }
        plan
    }

    /// A port of the next plan. An unchanged one is that of the current plan; one with a new device takes over the state of its
    /// limits, if these are unchanged.
    pub(super) fn port_of_plan(&self, id: PortId, device: Arc<dyn Device>, topology: &Topology) -> Arc<Port> {
        let now = self.workers.plan();
        let known = now.port(id).filter(|_| now.topology.limits(id) == topology.limits(id));
        if let Some(known) = known.filter(|known| Arc::ptr_eq(&known.device, &device)) {
            return Arc::clone(known);
        }
        let port = Port::new(id, device, Arc::clone(&self.ports[&id].counters));
        Arc::new(match known {
            Some(known) => port.metered_with(known),
            None => port,
        })
    }

    /// Counters for exactly the present networks.
    pub(super) fn count_networks(&mut self, state: &State) {
        let mut before = std::mem::take(&mut self.networks);
        for network in state.networks() {
            let name = &network.spec.name;
            let known = before.remove(&network.id).filter(|known| {
                let same = known.name == *name;
                if !same {
                    self.stale.removed.insert(network.id);
                }
                same
            });
            let new = || EdgeNetwork {
                name: name.clone(),
                counters: NetworkCounters::of_workers(self.workers.count() + 1),
                taught_before: self.fdb.learning_of_network(network.id),
            };
            self.networks.insert(network.id, known.unwrap_or_else(new));
        }
        self.stale.removed.extend(before.into_keys());
    }
}
