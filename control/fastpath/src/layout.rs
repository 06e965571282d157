//! The tables of `bpf/forward.bpf.c`, byte by byte. A change here or there is a new [`LAYOUT`].

#![expect(unsafe_code, reason = "only plain old data may be a key or a value")]

use std::sync::atomic::{AtomicU32, AtomicU64};

use aya::Pod;
use vswitch::addr::{MacAddr, NetworkId};

/// Version of everything that is pinned: a daemon adopts the tables of its own version only.
pub(crate) const LAYOUT: u32 = 2;

/// Number of lanes, of which the first is not used.
pub(crate) const LANES: u32 = 4096;

/// `struct key`: a station in vswitchd's table.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    network: u16,
    mac: [u8; 6],
}

impl Key {
    pub(crate) fn new(network: NetworkId, mac: MacAddr) -> Self {
        Self { network: network.0, mac: mac.0 }
    }

    pub(crate) fn parts(self) -> (NetworkId, MacAddr) {
        (NetworkId(self.network), MacAddr(self.mac))
    }
}

/// `struct station`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Station {
    pub(crate) lane: u32,
    pub(crate) epoch: u32,
    pub(crate) seen: u32,
    pub(crate) flags: u32,
}

/// [`Station::flags`]: it is the interface itself, not something behind it.
pub(crate) const OWN: u32 = 1;
/// [`Station::flags`]: it expires.
pub(crate) const AGES: u32 = 2;

/// `struct lane`, shared with the programs.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct LaneMemory {
    pub(crate) ifindex: AtomicU32,
    pub(crate) flags: AtomicU32,
    pub(crate) mtu: AtomicU32,
    pub(crate) epoch: AtomicU32,
    pub(crate) ageing: AtomicU32,
    pub(crate) horizon: AtomicU32,
    pub(crate) network: AtomicU32,
    pad: [AtomicU32; 9],
    pub(crate) up: AtomicU32,
    pub(crate) queued: AtomicU32,
    pub(crate) done: AtomicU32,
    pub(crate) waiting: AtomicU32,
    pub(crate) stuck: AtomicU32,
    pad2: [AtomicU32; 11],
}

/// [`LaneMemory::flags`]: the programs may forward from it and to it.
pub(crate) const READY: u32 = 1;
/// [`LaneMemory::flags`].
pub(crate) const ISOLATED: u32 = 2;

/// `struct tally`: what the programs have forwarded on one CPU.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct TallyMemory {
    pub(crate) rx_frames: AtomicU64,
    pub(crate) rx_bytes: AtomicU64,
    pub(crate) rx_super: AtomicU64,
    pub(crate) tx_frames: AtomicU64,
    pub(crate) tx_bytes: AtomicU64,
    pub(crate) tx_super: AtomicU64,
    pad: [AtomicU64; 2],
}

/// Number of MAC addresses that a guard in the kernel can have.
pub(crate) const MACS: usize = 4;
/// Number of its ranges of IP addresses, for each family.
pub(crate) const RANGES: usize = 4;

/// `struct guard`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GuardRecord {
    pub(crate) judges: u32,
    pub(crate) judges_ip: u32,
    pub(crate) macs: u32,
    pub(crate) v4: u32,
    pub(crate) v6: u32,
    pub(crate) pad: u32,
    pub(crate) mac: [Key; MACS],
    /// First and last.
    pub(crate) range4: [[u32; 2]; RANGES],
    /// First and last, upper and lower half.
    pub(crate) range6: [[u64; 4]; RANGES],
}

/// `struct port`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PortRecord {
    pub(crate) lane: u32,
    pub(crate) network: u32,
    pub(crate) guard: GuardRecord,
}

// SAFETY: all bytes of these types are numbers, without padding (see the tests).
unsafe impl Pod for Key {}
// SAFETY: as above.
unsafe impl Pod for Station {}
// SAFETY: as above.
unsafe impl Pod for PortRecord {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_programs() {
        assert_eq!((size_of::<Key>(), size_of::<Station>()), (8, 16));
        assert_eq!((size_of::<LaneMemory>(), size_of::<TallyMemory>()), (128, 64));
        assert_eq!(size_of::<GuardRecord>(), 6 * 4 + MACS * 8 + RANGES * (8 + 32));
        assert_eq!(size_of::<PortRecord>(), 8 + size_of::<GuardRecord>());
    }
}
