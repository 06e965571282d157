//! Lookup tables for each packet, in both directions: peers, networks and collectors.
//!
//! Immutable: rebuilt when the configuration changes, and handed to workers with their plan.

use std::{collections::HashMap, net::IpAddr};

use vswitch::addr::{NetworkId, PortId};

use crate::{
    encap::Carriage,
    header::{HEADER, Vni},
};

/// How frames of isolated ports are marked in tunnels: by a policy group (draft-smith-vxlan-group-policy).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Isolation {
    /// The policy group of isolated ports, on all hosts.
    pub group: u16,
    /// This host's isolated ports.
    pub ports: Vec<PortId>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Tables {
    /// By address only: the source port distinguishes flows, not peers.
    peers: HashMap<IpAddr, PortId>,
    /// Collectors by address; they may be peers as well.
    collectors: HashMap<IpAddr, PortId>,
    /// Sorted by VNI.
    networks: Vec<(Vni, NetworkId)>,
    /// By network: for frames of other ports, and of isolated ones.
    headers: Vec<Option<[[u8; HEADER]; 2]>>,
    /// The policy group of isolated ports, if their frames are marked.
    isolated_group: Option<u16>,
    /// By port: whether its frames are marked.
    isolated: Vec<bool>,
    /// Networks whose long datagrams leave in fragments.
    fragmented: Vec<NetworkId>,
    /// The smallest MTU of a network's ports in bytes, by network; 0: unknown.
    mtus: Vec<u16>,
}

impl Tables {
    /// Tables of these peers and networks. Of two peers with the same address, the last one is found.
    pub fn new(
        peers: impl IntoIterator<Item = (IpAddr, PortId)>,
        networks: impl IntoIterator<Item = (Vni, NetworkId)>,
    ) -> Self {
        let mut tables = Self { peers: peers.into_iter().collect(), ..Self::default() };
        for (vni, network) in networks {
            tables.networks.push((vni, network));
            let slots = tables.headers.len().max(network.index() + 1);
            tables.headers.resize(slots, None);
            tables.headers[network.index()] = Some([vni.header(); 2]);
        }
        tables.networks.sort_unstable();
        tables
    }

    /// The same with these collectors and their mirrors' ports.
    #[must_use]
    pub(crate) fn with_collectors(self, collectors: impl IntoIterator<Item = (IpAddr, PortId)>) -> Self {
        Self { collectors: collectors.into_iter().collect(), ..self }
    }

    /// The same with frames of isolated ports marked.
    #[must_use]
    pub fn with_isolation(mut self, isolation: Option<Isolation>) -> Self {
        if let Some(Isolation { group, .. }) = isolation {
            for (vni, network) in &self.networks {
                self.headers[network.index()] = Some([vni.header(), vni.header_of(group)]);
            }
        }
        let ports = |isolation: &Isolation| isolation.ports.iter().map(|port| port.index() + 1).max();
        self.isolated = vec![false; isolation.as_ref().and_then(ports).unwrap_or(0)];
        for port in isolation.iter().flat_map(|isolation| &isolation.ports) {
            self.isolated[port.index()] = true;
        }
        self.isolated_group = isolation.map(|isolation| isolation.group);
        self
    }

    /// The same with the smallest MTUs of the ports of these networks, in bytes.
    #[must_use]
    pub fn with_mtus(mut self, mtus: impl IntoIterator<Item = (NetworkId, u16)>) -> Self {
        for (network, mtu) in mtus {
            self.mtus.resize(self.mtus.len().max(network.index() + 1), 0);
            self.mtus[network.index()] = mtu;
        }
        self
    }

    /// The same with these networks whose long datagrams leave in fragments.
    #[must_use]
    pub fn with_fragments(self, networks: impl IntoIterator<Item = NetworkId>) -> Self {
        Self { fragmented: networks.into_iter().collect(), ..self }
    }

