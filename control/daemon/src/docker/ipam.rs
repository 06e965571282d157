//! The IPAM driver: maps Docker's pools to our networks' subnets.
//!
//! A pool's id is its subnet; in the space of all hosts, which a swarm's manager asks in, with that before it. There the manager assigns
//! each address, and every host asks in its own space for what it was assigned: on the manager's host that is a repetition.
//!
//! What Docker has requested and not used yet is reserved for a moment: a subnet until its network is
//! created, an address until its endpoint is. Then the network model has it.
//!
//! Addresses of a subnet that no network of ours has are for another driver's (`-d bridge --ipam-driver vswitch`), which the
//! model will never have: they are *lent*, and stored, until they are given back. A driver that requests its subnet again has
//! begun anew, and requests the addresses it still has; what it does not is as good as given back.
//!
//! Docker keeps requesting other subnets, without end, as long as it is offered one that the host has a route to. So an offered
//! subnet is reserved and not offered twice, and the subnet of an existing network must be requested explicitly.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    net::IpAddr,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    driver::DRIVER,
    server::Plugin,
    wire::{GATEWAY, OfPool, REQUEST_TYPE, RequestPool, text},
};
use vswitch_model::{Connect, Driver, Error, Family, NetworkSpec, Scope, SubnetSpec, ipam::Lent};

/// The address spaces: subnets of this host, and subnets of all hosts.
pub(super) const SPACES: [&str; 2] = ["vswitch-local", "vswitch-global"];

/// A pool of Docker's: a subnet of this host, or of all hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Pool {
    scope: Scope,
    subnet: IpNet,
}

/// Before the subnet in the id of a pool of all hosts.
const GLOBAL: &str = "global/";

impl Pool {
    fn lent(self, address: IpAddr) -> Lent {
        Lent { scope: self.scope, address }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = if self.scope == Scope::Global { GLOBAL } else { "" };
        write!(f, "{before}{}", self.subnet)
    }
}

impl FromStr for Pool {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(match text.strip_prefix(GLOBAL) {
            Some(subnet) => Self { scope: Scope::Global, subnet: net(subnet)? },
            None => Self { scope: Scope::Local, subnet: net(text)? },
        })
    }
}

/// How long a request is reserved.
const HOLD: Duration = Duration::from_secs(30);

/// Maximum number of reservations.
const HOLDS: usize = 4096;

/// Requested subnets and addresses that are not used yet.
#[derive(Debug, Default)]
pub(super) struct Holds {
    /// With the range that addresses are assigned from.
    pools: HashMap<Pool, (Option<IpNet>, Instant)>,
    addresses: HashMap<Lent, Instant>,
    /// The address of each pool that was assigned last.
    last: HashMap<Pool, IpAddr>,
    /// Addresses that are lent, and whose driver has begun anew since: it asks for those that it still has.
    doubtful: HashMap<Lent, Instant>,
}

impl Holds {
    /// The range of a subnet of this host that addresses are assigned from, if one was requested.
    pub(super) fn range(&self, subnet: IpNet) -> Option<IpNet> {
        self.range_of(Pool { scope: Scope::Local, subnet })
    }

    fn range_of(&self, pool: Pool) -> Option<IpNet> {
        self.pools.get(&pool).and_then(|(range, _)| *range)
    }

    /// Forgets reservations whose time is over; returns the lent addresses that were not asked for again.
    fn expire(&mut self, now: Instant) -> Vec<Lent> {
        let is_held = |since: &Instant| now.duration_since(*since) < HOLD;
        self.pools.retain(|_, (_, since)| is_held(since));
        self.addresses.retain(|_, since| is_held(since));
        let gone: Vec<_> =
            self.doubtful.iter().filter(|(_, since)| !is_held(since)).map(|it| *it.0).collect();
        self.doubtful.retain(|_, since| is_held(since));
        gone
    }

    fn hold_pool(&mut self, pool: Pool, range: Option<IpNet>, now: Instant) -> Result<(), Error> {
        self.bound()?;
        self.pools.insert(pool, (range, now));
        Ok(())
    }

    /// Reserves an address, unless it is reserved.
    fn hold(&mut self, address: Lent, now: Instant) -> Result<(), Error> {
        self.bound()?;
        match self.addresses.entry(address) {
            Entry::Vacant(place) => {
                place.insert(now);
                Ok(())
            }
            Entry::Occupied(_) => Err(Error::conflict("Address already in use")),
        }
    }

