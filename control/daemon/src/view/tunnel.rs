//! The tunnel: this host's end, its peers, and unknown senders.

use std::net::IpAddr;

use super::{
    LiveDevice, LivePort, Snapshot,
    port::{received, sent},
    state_of,
};
use crate::state;
use vswitch_model::{
    PeerSpec, VXLAN_PORT, VxlanSpec,
    api::tunnel::{Features, Peer, PeerOrigin, Stranger, Tunnel, TunnelEnd},
};

impl Snapshot {
    /// The tunnel: this host's end, and its peers by name.
    pub(crate) fn tunnel(&self) -> Tunnel {
        let peers = self.state.ports().filter_map(|port| Some(self.peer(&port, port.spec.device.peer()?)));
        Tunnel { endpoint: self.vxlan().map(|spec| self.own_end(&spec)), peers: peers.collect() }
    }

    fn own_end(&self, spec: &VxlanSpec) -> TunnelEnd {
        let own = VxlanSpec::NAME.parse().ok().and_then(|name| self.state.port(&name));
        let reason = own.and_then(|port| self.why_down(port.id));
        let open = self.tunnel_endpoint();
        TunnelEnd {
            local: spec.local,
            port: spec.port,
            group: spec.group,
            isolated_group: spec.isolated_group,
            state: state_of(reason.as_ref()),
            reason,
            underlay_mtu: spec.underlay_mtu(),
            overlay_mtu: spec.overlay_mtu().get(),
            learn_peers: spec.learn_peers,
            features: open.as_ref().map(|endpoint| {
                let features = endpoint.features();
                Features {
                    datagrams_per_send: features.datagrams,
                    gro: features.gro,
                    receive_buffer: features.receive_buffer,
                    send_buffer: features.send_buffer,
                    inlets: endpoint.inlets(),
                }
            }),
            overflow: open.map_or(0, |endpoint| endpoint.lost().overflow),
            strangers: self.strangers(),
        }
    }

    /// The peers that were heard in the last `within` milliseconds.
    pub(crate) fn heard_peers(&self, within: u64) -> Vec<IpAddr> {
        let heard = |port: state::Port| {
            let peer = port.spec.device.peer()?.remote.ip();
            let real = self.live(port.id)?;
            real.listen(self.now());
            real.heard.since(self.now()).filter(|age| *age < within).map(|_| peer)
        };
        self.state.ports().filter_map(heard).collect()
    }

    /// Senders that are not (yet) peers.
    pub(super) fn strangers(&self) -> Vec<Stranger> {
        let is_peer = |address| {
            let mut ports = self.state.ports();
            ports.any(|port| port.spec.device.peer().is_some_and(|peer| peer.remote.ip() == address))
        };
        let known = self.tunnel_endpoint().map(|endpoint| endpoint.strangers.list()).unwrap_or_default();
        let strangers = known.into_iter().filter(|stranger| !is_peer(stranger.address));
        strangers.map(|it| Stranger { address: it.address, messages: it.messages }).collect()
    }

    fn peer(&self, port: &state::Port, peer: &PeerSpec) -> Peer {
        let real = self.live(port.id);
        let totals = self.totals(port.id);
        let reason = self.why_down(port.id);
        let held = self.state.networks().filter(|network| port.spec.holds(&network.spec));
        let own = self.vxlan();
        let default_port = own.as_ref().map_or(VXLAN_PORT, |own| own.port);
        let underlay_mtu = own.map_or(VxlanSpec::DEFAULT_UNDERLAY_MTU, |own| own.underlay_mtu());
        let path_mtu = match real.map(|real| &real.device) {
            Some(LiveDevice::Remote(path)) => path.mtu(),
            _ => u16::MAX,
        };
        let heard = |real: &LivePort| {
            real.listen(self.now());
            real.heard.since(self.now())
        };
        Peer {
            name: port.spec.name.clone(),
            address: peer.remote,
            port: peer.remote_port.unwrap_or(default_port),
            networks: held.map(|network| network.spec.name.clone()).collect(),
            origin: match port.origin {
                state::Origin::File => PeerOrigin::File,
                state::Origin::Api | state::Origin::Derived => PeerOrigin::Api,
                state::Origin::Cluster => PeerOrigin::Cluster,
                state::Origin::Learned => PeerOrigin::Learned,
            },
            state: state_of(reason.as_ref()),
            reason,
            path_mtu: path_mtu.min(underlay_mtu),
            heard_ms: real.and_then(heard),
            macs: self.live.fdb.learned_on(port.id),
            rx: received(&totals),
            tx: sent(&totals),
            drops: totals.drops().map(|(_, frames)| frames).sum(),
        }
    }
}
