//! What all networks together want of the outside world, as the table holds it.

use std::{collections::BTreeSet, net::SocketAddr};

use ipnet::IpNet;

use vswitch_model::publish::Published;

use super::Outside;

/// What is in the table's sets and maps; see [`super::rules`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wants {
    /// The host's interfaces in networks that reach the outside.
    pub(super) gateways: BTreeSet<String>,
    /// The subnets that reach the outside; none has a part of another.
    pub(super) subnets: BTreeSet<IpNet>,
    /// Those that get the host's address on the way; none has a part of another.
    pub(super) masquerade: BTreeSet<IpNet>,
    /// Ports of the host that lead inside.
    pub(super) published: BTreeSet<Published>,
    /// Tunnel ends: address and UDP port, or a port of every address.
    pub(super) tunnels: BTreeSet<SocketAddr>,
}

impl Wants {
    /// Equal for equal `outsides`, in whichever order they are told.
    pub(super) fn of(outsides: &[Outside]) -> Self {
        let mut wants = Self::default();
        for outside in outsides {
            wants.gateways.insert(outside.ifname.clone());
            wants.subnets.extend(&outside.subnets);
            if outside.masquerade {
                wants.masquerade.extend(&outside.subnets);
            }
            wants.published.extend(&outside.published);
            wants.tunnels.extend(outside.tunnels.iter());
        }
        widest(&mut wants.subnets);
        widest(&mut wants.masquerade);
        wants
    }

    /// Whether nobody wants anything.
    pub(super) fn is_empty(&self) -> bool {
        self.gateways.is_empty()
    }

    /// What is here and not in `other`.
    pub(super) fn without(&self, other: &Self) -> Self {
        Self {
            gateways: &self.gateways - &other.gateways,
            subnets: &self.subnets - &other.subnets,
            masquerade: &self.masquerade - &other.masquerade,
            published: &self.published - &other.published,
            tunnels: &self.tunnels - &other.tunnels,
        }
    }
}

/// Leaves those out that lie within others: a set of intervals takes no overlap. What is side by side stays so, and a
/// neighbour that comes later changes nothing that is there.
fn widest(nets: &mut BTreeSet<IpNet>) {
    let mut last: Option<IpNet> = None;
    // A wider one comes before those within it.
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
