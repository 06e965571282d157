//! Observations that the core needs: this host, and a sandbox from the inside.

use std::{collections::HashSet, fs};

use ipnet::IpNet;
use jiff::Timestamp;

use crate::state::{Host, Sandbox, State};
use vswitch_host::{
    link::Links,
    netns::{Namespace, Presences},
    random,
};
use vswitch_model::{EndpointSpec, Error, Family, Netns, PoolSpec, ipam::unique_local};

/// This host's routes, and the pool of its IPv6 subnets.
pub(crate) async fn host(state: &State) -> Result<Host, Error> {
    let ours: HashSet<String> = state
        .ports()
        .filter(|port| port.spec.interface().is_some_and(|interface| interface.netns.is_none()))
        .map(|port| port.spec.ifname().to_owned())
        .collect();
    let routes = Links::open(Namespace::current()?)?.routes().await?;
    let foreign = routes.into_iter().filter(|(net, ifname)| net.prefix_len() > 0 && !ours.contains(ifname));
    // systemd's machine-id(5); a host without one is identified by its boot.
    let known_by = ["/etc/machine-id", "/proc/sys/kernel/random/boot_id"];
    let name = known_by.iter().find_map(|path| fs::read_to_string(path).ok().filter(|text| !text.is_empty()));
    let base = IpNet::V6(unique_local(name.unwrap_or_default().trim()));
    Ok(Host { routes: foreign.map(|(net, _)| net).collect(), ipv6: Some(PoolSpec { base, size: 64 }) })
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
        let routes = links.routes().await?.into_iter().filter(|(net, _)| net.prefix_len() == 0);
        sandbox.default_routes = routes.map(|(net, ifname)| (Family::of(net), ifname)).collect();
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
