//! Announces the addresses of stations that were just attached: those who remember another MAC address learn the new one.
//!
//! Whatever attaches a station (a connection, an engine, a declared port, a port that is up again), it passes here. Only the
//! interfaces that a start finds as they were left are not announced: no neighbour can remember anything else of them.
//!
//! A host that has lost its cluster's store announces stations again and again: by that the others hear that it is there.

use std::net::IpAddr;

use tracing::debug;
use vswitch::{
    addr::{MacAddr, PortId},
    neighbours::announcement,
};

use super::{Edge, EdgePort};
use crate::{device, state::State};
use vswitch_host::link::Links;
use vswitch_model::Error;

/// Addresses of a port that are announced at most: they pass in one turn.
const MOST: usize = 16;

impl Edge {
    /// Announces the addresses of these ports' stations.
    pub(crate) async fn announce(&self, ports: Vec<PortId>, state: &State) {
        for id in ports {
            let Some(port) = self.ports.get(&id).filter(|port| port.device.is_ok()) else { continue };
            let addresses = addresses(port, state);
            if addresses.is_empty() || port.wanted.spec.carries.untagged().is_none() {
                continue;
            }
            match self.station(port).await {
                Ok(Some(mac)) => {
                    let frames = addresses.into_iter().take(MOST).map(|address| announcement(mac, address));
                    self.workers.receive(port.worker, id, frames);
                }
                Ok(None) => {}
                // It is found missing soon.
                Err(error) => debug!(port = %port.wanted.spec.name, "not announced: {}", error.sentence),
            }
        }
    }

    /// Whether a port's device is open.
    pub(crate) fn is_open(&self, port: PortId) -> bool {
        self.ports.get(&port).is_some_and(|port| port.device.is_ok())
    }

    /// The MAC address of a port's station: the wanted one, or the one that the kernel has chosen.
    async fn station(&self, port: &EdgePort) -> Result<Option<MacAddr>, Error> {
        let Some(interface) = port.wanted.spec.interface() else { return Ok(None) };
        if interface.mac.is_some() || !self.is_real() || interface.bare.is_some() {
            return Ok(interface.mac);
        }
        let links = Links::open(device::namespace(interface)?)?;
        Ok(links.find(port.wanted.spec.ifname()).await?.and_then(|link| link.mac))
    }
}

/// The addresses of a port's station: its interface's, or those of its endpoint, whose interface others set up.
fn addresses(port: &EdgePort, state: &State) -> Vec<IpAddr> {
    let spec = &port.wanted.spec;
    let own = spec.interface().map(|interface| &interface.address[..]).unwrap_or_default();
    let endpoint = || state.endpoints().find(|endpoint| endpoint.port == spec.name);
    let others = if own.is_empty() { endpoint().map(|it| &it.addresses[..]) } else { None };
    own.iter().chain(others.unwrap_or_default()).map(|net| net.addr()).collect()
}
