//! A tunnel endpoint whose sockets are in memory: real datagrams, and a cable for each pair of peers.
//!
//! Stands in for the kernel between cable and endpoint: datagrams received from one peer are merged into one message while
//! their lengths allow (UDP_GRO), and a train is sent datagram by datagram.

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

/// Longest inner packet in bytes: an underlay MTU of 1500 over IPv4.
const OVERLAY_MTU: u16 = 1450;

/// The endpoint's socket.
#[derive(Debug, Default)]
pub(crate) struct Socket(Mutex<Queues>);

#[derive(Debug, Default)]
struct Queues {
    /// Each datagram with the sender's port.
    received: VecDeque<(PortId, Vec<u8>)>,
    sent: Vec<(PortId, Vec<u8>)>,
}

impl Socket {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.0.lock().expect("no panic while it is held")
    }

    /// Enqueues a datagram from `peer`.
    pub(crate) fn put(&self, peer: PortId, datagram: Vec<u8>) {
        self.queues().received.push_back((peer, datagram));
    }

    /// Datagrams sent since the last call, each with the port of its destination.
    pub(crate) fn take(&self) -> Vec<(PortId, Vec<u8>)> {
        std::mem::take(&mut self.queues().sent)
    }

    /// The next message: datagrams of one peer and one length, except for the last, which may be shorter.
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

/// The receiving side of the endpoint.
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
            let (stride, bytes) = (datagrams[0].len(), datagrams.concat());
            let buffer = batch.spare().next().expect("there is room for a train");
            buffer[MESSAGE..MESSAGE + bytes.len()].copy_from_slice(&bytes);
            let message = Message { peer, ecn: Ecn::NotEct, len: bytes.len(), stride };
            decap::decapsulate(&self.tables, &settings, &message, batch, refuse);
        }
        Ok(true)
    }

    fn send(&self, frames: &Transmit<'_>, _: &mut Scratch) {
        panic!("no network leaves by the endpoint's own port: {frames:?}");
    }
}

/// The sending side towards one peer.
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
            inherit_ttl: false,
            whole_headers: true,
        };
        encap::encapsulate(
            |network, from| self.tables.carriage(network, from),
            &settings,
            frames,
            scratch,
            &mut |train| {
                train.each(|parts| {
                    let datagram = parts.iter().flat_map(|part| part.iter().copied()).collect();
                    self.socket.queues().sent.push((frames.port, datagram));
                    Ok(())
                })
            },
        );
    }
}
