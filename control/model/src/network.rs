//! A network, and what may change of it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Driver, Family, Id, Ipam, Mtu, Name, SubnetSpec, VlanId, Vni, text_option};
use crate::options::{NetworkOptions, Options};

/// A broadcast domain: `[[network]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Unique among networks.
    pub name: Name,
    /// How trunks carry it; unique among networks.
    #[serde(default, with = "text_option", skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanId>,
    /// How tunnels carry it: 0 to 16777215; unique among networks.
    #[serde(default, with = "text_option", skip_serializing_if = "Option::is_none")]
    pub vni: Option<Vni>,
    /// Octets of the longest IP packet its ports are given, 68 to 9198. Unless told: what a tunnel carries, if it has a VNI and
    /// there is a tunnel, else 1500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// Whether tagged frames from access ports are dropped or passed through as they are.
    #[serde(default)]
    pub tags: Tags,
    /// What makes it: overlay if it has a VNI, bridge if not, unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<Driver>,
    /// Its subnets, at most one of each family; a plain segment has none.
    #[serde(default, rename = "subnet", skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<SubnetSpec>,
    /// Who chooses a subnet where none is written.
    #[serde(default, skip_serializing_if = "Ipam::is_null")]
    pub ipam: Ipam,
    /// Cut off from the outside: no gateway, no published ports.
    #[serde(default, skip_serializing_if = "is_false")]
    pub internal: bool,
    /// Whether containers that no service manages may join, in Docker's words; it is kept and shown.
    #[serde(default, skip_serializing_if = "is_false")]
    pub attachable: bool,
    /// Whether it shall have an IPv6 subnet, too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ipv6: bool,
    /// What the driver was told; see [`crate::options`].
    #[serde(default, skip_serializing_if = "Options::is_empty")]
    pub options: Options<NetworkOptions>,
    /// What its owner wrote on it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Who it is; after its name unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    /// When it was made, if the API made it.
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
            ipv6: false,
            options: Options::default(),
            labels: BTreeMap::new(),
            id: None,
            created: None,
        }
    }

    /// Whether a file wrote it: what the API makes is given an id that nobody had before.
    pub fn is_declared(&self) -> bool {
        self.id.is_none()
    }

    /// Who it is: what is declared in a file has the same id on every start.
    pub fn id(&self) -> Id {
        self.id.clone().unwrap_or_else(|| Id::of(self.name.as_str()))
    }

    /// What makes it.
    pub fn driver(&self) -> Driver {
        let default = if self.vni.is_some() { Driver::Overlay } else { Driver::Bridge };
        self.driver.unwrap_or(default)
    }

    /// The subnet of a family, if it has one.
    pub fn subnet(&self, family: Family) -> Option<&SubnetSpec> {
        self.subnets.iter().find(|it| it.family() == family)
    }

    /// Octets of the longest IP packet its ports are given; `overlay`: of the longest that tunnels carry, if there are any.
    pub fn mtu(&self, overlay: Option<Mtu>) -> Mtu {
        let default = overlay.filter(|_| self.vni.is_some()).unwrap_or(Mtu::DEFAULT);
        self.mtu.unwrap_or(default)
    }
}

/// What an access port does with a frame that is tagged already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tags {
    /// Drop it: containers do not speak 802.1Q.
    #[default]
    Drop,
    /// Carry it through the network, the tag being its own.
    Pass,
}

/// What shall be different about a network, while containers stay connected.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkUpdate {
    /// Octets of the longest IP packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// Labels to write; without a value, to take off.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// Options to set; without a value, to forget.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, Option<String>>,
    /// Peers that tunnels shall carry it to as well.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub peers_add: BTreeSet<Name>,
    /// Peers that they shall not carry it to any more.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub peers_remove: BTreeSet<Name>,
    /// Anything else, to be refused with the reason.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}
