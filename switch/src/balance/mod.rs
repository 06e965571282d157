//! Services: one address in a network for many backends, without anything between them and their clients.
//!
//! ARP and neighbour discovery for a service's address are answered with one MAC address, [`STATION`], so that it needs no interface
//! and no frame that is not for a service is looked at. What is sent there is translated at the client's port, and what a backend
//! answers is translated back where it leaves for the client:
//!
//! ```text
//!  client 10.9.0.2 ── to 10.9.0.100, STATION ──>  forward/serve.rs   toward: flow, or a backend chosen   ── to 10.9.0.7 ──> backend
//!  client 10.9.0.2 <── from 10.9.0.100, STATION ──  engine.rs        back: flow of the client's port    <── from 10.9.0.7 ── backend
//! ```
//! Only destinations change on the way there and only sources on the way back, so a backend sees its client's address. Where both
//! are one station, the service's address stands in for the client.
//!
//! ```text
//! service      one address: backends, table, affinity                     service.rs, maglev.rs
//! flows        a client port's connections, bounded                       flows.rs
//! packet       where addresses and ports are                              packet.rs
//! translate    in a copy of the frame's head; checksums                   translate.rs
//! refuse       a reset or "port unreachable", where no backend is         refuse.rs
//! fragments    the rest of packets whose first fragment had the ports     fragments.rs
//! returns      answers to the gateway of the host that a client has called    returns.rs
//! ```
//! Frames are not changed: a `Translation` is a copy, exchanged for the frame's own while that is sent. Time is an argument.

mod flows;
mod fragments;
mod hash;
mod maglev;
mod packet;
mod refuse;
mod returns;
mod service;
mod translate;

use std::{collections::HashMap, net::IpAddr, sync::Arc};

pub use flows::{Flow, Flows, Key, LONGEST_AFFINITY, Mark, Memory, Progress};
pub(crate) use refuse::answer;
pub use returns::Gateways;
pub use service::{Affinity, Backend, Given, Service};
pub(crate) use translate::Translation;

use etherparse::IpNumber;

use crate::{
    addr::{MacAddr, NetworkId, PortId, Timestamp},
    drops::DropReason,
    wire::offload::Offload,
};
use flows::Found;
use fragments::{Fragments, PacketId};
use packet::{ACK, Content, FIN, Ip, Packet, Ports, RST, SYN};
use translate::{Change, echo, translate};

/// The MAC address of all services. In every network that has some it is pinned to [`PortId::SERVICES`], so no station can take it.
pub const STATION: MacAddr = MacAddr([0x02, 0x42, 0xff, 0, 0, 1]);

/// The services of all networks, and the ports of their clients and backends. Part of a plan.
#[derive(Debug, Default)]
pub struct Balance {
    /// By network and address.
    pub services: HashMap<(NetworkId, IpAddr), Arc<Service>>,
    /// By port number: its flows, where it may have clients.
    pub clients: Vec<Option<Arc<Client>>>,
    /// By port number: whether frames from there may be a backend's.
    pub serving: Vec<bool>,
    /// By number of the network: what its flows are known by.
    pub marks: Vec<Mark>,
    /// By network: its gateways, where other hosts have such.
    pub gateways: HashMap<NetworkId, Gateways>,
}

/// What is kept of the clients at one port.
#[derive(Debug)]
pub struct Client {
    /// Their flows.
    pub flows: Flows,
    fragments: Fragments,
}

/// A backend that was chosen for a frame, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The service's address.
    pub service: IpAddr,
    /// The backend's address; that of the asker, if the frame returns to it.
    pub backend: IpAddr,
    /// The reason.
    pub why: Why,
}

/// Why a frame goes to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is of a flow that the backend has.
    Flow,
    /// It begins a flow, which falls to it by its hash.
    Hash,
    /// It begins a flow of a client that the backend had before.
    Affinity,
    /// It is the rest of a packet that goes there.
    Fragment,
    /// It is an ICMP error about a packet from there.
    Error,
    /// It asks for an echo, which the switch answers.
    Echo,
}

/// Where a translated frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To this station.
    To(MacAddr),
    /// Back by the port it came in by.
    Back,
}

/// A frame to a service, its translation and its way.
#[derive(Debug)]
pub(crate) struct Toward {
    pub(crate) served: Served,
    pub(crate) way: Way,
    pub(crate) head: Translation,
}

