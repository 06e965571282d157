//! Answers to clients from outside: back to the gateway that they came by.
//!
//! A port that a service publishes is open on every host. What a client sends to host A enters the network by A's gateway, with the
//! client's address as its source, and may be for a backend of host B. That answers to its default gateway, which is B's, and from
//! there the client would get it from an address that it never called. So B notes, at the backend's port, by whose gateway a flow
//! came, and gives the answers to that one:
//!
//! ```text
//!  client ─> A's gateway ─ tunnel ─> B ── noted where it leaves for the backend ──> backend
//!  client <─ A's gateway <─ tunnel ─ B <── to A's gateway in place of B's ───────── backend
//! ```
//! The records are flows of the backend's port like any, with the gateway's MAC address in the place of a backend's address
//! ([`coded`]): bounded, kept over restarts, and ended by what they carry. One that is lost makes the next answer leave by B's own
//! gateway, and the client's next packet notes it again.

use std::net::{IpAddr, Ipv6Addr};

use super::{
    Balance, Client, Sent, Translation, answered, asked, back_key,
    flows::{Mark, Progress},
    key,
    packet::{Content, Packet},
    packet_id,
    translate::{Change, translate},
};
use crate::addr::{MacAddr, NetworkId, PortId, Timestamp};

/// The gateways of a network of which each host has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gateways {
    /// This host's.
    pub own: MacAddr,
    /// Those of the others, sorted.
    pub others: Box<[MacAddr]>,
}

impl Balance {
    /// Whether a backend may be behind `port` whose clients came by another host.
    #[inline]
    pub(crate) fn notes(&self, port: PortId) -> bool {
        !self.gateways.is_empty() && self.serves(port)
    }

    /// What is kept of the clients at `port`, if there may be answers to turn.
    #[inline]
    pub(crate) fn turning(&self, port: PortId) -> Option<&Client> {
        if self.notes(port) { self.client(port).filter(|client| !client.flows.is_empty()) } else { None }
    }

    /// Notes the gateway of another host that a frame of `network` comes from, which leaves for a backend at the port of `client`.
    #[cold]
    #[inline(never)]
    pub(crate) fn note(&self, client: &Client, network: NetworkId, frame: &[u8], now: Timestamp) {
        let Some(gateways) = self.gateways.get(&network) else { return };
        let Some(from) = frame.get(6..).and_then(<[u8]>::first_chunk).copied().map(MacAddr) else { return };
        if gateways.others.binary_search(&from).is_ok() {
            client.note(self.mark(network), frame, from, now);
        }
    }

    /// An answer that `network`'s own gateway would get, to be given to the one by which the client came; and that one.
    pub(crate) fn turn(
        &self,
        client: &Client,
        network: NetworkId,
        frame: Sent<'_>,
        now: Timestamp,
    ) -> Option<(MacAddr, Translation)> {
        let own = self.gateways.get(&network)?.own;
        if !frame.bytes.starts_with(&own.0) {
            return None;
        }
        client.turn(self.mark(network), frame, now)
    }
}

impl Client {
    fn note(&self, network: Mark, frame: &[u8], gateway: MacAddr, now: Timestamp) {
        let Some(packet @ Packet { content: Content::Ports(ports), .. }) = Packet::read(frame) else {
            return;
        };
        let (ip, gateway) = (&packet.ip, coded(gateway));
        let key = key(network, ip, ports);
        let known = self.flows.find(&key).filter(|found| found.flow.backend == gateway);
        match known.filter(|found| !found.flow.has_ended(now)) {
            Some(found) => asked(&self.flows, &found, ip, ports, now),
            None => drop(self.flows.insert(&key, gateway, Progress::BEGUN, now)),
        }
    }

    fn turn(&self, network: Mark, frame: Sent<'_>, now: Timestamp) -> Option<(MacAddr, Translation)> {
        let packet = Packet::read(frame.bytes)?;
        let ip = &packet.ip;
        let gateway = match packet.content {
            Content::Ports(ports) => {
                let found = self.flows.find(&back_key(network, ip, ports))?;
                let gateway = decoded(found.flow.backend)?;
                answered(&self.flows, &found, ip, ports, now);
                if let Some(id) = packet_id(network, ip) {
                    self.fragments.note(id, coded(gateway), now);
                }
                gateway
            }
            Content::Rest => decoded(self.fragments.find(&packet_id(network, ip)?, now)?)?,
            // It quotes what the client sent, as that left for the backend.
            Content::Error(quoted, ports) => {
                decoded(self.flows.find(&key(network, &quoted, ports))?.flow.backend)?
            }
            Content::Echo | Content::Other => return None,
        };
        let mut head = Translation::of(frame.slot, frame.bytes);
        let change = Change { link_destination: Some(gateway), ..Change::default() };
        translate(head.bytes_mut(), &packet, frame.offload, &change);
        Some((gateway, head))
    }
}

/// The first half of addresses that no station has: RFC 6666.
const DISCARD: u64 = 0x0100 << 48;

/// A MAC address in the form of an address that no backend has.
fn coded(mac: MacAddr) -> IpAddr {
    let [a, b, c, d, e, f] = mac.0;
    let lower = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
    IpAddr::V6(Ipv6Addr::from_bits(u128::from(DISCARD) << 64 | u128::from(lower)))
}

fn decoded(address: IpAddr) -> Option<MacAddr> {
    let IpAddr::V6(address) = address else { return None };
    let [0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, mac @ ..] = address.octets() else { return None };
    Some(MacAddr(mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_in_the_form_of_an_address() {
        let mac = MacAddr([0x02, 0x42, 1, 2, 3, 4]);
        assert_eq!(coded(mac).to_string(), "100::242:102:304");
        assert_eq!(decoded(coded(mac)), Some(mac));
        for other in ["10.9.0.2", "fd00::1", "101::242:102:304", "100:0:0:1::1"] {
            assert_eq!(decoded(other.parse().unwrap()), None, "{other}");
        }
    }
}
