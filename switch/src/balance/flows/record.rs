//! A flow: its ends, how far it is, and when it may be forgotten.

use std::net::{IpAddr, Ipv6Addr};

use crate::{addr::Timestamp, wire::headers::Transport};

/// A network, by a number that is the same after a restart: flows outlive the numbers of networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mark(pub u16);

/// The two ends of a flow as its client sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The network: the client's port may carry several, and two may have the same addresses.
    pub network: Mark,
    /// The client's address.
    pub client: IpAddr,
    /// The client's port.
    pub client_port: u16,
    /// The service's address.
    pub service: IpAddr,
    /// The service's port, which is the backend's as well.
    pub port: u16,
    /// Protocol number; 0: no flow, but the client as a whole, which prefers a backend.
    pub protocol: u8,
}

impl Key {
    /// The record that keeps a client with its backend.
    pub(in crate::balance) fn of_client(network: Mark, client: IpAddr, service: IpAddr) -> Self {
        Self { network, client, client_port: 0, service, port: 0, protocol: 0 }
    }
}

/// How far a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Progress(pub(super) u8);

impl Progress {
    /// Only the client has been heard.
    pub const BEGUN: Self = Self(0);
    /// The backend has answered.
    pub const ANSWERED: Self = Self(1);
    /// The client has sent its last data (FIN).
    pub const CLIENT_DONE: Self = Self(2);
    /// The backend has.
    pub const BACKEND_DONE: Self = Self(4);
    /// The connection was reset.
    pub const RESET: Self = Self(8);

    /// Both.
    #[must_use]
    pub(in crate::balance) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the connection has ended.
    pub(in crate::balance) fn is_over(self) -> bool {
        self.has(Self::RESET) || self.has(Self::CLIENT_DONE.and(Self::BACKEND_DONE))
    }
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its ends.
    pub key: Key,
    /// The address of its backend.
    pub backend: IpAddr,
    /// How far it is.
    pub progress: Progress,
    /// When its last frame passed, in seconds.
    pub(super) seen: u32,
}

/// Seconds after which a flow that is over is forgotten.
const OVER: u32 = 10;
/// The same for what was never answered.
const BEGUN: u32 = 60;
/// The same for datagrams.
const DATAGRAMS: u32 = 60;
/// The same for a connection in which one side has said its last.
const HALF_DONE: u32 = 3_600;
/// The longest that a client is kept with its backend.
pub const LONGEST_AFFINITY: u32 = 86_400;

impl Flow {
    fn idle(&self, now: u32) -> u32 {
        now.saturating_sub(self.seen)
    }

    /// How long it may be idle, in seconds; `None`: for ever.
    fn patience(&self) -> Option<u32> {
        let is_half_done =
            self.progress.has(Progress::CLIENT_DONE) || self.progress.has(Progress::BACKEND_DONE);
        if self.progress.is_over() {
            Some(OVER)
        } else if self.key.protocol == 0 {
            Some(LONGEST_AFFINITY)
        } else if self.key.protocol != Transport::Tcp.protocol() {
            Some(DATAGRAMS)
        } else if !self.progress.has(Progress::ANSWERED) {
            Some(BEGUN)
        } else {
            is_half_done.then_some(HALF_DONE)
        }
    }

    pub(super) fn is_expired(&self, now: u32) -> bool {
        self.patience().is_some_and(|patience| self.idle(now) > patience)
    }

    /// Seconds for which it has been idle.
    pub(in crate::balance) fn idle_at(&self, now: Timestamp) -> u32 {
        self.idle(seconds(now))
    }

    /// Whether it has been idle for longer than its kind allows.
    pub(in crate::balance) fn has_ended(&self, now: Timestamp) -> bool {
        self.is_expired(seconds(now))
    }

    /// The greater, the less it is missed.
    pub(super) fn dispensable(&self, now: u32) -> (u8, u32) {
        let rank = match self.patience() {
            Some(OVER) => 4,
            _ if self.is_expired(now) => 4,
            Some(_) if !self.progress.has(Progress::ANSWERED) && self.key.protocol != 0 => 3,
            Some(LONGEST_AFFINITY) => 2,
            Some(DATAGRAMS) => 1,
            Some(_) | None => 0,
        };
        (rank, self.idle(now))
    }
}

/// Bit of the kind: the slot is taken.
pub(super) const TAKEN: u64 = 1;

/// A record's kind: its ports, protocol and progress; its network is where these leave room.
pub(super) fn kind(key: &Key, progress: Progress) -> u64 {
    let ([p0, p1], [c0, c1]) = (key.port.to_le_bytes(), key.client_port.to_le_bytes());
    let [lower, upper] = key.network.0.to_le_bytes();
    let (first, second) = (1 | upper & 0xf0, progress.0 & 0x0f | upper << 4);
    u64::from_le_bytes([first, second, key.protocol, lower, p0, p1, c0, c1])
}

/// What a [`kind`] says of a key, and how far its flow is. The addresses are elsewhere.
pub(super) fn read_kind(kind: u64, [client, service]: [IpAddr; 2]) -> (Key, Progress) {
    let [first, second, protocol, lower, p0, p1, c0, c1] = kind.to_le_bytes();
    let network = Mark(u16::from_le_bytes([lower, first & 0xf0 | second >> 4]));
    let [port, client_port] = [[p0, p1], [c0, c1]].map(u16::from_le_bytes);
    (Key { network, client, client_port, service, port, protocol }, Progress(second & 0x0f))
}

pub(super) fn address(upper: u64, lower: u64) -> IpAddr {
    let address = Ipv6Addr::from_bits(u128::from(upper) << 64 | u128::from(lower));
    address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
}

pub(super) fn seconds(now: Timestamp) -> u32 {
    u32::try_from(now.as_millis() / 1_000).unwrap_or(u32::MAX)
}
