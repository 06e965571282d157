//! Which addresses are free: subnets out of pools, addresses out of subnets. Pure.
//!
//! Nothing here is a record of its own: a [`Subnet`] is built from what the networks, ports and endpoints of a state have,
//! so an address that is not in use is free, and none can leak. [`Turns`] only says which free one is next. Taken addresses are kept as ranges that touch each other
//! nowhere (`ranges`), so the lowest free one is found in O(log n), in a /30 as in a /8 or an IPv6 /64.
//!
//! The sentences are Docker's, where it has one.

mod lent;
mod ranges;
mod turns;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv6Net};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use self::ranges::Ranges;
pub use self::{
    lent::Lent,
    turns::{REST, Turns},
};
use crate::{Family, Name, PoolSpec, SubnetSpec};

/// Why an address or a subnet is not available.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// Every pool is used up.
    #[error("all predefined address pools have been fully subnetted")]
    NoPool,
    /// Every address is taken.
    #[error("no available addresses on this pool")]
    NoAddress,
    /// It is in use, by the subnet itself or by another.
    #[error("Address already in use")]
    Taken(IpAddr),
    /// It is in use: by whom.
    #[error("Address already in use: {0} is held by {1}")]
    Held(IpAddr, Holder),
    /// It is not a host address of the subnet.
    #[error("requested address is out of range")]
    OutOfRange(IpAddr),
    /// Another network, or the host, has a part of it.
    #[error("Pool overlaps with other one on this address space: {0} overlaps {1}")]
    Overlap(IpNet, Holder),
    /// It has host bits.
    #[error("invalid subnet {0}: it should be {should}", should = .0.trunc())]
    HostBits(IpNet),
    /// It is the whole address space, or a single address: (the subnet).
    #[error("invalid subnet {0}: use a prefix length of 1 to {most}", most = .0.max_prefix_len() - 1)]
    Size(IpNet),
    /// (ip-range, subnet)
    #[error("invalid ip-range {0}: parent subnet {1} doesn't contain ip-range")]
    Range(IpNet, IpNet),
    /// (gateway, subnet)
    #[error("invalid gateway {0}: parent subnet {1} doesn't contain this address")]
    Gateway(IpAddr, IpNet),
    /// (auxiliary address, subnet)
    #[error("invalid auxiliary address {0}: parent subnet {1} doesn't contain this address")]
    Aux(IpAddr, IpNet),
}

/// Whose a subnet or an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A network, with the subnet.
    Network(Name, IpNet),
    /// The host: (destinations of a route, its interface).
    Route(IpNet, String),
    /// The network's gateway.
    Gateway(Name),
    /// An auxiliary address: (network, key).
    Aux(Name, String),
    /// An endpoint.
    Endpoint(Name),
    /// A port.
    Port(Name),
    /// A service.
    Service(Name),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(name, subnet) => write!(f, "network {name} ({subnet})"),
            Self::Route(to, ifname) => write!(f, "the host's route to {to} by {ifname}"),
            Self::Gateway(network) => write!(f, "the gateway of network {network}"),
            Self::Aux(network, key) => write!(f, "the auxiliary address {key} of network {network}"),
            Self::Endpoint(name) => write!(f, "endpoint {name}"),
            Self::Port(name) => write!(f, "port {name}"),
            Self::Service(name) => write!(f, "service {name}"),
        }
    }
}

/// A subnet, and which of its addresses are in use.
#[derive(Clone, Debug)]
pub struct Subnet {
    net: IpNet,
    /// The range to allocate from: first and last.
    range: (u128, u128),
    taken: Ranges,
}

impl Subnet {
    /// A subnet in which the reserved, gateway and auxiliary addresses are taken.
    ///
    /// # Errors
    /// The specification contradicts itself.
    pub fn new(spec: &SubnetSpec) -> Result<Self, IpamError> {
        let net = spec.subnet;
        if net.trunc() != net {
            return Err(IpamError::HostBits(net));
        }
        if net.prefix_len() == 0 || net.prefix_len() == net.max_prefix_len() {
            return Err(IpamError::Size(net));
        }
        let range = match spec.ip_range {
            Some(range) if !net.contains(&range) => return Err(IpamError::Range(range, net)),
            range => bounds(range.unwrap_or(net)),
        };
        let mut subnet = Self { net, range, taken: Ranges::default() };
        // In a /31 (RFC 3021) or /127 (RFC 6164) all addresses are host addresses.
        if net.max_prefix_len() - net.prefix_len() > 1 {
            let (first, last) = bounds(net);
            subnet.taken.insert(first);
            if net.addr().is_ipv4() {
                subnet.taken.insert(last);
            }
        }
        if let Some(gateway) = spec.gateway {
            subnet.claim(gateway).map_err(|error| match error {
                IpamError::OutOfRange(_) => IpamError::Gateway(gateway, net),
                other => other,
            })?;
        }
        for address in spec.aux.values() {
            subnet.claim(*address).map_err(|error| match error {
                IpamError::OutOfRange(_) => IpamError::Aux(*address, net),
                other => other,
            })?;
        }
        Ok(subnet)
    }