    fn bound(&self) -> Result<(), Error> {
        if self.pools.len() + self.addresses.len() < HOLDS {
            return Ok(());
        }
        Err(Error::unavailable("too many addresses were requested and not used: try again in half a minute"))
    }
}

impl Plugin {
    pub(super) async fn request_pool(&self, ask: RequestPool) -> Result<Value, Error> {
        self.expire().await?;
        let option = |key: &str| ask.options.get(key).map(text);
        let scope = if ask.address_space == SPACES[1] { Scope::Global } else { Scope::Local };
        let range = Some(&ask.sub_pool).filter(|it| !it.is_empty()).map(|it| net(it)).transpose()?;
        let lent = self.core.snapshot().engines.lent.clone();
        let subnet = if ask.pool.is_empty() {
            let driver = match option(DRIVER).as_deref() {
                Some("overlay") => Driver::Overlay,
                _ if scope == Scope::Global => Driver::Overlay,
                _ => Driver::Bridge,
            };
            let family = if ask.v6 { Family::V6 } else { Family::V4 };
            let mut held: Vec<_> = self.holds().pools.keys().map(|pool| pool.subnet).collect();
            held.extend(lent.values());
            self.core.choose_subnet(driver, family, &held).await?
        } else {
            net(&ask.pool)?
        };
        let (mut holds, now) = (self.holds(), Instant::now());
        let pool = Pool { scope, subnet };
        holds.hold_pool(pool, range, now)?;
        let is_known = |(lent, of): &(&Lent, &IpNet)| lent.scope == scope && **of == subnet;
        holds.doubtful.extend(lent.iter().filter(is_known).map(|(lent, _)| (*lent, now)));
        Ok(json!({ "PoolID": pool.to_string(), "Pool": subnet, "Data": {} }))
    }

    pub(super) async fn release_pool(&self, ask: OfPool) -> Result<Value, Error> {
        let pool: Pool = ask.pool_id.parse()?;
        self.holds().pools.remove(&pool);
        self.take_back_all(pool.scope, |it| *it == pool.subnet).await?;
        Ok(json!({}))
    }

    pub(super) async fn request_address(&self, ask: OfPool) -> Result<Value, Error> {
        self.expire().await?;
        let pool: Pool = ask.pool_id.parse()?;
        let subnet = pool.subnet;
        let is_gateway = ask.options.get(REQUEST_TYPE).map(text).as_deref() == Some(GATEWAY);
        // What is assigned for all hosts is assigned by the swarm's manager alone, whatever this host has of it.
        let network = self.network_of(subnet).filter(|_| pool.scope == Scope::Local);
        let own = network.as_ref().and_then(|network| network.subnets.iter().find(|it| it.subnet == subnet));
        let address = match (ask.address.as_str(), own) {
            ("", Some(SubnetSpec { gateway: Some(gateway), .. })) if is_gateway => *gateway,
            ("", _) => {
                if let Some(network) = &network {
                    self.core.reserve(&network.name.clone().into(), &Connect::default()).await?;
                }
                self.free_address(pool, own)?
            }
            (text, own) => {
                let address: IpAddr =
                    text.parse().map_err(|_| Error::invalid(format!("{text:?} is not an address")))?;
                if !subnet.contains(&address) {
                    return Err(Error::invalid("requested address is out of range"));
                }
                // Its owner is known when the endpoint is created.
                let is_the_gateways = own.is_some_and(|it| it.gateway == Some(address));
                if !is_gateway && is_the_gateways {
                    return Err(Error::conflict("Address already in use"));
                }
                let is_repeated = pool.scope == Scope::Local && self.is_assigned(subnet, address);
                let lent = pool.lent(address);
                if !is_the_gateways && !is_repeated && self.holds().doubtful.remove(&lent).is_none() {
                    self.holds().hold(lent, Instant::now())?;
                    self.lend(pool, own, address).await?;
                }
                return answer(address, subnet);
            }
        };
        if own.is_none_or(|it| it.gateway != Some(address)) {
            self.lend(pool, own, address).await?;
        }
        answer(address, subnet)
    }

    /// Whether a swarm's manager on this host has assigned the address.
    fn is_assigned(&self, subnet: IpNet, address: IpAddr) -> bool {
        let lent = Lent { scope: Scope::Global, address };
        self.core.snapshot().engines.lent.get(&lent) == Some(&subnet)
    }

