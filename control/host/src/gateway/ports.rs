//! Published ports of the host, reserved by sockets.
//!
//! Packets to a published port are translated before any socket sees them, so a process that listens there would receive
//! nothing, without an error. A bound socket reserves it: other `bind`s fail, and the kernel does not choose
//! the port for a connection. It hears nothing: until the rules are there, a client of TCP tries again, and UDP is lost. What the
//! kernel does not translate reaches the socket, which then is a [relay](super::relay)'s.
//!
//! A port costs one socket, be it published for one family of the host or for both: that of IPv6 has IPv4's port as well.
//!
//! Sockets of TCP listen, and have `SO_REUSEADDR`: so no other can bind the port, and closed connections of a server that has
//! ended (TIME_WAIT) do not keep us from it, provided that it had the option, too. If it had not, and no socket listens, the port is
//! published all the same, and reserved when they have [expired](Ports::hold_again).
//!
//! Where a container engine reserves ports itself afterwards, ours are released when they are published
//! ([`Published::held`]): they were free until then, and no two published ports clash. Such ports are not relayed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::descriptors;
use rustix::io::Errno;
use socket2::{Domain, SockFilter, Socket, Type};
use tracing::warn;
use vswitch_model::{
    Family,
    publish::{Protocol, Publish, Published},
};

use super::{
    GatewayError,
    relay::{Relay, Relays},
    users::{self, Users},
};

/// Backlog of connections to a relay.
const BACKLOG: i32 = 128;

/// `BPF_RET | BPF_K`, linux/bpf_common.h: with 0 bytes, a packet is dropped.
const RETURN_NOTHING: u16 = 0x06;

/// Attempts to choose one port for several addresses before none counts as free.
const ATTEMPTS: usize = 64;

/// Reserved ports.
#[derive(Debug, Default)]
pub(super) struct Ports {
    held: BTreeMap<HostPort, Hold>,
    relays: Relays,
}

/// A port of the host, ordered for [`clash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HostPort {
    protocol: Protocol,
    port: u16,
    ip: IpAddr,
}

#[derive(Debug)]
struct Hold {
    published: Published,
    /// Bound; `None` if the kernel lacks the protocol, another process holds the port, connections of one that has ended still use
    /// it, the relay has it, or that of the [twin](HostPort::twin) holds it as well.
    socket: Option<Socket>,
    /// Whether its socket, or its relay's, has the port of the twin, too.
    both: bool,
    /// Relays what the kernel does not translate, once it is published.
    relay: Option<Relay>,
    /// Reserved for an endpoint whose publication is not yet set.
    reserved: bool,
}

impl HostPort {
    fn of(published: &Published) -> Self {
        let at = published.at();
        Self { protocol: published.protocol, port: at.port(), ip: at.ip() }
    }

    /// The same port at all addresses of the other family, of a port at all addresses of one.
    fn twin(self) -> Option<Self> {
        let ip = match self.ip {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv6Addr::UNSPECIFIED.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv4Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        Some(Self { ip, ..self })
    }
}

impl Hold {
    /// Whether its socket holds the port of its twin, too.
    fn covers(&self) -> bool {
        self.both && (self.socket.is_some() || self.relay.is_some())
    }

    /// A socket for it. `None`: the kernel lacks the protocol, or no socket listens, but connections still use the port.
    fn bind(&self) -> Result<Option<Socket>, GatewayError> {
        let published = self.published;
        descriptors::check_room(1).map_err(|why| GatewayError::Descriptors { published, why })?;
        let bound = bind(published.protocol, published.at(), self.both, published.is_relayed());
        match bound {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && published.protocol == Protocol::Tcp => {
                match users::of(published.at()) {
                    Ok(Users::Connections) => Ok(None),
                    _ => Err(GatewayError::bind(published, error)),
                }
            }
            other => other.map_err(|error| GatewayError::bind(published, error)),
        }
    }

    fn relay_if_published(&mut self, relays: &mut Relays) {
        if !self.reserved
            && let Err(error) = self.relay(relays)
        {
            warn!("{} is not relayed: {error}", self.published);
        }
    }

