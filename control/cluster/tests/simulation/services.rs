//! Services in the simulation: what people do with them, and what must hold.

use std::{collections::BTreeSet, net::IpAddr};

use vswitch_cluster::{
    core::{Ask, Input},
    keys::Key,
    mirror::Mirror,
    record::Record,
};
use vswitch_model::{Id, NetworkSpec, ServiceSpec};

use super::World;

impl World {
    /// One of the things that people do with services on a host.
    pub(super) fn act_on_services(&mut self, index: usize, id: u64) {
        let machine = &self.machines[index];
        let services: Vec<_> = machine.cluster.services().cloned().collect();
        let networks: Vec<_> = machine.cluster.networks().cloned().collect();
        let any = |dice: &mut super::Dice, count: usize| usize::try_from(dice.below(count as u64)).unwrap();
        let ask = match self.dice.below(4) {
            0 if !services.is_empty() => {
                Ask::RemoveService(services[any(&mut self.dice, services.len())].name.clone())
            }
            1 if !services.is_empty() => {
                let mut spec = ServiceSpec::clone(&services[any(&mut self.dice, services.len())]);
                spec.publish = self.some_ports();
                Ask::UpdateService(Box::new(spec))
            }
            _ if !networks.is_empty() => {
                let network = networks[any(&mut self.dice, networks.len())].clone();
                let name = format!("svc{}", self.dice.below(6)).parse().unwrap();
                let mut spec = ServiceSpec::plain(name, network.name.clone());
                spec.publish = self.some_ports();
                // As the daemon does: an address that this host assigns, or one that somebody wants.
                let wanted = network.subnets[0].subnet.hosts().nth(any(&mut self.dice, 50));
                let own = self.free_address(index, &network);
                spec.address.extend(if self.dice.one_in(4) { wanted } else { own });
                if let Some(address) = spec.address.first() {
                    self.machines[index].promised.insert((network.id(), *address));
                }
                Ask::CreateService(Box::new(spec))
            }
            _ => return,
        };
        self.feed(index, Input::Asked(id, ask));
    }

    fn some_ports(&mut self) -> Vec<vswitch_model::ServicePort> {
        let port = |dice: &mut super::Dice| format!("{}:80", 8000 + dice.below(4)).parse().unwrap();
        (0..self.dice.below(2)).map(|_| port(&mut self.dice)).collect()
    }

    /// An address of a network that a host assigns, and has not assigned.
    pub(super) fn free_address(&self, index: usize, network: &NetworkSpec) -> Option<IpAddr> {
        let (machine, id) = (&self.machines[index], network.id());
        let of_network = machine.endpoints.values().filter(|(it, _)| *it == id);
        let mut used: BTreeSet<IpAddr> = of_network.flat_map(|(_, it)| it.ips.clone()).collect();
        let services = machine.cluster.services().filter(|it| it.network == network.name);
        used.extend(services.flat_map(|it| it.address.clone()));
        used.extend(machine.promised.iter().filter(|(it, _)| *it == id).map(|(_, address)| *address));
        let held = machine.cluster.held(&id);
        let subnet = &network.subnets[0];
        let is_free = |ip: &IpAddr| !used.contains(ip) && Some(*ip) != subnet.gateway;
        subnet.subnet.hosts().filter(|ip| held.iter().any(|it| it.contains(ip))).find(is_free)
    }

    /// What must hold of services when all is well again.
    pub(super) fn check_services(&self, truth: &Mirror) {
        let seed = self.seed;
        let (mut wanted, mut there) = (BTreeSet::new(), BTreeSet::new());
        for spec in truth.services() {
            let network = truth.networks().find(|it| it.name == spec.network);
            let network = network.unwrap_or_else(|| panic!("seed {seed}: {} has no network", spec.name));
            let short = (&network.id()).into();
            let mut add = |key: Key| {
                assert!(wanted.insert(key.to_string()), "seed {seed}: {key} is of two services");
            };
            add(Key::Service(short, spec.name.clone()));
            add(Key::ServiceName(spec.name.clone()));
            spec.address.iter().for_each(|address| add(Key::Vip(short, *address)));
            let ports = spec.publish.iter().flat_map(|port| port.pairs().map(|(at, _)| (port.protocol, at)));
            ports.for_each(|(protocol, at)| add(Key::Port(protocol, at)));
            if self.restores == 0 {
                let has_it = |it: &vswitch_cluster::record::Endpoint| {
                    it.ips.iter().any(|ip| spec.address.contains(ip))
                };
                let twice = truth.endpoints(short).find(|(it, _)| has_it(it));
                assert!(twice.is_none(), "seed {seed}: {twice:?} has the address of {}", spec.name);
            }
        }
        for (key, record) in truth.entries() {
            let name = match (key, record) {
                (Key::Service(..) | Key::ServiceName(_), _) => None,
                (Key::Vip(..) | Key::Port(..), Record::Held(name)) => Some(name),
                _ => continue,
            };
            assert!(
                name.is_none_or(|name| truth.services().any(|it| it.name == *name)),
                "seed {seed}: {key}"
            );
            there.insert(key.to_string());
        }
        assert_eq!(there, wanted, "seed {seed}: each service has all its keys, and none is left");
    }

    pub(super) fn count_services(&self) -> u64 {
        self.machines[0].cluster.services().count() as u64
    }
}

/// Addresses that a host has chosen for services, by network.
pub(super) type Promised = BTreeSet<(Id, IpAddr)>;
