//! A network, and what may change of it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Driver, Family, Id, Ipam, Mtu, Name, SubnetSpec, VlanId, Vni};
use crate::options::{NetworkOptions, Options};

/// A broadcast domain: `[[network]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Unique among networks.
    pub name: Name,
    /// How trunks carry it; unique among networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanId>,
    /// How tunnels carry it: 0 to 16777215; unique among networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<Vni>,
    /// MTU of its ports, 68 to 9198 bytes. By default that of the tunnel, if the network has a VNI and there is a tunnel, else
    /// 1500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// Whether tagged frames from access ports are dropped or passed through as they are.
    #[serde(default)]
    pub tags: Tags,
    /// Its driver; by default overlay if it has a VNI, else bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<Driver>,
    /// Its subnets, at most one of each family; a plain segment has none.
    #[serde(default, rename = "subnet", skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<SubnetSpec>,
    /// Where a subnet comes from if none is given.
    #[serde(default, skip_serializing_if = "Ipam::is_null")]
    pub ipam: Ipam,
    /// Isolated from the outside: no gateway, no published ports.
    #[serde(default, skip_serializing_if = "is_false")]
    pub internal: bool,
    /// Whether containers that no service manages may join, in Docker's words; it is kept and shown.
    #[serde(default, skip_serializing_if = "is_false")]
    pub attachable: bool,
    /// Whether Docker's swarm has made it: its name, addresses and VNI are agreed upon there, not in a cluster of ours.
    #[serde(default, skip_serializing_if = "is_false")]
    pub swarm: bool,
    /// Whether packets that exceed a tunnel's MTU and may be fragmented leave in fragments of the outer packet, instead of
    /// being dropped.
    #[serde(default, skip_serializing_if = "is_false")]
    pub fragment: bool,
    /// Whether an IPv6 subnet is assigned as well.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ipv6: bool,
    /// Options of the driver; see [`crate::options`].
    #[serde(default, skip_serializing_if = "Options::is_empty")]
    pub options: Options<NetworkOptions>,
    /// Labels of its owner; they mean nothing to the switch.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its id; by default derived from its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    /// Time of creation, if it was created through the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl NetworkSpec {
    /// A network with nothing but a name.
    pub fn plain(name: Name) -> Self {
        Self {
            name,
            vlan: None,
            vni: None,
            mtu: None,
            tags: Tags::Drop,
            driver: None,
            subnets: Vec::new(),
            ipam: Ipam::Null,
            internal: false,
            attachable: false,
            swarm: false,
            fragment: false,
            ipv6: false,
            options: Options::default(),
            labels: BTreeMap::new(),
            id: None,
            created: None,
        }
    }

    /// Whether the configuration file declares it: networks created through the API are given a fresh id.
    pub fn is_declared(&self) -> bool {
        self.id.is_none()
    }

    /// Its id. A network declared in a file has the same one at every start.
    pub fn id(&self) -> Id {
        self.id.clone().unwrap_or_else(|| Id::of(self.name.as_str()))
    }

    /// Its driver, given or by default.
    pub fn driver(&self) -> Driver {
        let default = if self.vni.is_some() { Driver::Overlay } else { Driver::Bridge };
        self.driver.unwrap_or(default)
    }

    /// The subnet of a family, if it has one.
    pub fn subnet(&self, family: Family) -> Option<&SubnetSpec> {
        self.subnets.iter().find(|it| it.family() == family)
    }

    /// MTU of its ports, given or by default; `overlay` is that of the tunnels, if there are any.
    pub fn mtu(&self, overlay: Option<Mtu>) -> Mtu {
        let default = overlay.filter(|_| self.vni.is_some()).unwrap_or(Mtu::DEFAULT);
        self.mtu.unwrap_or(default)
    }
}

/// What an access port does with tagged frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tags {
    /// Drop them: containers do not speak 802.1Q.
    #[default]
    Drop,
    /// Carry them unchanged; the tag belongs to the sender.
    Pass,
}

/// A change to a network while containers stay connected.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkUpdate {
    /// New MTU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// Labels to set; those without a value are removed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// Options to set; those without a value are removed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, Option<String>>,
    /// Peers to which tunnels carry it from now on.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub peers_add: BTreeSet<Name>,
    /// Peers to which tunnels no longer carry it.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub peers_remove: BTreeSet<Name>,
    /// Any other key, to be refused with a reason.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}
