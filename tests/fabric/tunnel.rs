//! A tunnel endpoint whose sockets are in memory: real datagrams, a cable for each pair of peers.
//!
//! What the kernel would do between cable and endpoint is done here: datagrams of one peer that have come in are received as
//! one message while their lengths allow (UDP_GRO), and a train is sent one by one.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use vswitch::{
    addr::PortId,
    batch::Batch,
    device::{Device, Refuse},
    transmit::{Scratch, Transmit},
};
use vswitch_vxlan::{
    decap::{self, MESSAGE, Message},
    ecn::Ecn,
    encap::{self, Class, Dscp, MAX_DATAGRAMS},
    tables::Tables,
};

/// Octets of the longest inner packet: an underlay of 1500 octets under IPv4.
const OVERLAY_MTU: u16 = 1450;

/// What the endpoint's socket holds.
#[derive(Debug, Default)]
pub(crate) struct Socket(Mutex<Queues>);

#[derive(Debug, Default)]
struct Queues {
    /// The peer's port, and its datagram.
    received: VecDeque<(PortId, Vec<u8>)>,
    sent: Vec<(PortId, Vec<u8>)>,
}

impl Socket {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.0.lock().expect("no panic while it is held")
    }

    /// Lets a datagram of `peer` wait to be received.
    pub(crate) fn put(&self, peer: PortId, datagram: Vec<u8>) {
        self.queues().received.push_back((peer, datagram));
    }

    /// What was sent since the last call, each with the port of the peer it is for.
    pub(crate) fn take(&self) -> Vec<(PortId, Vec<u8>)> {
        std::mem::take(&mut self.queues().sent)
    }

    /// The next message: datagrams of one peer and one length, but for the last, which may be shorter.
    fn recv(&self) -> Option<(PortId, Vec<Vec<u8>>)> {
        let received = &mut self.queues().received;
        let (peer, first) = received.pop_front()?;
        let size = first.len();
        let mut datagrams = vec![first];
        while datagrams.len() < MAX_DATAGRAMS && datagrams.last().is_some_and(|last| last.len() == size) {
            let follows = received.front().is_some_and(|(from, next)| *from == peer && next.len() <= size);
            let Some((_, next)) = received.pop_front_if(|_| follows) else { break };
            datagrams.push(next);
        }
        Some((peer, datagrams))
    }
}

/// Where the endpoint receives.
#[derive(Debug)]
pub(crate) struct Inlet {
    pub(crate) socket: Arc<Socket>,
    pub(crate) tables: Arc<Tables>,
}

impl Device for Inlet {
    fn recv(&self, _: PortId, batch: &mut Batch, max: usize, refuse: &mut Refuse<'_>) -> io::Result<bool> {
        let settings = decap::Settings { strict: true, overlay_mtu: OVERLAY_MTU, clamp: true };
        while batch.len() < max {
            let Some((peer, datagrams)) = self.socket.recv() else { return Ok(false) };
            let (stride, octets) = (datagrams[0].len(), datagrams.concat());
            let buffer = batch.spare().next().expect("there is room for a train");
            buffer[MESSAGE..MESSAGE + octets.len()].copy_from_slice(&octets);
            let message = Message { peer, ecn: Ecn::NotEct, len: octets.len(), stride };
            decap::decapsulate(&self.tables, &settings, &message, batch, refuse);
        }
        Ok(true)
    }

    fn send(&self, frames: &Transmit<'_>, _: &mut Scratch) {
        panic!("no network leaves by the endpoint's own port: {frames:?}");
    }
}

/// Where datagrams go out to one peer.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(crate) socket: Arc<Socket>,
    pub(crate) tables: Arc<Tables>,
}

impl Device for Remote {
    fn recv(&self, _: PortId, _: &mut Batch, _: usize, _: &mut Refuse<'_>) -> io::Result<bool> {
        Ok(false)
    }

    fn send(&self, frames: &Transmit<'_>, scratch: &mut Scratch) {
        let settings = encap::Settings {
            overlay_mtu: OVERLAY_MTU,
            clamp: true,
            class: Class::marked(Dscp::Fixed(0)),
            datagrams: MAX_DATAGRAMS,
            sources: 16,
        };
        encap::encapsulate(|network| self.tables.header(network), &settings, frames, scratch, &mut |train| {
            train.each(|parts| {
                let datagram = parts.iter().flat_map(|part| part.iter().copied()).collect();
                self.socket.queues().sent.push((frames.port, datagram));
                Ok(())
            })
        });
    }
}
