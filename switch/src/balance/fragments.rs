//! Fragments: which way the rest of a packet takes, whose first fragment had the ports.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use super::flows::Mark;
use crate::addr::Timestamp;

/// Packets under way at a client's port, at most; a further one takes the place of the oldest.
const PACKETS: usize = 64;

/// Milliseconds for which a receiver waits for the rest of a packet (`IP_FRAG_TIME`, include/net/ip.h).
const PATIENCE: u64 = 30_000;

/// What fragments of one packet have in common (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PacketId {
    pub(super) network: Mark,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) identification: u32,
}

/// Packets whose first fragment has passed.
#[derive(Debug, Default)]
pub(super) struct Fragments(Mutex<Ring>);

#[derive(Debug)]
struct Ring {
    packets: [Option<(PacketId, IpAddr, Timestamp)>; PACKETS],
    next: usize,
}

impl Default for Ring {
    fn default() -> Self {
        Self { packets: [None; PACKETS], next: 0 }
    }
}

impl Fragments {
    /// Notes the address that stands in for one of the packet's.
    pub(super) fn note(&self, id: PacketId, other: IpAddr, now: Timestamp) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = ring.next;
        ring.packets[next] = Some((id, other, now));
        ring.next = (next + 1) % PACKETS;
    }

    /// The address that was noted last for the packet.
    pub(super) fn find(&self, id: &PacketId, now: Timestamp) -> Option<IpAddr> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newest_first = (1..=PACKETS).map(|back| &ring.packets[(ring.next + PACKETS - back) % PACKETS]);
        let mut fresh =
            newest_first.flatten().filter(|(_, _, noted)| now.since(*noted).as_millis() < PATIENCE.into());
        fresh.find(|(noted, _, _)| noted == id).map(|(_, other, _)| *other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_known_for_a_while() {
        let fragments = Fragments::default();
        let id = |identification| PacketId {
            network: Mark(0),
            source: IpAddr::from([10, 9, 0, 2]),
            destination: IpAddr::from([10, 9, 0, 100]),
            protocol: 17,
            identification,
        };
        let backend = IpAddr::from([10, 9, 0, 3]);
        let at = Timestamp::from_millis;
        fragments.note(id(1), backend, at(0));
        assert_eq!(fragments.find(&id(1), at(29_999)), Some(backend));
        assert_eq!(fragments.find(&id(1), at(30_000)), None);
        assert_eq!(fragments.find(&id(2), at(0)), None);
        fragments.note(id(1), IpAddr::from([10, 9, 0, 4]), at(1));
        assert_eq!(fragments.find(&id(1), at(1)), Some(IpAddr::from([10, 9, 0, 4])), "the newest");
        (10..10 + 64).for_each(|packet| fragments.note(id(packet), backend, at(2)));
        assert_eq!(fragments.find(&id(1), at(2)), None, "it made room");
    }
}
