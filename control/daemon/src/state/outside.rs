//! What follows for the gateway: which networks reach the outside, and which ports of the host lead inside.

use std::collections::HashMap;

use super::{State, derive::gateway_ifname, registry::Entry};
use vswitch_host::gateway::Outside;
use vswitch_model::{Driver, Name, NetworkSpec, publish::Published};

/// Every network that has a gateway on this host, by name. An internal one has none, and an uplink's is on the LAN.
pub(super) fn of(state: &State) -> Vec<Outside> {
    let mut published: HashMap<&Name, Vec<Published>> = HashMap::new();
    for endpoint in state.endpoints() {
        published.entry(&endpoint.network).or_default().extend(&endpoint.published);
    }
    let outside = |entry: &Entry<NetworkSpec>| {
        let spec = &*entry.spec;
        let has_gateway = spec.subnets.iter().any(|subnet| subnet.gateway.is_some());
        let is_gated = matches!(spec.driver(), Driver::Bridge | Driver::Overlay) && !spec.internal;
        if !is_gated || !has_gateway {
            return None;
        }
        let published = published.remove(&spec.name).unwrap_or_default();
        Some(Outside {
            ifname: gateway_ifname(spec).into(),
            subnets: spec.subnets.iter().map(|subnet| subnet.subnet).collect(),
            masquerade: spec.options.masquerade,
            published,
        })
    };
    state.networks.entries().filter_map(outside).collect()
}