/// A frame as the batch has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent<'a> {
    pub(crate) slot: usize,
    pub(crate) bytes: &'a [u8],
    pub(crate) offload: &'a Offload,
}

impl Client {
    /// Room for the clients at one port.
    pub fn new(flows: Flows) -> Self {
        Self { flows, fragments: Fragments::default() }
    }
}

impl Balance {
    /// The flows of the clients at `port`, if it may have such.
    #[inline]
    pub(crate) fn client(&self, port: PortId) -> Option<&Client> {
        self.clients.get(port.index())?.as_deref()
    }

    /// All of it, if there may be clients at all.
    #[inline]
    pub(crate) fn in_use(&self) -> Option<&Self> {
        (!self.clients.is_empty()).then_some(self)
    }

    /// Whether frames from `port` may be a backend's.
    #[inline]
    pub fn serves(&self, port: PortId) -> bool {
        self.serving.get(port.index()).is_some_and(|serves| *serves)
    }

    /// Says that frames from a port may be a backend's.
    pub fn serve_at(&mut self, port: Option<&PortId>) {
        let Some(port) = port else { return };
        self.serving.resize(self.serving.len().max(port.index() + 1), false);
        self.serving[port.index()] = true;
    }

    /// What the flows of `network` are known by.
    #[inline]
    pub(crate) fn mark(&self, network: NetworkId) -> Mark {
        self.marks.get(usize::from(network.0)).copied().unwrap_or_default()
    }

    /// Translates a frame to a service of `network`, sent by a client at a port with these flows. Unless `is_real`, no flow is made
    /// or changed.
    ///
    /// # Errors
    /// No backend gets it.
    #[cold]
    #[inline(never)]
    pub(crate) fn toward(
        &self,
        client: &Client,
        network: NetworkId,
        frame: Sent<'_>,
        now: Timestamp,
        is_real: bool,
    ) -> Result<Toward, DropReason> {
        let packet = Packet::read(frame.bytes).ok_or(DropReason::ServiceProtocol)?;
        let address = packet.ip.destination;
        let service = self.services.get(&(network, address)).ok_or(DropReason::ServiceUnknown)?;
        let network = self.mark(network);
        let session = Session { client, network, service, packet, frame, now, is_real };
        match packet.content {
            Content::Ports(ports) => session.ports(ports),
            Content::Echo => Ok(session.echo()),
            Content::Rest if is_icmp(&packet.ip) => Ok(session.echo()),
            Content::Rest => session.rest(),
            Content::Error(quoted, ports) => session.error(&quoted, ports),
            Content::Other => Err(DropReason::ServiceProtocol),
        }
    }
}

fn is_icmp(ip: &Ip) -> bool {
    matches!(IpNumber(ip.protocol), IpNumber::ICMP | IpNumber::IPV6_ICMP)
}

/// One frame to a service.
struct Session<'a> {
    client: &'a Client,
    network: Mark,
    service: &'a Service,
    packet: Packet,
    frame: Sent<'a>,
    now: Timestamp,
    is_real: bool,
}

