//! Connections that the kernel tracks for who is gone.
//!
//! A translation is chosen once, with the first packet of a connection. What was tracked before a port was published, or led
//! to a container that has ended, goes on as it began for as long as packets come: a sender of datagrams that never pauses is
//! never heard by the new container, and a client of TCP waits for one that is gone. So such entries are deleted: the next
//! packet is translated anew, or answered by a reset.
//!
//! Spoken is ctnetlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c): all entries
//! are listed, and those that are meant are deleted by what they are listed with. Without connection tracking in the kernel
//! there is nothing to delete.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    ops::ControlFlow,
};

use ipnet::IpNet;
use netlink_packet_core::NLM_F_DUMP;
use rustix::net::netlink;
use tracing::debug;
use vswitch_model::publish::{Protocol, Published};

use crate::netlink::{Socket, attribute, attributes, nest};

// include/uapi/linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h.
const CT_NEW: u16 = 1 << 8;
const CT_GET: u16 = 1 << 8 | 1;
const CT_DELETE: u16 = 1 << 8 | 2;
const CT_STATS: u16 = 1 << 8 | 5;
const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tuple {
    from: SocketAddr,
    to: SocketAddr,
}

/// A tracked connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Connection {
    /// Of the transport layer (RFC 5237).
    protocol: u8,
    original: Tuple,
    reply: Tuple,
    /// What the kernel knows it by: its address family, and attributes as they were listed.
    family: u8,
    key: Vec<u8>,
}

/// What has changed, and so which connections are stale.
#[derive(Debug, Default)]
pub(super) struct Stale {
    /// Ports that are published no longer.
    gone: HashMap<(u8, u16), Vec<Published>>,
    /// Ports that are published by now.
    new: HashMap<(u8, u16), Vec<Published>>,
    /// Addresses of endpoints that are gone.
    addresses: HashSet<IpAddr>,
    /// Subnets that are masqueraded by now.
    masqueraded: Vec<IpNet>,
}

impl Stale {
    /// After the published ports have changed.
    pub(super) fn of_ports(
        gone: impl IntoIterator<Item = Published>,
        new: impl IntoIterator<Item = Published>,
    ) -> Self {
        let by_port = |published: &mut dyn Iterator<Item = Published>| {
            let mut by_port: HashMap<_, Vec<_>> = HashMap::new();
            for one in published {
                by_port.entry((number(one.protocol), one.at().port())).or_default().push(one);
            }
            by_port
        };
        // A new connection of TCP begins with a packet that is translated as any first one.
        let new = new.into_iter().filter(|one| one.protocol != Protocol::Tcp);
        Self { gone: by_port(&mut gone.into_iter()), new: by_port(&mut { new }), ..Self::default() }
    }

    /// After a time without our rules.
    pub(super) fn of_gap(
        published: impl IntoIterator<Item = Published>,
        masqueraded: impl IntoIterator<Item = IpNet>,
    ) -> Self {
        Self { masqueraded: masqueraded.into_iter().collect(), ..Self::of_ports([], published) }
    }

    /// After endpoints with `addresses` have gone.
    pub(super) fn of_endpoints(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self { addresses: addresses.into_iter().collect(), ..Self::default() }
    }

    /// Deletes what is stale, in the calling thread's network namespace.
    pub(super) fn delete(&self) {
        let Self { gone, new, addresses, masqueraded } = self;
        if gone.is_empty() && new.is_empty() && addresses.is_empty() && masqueraded.is_empty() {
            return;
        }
        match self.try_delete() {
            Ok(0) => {}
            Ok(count) => debug!(count, "tracked connections of who is gone are deleted"),
            Err(error) => debug!("tracked connections cannot be looked at: {error}"),
        }
    }

    fn try_delete(&self) -> io::Result<usize> {
        let socket = Socket::open(netlink::NETFILTER)?;
        // Measured (2026-11-27, AMD EPYC): listing takes 16 ms with no connection at all, since the kernel walks the table of all
        // network namespaces.
        if count(&socket)? == 0 {
            return Ok(0);
        }
        let mut local = HashMap::new();
        let stale: Vec<_> = list(&socket)?.into_iter().filter(|it| self.has(it, &mut local)).collect();
        for connection in &stale {
            // The error for a connection that has ended meanwhile is not read.
            socket.send(CT_DELETE, 0, head(connection.family), &connection.key)?;
        }
        Ok(stale.len())
    }

