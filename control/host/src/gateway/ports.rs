//! Published ports of the host, reserved by sockets.
//!
//! Packets to a published port are translated before any socket sees them, so a process that listens there would receive
//! nothing, without an error. A bound socket reserves it: other `bind`s fail, and the kernel does not choose
//! the port for a connection. It does not listen, and it holds next to no datagrams: until the rules are there, TCP is
//! refused and UDP is lost, as if nothing were there. What the kernel does not translate reaches the socket, which then is
//! a [relay](super::relay)'s: it listens from the beginning.
//!
//! `SO_REUSEADDR` stays off for what does not listen. With it, a process that sets it too could bind the same port. The
//! price is that a port counts as in use for a minute after a server there has closed connections (TIME_WAIT).
//!
//! Where a container engine reserves ports itself afterwards, ours are released when they are published
//! ([`Published::held`]): they were free until then, and no two published ports clash. Such ports are not relayed.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::descriptors;
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};
use tracing::warn;
use vswitch_model::{
    Family,
    publish::{Protocol, Publish, Published},
};

use super::{
    GatewayError,
    relay::{Relay, Relays},
};

/// Backlog of connections to a relay.
const BACKLOG: i32 = 128;

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
    /// Bound; `None` if the kernel lacks the protocol, another process holds the port, or the relay has it.
    socket: Option<Socket>,
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
}

impl Hold {
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
    /// Reserves the port of `published`.
    fn hold(&mut self, published: &Published, reserved: bool) -> Result<(), GatewayError> {
        let port = HostPort::of(published);
        if clash(&self.held, port).is_some() {
            return Err(GatewayError::Allocated(published.at()));
        }
        let socket = match published.held || reserved {
            true => descriptors::check_room(1)
                .map_err(|why| GatewayError::Descriptors { published: *published, why })
                .and_then(|()| {
                    bind(published.protocol, published.at(), published.is_relayed())
                        .map_err(|error| GatewayError::bind(*published, error))
                })?,
            false => None,
        };
        self.held.insert(port, Hold { published: *published, socket, relay: None, reserved });
        Ok(())
    }

    /// Chooses and reserves host ports for all of `publish`, or for none.
    pub(super) fn reserve(
        &mut self,
        publish: &[Publish],
        addresses: &[IpAddr],
    ) -> Result<Vec<Published>, GatewayError> {
        let mut all = Vec::new();
        for publish in publish {
            match self.reserve_one(publish, addresses) {
                Ok(published) => all.extend(published),
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
                    hosts.next().map_or(Ok(Vec::new()), |host| self.at_port(publish, &pairs, host, container))
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

    /// One host port in all families, or in none.
    fn at_port(
        &mut self,
        publish: &Publish,
        pairs: &[(IpAddr, IpAddr)],
        host: u16,
        container: u16,
    ) -> Result<Vec<Published>, GatewayError> {
        let mut held = Vec::new();
        for &(at, to) in pairs {
            let (at, to) = (SocketAddr::new(at, host), SocketAddr::new(to, container));
            let Some(published) = Published::new(publish.protocol, at, to) else { continue };
            match self.hold(&published, true) {
                Ok(()) => held.push(published),
                // A host without IPv6 has no IPv6 addresses to publish at.
                Err(error) if publish.host_ip.is_none() && error.lacks_family() => {}
                Err(error) => {
                    self.release(&held);
                    return Err(error);
                }
            }
        }
        match held.is_empty() {
            true => Err(GatewayError::NoWay { publish: publish.clone() }),
            false => Ok(held),
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
            match self.at_port(publish, pairs, host, container) {
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
        let ask = |protocol| bind(protocol, SocketAddr::new(pairs[0].0, 0), false);
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
        for published in published {
            let port = HostPort::of(published);
            if self.held.get(&port).is_some_and(|hold| hold.reserved) {
                self.held.remove(&port);
            }
        }
    }

    /// Reserves what of `wanted` is not yet reserved; returns what failed.
    ///
    /// What is no longer wanted is released first, except pending reservations.
    pub(super) fn keep(&mut self, wanted: &BTreeMap<HostPort, Published>) -> Vec<(Published, GatewayError)> {
        self.held.retain(|port, hold| hold.reserved || wanted.contains_key(port));
        let mut failed = Vec::new();
        for (port, published) in wanted {
            match self.held.get_mut(port) {
                // Its destination may have changed.
                Some(hold) => hold.published = *published,
                None => {
                    if let Err(error) = self.hold(published, false) {
                        failed.push((*published, error));
                    }
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
            if let Err(error) = hold.relay(&mut self.relays) {
                warn!("{} is not relayed: {error}", hold.published);
            }
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

/// A socket that reserves the port, and listens if it is `relayed`. `None`: the kernel lacks the protocol.
fn bind(protocol: Protocol, at: SocketAddr, relayed: bool) -> io::Result<Option<Socket>> {
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
        socket.set_only_v6(true)?;
    }
    let listens = relayed && protocol == Protocol::Tcp;
    if listens {
        // The relay's own closed connections must not block the port; a listening socket does not share it.
        socket.set_reuse_address(true)?;
    }
    if !relayed {
        // The minimum the kernel allows, socket(7).
        socket.set_recv_buffer_size(0)?;
    }
    socket.bind(&at.into())?;
    if listens {
        socket.listen(BACKLOG)?;
    }
    Ok(Some(socket))
}
