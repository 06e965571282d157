//! Observations that the core needs: this host, and a sandbox from the inside.

use std::{collections::HashSet, fs, net::IpAddr};

use ipnet::IpNet;
use jiff::Timestamp;

use crate::state::{Host, Sandbox, State};
use vswitch_host::{
    link::Links,
    netns::{Namespace, Presences},
    random,
};
use vswitch_model::{EndpointSpec, Error, Family, Netns, PoolSpec, ipam::unique_local};

/// Where resolvers' addresses are: those of resolv.conf(5), and those that systemd-resolved(8) asks if the former names itself.
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// This host's routes and nameservers, and the pool of its IPv6 subnets.
pub(crate) async fn host(state: &State) -> Result<Host, Error> {
    let ours: HashSet<String> = state
        .ports()
        .filter(|port| port.spec.interface().is_some_and(|interface| interface.netns.is_none()))
        .map(|port| port.spec.ifname().to_owned())
        .collect();
    let routes = Links::open(Namespace::current()?)?.routes().await?;
    let foreign = routes.into_iter().filter(|it| it.to.prefix_len() > 0 && !ours.contains(&it.ifname));
    let resolvers = RESOLVERS.iter().filter_map(|path| fs::read_to_string(path).ok());
    // systemd's machine-id(5); a host without one is identified by its boot.
    let known_by = ["/etc/machine-id", "/proc/sys/kernel/random/boot_id"];
    let name = known_by.iter().find_map(|path| fs::read_to_string(path).ok().filter(|text| !text.is_empty()));
    let base = IpNet::V6(unique_local(name.unwrap_or_default().trim()));
    Ok(Host {
        routes: foreign.collect(),
        nameservers: resolvers.flat_map(|text| nameservers(&text)).collect(),
        ipv6: Some(PoolSpec { base, size: 64 }),
    })
}

/// The nameservers of a resolv.conf(5).
fn nameservers(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let given = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        // A link-local address may be followed by its interface.
        given.split('%').next()?.parse().ok()
    };
    text.lines().filter_map(address).collect()
}

/// Observes a sandbox before an interface is created in it.
pub(crate) async fn sandbox(netns: Option<&Netns>) -> Result<Sandbox, Error> {
    let mut sandbox = Sandbox {
        identity: None,
        ifnames: Default::default(),
        default_routes: Vec::new(),
        id: random::id()?,
        published: Vec::new(),
        now: Timestamp::now(),
    };
    if let Some(netns) = netns {
        let namespace = Namespace::open(netns)?;
        sandbox.identity = Some(namespace.identity()?);
        let links = Links::open(namespace)?;
        let ifnames = links.all().await?.into_iter().map(|link| link.name);
        sandbox.ifnames = ifnames.collect();
        let routes = links.routes().await?.into_iter().filter(|route| route.to.prefix_len() == 0);
        sandbox.default_routes = routes.map(|route| (Family::of(route.to), route.ifname)).collect();
    }
    Ok(sandbox)
}

/// The interfaces of the daemon's own namespace.
pub(crate) async fn own_ifnames() -> Result<HashSet<String>, Error> {
    let links = Links::open(Namespace::current()?)?.all().await?;
    Ok(links.into_iter().map(|link| link.name).collect())
}

/// Whether an endpoint's sandbox has ended: its name refers to no namespace, or to another one.
pub(crate) fn is_orphan(endpoint: &EndpointSpec, now: &Presences) -> bool {
    let (sandbox, identity) = (endpoint.sandbox.as_ref(), endpoint.identity.as_ref());
    sandbox.zip(identity).is_some_and(|(netns, identity)| now.is_other(netns, identity))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_of_resolv_conf() {
        let text = "# nameserver 192.0.2.9\nsearch example.org\nnameserver 172.17.0.53\n\tnameserver  fe80::1%eth0 \nnameserver\n";
        assert_eq!(nameservers(text), ["172.17.0.53", "fe80::1"].map(|it| it.parse::<IpAddr>().unwrap()));
    }
}
