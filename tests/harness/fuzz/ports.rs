//! A switch with every kind of port and a table that is soon full.

use std::{num::NonZeroU16, sync::Arc};

use vswitch::{
    addr::{NetworkId, PortId, Timestamp, VlanId},
    device::{
        Device,
        mem::{MemDevice, OwnedFrame},
    },
    fdb::Settings,
    offload::Capabilities,
    storm::FloodLimits,
    topology::{Network, PortMode, PortRules},
};

use crate::lab::{self, Lab};

/// Number of ports. Every second one supports no offloads.
pub(super) const PORTS: u16 = 8;

/// Capacity of the MAC table.
const LIMIT: u32 = 16;

/// A switch in memory.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) lab: Lab,
    devices: Vec<Arc<MemDevice>>,
    rules: Vec<Option<PortRules>>,
}

impl Ports {
    /// A switch with all its ports.
    pub(super) fn new() -> Self {
        let lab = Lab::new(Settings { limit: LIMIT, seed: 3, ..Settings::default() });
        let capabilities = |port| if port % 2 == 0 { Capabilities::ALL } else { Capabilities::NONE };
        let devices = (0..PORTS).map(|port| Arc::new(MemDevice::new(capabilities(port), 4096))).collect();
        let rules = (0..PORTS).map(|port| Some(rules(port))).collect();
        let mut ports = Self { lab, devices, rules };
        ports.configure();
        ports
    }

    /// Removes a port, or adds it with the given limits.
    pub(super) fn change(&mut self, port: u16, present: bool, mac_limit: Option<u32>, storm: FloodLimits) {
        self.rules[usize::from(port)] = present.then(|| PortRules { mac_limit, storm, ..rules(port) });
        self.configure();
    }

    fn configure(&mut self) {
        let network = |id, vlan, passes_tags| Network {
            id: NetworkId(id),
            vlan: VlanId::try_from(vlan).ok(),
            passes_tags,
            ..Network::new(NetworkId(id))
        };
        let networks = [network(0, 10, false), network(1, 20, true)];
        let present = self.rules.iter().zip(&self.devices).filter_map(|(rules, device)| {
            let device: Arc<dyn Device> = Arc::clone(device) as _;
            Some((rules.clone()?, device))
        });
        self.lab.configure(&networks, 1 << 0xe, present.collect());
    }

    /// Receives `packet` at `port`, and returns what all ports sent.
    pub(super) fn switch(&mut self, port: u16, packet: OwnedFrame, at: Timestamp) -> Vec<(u16, OwnedFrame)> {
        self.devices[usize::from(port)].put(packet);
        self.lab.turn(PortId(port), at);
        lab::sent(&self.devices)
    }

    /// Checks that every frame is accounted for and that the table keeps its bound.
    pub(super) fn check_books(&self) {
        self.lab.check_books("the switch");
        let fdb = &self.lab.fdb;
        assert!(fdb.len() <= LIMIT as usize);
        for rules in self.rules.iter().flatten() {
            assert!(fdb.learned_on(rules.id) <= LIMIT);
        }
        assert!(fdb.entries(Timestamp::default()).all(|entry| entry.mac.is_station()));
    }
}

fn rules(port: u16) -> PortRules {
    let (blue, red) = (NetworkId(0), NetworkId(1));
    let access = |network| PortRules::access(PortId(port), network);
    let mode = |mode| PortRules { mode, ..access(blue) };
    match port {
        0 => access(blue),
        1 => PortRules { isolated: true, ..access(blue) },
        2 => PortRules { isolated: true, mtu: 100, ..access(blue) },
        3 => mode(PortMode::Trunk { tagged: vec![blue, red], native: None }),
        4 => mode(PortMode::Trunk { tagged: vec![red], native: Some(blue) }),
        5 => access(red),
        _ => PortRules { horizon: NonZeroU16::new(1), ..mode(PortMode::Tunnel(vec![blue, red])) },
    }
}