    /// The smallest MTU of the ports of `network` in bytes, if known.
    #[inline]
    pub fn mtu(&self, network: NetworkId) -> Option<u16> {
        self.mtus.get(network.index()).copied().filter(|mtu| *mtu > 0)
    }

    /// The port of the peer that sends from `address`.
    #[inline]
    pub fn peer(&self, address: IpAddr) -> Option<PortId> {
        self.peers.get(&address).copied()
    }

    /// The port whose copies are sent to `address`. Only needed for senders that are not peers.
    #[cold]
    pub fn collector(&self, address: IpAddr) -> Option<PortId> {
        self.collectors.get(&address).copied()
    }

    /// The network of `vni`.
    #[inline]
    pub fn network(&self, vni: Vni) -> Option<NetworkId> {
        let place = self.networks.binary_search_by_key(&vni, |(vni, _)| *vni).ok()?;
        Some(self.networks[place].1)
    }

    /// The header of frames of `network` that were received by the port `from`.
    #[inline]
    pub fn header(&self, network: NetworkId, from: PortId) -> Option<&[u8; HEADER]> {
        let headers = self.headers.get(network.index())?.as_ref()?;
        Some(&headers[usize::from(self.isolated.get(from.index()).is_some_and(|isolated| *isolated))])
    }

    /// The policy group of isolated ports, if their frames are marked.
    #[inline]
    pub fn isolated_group(&self) -> Option<u16> {
        self.isolated_group
    }

    /// How frames of `network` that were received by the port `from` are carried, if they are.
    #[inline]
    pub fn carriage(&self, network: NetworkId, from: PortId) -> Option<Carriage<'_>> {
        let header = self.header(network, from)?;
        Some(Carriage { header, fragment: !self.fragmented.is_empty() && self.fragmented.contains(&network) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        let vni = |number| Vni::try_from(number).unwrap();
        let tables = Tables::new(
            [("10.8.0.2".parse().unwrap(), PortId(3))],
            [(vni(4096), NetworkId(2)), (vni(7), NetworkId(0))],
        )
        .with_collectors([("10.8.0.9".parse().unwrap(), PortId(4))])
        .with_mtus([(NetworkId(2), 1000)]);
        assert_eq!([2, 0, 9].map(|network| tables.mtu(NetworkId(network))), [Some(1000), None, None]);
        assert_eq!(tables.peer("10.8.0.2".parse().unwrap()), Some(PortId(3)));
        assert_eq!(tables.peer("10.8.0.9".parse().unwrap()), None);
        assert_eq!(tables.collector("10.8.0.9".parse().unwrap()), Some(PortId(4)));
        assert_eq!(tables.collector("10.8.0.2".parse().unwrap()), None);
        assert_eq!(tables.network(vni(4096)), Some(NetworkId(2)));
        assert_eq!(tables.network(vni(4097)), None);
        assert_eq!(tables.header(NetworkId(0), PortId(1)), Some(&vni(7).header()));
        assert_eq!(tables.header(NetworkId(1), PortId(1)), None);
        assert_eq!(tables.header(NetworkId(9), PortId(1)), None);
    }

    #[test]
    fn frames_of_isolated_ports_are_marked_where_a_group_is_in_use() {
        let (vni, network) = (Vni::try_from(7).unwrap(), NetworkId(0));
        let isolation = |group| Isolation { group, ports: vec![PortId(2), PortId(5)] };
        let tables = |isolation| Tables::new([], [(vni, network)]).with_isolation(isolation);
        let marked = tables(Some(isolation(9)));
        for (port, header) in
            [(1, vni.header()), (2, vni.header_of(9)), (5, vni.header_of(9)), (6, vni.header())]
        {
            assert_eq!(marked.header(network, PortId(port)), Some(&header), "port {port}");
        }
        assert_eq!((marked.isolated_group(), tables(None).isolated_group()), (Some(9), None));
        assert_eq!(tables(None).header(network, PortId(2)), Some(&vni.header()));
    }
}