impl Session<'_> {
    fn ports(&self, ports: Ports) -> Result<Toward, DropReason> {
        let ip = &self.packet.ip;
        if let Some(back) = self.own_answer(ports) {
            return Ok(back);
        }
        let key = key(self.network, ip, ports);
        let is_tcp = IpNumber(ip.protocol) == IpNumber::TCP;
        let begins = is_tcp && ports.flags & (SYN | ACK) == SYN;
        let found = self.client.flows.find(&key).filter(|found| !found.flow.has_ended(self.now));
        if let Some(found) = found {
            match self.backend(found.flow.backend) {
                // A port that is used again begins anew; where the backend takes nothing new, so does what it has not answered.
                Some(backend) if !begins || backend.is_ready && !found.flow.progress.is_over() => {
                    self.follow(&found, ports);
                    return Ok(self.deliver(backend, Why::Flow));
                }
                None if is_tcp && !begins => {
                    if self.is_real {
                        self.client.flows.remove(&found);
                    }
                    return Err(DropReason::ServiceBackendGone);
                }
                _ => {}
            }
        }
        let (backend, why) = self.choose(&key).ok_or(DropReason::ServiceNoBackend)?;
        if self.is_real {
            backend.given.add();
            let progress = if is_tcp && ports.flags & RST != 0 {
                Progress::RESET
            } else if is_tcp && !begins {
                // It was there before this table.
                Progress::ANSWERED
            } else {
                Progress::BEGUN
            };
            self.client.flows.insert(&key, backend.address, progress, self.now);
        }
        Ok(self.deliver(backend, why))
    }

    /// The backend with this address, unless its time is over.
    fn backend(&self, address: IpAddr) -> Option<&Backend> {
        self.service.backend(address).filter(|it| it.ends.is_none_or(|ends| self.now < ends))
    }

    /// The backend for a new flow.
    fn choose(&self, key: &Key) -> Option<(&Backend, Why)> {
        let Affinity::Client(Some(ttl)) = self.service.affinity() else {
            return self.service.choose(key).map(|backend| (backend, Why::Hash));
        };
        let of_client = Key::of_client(key.network, key.client, key.service);
        let kept = self.client.flows.find(&of_client).and_then(|found| {
            let is_fresh = u64::from(found.flow.idle_at(self.now)) <= ttl.as_secs();
            let backend = self.backend(found.flow.backend).filter(|it| it.is_ready && is_fresh)?;
            Some((found, backend))
        });
        if let Some((found, backend)) = kept {
            if self.is_real {
                self.client.flows.touch(&found, self.now);
            }
            return Some((backend, Why::Affinity));
        }
        let backend = self.service.choose(key)?;
        if self.is_real {
            self.client.flows.insert(&of_client, backend.address, Progress::BEGUN, self.now);
        }
        Some((backend, Why::Hash))
    }

    /// The answer of a station to itself, as client and backend in one.
    fn own_answer(&self, ports: Ports) -> Option<Toward> {
        let ip = &self.packet.ip;
        self.service.backend(ip.source)?;
        let key = Key {
            network: self.network,
            client: ip.source,
            client_port: ports.destination,
            service: ip.destination,
            port: ports.source,
            protocol: ip.protocol,
        };
        let found = self.client.flows.find(&key).filter(|found| found.flow.backend == ip.source)?;
        if self.is_real {
            answered(&self.client.flows, &found, ip, ports, self.now);
        }
        Some(self.loop_back(ip.source, Why::Flow))
    }

    /// Notes what a frame of the client tells about its flow.
    fn follow(&self, found: &Found, ports: Ports) {
        if self.is_real {
            asked(&self.client.flows, found, &self.packet.ip, ports, self.now);
        }
    }

    fn rest(&self) -> Result<Toward, DropReason> {
        let id = packet_id(self.network, &self.packet.ip).ok_or(DropReason::ServiceFragment)?;
        let backend = self.client.fragments.find(&id, self.now).ok_or(DropReason::ServiceFragment)?;
        let backend = self.backend(backend).ok_or(DropReason::ServiceBackendGone)?;
        Ok(self.deliver(backend, Why::Fragment))
    }

    /// An ICMP error about a packet that the backend sent.
    fn error(&self, quoted: &Ip, ports: Ports) -> Result<Toward, DropReason> {
        let key = back_key(self.network, quoted, ports);
        let found = self.client.flows.find(&key).filter(|_| quoted.source == self.service.address());
        let backend = found.and_then(|found| self.backend(found.flow.backend));
        let backend = backend.ok_or(DropReason::ServiceBackendGone)?;
        Ok(self.deliver(backend, Why::Error))
    }

    fn echo(&self) -> Toward {
        let mut head = Translation::of(self.frame.slot, self.frame.bytes);
        echo(head.bytes_mut(), &self.packet, self.frame.offload);
        let Ip { source, destination, .. } = self.packet.ip;
        let served = Served { service: destination, backend: source, why: Why::Echo };
        Toward { served, way: Way::Back, head }
    }

    fn deliver(&self, backend: &Backend, why: Why) -> Toward {
        if backend.address == self.packet.ip.source {
            return self.loop_back(backend.address, why);
        }
        let change = Change {
            link_destination: Some(backend.mac),
            destination: Some(backend.address),
            quoted_source: Some(backend.address),
            ..Change::default()
        };
        Toward { way: Way::To(backend.mac), ..self.translated(backend.address, why, &change) }
    }

    /// Sends a frame of a station to the station itself, as if from the service: no station takes one from its own address.
    fn loop_back(&self, station: IpAddr, why: Why) -> Toward {
        let mac = self.frame.bytes.get(6..).and_then(<[u8]>::first_chunk).copied().map(MacAddr);
        let service = Some(self.service.address());
        let change = Change {
            link_source: Some(STATION),
            link_destination: mac,
            source: service,
            destination: Some(station),
            quoted_source: Some(station),
            quoted_destination: service,
        };
        self.translated(station, why, &change)
    }

    fn translated(&self, backend: IpAddr, why: Why, change: &Change) -> Toward {
        let ip = &self.packet.ip;
        if let Some(id) = packet_id(self.network, ip).filter(|_| !ip.is_rest && self.is_real) {
            self.client.fragments.note(id, backend, self.now);
        }
        let mut head = Translation::of(self.frame.slot, self.frame.bytes);
        translate(head.bytes_mut(), &self.packet, self.frame.offload, change);
        let served = Served { service: self.service.address(), backend, why };
        Toward { served, way: Way::Back, head }
    }
}