    /// Takes back lent addresses that were not asked for again, and forgets what was not used.
    async fn expire(&self) -> Result<(), Error> {
        let gone = self.holds().expire(Instant::now());
        self.core.take_back(gone).await
    }

    /// Remembers an address that no network of ours will have, until it is given back: that of a pool that another driver uses.
    async fn lend(&self, pool: Pool, own: Option<&SubnetSpec>, address: IpAddr) -> Result<(), Error> {
        if own.is_some() {
            return Ok(());
        }
        let lent = self.core.lend(pool.subnet, pool.lent(address)).await;
        if lent.is_err() {
            self.holds().addresses.remove(&pool.lent(address));
        }
        lent
    }

    /// Takes back all addresses of these subnets in one space.
    pub(super) async fn take_back_all(&self, scope: Scope, of: impl Fn(&IpNet) -> bool) -> Result<(), Error> {
        let lent = self.core.snapshot().engines.lent.clone();
        let is_it = |(lent, subnet): &(Lent, IpNet)| lent.scope == scope && of(subnet);
        self.core.take_back(lent.into_iter().filter(is_it).map(|it| it.0).collect()).await
    }

    fn free_address(&self, pool: Pool, own: Option<&SubnetSpec>) -> Result<IpAddr, Error> {
        let range = self.holds().range_of(pool);
        let spec = own.cloned().unwrap_or_else(|| SubnetSpec { ip_range: range, ..pool.subnet.into() });
        loop {
            let snapshot = self.core.snapshot();
            let is_of_pool = |lent: &&Lent| lent.scope == pool.scope;
            let address_of = |lent: &Lent| lent.address;
            let mut held: Vec<_> = self.holds().addresses.keys().filter(is_of_pool).map(address_of).collect();
            held.extend(snapshot.engines.lent.keys().filter(is_of_pool).map(address_of));
            let last = self.holds().last.get(&pool).copied();
            let address = snapshot.state.choose_address(&spec, &held, last, Timestamp::now())?;
            // Another caller may have been faster.
            if self.holds().hold(pool.lent(address), Instant::now()).is_ok() {
                self.holds().last.insert(pool, address);
                return Ok(address);
            }
        }
    }

    pub(super) async fn release_address(&self, ask: OfPool) -> Result<Value, Error> {
        let pool: Pool = ask.pool_id.parse()?;
        if let Ok(address) = ask.address.split('/').next().unwrap_or_default().parse::<IpAddr>() {
            self.holds().addresses.remove(&pool.lent(address));
            self.core.take_back(vec![pool.lent(address)]).await?;
        }
        Ok(json!({}))
    }

    fn network_of(&self, subnet: IpNet) -> Option<Arc<NetworkSpec>> {
        let has_it = |spec: &Arc<NetworkSpec>| spec.subnets.iter().any(|it| it.subnet == subnet);
        self.core.snapshot().state.networks().map(|it| it.spec).find(has_it)
    }
}

fn answer(address: IpAddr, subnet: IpNet) -> Result<Value, Error> {
    let address = IpNet::new(address, subnet.prefix_len())
        .map_err(|_| Error::internal("an address has the length of its subnet"))?;
    Ok(json!({ "Address": address, "Data": {} }))
}

fn net(text: &str) -> Result<IpNet, Error> {
    let net: IpNet = text
        .parse()
        .map_err(|_| Error::invalid(format!("{text:?} is not a subnet: write it like 10.9.0.0/24")))?;
    if net.trunc() != net {
        return Err(Error::invalid(format!("invalid subnet {net}: it should be {}", net.trunc())));
    }
    Ok(net)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_and_not_used_can_be_had_again() {
        let (mut holds, start) = (Holds::default(), Instant::now());
        let address = Lent { scope: Scope::Local, address: IpAddr::from([10, 9, 0, 50]) };
        holds.hold(address, start).unwrap();
        assert_eq!(holds.hold(address, start).unwrap_err().sentence, "Address already in use");
        assert!(holds.expire(start + HOLD - Duration::from_secs(1)).is_empty());
        assert!(holds.hold(address, start).is_err(), "asking again makes nothing longer");
        holds.expire(start + HOLD);
        holds.hold(address, start + HOLD).unwrap();
        // Lent addresses that were not asked for again are given back.
        holds.doubtful.insert(address, start);
        assert_eq!(holds.expire(start + HOLD), [address]);
        assert!(holds.expire(start + HOLD).is_empty());
    }
}
