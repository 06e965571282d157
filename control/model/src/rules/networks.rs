//! Rules of networks as Docker knows them: names, drivers, subnets, options.

use std::{collections::HashMap, net::IpAddr};

use super::{Check, Location};
use crate::{
    Driver, Family, NetworkSpec,
    ipam::{Holder, IpamError, Subnet},
    is_predefined,
    options::Parent,
};

impl Check<'_> {
    /// Rules that need one network.
    pub(super) fn network(&mut self, index: usize, network: &NetworkSpec) {
        let place = |key| Location::network(index, key);
        if is_predefined(network.name.as_str()) {
            let what = format!("{} is a pre-defined network: choose another name", network.name);
            self.fault(place("name"), what);
        }
        match (network.driver(), network.vni) {
            (driver @ (Driver::Host | Driver::Null), _) => {
                let what = format!(
                    "only one instance of \"{driver}\" network is allowed: use bridge, overlay or uplink"
                );
                self.fault(place("driver"), what);
            }
            (Driver::Overlay, None) => {
                self.fault(
                    place("vni"),
                    "missing: tunnels carry an overlay network by it, on all hosts by the same",
                );
            }
            (driver @ (Driver::Bridge | Driver::Uplink), Some(_)) => {
                let what =
                    format!("no tunnel carries a {driver} network: remove it, or use the driver overlay");
                self.contradiction(place("vni"), place("driver"), what);
            }
            _ => {}
        }
        if network.driver() == Driver::Uplink && network.options.parent.is_none() {
            self.fault(place("options"), "parent: missing: name the host's interface to the LAN");
        }
        for (item, subnet) in network.subnets.iter().enumerate() {
            if network.subnets[..item].iter().any(|other| other.family() == subnet.family()) {
                let what = "a second subnet of this family: keep one for IPv4 and one for IPv6";
                self.fault(place("subnet").item(item), what);
            } else if let Err(error) = Subnet::new(subnet) {
                self.fault(place("subnet").item(item), error.to_string());
            }
        }
    }

    /// Subnets that have addresses in common, and networks that a LAN could not tell apart.
    pub(super) fn distinct_subnets(&mut self, networks: &[&NetworkSpec]) {
        let mut subnets = Vec::new();
        let mut parents: HashMap<&Parent, usize> = HashMap::new();
        for (index, network) in networks.iter().enumerate() {
            let nets = network.subnets.iter().enumerate();
            subnets.extend(nets.map(|(item, it)| (it.subnet.network(), it.subnet.broadcast(), index, item)));
            let Some(parent) = &network.options.parent else { continue };
            if let Some(first) = parents.insert(parent, index) {
                let what =
                    format!("network {} uses the same parent already: give one a VLAN", networks[first].name);
                let at = Location::network(index, "options");
                self.contradiction(at, Location::network(first, "options"), what);
            }
        }
        // Two subnets are nested or disjoint: comparing with the one that ends last is enough.
        subnets.sort();
        let mut widest: Option<(IpAddr, usize, usize)> = None;
        for (first, last, index, item) in subnets {
            match widest {
                Some((end, other, other_item)) if first <= end && Family::of(first) == Family::of(end) => {
                    let ((later, later_item), (earlier, earlier_item)) =
                        if (index, item) > (other, other_item) {
                            ((index, item), (other, other_item))
                        } else {
                            ((other, other_item), (index, item))
                        };
                    let subnet = networks[later].subnets[later_item].subnet;
                    let other = networks[earlier].subnets[earlier_item].subnet;
                    let holder = Holder::Network(networks[earlier].name.clone(), other);
                    let what = IpamError::Overlap(subnet, holder).to_string();
                    let at = Location::network(later, "subnet").item(later_item);
                    self.contradiction(at, Location::network(earlier, "subnet").item(earlier_item), what);
                }
                _ => widest = Some((last, index, item)),
            }
        }
    }
}