    /// Starts a relay to the port's destination, if one is needed.
    fn relay(&mut self, relays: &mut Relays) -> io::Result<()> {
        let to = self.published.to();
        if self.relay.as_ref().is_some_and(|relay| relay.to() != to) {
            self.socket = self.relay.take().and_then(Relay::end);
        }
        if self.published.is_relayed()
            && let Some(socket) = self.socket.take()
        {
            self.relay = Some(relays.begin(self.published.protocol, socket, to)?);
        }
        Ok(())
    }
}

/// The entry of `taken` that conflicts with `wanted`: the same address, or all addresses, of one family.
fn clash<T>(taken: &BTreeMap<HostPort, T>, wanted: HostPort) -> Option<HostPort> {
    let (first, last) = match wanted.ip {
        IpAddr::V4(_) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::BROADCAST)),
        IpAddr::V6(_) => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::from(u128::MAX))),
    };
    let range = HostPort { ip: first, ..wanted }..=HostPort { ip: last, ..wanted };
    let mut taken = taken.range(range).map(|(&port, _)| port);
    taken.find(|taken| taken.ip == wanted.ip || taken.ip.is_unspecified() || wanted.ip.is_unspecified())
}

/// Resolves conflicts: the ports that can be published together, and errors for the later ones.
pub(super) fn sort<'a>(
    published: impl IntoIterator<Item = &'a Published>,
) -> (BTreeMap<HostPort, Published>, Vec<(Published, GatewayError)>) {
    let (mut wanted, mut late) = (BTreeMap::new(), Vec::new());
    for &published in published {
        let port = HostPort::of(&published);
        match clash(&wanted, port) {
            Some(_) => late.push((published, GatewayError::Allocated(published.at()))),
            None => drop(wanted.insert(port, published)),
        }
    }
    (wanted, late)
}

impl Ports {
    /// Reserves the ports of `wanted`, which may be twins, or none of them; without `check` as far as published ports are concerned.
    fn hold(&mut self, wanted: &[Published], reserved: bool, check: bool) -> Result<(), GatewayError> {
        if let Some(taken) = wanted.iter().find(|it| clash(&self.held, HostPort::of(it)).is_some()) {
            return Err(GatewayError::Allocated(taken.at()));
        }
        // That of IPv6 may have IPv4's as well.
        let (v6, v4): (Vec<_>, Vec<_>) = wanted.iter().partition(|it| it.at().is_ipv6());
        let mut held = Vec::new();
        for published in v6.into_iter().chain(v4) {
            let port = HostPort::of(published);
            let twin = port.twin();
            let both = port.ip.is_ipv6() && wanted.iter().any(|it| Some(HostPort::of(it)) == twin);
            let is_covered = twin.and_then(|twin| self.held.get(&twin)).is_some_and(Hold::covers);
            let hold = Hold { published: *published, socket: None, both, relay: None, reserved };
            let socket = match check && (published.held || reserved) && !is_covered {
                true => hold.bind(),
                false => Ok(None),
            };
            match socket {
                Ok(socket) => {
                    self.held.insert(port, Hold { socket, ..hold });
                    held.push(port);
                }
                Err(error) => {
                    held.iter().for_each(|port| drop(self.held.remove(port)));
                    // Both are named by the first of them.
                    return Err(if both { error.of(wanted[0]) } else { error });
                }
            }
        }
        Ok(())
    }

    /// Chooses and reserves host ports for all of `publish`, or for none. Whether a process has a given port is not asked where others
    /// `hold` it: it may be theirs.
    pub(super) fn reserve(
        &mut self,
        publish: &[Publish],
        addresses: &[IpAddr],
        hold: bool,
    ) -> Result<Vec<Published>, GatewayError> {
        let mut all = Vec::new();
        for publish in publish {
            match self.reserve_one(publish, addresses, hold) {
                Ok(published) => all.extend(published.into_iter().map(|it| Published { held: hold, ..it })),
                Err(error) => {
                    self.release(&all);
                    return Err(error);
                }
            }
        }
        Ok(all)
    }

