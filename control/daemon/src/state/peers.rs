//! Learned peers: unknown senders that became peers.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use super::{Origin, Port, Refusal, State, registry::Entry};
use vswitch_model::{Carries, Name, PeerSpec, PortSpec, UnderlayAddr, rules};

/// Maximum number of learned peers: a sender can forge any number of addresses.
pub(super) const LEARNED_PEERS: usize = 256;

impl State {
    /// A message for the operator about datagrams from `address`, which is not a peer.
    pub(crate) fn about_stranger(&self, address: IpAddr) -> String {
        let peers: Vec<_> =
            self.ports().filter_map(|port| Some(port.spec.device.peer()?.remote.to_string())).collect();
        match &peers[..] {
            [] => format!(
                "{address} is not a peer, and there are none: add it with `vswitchctl peer add {address}`"
            ),
            [peer] => format!("{address} is not a peer; {peer} is: does it send from another address?"),
            [first, rest @ ..] => format!(
                "{address} is not a peer; {first} and {} others are: does one of them send from another address?",
                rest.len()
            ),
        }
    }

    /// Takes an unknown sender in as a peer. One that is a peer already stays as it is: some of its messages arrive between the
    /// note that it is unknown and the plan that knows it.
    pub(super) fn learn_peer(&mut self, address: IpAddr) -> Result<(), Refusal> {
        let own = self.endpoint();
        let local = own.as_ref().and_then(|port| port.device.endpoint()).map(|endpoint| endpoint.local);
        let remote = local.unwrap_or(UnderlayAddr::UNSPECIFIED).beside(address);
        let remote = remote.ok_or(Refusal::NoLink { address })?;
        let is_it =
            |entry: &Entry<PortSpec>| entry.spec.device.peer().is_some_and(|peer| peer.remote == remote);
        if self.ports.entries().any(is_it) {
            return Ok(());
        }
        let learned = self.ports.entries().filter(|entry| entry.origin == Origin::Learned).count();
        if learned >= LEARNED_PEERS {
            return Err(Refusal::Crowded { address });
        }
        self.ports.add(Arc::new(learned_peer(remote)), Origin::Learned)
    }

    /// The ways to the peers carry packets of `mtu` bytes at this host.
    pub(super) fn measure_underlay(&mut self, mtu: u16) {
        let Some(mut port) = self.endpoint().map(Arc::unwrap_or_clone) else { return };
        if let Some(endpoint) = port.device.endpoint_mut() {
            endpoint.measured_mtu = Some(mtu);
        }
        self.ports.replace(port);
        self.overlay_mtu = rules::overlay_mtu(self.ports.entries().map(|entry| &*entry.spec));
    }

    /// Learned peers that have not answered. Nothing is flooded to them.
    pub(crate) fn silent_peers(&self) -> impl Iterator<Item = Port> {
        let is_silent = |entry: &&Entry<PortSpec>| {
            entry.origin == Origin::Learned
                && entry.spec.device.peer().is_some_and(|peer| peer.flood == Some(false))
        };
        self.ports.entries().filter(is_silent).map(|entry| self.settle(entry))
    }

    /// Enables flooding to a learned peer that has answered.
    pub(super) fn believe_peer(&mut self, name: &Name) {
        let Some(entry) = self.ports.entry(name).filter(|entry| entry.origin == Origin::Learned) else {
            return;
        };
        let mut spec = PortSpec::clone(&entry.spec);
        if let Some(peer) = spec.device.peer_mut() {
            peer.flood = None;
            self.ports.replace(spec);
        }
    }

    /// Removes learned peers whose address a configured peer now has, under any name.
    pub(super) fn give_way(&mut self) {
        let remote = |entry: &Entry<PortSpec>| Some(entry.spec.device.peer()?.remote);
        let is_learned = |entry: &&Entry<PortSpec>| entry.origin == Origin::Learned;
        if self.ports.entries().all(|entry| !is_learned(&entry)) {
            return;
        }
        let wanted: HashSet<_> =
            self.ports.entries().filter(|entry| !is_learned(entry)).filter_map(remote).collect();
        let goes = |entry: &&Entry<PortSpec>| remote(entry).is_some_and(|remote| wanted.contains(&remote));
        let gone: Vec<_> = self
            .ports
            .entries()
            .filter(is_learned)
            .filter(goes)
            .map(|entry| entry.spec.name.clone())
            .collect();
        for name in gone {
            self.ports.remove(&name).expect("it is there, and the file does not declare it");
        }
    }
}

fn learned_peer(remote: UnderlayAddr) -> PortSpec {
    PortSpec::new(
        PeerSpec::default_name(remote),
        Carries::Tunnel { networks: None },
        // Its address may be forged.
        PeerSpec { remote, remote_port: None, flood: Some(false) },
    )
}