    /// Whether a connection is stale; `local` remembers which addresses are this host's.
    fn has(&self, connection: &Connection, local: &mut HashMap<IpAddr, bool>) -> bool {
        let Connection { original, reply, .. } = connection;
        let ends = [original.from, original.to, reply.from];
        if ends.iter().any(|end| self.addresses.contains(&end.ip())) {
            return true;
        }
        let key = (connection.protocol, original.to.port());
        let is_at = |published: &&Published| {
            let at = published.at().ip();
            at == original.to.ip() || at.is_unspecified() && at.is_ipv4() == original.to.is_ipv4()
        };
        let of = |ports: &HashMap<_, Vec<Published>>| {
            ports.get(&key).into_iter().flatten().copied().collect::<Vec<_>>()
        };
        if of(&self.gone).iter().filter(is_at).any(|published| reply.from == published.to()) {
            return true;
        }
        let is_ours = |ip: IpAddr| self.masqueraded.iter().any(|net| net.contains(&ip));
        let is_bare = is_ours(original.from.ip()) && reply.to == original.from && !is_ours(original.to.ip());
        let leads_elsewhere =
            of(&self.new).iter().filter(is_at).any(|published| reply.from != published.to());
        if !is_bare && !leads_elsewhere {
            return false;
        }
        // A connection that this host only routes to such a port of another host does not lead to this port, and one that ends at
        // this host is not masqueraded.
        let is_local = *local.entry(original.to.ip()).or_insert_with_key(|ip| is_local(*ip));
        leads_elsewhere && is_local || is_bare && !is_local
    }
}

