//! Any sequence of operations on a switch: the invariants hold after each.

use arbitrary::Arbitrary;
use vswitch::{
    addr::{MacAddr, NetworkId, PortId, Timestamp},
    device::mem::OwnedFrame,
    fdb::Origin,
    storm::FloodLimits,
};

use super::{
    ports::{PORTS, Ports},
    structured,
};

#[derive(Arbitrary, Debug)]
enum Op {
    /// A frame with `len` bytes of payload between two of 32 stations and groups, with at most one tag.
    Frame {
        port: u8,
        dst: u8,
        src: u8,
        tag: Option<u16>,
        len: u8,
    },
    /// Advances the clock by milliseconds.
    Advance(u32),
    /// Removes the port, or adds it with other limits.
    Retopology {
        port: u8,
        present: bool,
        limit: Option<u8>,
    },
    FlushPort(u8),
    FlushNetwork(bool),
    Pin {
        network: bool,
        station: u8,
        port: u8,
        by_operator: bool,
    },
    Forget {
        network: bool,
        station: u8,
    },
    Sweep(u8),
}

/// Runs the operations decoded from `data`.
pub fn operations(data: &[u8]) {
    let Some(ops) = structured::<Vec<Op>>(data) else { return };
    let mut ports = Ports::new();
    let mut now = 0_u64;
    for op in ops.iter().take(256) {
        let at = Timestamp::from_millis(now);
        let fdb = &ports.lab.fdb;
        let network = |red: bool| NetworkId(u16::from(red));
        let known = |port: u8| PortId(u16::from(port) % PORTS);
        match *op {
            Op::Frame { port, dst, src, tag, len } => {
                let port = known(port).0;
                let mut bytes = [mac(dst).0, mac(src).0].concat();
                bytes.extend(tag.map(|tag| [[0x81, 0], tag.to_be_bytes()].concat()).unwrap_or_default());
                bytes.resize(bytes.len() + usize::from(len), 8);
                let sent = ports.switch(port, OwnedFrame::plain(bytes), at);
                assert!(sent.iter().all(|(to, _)| *to != port), "never out of the ingress");
            }
            Op::Advance(millis) => now += u64::from(millis),
            Op::Retopology { port, present, limit } => {
                let limit = limit.map(u32::from);
                let storm = FloodLimits { broadcast: limit, multicast: limit, unknown: limit };
                ports.change(known(port).0, present, limit, storm);
            }
            Op::FlushPort(port) => fdb.flush_port(known(port)),
            Op::FlushNetwork(red) => fdb.flush_network(network(red)),
            Op::Pin { network: red, station, port, by_operator } => {
                let origin = if by_operator { Origin::Static } else { Origin::Control };
                if fdb.pin(network(red), mac(station), known(port), origin, at) {
                    assert_eq!(fdb.lookup(fdb.station(network(red), mac(station)), at), Some(known(port)));
                }
            }
            Op::Forget { network: red, station } => {
                fdb.forget(network(red), mac(station));
                assert_eq!(fdb.lookup(fdb.station(network(red), mac(station)), at), None);
            }
            Op::Sweep(part) => fdb.sweep(usize::from(part) % 4, 4, at),
        }
        ports.check_books();
    }
    let at = Timestamp::from_millis(now);
    let fdb = &ports.lab.fdb;
    fdb.purge(|_, _| true);
    assert!(fdb.is_empty() && fdb.entries(at).next().is_none());
    assert!((0..PORTS).all(|port| fdb.learned_on(PortId(port)) == 0));
}

/// One of 32 addresses, most of them unicast.
fn mac(id: u8) -> MacAddr {
    match id % 32 {
        0 => MacAddr::BROADCAST,
        1 => MacAddr([0x01, 0x80, 0xc2, 0, 0, 0]),
        2 => MacAddr([0x33, 0x33, 0, 0, 0, 1]),
        id => MacAddr([2, 0, 0, 0, 0, id]),
    }
}
