//! Requirements of all networks together, as the table holds them.

use std::{collections::BTreeSet, net::SocketAddr};

use ipnet::IpNet;

use vswitch_model::publish::{Protocol, Published};

use super::Outside;

/// Content of the table's sets and maps; see [`super::rules`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wants {
    /// The host's interfaces in networks, where nothing is a tunnel's.
    pub(super) inside: BTreeSet<String>,
    /// Those in networks that reach the outside.
    pub(super) gateways: BTreeSet<String>,
    /// Those in internal networks.
    pub(super) internal: BTreeSet<String>,
    /// The subnets that reach the outside; they do not overlap.
    pub(super) subnets: BTreeSet<IpNet>,
    /// The masqueraded subnets; they do not overlap.
    pub(super) masquerade: BTreeSet<IpNet>,
    /// Published ports of the host.
    pub(super) published: BTreeSet<Published>,
    /// Ports of the host that are relayed, which are all of IPv6.
    pub(super) relayed: BTreeSet<(Protocol, u16)>,
    /// Tunnel ends: address and UDP port, or a port of every address.
    pub(super) tunnels: BTreeSet<SocketAddr>,
}

impl Wants {
    /// Equal for equal `outsides`, in any order.
    pub(super) fn of(outsides: &[Outside]) -> Self {
        let mut wants = Self::default();
        for outside in outsides {
            wants.inside.insert(outside.ifname.clone());
            wants.gateways.extend(outside.is_gateway().then(|| outside.ifname.clone()));
            wants.internal.extend(outside.internal.then(|| outside.ifname.clone()));
            wants.subnets.extend(&outside.subnets);
            if outside.masquerade {
                wants.masquerade.extend(&outside.subnets);
            }
            wants.published.extend(&outside.published);
            let relayed = outside.published.iter().filter(|it| it.is_relayed());
            wants.relayed.extend(relayed.map(|it| (it.protocol, it.at().port())));
            wants.tunnels.extend(outside.tunnels.iter());
        }
        widest(&mut wants.subnets);
        widest(&mut wants.masquerade);
        wants
    }

    /// Whether there are no requirements.
    pub(super) fn is_empty(&self) -> bool {
        self.inside.is_empty()
    }

    /// What is in `self` and not in `other`.
    pub(super) fn without(&self, other: &Self) -> Self {
        Self {
            inside: &self.inside - &other.inside,
            gateways: &self.gateways - &other.gateways,
            internal: &self.internal - &other.internal,
            subnets: &self.subnets - &other.subnets,
            masquerade: &self.masquerade - &other.masquerade,
            published: &self.published - &other.published,
            relayed: &self.relayed - &other.relayed,
            tunnels: &self.tunnels - &other.tunnels,
        }
    }
}

/// Removes subnets of others: a set of intervals takes no overlap. Adjacent ones are not merged, so a later neighbour
/// changes no existing element.
fn widest(nets: &mut BTreeSet<IpNet>) {
    let mut last: Option<IpNet> = None;
    // A wider one sorts before those within it.
    nets.retain(|net| {
        let within = last.is_some_and(|last| last.contains(net));
        if !within {
            last = Some(*net);
        }
        !within
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_within_others_are_left_out() {
        let nets =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<BTreeSet<IpNet>>();
        let mut some =
            nets(&["10.9.3.0/24", "10.9.0.0/16", "10.9.0.0/24", "10.10.0.0/24", "10.10.1.0/24", "fd00::/64"]);
        widest(&mut some);
        assert_eq!(some, nets(&["10.9.0.0/16", "10.10.0.0/24", "10.10.1.0/24", "fd00::/64"]));
    }
}