/// Whether an address is one of this host's.
fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// The header of a message about connections (nfgenmsg): family, version, resource.
fn head(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

/// Number of connections tracked in this network namespace.
fn count(socket: &Socket) -> io::Result<u32> {
    socket.send(CT_STATS, 0, head(0), &[])?;
    let mut count = None;
    socket.answers(|_, body| {
        let mut told = body.get(4..).into_iter().flat_map(attributes);
        count = told
            .find(|(kind, _)| *kind == CTA_STATS_GLOBAL_ENTRIES)
            .and_then(|(_, value)| value.first_chunk().map(|count| u32::from_be_bytes(*count)));
        ControlFlow::Break(())
    })?;
    count.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// All tracked connections that have ports.
fn list(socket: &Socket) -> io::Result<Vec<Connection>> {
    socket.send(CT_GET, NLM_F_DUMP, head(0), &[])?;
    let mut all = Vec::new();
    socket.answers(|kind, body| {
        all.extend(parse(body).filter(|_| kind == CT_NEW));
        ControlFlow::Continue(())
    })?;
    Ok(all)
}

/// The connection that a message describes; `None`: it has no ports.
fn parse(body: &[u8]) -> Option<Connection> {
    let (family, listed) = (*body.first()?, body.get(4..)?);
    let (mut original, mut reply, mut key) = (None, None, Vec::new());
    for (kind, value) in attributes(listed) {
        match kind {
            CTA_TUPLE_ORIG => {
                original = parse_tuple(value);
                key.extend(nest(kind, value));
            }
            CTA_TUPLE_REPLY => reply = parse_tuple(value),
            CTA_ID | CTA_ZONE => key.extend(attribute(kind, value)),
            _ => {}
        }
    }
    let ((protocol, original), (_, reply)) = (original?, reply?);
    Some(Connection { protocol, original, reply, family, key })
}

fn parse_tuple(tuple: &[u8]) -> Option<(u8, Tuple)> {
    let (mut from, mut to) = (None, None);
    let (mut protocol, mut from_port, mut to_port) = (None, None, None);
    let port = |value: &[u8]| value.first_chunk().map(|port| u16::from_be_bytes(*port));
    for (kind, nested) in attributes(tuple) {
        for (inner, value) in attributes(nested) {
            match (kind, inner) {
                // CTA_IP_V4_SRC and so on.
                (CTA_TUPLE_IP, 1 | 3) => from = address(value),
                (CTA_TUPLE_IP, 2 | 4) => to = address(value),
                (CTA_TUPLE_PROTO, 1) => protocol = value.first().copied(),
                (CTA_TUPLE_PROTO, 2) => from_port = port(value),
                (CTA_TUPLE_PROTO, 3) => to_port = port(value),
                _ => {}
            }
        }
    }
    // ICMP has none.
    let at = |ip: Option<IpAddr>, port: Option<u16>| Some(SocketAddr::new(ip?, port.unwrap_or(0)));
    Some((protocol?, Tuple { from: at(from, from_port)?, to: at(to, to_port)? }))
}

fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(Ipv4Addr::from(*value.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*value.first_chunk::<16>()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn tuple(from: &str, to: &str) -> Tuple {
        Tuple { from: from.parse().unwrap(), to: to.parse().unwrap() }
    }

    fn connection(protocol: u8, original: Tuple, reply: Tuple) -> Connection {
        Connection { protocol, original, reply, family: 2, key: Vec::new() }
    }

    fn published(protocol: Protocol, at: &str, to: &str) -> Published {
        Published::new(protocol, at.parse().unwrap(), to.parse().unwrap()).unwrap()
    }

    fn written(kind: u16, protocol: u8, tuple: Tuple) -> Vec<u8> {
        let octets = |end: SocketAddr| match end.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let first = if tuple.from.is_ipv4() { 1 } else { 3 };
        let ips = [attribute(first, &octets(tuple.from)), attribute(first + 1, &octets(tuple.to))];
        let ports = [
            attribute(1, &[protocol]),
            attribute(2, &tuple.from.port().to_be_bytes()),
            attribute(3, &tuple.to.port().to_be_bytes()),
        ];
        nest(kind, &[nest(CTA_TUPLE_IP, &ips.concat()), nest(CTA_TUPLE_PROTO, &ports.concat())].concat())
    }

    #[test]
    fn a_connection_is_read_and_known_by_what_it_was_listed_with() {
        for (original, reply) in [
            (tuple("192.0.2.2:40001", "192.0.2.1:5514"), tuple("10.66.0.11:514", "192.0.2.2:40001")),
            (
                tuple("[2001:db8::2]:40001", "[2001:db8::1]:5514"),
                tuple("[fd00::2]:514", "[2001:db8::2]:40001"),
            ),
        ] {
            let (one, other) = (written(CTA_TUPLE_ORIG, 17, original), written(CTA_TUPLE_REPLY, 17, reply));
            // CTA_STATUS, of no concern, and the id.
            let (status, id) = (attribute(3, &[0; 4]), attribute(CTA_ID, &[1, 2, 3, 4]));
            let body = [&[10, 0, 0, 0][..], &one, &other, &status, &id].concat();
            let key = [one, id].concat();
            assert_eq!(parse(&body), Some(Connection { protocol: 17, original, reply, family: 10, key }));
        }
    }

    #[test]
    fn only_what_leads_to_who_is_gone_is_stale() {
        let old = published(Protocol::Udp, "0.0.0.0:5514", "10.66.0.11:514");
        let sender = "192.0.2.2:40001";
        let translated = connection(17, tuple(sender, "127.0.0.1:5514"), tuple("10.66.0.11:514", sender));
        let untranslated = connection(17, tuple(sender, "127.0.0.1:5514"), tuple("127.0.0.1:5514", sender));
        let passing = connection(17, tuple(sender, "198.51.100.9:5514"), tuple("198.51.100.9:5514", sender));
        let has = |stale: &Stale, one: &Connection| stale.has(one, &mut HashMap::new());

        let gone = Stale::of_ports([old], []);
        assert!(has(&gone, &translated) && !has(&gone, &untranslated) && !has(&gone, &passing));
        assert!(!has(&gone, &Connection { protocol: 6, ..translated.clone() }), "another protocol");
        let new = Stale::of_ports([], [published(Protocol::Udp, "0.0.0.0:5514", "10.66.0.12:514")]);
        assert!(has(&new, &translated) && has(&new, &untranslated), "they lead elsewhere");
        assert!(!has(&new, &passing), "to another host");
        let same = Stale::of_ports([], [old]);
        assert!(!has(&same, &translated) && has(&same, &untranslated));
        let tcp = Stale::of_ports([], [published(Protocol::Tcp, "0.0.0.0:5514", "10.66.0.12:514")]);
        assert!(!has(&tcp, &Connection { protocol: 6, ..untranslated.clone() }));

        // A time without rules: what left with the container's own address, but not what it has to do with the host or its neighbours.
        let gap = Stale::of_gap([old], ["10.66.0.0/24".parse().unwrap()]);
        let bare = |to: &str| connection(17, tuple("10.66.0.11:9", to), tuple(to, "10.66.0.11:9"));
        assert!(has(&gap, &untranslated) && !has(&gap, &translated));
        assert!(has(&gap, &bare("198.51.100.9:53")));
        assert!(!has(&gap, &bare("127.0.0.1:53")) && !has(&gap, &bare("10.66.0.12:53")));
        let hidden =
            connection(17, tuple("10.66.0.11:9", "198.51.100.9:53"), tuple("198.51.100.9:53", "192.0.2.1:9"));
        assert!(!has(&gap, &hidden));

        let ended = Stale::of_endpoints(["10.66.0.11".parse().unwrap()]);
        assert!(has(&ended, &translated) && !has(&ended, &untranslated));
        let outward = tuple("10.66.0.11:50000", "198.51.100.9:443");
        assert!(has(&ended, &connection(6, outward, tuple("198.51.100.9:443", "192.0.2.1:50000"))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_their_end(bytes in vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
