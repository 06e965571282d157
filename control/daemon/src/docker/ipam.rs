//! The IPAM driver: maps Docker's pools to our networks' subnets.
//!
//! A pool's id is its subnet, so nothing needs to be remembered. What Docker has requested and not used yet is reserved for a
//! moment: a subnet until its network is created, an address until its endpoint is. Then the network model has it.
//!
//! Docker keeps requesting other subnets, without end, as long as it is offered one that the host has a route to. So an offered
//! subnet is reserved and not offered twice, and the subnet of an existing network must be requested explicitly.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use serde_json::{Value, json};

use super::{
    driver::DRIVER,
    server::Plugin,
    wire::{GATEWAY, OfPool, REQUEST_TYPE, RequestPool, text},
};
use vswitch_model::{Driver, Error, Family, NetworkSpec, SubnetSpec};

/// The address spaces: subnets of this host, and subnets of all hosts.
pub(super) const SPACES: [&str; 2] = ["vswitch-local", "vswitch-global"];

/// How long a request is reserved.
const HOLD: Duration = Duration::from_secs(30);

/// Maximum number of reservations.
const HOLDS: usize = 4096;

/// Requested subnets and addresses that are not used yet.
#[derive(Debug, Default)]
pub(super) struct Holds {
    /// With the range that addresses are assigned from.
    pools: HashMap<IpNet, (Option<IpNet>, Instant)>,
    addresses: HashMap<IpAddr, Instant>,
}

impl Holds {
    /// The range of a subnet that addresses are assigned from, if one was requested.
    pub(super) fn range(&self, subnet: IpNet) -> Option<IpNet> {
        self.pools.get(&subnet).and_then(|(range, _)| *range)
    }

    fn expire(&mut self) {
        self.pools.retain(|_, (_, since)| since.elapsed() < HOLD);
        self.addresses.retain(|_, since| since.elapsed() < HOLD);
    }

    fn hold_pool(&mut self, subnet: IpNet, range: Option<IpNet>) -> Result<(), Error> {
        self.bound()?;
        self.pools.insert(subnet, (range, Instant::now()));
        Ok(())
    }

    /// Reserves an address, unless it is reserved.
    fn hold(&mut self, address: IpAddr) -> Result<(), Error> {
        self.bound()?;
        match self.addresses.insert(address, Instant::now()) {
            None => Ok(()),
            Some(since) => {
                self.addresses.insert(address, since);
                Err(Error::conflict("Address already in use"))
            }
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
        self.holds().expire();
        let option = |key: &str| ask.options.get(key).map(text);
        let range = Some(&ask.sub_pool).filter(|it| !it.is_empty()).map(|it| net(it)).transpose()?;
        let subnet = if ask.pool.is_empty() {
            let driver = match option(DRIVER).as_deref() {
                Some("overlay") => Driver::Overlay,
                _ if ask.address_space == SPACES[1] => Driver::Overlay,
                _ => Driver::Bridge,
            };
            let family = if ask.v6 { Family::V6 } else { Family::V4 };
            let held: Vec<_> = self.holds().pools.keys().copied().collect();
            self.core.choose_subnet(driver, family, &held).await?
        } else {
            net(&ask.pool)?
        };
        self.holds().hold_pool(subnet, range)?;
        Ok(json!({ "PoolID": subnet, "Pool": subnet, "Data": {} }))
    }

    pub(super) async fn release_pool(&self, ask: OfPool) -> Result<Value, Error> {
        self.holds().pools.remove(&net(&ask.pool_id)?);
        Ok(json!({}))
    }

    pub(super) async fn request_address(&self, ask: OfPool) -> Result<Value, Error> {
        let subnet = net(&ask.pool_id)?;
        let is_gateway = ask.options.get(REQUEST_TYPE).map(text).as_deref() == Some(GATEWAY);
        let network = self.network_of(subnet);
        let own = network.as_ref().and_then(|network| network.subnets.iter().find(|it| it.subnet == subnet));
        let address = match (ask.address.as_str(), own) {
            ("", Some(SubnetSpec { gateway: Some(gateway), .. })) if is_gateway => *gateway,
            ("", _) => self.free_address(subnet, own)?,
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
                if !is_the_gateways {
                    self.holds().hold(address)?;
                }
                address
            }
        };
        let address = IpNet::new(address, subnet.prefix_len())
            .map_err(|_| Error::internal("an address has the length of its subnet"))?;
        Ok(json!({ "Address": address, "Data": {} }))
    }

    fn free_address(&self, subnet: IpNet, own: Option<&SubnetSpec>) -> Result<IpAddr, Error> {
        let range = self.holds().range(subnet);
        let spec = own.cloned().unwrap_or_else(|| SubnetSpec { ip_range: range, ..subnet.into() });
        loop {
            let held: Vec<_> = self.holds().addresses.keys().copied().collect();
            let address = self.core.snapshot().state.choose_address(&spec, &held)?;
            // Another caller may have been faster.
            if self.holds().hold(address).is_ok() {
                return Ok(address);
            }
        }
    }

    pub(super) async fn release_address(&self, ask: OfPool) -> Result<Value, Error> {
        if let Ok(address) = ask.address.split('/').next().unwrap_or_default().parse::<IpAddr>() {
            self.holds().addresses.remove(&address);
        }
        Ok(json!({}))
    }

    fn network_of(&self, subnet: IpNet) -> Option<Arc<NetworkSpec>> {
        let has_it = |spec: &Arc<NetworkSpec>| spec.subnets.iter().any(|it| it.subnet == subnet);
        self.core.snapshot().state.networks().map(|it| it.spec).find(has_it)
    }
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
