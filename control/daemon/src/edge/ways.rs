//! The tunnel among the ports: its end here, its peers and collectors, and what the ways to them carry.

use std::sync::Arc;

use vswitch::{
    addr::PortId,
    plan::{Plan, Receiver},
};
use vswitch_vxlan::endpoint::Vtep;

use super::{Edge, EdgePort};
use crate::{device::OpenDevice, state::State, tunnel::Tunnel};
use vswitch_model::{Mtu, VxlanSpec};

impl Edge {
    /// The tunnel's endpoint, if it is open, its peers and collectors.
    pub(super) fn tunnel(&self) -> Option<Tunnel<'_>> {
        let (own, spec, endpoint) = self.open_endpoint()?;
        let mut tunnel = Tunnel { own, spec, endpoint, peers: Vec::new(), collectors: Vec::new() };
        for (id, port) in &self.ports {
            let Ok(OpenDevice::Remote { path, .. }) = &port.device else { continue };
            let device = &port.wanted.spec.device;
            tunnel.peers.extend(device.peer().map(|spec| (*id, spec, path)));
            tunnel.collectors.extend(device.collector().map(|spec| (*id, spec, path)));
        }
        Some(tunnel)
    }

    /// The endpoint's port, what was asked of it and its sockets, if they are open.
    pub(super) fn open_endpoint(&self) -> Option<(PortId, &VxlanSpec, &Arc<Vtep>)> {
        self.ports.iter().find_map(|(id, port)| match (port.wanted.spec.device.endpoint(), &port.device) {
            (Some(spec), Ok(OpenDevice::Endpoint(endpoint))) => Some((*id, spec, endpoint)),
            _ => None,
        })
    }

    /// The endpoint's sockets, if they are open.
    pub(crate) fn endpoint(&self) -> Option<&Arc<Vtep>> {
        self.open_endpoint().map(|(.., endpoint)| endpoint)
    }

    /// Bytes of the longest packet that the tunnel carries, if there is one, open or not.
    pub(super) fn overlay_mtu(&self) -> Option<Mtu> {
        self.ports.values().find_map(|port| port.wanted.spec.device.endpoint()).map(VxlanSpec::overlay_mtu)
    }

    /// Puts the tunnel's ports and receivers into `plan`: each worker receives by an inlet of its own.
    pub(super) fn lay(&self, tunnel: &Tunnel<'_>, state: &State, plan: &mut Plan) {
        let devices = tunnel.devices(state);
        for ((id, ..), remote) in tunnel.peers.iter().zip(devices.remotes) {
            plan.ports[id.index()] = Some(self.port_of_plan(*id, remote, &plan.topology));
        }
        for collector in devices.collectors {
            let id = collector.port();
            plan.ports[id.index()] = Some(self.port_of_plan(id, collector, &plan.topology));
        }
        let inlet = Arc::clone(&devices.inlets[0]);
        plan.ports[tunnel.own.index()] = Some(self.port_of_plan(tunnel.own, inlet, &plan.topology));
        let first = self.ports[&tunnel.own].key;
        for ((key, worker), inlet) in (first..).zip((0..self.workers.count()).cycle()).zip(devices.inlets) {
            plan.receivers.push(Receiver { key, device: inlet, port: tunnel.own, worker });
        }
    }

    /// Takes over what was measured of the way to a peer.
    pub(crate) fn measured(&mut self, id: PortId, mtu: u16) {
        if let Some(EdgePort { device: Ok(OpenDevice::Remote { path, measured }), .. }) =
            self.ports.get_mut(&id)
        {
            path.set_mtu(mtu);
            *measured = true;
        }
    }

    /// Asks the kernel again what the ways carry that were too narrow once: it forgets after ten minutes
    /// (net.ipv4.route.mtu_expires), and so must we.
    pub(super) fn reconsider_paths(&self) {
        let Some(tunnel) = self.tunnel() else { return };
        let peers = tunnel.peers.iter().map(|(id, it, path)| (id, it.remote.ip(), path));
        let collectors = tunnel.collectors.iter().map(|(id, it, path)| (id, it.remote.ip(), path));
        for (id, remote, path) in peers.chain(collectors) {
            let narrow = path.mtu() < tunnel.spec.underlay_mtu();
            let measured = matches!(self.ports[id].device, Ok(OpenDevice::Remote { measured: true, .. }));
            if narrow
                && !measured
                && let Ok(mtu) = tunnel.endpoint.path_mtu(tunnel.endpoint.address(remote, tunnel.spec.port))
            {
                path.set_mtu(mtu);
            }
        }
    }
}
