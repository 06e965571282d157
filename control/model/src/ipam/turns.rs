//! In which order addresses are given out.
//!
//! The next free address round the subnet, and none that was given back a moment ago: neighbours' caches, connection tracking
//! and clients still mean the endpoint that had it before (Docker's swarm: moby/swarmkit#2324). All this only orders what is free:
//! without it, after a restart, no address is refused or given out twice.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

/// How long an address rests before it is given out again, if others are free.
pub const REST: SignedDuration = SignedDuration::from_secs(60);

/// What was given out last, and what was given back lately. Bounded by the subnets, and by what comes back within [`REST`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    last: BTreeMap<IpNet, IpAddr>,
    back: BTreeMap<IpAddr, Timestamp>,
}

impl Turns {
    /// Notes that `address` of `subnet` was given out.
    pub fn give(&mut self, subnet: IpNet, address: IpAddr) {
        self.last.insert(subnet, address);
        self.back.remove(&address);
    }

    /// Notes that `address` was given back, and forgets what has rested.
    pub fn take_back(&mut self, address: IpAddr, now: Timestamp) {
        self.back.retain(|_, since| is_resting(*since, now));
        self.back.insert(address, now);
    }

    /// Begins `subnet` anew. What was given back still rests.
    pub fn restart(&mut self, subnet: IpNet) {
        self.last.remove(&subnet);
    }

    /// The address of `subnet` that was given out last.
    pub fn last(&self, subnet: IpNet) -> Option<IpAddr> {
        self.last.get(&subnet).copied()
    }

    /// Whether an address rests at `now`.
    pub fn rests(&self, address: IpAddr, now: Timestamp) -> bool {
        self.back.get(&address).is_some_and(|since| is_resting(*since, now))
    }

    /// The addresses of `subnet` that rest at `now`, and since when.
    pub(super) fn resting(&self, subnet: IpNet, now: Timestamp) -> impl Iterator<Item = (IpAddr, Timestamp)> {
        let back = self.back.range(subnet.network()..=subnet.broadcast());
        back.filter(move |(_, since)| is_resting(**since, now)).map(|(address, since)| (*address, *since))
    }
}

/// A clock that was set back makes no address rest longer.
fn is_resting(since: Timestamp, now: Timestamp) -> bool {
    let rested = now.duration_since(since);
    !rested.is_negative() && rested < REST
}