    /// The same, to allocate from a part of it only.
    #[must_use]
    pub fn within(self, part: IpNet) -> Self {
        let (first, last) = bounds(part);
        Self { range: (self.range.0.max(first), self.range.1.min(last)), ..self }
    }

    /// The subnet.
    pub fn net(&self) -> IpNet {
        self.net
    }

    /// Takes a given address of the subnet.
    ///
    /// # Errors
    /// It is not in the subnet, or taken.
    pub fn claim(&mut self, address: IpAddr) -> Result<(), IpamError> {
        if !self.net.contains(&address) {
            return Err(IpamError::OutOfRange(address));
        }
        if self.taken.insert(number(address)) { Ok(()) } else { Err(IpamError::Taken(address)) }
    }

    /// Takes the lowest free address of the range. O(log n) of the addresses taken.
    ///
    /// # Errors
    /// There is none.
    pub fn allocate(&mut self) -> Result<IpAddr, IpamError> {
        let (first, last) = self.range;
        let free = self.taken.first_free(first).filter(|free| *free <= last).ok_or(IpamError::NoAddress)?;
        self.taken.insert(free);
        Ok(address(free, self.net))
    }

    /// Takes the address whose turn it is at `now`: the next free one after the `last`, round the range. One that was given
    /// back lately rests; if all do, the one that has rested longest is taken. `now` comes from the caller.
    ///
    /// # Errors
    /// There is none.
    pub fn allocate_next(
        &mut self,
        turns: &Turns,
        last: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<IpAddr, IpamError> {
        let (first, end) = self.range;
        let mut busy = self.taken.clone();
        let resting: Vec<_> = turns.resting(self.net, now).collect();
        for (address, _) in &resting {
            busy.insert(number(*address));
        }
        let after =
            last.map(number).filter(|last| (first..end).contains(last)).map_or(first, |last| last + 1);
        let free = |from, to| busy.first_free(from).filter(|free| *free <= to);
        let next = free(after, end).or_else(|| free(first, end));
        let longest = || {
            let is_free = |address: u128| (first..=end).contains(&address) && !self.taken.holds(address);
            let free = resting.iter().map(|(address, since)| (*since, number(*address)));
            free.filter(|(_, address)| is_free(*address)).min().map(|(_, address)| address)
        };
        let taken = next.or_else(longest).ok_or(IpamError::NoAddress)?;
        self.taken.insert(taken);
        Ok(address(taken, self.net))
    }

    /// How many addresses are taken, and how many of the range are free; at most what 64 bits hold.
    pub fn usage(&self) -> (u64, u64) {
        let (first, last) = self.range;
        let size = (last - first).saturating_add(1);
        let free = size - self.taken.within(first, last);
        let (low, high) = bounds(self.net);
        let clamp = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        (clamp(self.taken.within(low, high)), clamp(free))
    }
}

/// The first subnet of the pools that overlaps nothing that is `used`.
///
/// # Errors
/// There is none.
pub fn free_subnet(pools: &[PoolSpec], used: impl IntoIterator<Item = IpNet>) -> Result<IpNet, IpamError> {
    let used: Vec<IpNet> = used.into_iter().collect();
    let ranges = |family| {
        let mut ranges = Ranges::default();
        for net in used.iter().filter(|net| Family::of(**net) == family) {
            let (first, last) = bounds(*net);
            ranges.insert_range(first, last);
        }
        ranges
    };
    let [v4, v6] = Family::ALL.map(ranges);
    for pool in pools {
        let taken = match Family::of(pool.base) {
            Family::V4 => &v4,
            Family::V6 => &v6,
        };
        let (first, last) = bounds(pool.base);
        let block = 1_u128 << (pool.base.max_prefix_len() - pool.size);
        let mut candidate = first;
        while candidate <= last && last - candidate >= block - 1 {
            let Some(end) = taken.last_overlap(candidate, candidate + (block - 1)) else {
                let net = IpNet::new(address(candidate, pool.base), pool.size);
                return net.map_err(|_| IpamError::NoPool);
            };
            // The first block that begins behind what is taken.
            let Some(next) = (end - first).checked_div(block).and_then(|index| index.checked_add(1)) else {
                break;
            };
            match next.checked_mul(block).and_then(|offset| first.checked_add(offset)) {
                Some(next) => candidate = next,
                None => break,
            }
        }
    }
    Err(IpamError::NoPool)
}

/// Whether two subnets have an address in common.
pub fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// This host's unique local IPv6 prefix (RFC 4193 section 3.2), derived from something unique to it, such as /etc/machine-id.
pub fn unique_local(host: &str) -> Ipv6Net {
    let digest = Sha256::digest(format!("vswitch {host}"));
    let bytes = [0xfd, digest[0], digest[1], digest[2], digest[3], digest[4], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    Ipv6Net::new_assert(bytes.into(), 48)
}

/// The first and the last address.
fn bounds(net: IpNet) -> (u128, u128) {
    (number(net.network()), number(net.broadcast()))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The inverse of [`number`], in the family of `like`.
fn address(number: u128, like: IpNet) -> IpAddr {
    match like {
        IpNet::V4(_) => Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpNet::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

#[cfg(test)]
mod tests;