    fn reserve_one(
        &mut self,
        publish: &Publish,
        addresses: &[IpAddr],
        hold: bool,
    ) -> Result<Vec<Published>, GatewayError> {
        let pairs = pairs(publish, addresses);
        if pairs.is_empty() {
            return Err(GatewayError::NoFamily { publish: publish.clone() });
        }
        let mut all = Vec::new();
        let mut hosts = publish.host.map(|range| range.ports());
        for container in publish.container.ports() {
            let one = match &mut hosts {
                // As many as the container's: each has its own.
                Some(hosts) if publish.container.len() == publish.host.map_or(0, |range| range.len()) => {
                    let host = hosts.next();
                    host.map_or(Ok(Vec::new()), |host| self.at_port(publish, &pairs, [host, container], hold))
                }
                Some(hosts) => self.first_free(publish, &pairs, hosts, container),
                None => self.any(publish, &pairs, container),
            };
            match one {
                Ok(one) => all.extend(one),
                Err(error) => {
                    self.release(&all);
                    return Err(error);
                }
            }
        }
        Ok(all)
    }

    /// One port of host and container in all families, or in none; with `check` only if no process has it.
    fn at_port(
        &mut self,
        publish: &Publish,
        pairs: &[(IpAddr, IpAddr)],
        [host, container]: [u16; 2],
        check: bool,
    ) -> Result<Vec<Published>, GatewayError> {
        let published = pairs.iter().filter_map(|&(at, to)| {
            Published::new(publish.protocol, SocketAddr::new(at, host), SocketAddr::new(to, container))
        });
        let mut published: Vec<_> = published.collect();
        let mut done = self.hold(&published, true, check);
        if publish.host_ip.is_none() && done.as_ref().is_err_and(GatewayError::lacks_family) {
            // A host without IPv6 has no IPv6 addresses to publish at.
            published.retain(|it| it.at().is_ipv4());
            done = self.hold(&published, true, check);
        }
        match published.is_empty() {
            true => Err(GatewayError::NoWay { publish: publish.clone() }),
            false => done.map(|()| published),
        }
    }

    fn first_free(
        &mut self,
        publish: &Publish,
        pairs: &[(IpAddr, IpAddr)],
        hosts: impl Iterator<Item = u16>,
        container: u16,
    ) -> Result<Vec<Published>, GatewayError> {
        for host in hosts {
            match self.at_port(publish, pairs, [host, container], true) {
                Err(error) if error.is_taken() => {}
                other => return other,
            }
        }
        Err(GatewayError::NoneFree { publish: publish.clone() })
    }

    /// A port that the kernel chooses, from `net.ipv4.ip_local_port_range`.
    fn any(
        &mut self,
        publish: &Publish,
        pairs: &[(IpAddr, IpAddr)],
        container: u16,
    ) -> Result<Vec<Published>, GatewayError> {
        // Without sockets of the protocol, another protocol's tell what is free.
        let ask = |protocol| bind(protocol, SocketAddr::new(pairs[0].0, 0), false, false);
        let free = || match ask(publish.protocol)? {
            Some(socket) => Ok(Some(socket)),
            None => ask(Protocol::Tcp),
        };
        let chosen = std::iter::from_fn(|| {
            let socket: io::Result<Option<Socket>> = free();
            // Closed before it is bound again, to all addresses that it is to have.
            socket.ok().flatten()?.local_addr().ok()?.as_socket().map(|at| at.port())
        });
        self.first_free(publish, pairs, chosen.take(ATTEMPTS), container)
    }

    /// Reserved and published ports.
    pub(super) fn published(&self) -> BTreeMap<HostPort, Published> {
        let held = self.held.iter().filter(|(_, hold)| !hold.reserved);
        held.map(|(&port, hold)| (port, hold.published)).collect()
    }

    /// Releases what was reserved and will not be published.
    pub(super) fn release(&mut self, published: &[Published]) {
        let ports: BTreeSet<_> = published.iter().map(HostPort::of).collect();
        self.retain(|port, hold| !hold.reserved || !ports.contains(port));
    }

    /// Releases all but some. A socket that had the port of a released twin as well is replaced.
    fn retain(&mut self, stays: impl Fn(&HostPort, &Hold) -> bool) {
        let (held, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.held).into_iter().partition(|(port, hold)| stays(port, hold));
        self.held = held;
        let twins: Vec<_> = gone.keys().filter_map(|port| port.twin()).collect();
        drop(gone);
        for twin in twins {
            if let Some(hold) = self.held.get_mut(&twin).filter(|hold| hold.both) {
                (hold.socket, hold.relay, hold.both) = (None, None, false);
            }
        }
        self.hold_again();
    }