impl Client {
    /// Translates a frame that leaves for a client at this port, if a backend answers by it: as if from the service. Unless
    /// `is_real`, no flow is changed.
    pub(crate) fn back(
        &self,
        network: Mark,
        frame: Sent<'_>,
        now: Timestamp,
        is_real: bool,
    ) -> Option<(Served, Translation)> {
        let packet = Packet::read(frame.bytes)?;
        let ip = &packet.ip;
        let (service, why) = match packet.content {
            Content::Ports(ports) => {
                let found = self.flows.find_back(&back_key(network, ip, ports), ip.source)?;
                if is_real {
                    answered(&self.flows, &found, ip, ports, now);
                    if let Some(id) = packet_id(network, ip) {
                        self.fragments.note(id, found.flow.key.service, now);
                    }
                }
                (found.flow.key.service, Why::Flow)
            }
            Content::Rest => (self.fragments.find(&packet_id(network, ip)?, now)?, Why::Fragment),
            Content::Error(quoted, ports) => {
                let found = self.flows.find_back(&key(network, &quoted, ports), quoted.destination)?;
                (found.flow.key.service, Why::Error)
            }
            Content::Echo | Content::Other => return None,
        };
        let backend = match packet.content {
            Content::Error(quoted, _) => quoted.destination,
            _ => ip.source,
        };
        // A router on the way may complain as well.
        let is_its_own = ip.source == backend;
        let change = Change {
            link_source: is_its_own.then_some(STATION),
            source: is_its_own.then_some(service),
            quoted_destination: Some(service),
            ..Change::default()
        };
        let mut head = Translation::of(frame.slot, frame.bytes);
        translate(head.bytes_mut(), &packet, frame.offload, &change);
        Some((Served { service, backend, why }, head))
    }
}

/// The key of a flow by a frame of its client.
fn key(network: Mark, ip: &Ip, ports: Ports) -> Key {
    Key {
        network,
        client: ip.source,
        client_port: ports.source,
        service: ip.destination,
        port: ports.destination,
        protocol: ip.protocol,
    }
}

/// The key of a flow by a backend's frame to its client; the service is not known yet.
fn back_key(network: Mark, ip: &Ip, ports: Ports) -> Key {
    Key {
        network,
        client: ip.destination,
        client_port: ports.destination,
        service: ip.source,
        port: ports.source,
        protocol: ip.protocol,
    }
}

/// Notes what a frame of the client tells about its flow.
fn asked(flows: &Flows, found: &Found, ip: &Ip, ports: Ports, now: Timestamp) {
    flows.touch(found, now);
    match ports.flags {
        _ if IpNumber(ip.protocol) != IpNumber::TCP => {}
        flags if flags & RST != 0 => flows.advance(found, Progress::RESET),
        flags if flags & FIN != 0 => flows.advance(found, Progress::CLIENT_DONE),
        _ => {}
    }
}

/// Notes what a frame of the backend tells about its flow.
fn answered(flows: &Flows, found: &Found, ip: &Ip, ports: Ports, now: Timestamp) {
    flows.touch(found, now);
    let is_tcp = IpNumber(ip.protocol) == IpNumber::TCP;
    let step = match ports.flags {
        flags if is_tcp && flags & RST != 0 => Progress::RESET,
        flags if is_tcp && flags & FIN != 0 => Progress::BACKEND_DONE.and(Progress::ANSWERED),
        _ => Progress::ANSWERED,
    };
    flows.advance(found, step);
}

fn packet_id(network: Mark, ip: &Ip) -> Option<PacketId> {
    let Ip { source, destination, protocol, fragment, .. } = *ip;
    Some(PacketId { network, source, destination, protocol, identification: fragment? })
}