    /// Reserves what could not be reserved so far, and relays what needs it.
    pub(super) fn hold_again(&mut self) {
        let covered: BTreeSet<_> =
            self.held.iter().filter(|(_, hold)| hold.both).filter_map(|(port, _)| port.twin()).collect();
        for (port, hold) in &mut self.held {
            let is_held = hold.socket.is_some() || hold.relay.is_some() || covered.contains(port);
            if is_held || !hold.published.held {
                continue;
            }
            // It is published meanwhile, and tried again.
            hold.socket = hold.bind().unwrap_or_default();
            hold.relay_if_published(&mut self.relays);
        }
    }

    /// Reserves what of `wanted` is not yet reserved; returns what failed.
    ///
    /// What is no longer wanted is released first, except pending reservations.
    pub(super) fn keep(&mut self, wanted: &BTreeMap<HostPort, Published>) -> Vec<(Published, GatewayError)> {
        self.retain(|port, hold| hold.reserved || wanted.contains_key(port));
        let mut new = Vec::new();
        for (port, published) in wanted {
            match self.held.get_mut(port) {
                // Its destination may have changed.
                Some(hold) => hold.published = *published,
                None => new.push(*published),
            }
        }
        let mut failed = Vec::new();
        // Twins are next to each other.
        for together in new.chunk_by(|one, other| HostPort::of(one).twin() == Some(HostPort::of(other))) {
            if self.hold(together, false, true).is_err() {
                for one in together {
                    failed.extend(self.hold(&[*one], false, true).err().map(|error| (*one, error)));
                }
            }
        }
        failed
    }

    /// The ports of `wanted` are in use now: no longer reservations, and relayed to the container.
    pub(super) fn commit(&mut self, wanted: &BTreeMap<HostPort, Published>) {
        for port in wanted.keys() {
            let Some(hold) = self.held.get_mut(port) else { continue };
            hold.reserved = false;
            hold.socket.take_if(|_| !hold.published.held);
            hold.relay.take_if(|_| !hold.published.held);
            hold.relay_if_published(&mut self.relays);
        }
    }
}

/// Pairs of host and container address, at most one per family of the host.
///
/// Whether there is a translation between the two is decided by [`Published::new`].
fn pairs(publish: &Publish, addresses: &[IpAddr]) -> Vec<(IpAddr, IpAddr)> {
    let of_host = match publish.host_ip {
        Some(ip) => vec![ip],
        None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
    };
    let to = |at: &IpAddr| {
        let of = |family| addresses.iter().find(|to| Family::of(**to) == family).copied();
        of(Family::of(*at)).or_else(|| of(Family::V4).filter(|_| at.is_ipv6()))
    };
    of_host.into_iter().filter_map(|at| Some((at, to(&at)?))).collect()
}

/// A socket that reserves the port, of `both` families if it is that of IPv6. It hears something only if it is `relayed`. `None`:
/// the kernel lacks the protocol.
fn bind(protocol: Protocol, at: SocketAddr, both: bool, relayed: bool) -> io::Result<Option<Socket>> {
    let (kind, number) = match protocol {
        Protocol::Tcp => (Type::STREAM, socket2::Protocol::TCP),
        Protocol::Udp => (Type::DGRAM, socket2::Protocol::UDP),
        Protocol::Sctp => (Type::STREAM, socket2::Protocol::SCTP),
    };
    let socket = match Socket::new(Domain::for_address(at), kind, Some(number)) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::PROTONOSUPPORT) => return Ok(None),
        other => other?,
    };
    if at.is_ipv6() {
        socket.set_only_v6(!both)?;
    }
    if !relayed {
        // The minimum the kernel allows, socket(7); and a filter that lets nothing pass.
        socket.set_recv_buffer_size(0)?;
        socket.attach_filter(&[SockFilter::new(RETURN_NOTHING, 0, 0, 0)])?;
    }
    if protocol == Protocol::Tcp {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&at.into())?;
    if protocol == Protocol::Tcp {
        socket.listen(BACKLOG)?;
    }
    Ok(Some(socket))
}
