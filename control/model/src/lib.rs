//! The words of the control plane: what a switch, a network and a port are asked to be.
//!
//! The same types are read from `net.toml`, sent over the API, kept in the store and printed by the
//! CLI, so a thing has one shape and one name everywhere. They are data; the daemon implements
//! them. Nothing here acts: no system call, no clock, no task.

#[macro_use]
mod written;

mod accelerate;
pub mod api;
pub mod attach;
mod dns;
mod driver;
mod endpoint;
mod error;
mod family;
pub mod fields;
pub mod guard;
mod health;
mod host;
mod id;
pub mod ifname;
mod interface;
pub mod ipam;
mod limit;
mod mtu;
mod name;
mod netns;
mod network;
pub mod options;
mod port;
pub mod publish;
pub mod rules;
pub mod sentence;
mod service;
mod subnet;
pub mod text;
mod tunnel;
mod underlay;

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use self::{
    accelerate::Accelerate,
    dns::{DnsServer, DnsSpec, InvalidDnsServer},
    driver::{Driver, InvalidDriver, Scope, is_predefined},
    endpoint::{Connect, DeclaredEndpoint, EndpointSpec},
    error::{Error, ErrorKind},
    family::Family,
    guard::{Also, GuardSpec, InvalidAlso},
    health::{Check, HealthSpec},
    host::{HostName, InvalidHostName},
    id::{Id, InvalidId, InvalidReference, Reference},
    ifname::{IfName, InvalidIfName},
    interface::{Bare, InterfaceSpec, Netns},
    limit::{BURST, InvalidRate, LimitSpec, Rate},
    mtu::{InvalidMtu, Mtu},
    name::{InvalidName, Name},
    netns::{Cookie, Identity},
    network::{NetworkSpec, NetworkUpdate, Tags},
    port::{Carries, DeviceSpec, MirrorSpec, Offloads, PortSpec},
    service::{
        Affinity, EndpointMode, InvalidServicePort, PublishMode, ServicePort, ServiceSpec, ServiceUpdate,
    },
    subnet::{Ipam, PoolSpec, PoolsSpec, SubnetSpec},
    tunnel::{CollectorSpec, PeerSpec, Ttl, VXLAN_PORT, VxlanSpec},
    underlay::{InvalidUnderlayAddr, UnderlayAddr},
};
pub use vswitch::{addr::VlanId, capture::Direction, fdb::Damping, storm::FloodLimits};
pub use vswitch_vxlan::{encap::Dscp, header::Vni};

/// The switch as a whole: `[switch]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SwitchSpec {
    /// Name of this host in logs and answers.
    pub name: String,
    /// Number of forwarding threads; `None` lets the daemon derive it from the number of CPUs.
    pub workers: Option<u16>,
    /// Microseconds for which a forwarding thread polls before it sleeps; 0 disables polling.
    pub busy_poll: u16,
    /// The folder of the embedded store and of the instance lock.
    pub state: PathBuf,
    /// Whether the kernel may forward between ports.
    pub accelerate: Accelerate,
    /// Seconds after which a learned address expires.
    pub ageing: u32,
    /// Maximum number of learned addresses, over all ports.
    pub mac_limit: u32,
    /// Bit X set: frames to 01:80:C2:00:00:0X are forwarded (the kernel bridge's `group_fwd_mask`).
    pub group_forward_mask: u16,
    /// Damping of addresses that move too often: they are limited to one move a second.
    pub damping: Damping,
}

/// The bit of 01:80:C2:00:00:00, where bridges exchange BPDUs. One without spanning tree passes them on, as the kernel's does
/// (`br_handle_frame`, net/bridge/br_input.c).
const BPDUS: u16 = 1;

impl Default for SwitchSpec {
    fn default() -> Self {
        Self {
            name: "vswitch".into(),
            workers: None,
            busy_poll: 50,
            // Until what it is tested for is complete.
            accelerate: Accelerate::Off,
            state: "/var/lib/vswitch".into(),
            ageing: 300,
            mac_limit: 65_536,
            group_forward_mask: BPDUS,
            damping: Damping::default(),
        }
    }
}

/// Where the API listens: `[api]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSpec {
    /// The unix socket; that of `vswitchctl attach`, which passes descriptors, is beside it, named `….attach`.
    pub socket: PathBuf,
    /// The group that may use the socket besides root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The TCP address of the web page; by default there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web: Option<SocketAddr>,
    /// Host names that browsers may use for the page, besides its address and `localhost`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub web_hosts: Vec<HostName>,
    /// Where `/metrics` is served for Prometheus, by default nowhere. Access is not restricted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
}

impl Default for ApiSpec {
    fn default() -> Self {
        Self {
            socket: "/run/vswitch/api.sock".into(),
            group: None,
            web: None,
            web_hosts: Vec::new(),
            metrics: None,
        }
    }
}

/// Docker's plugin: `[docker]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DockerSpec {
    /// Whether the plugin is served.
    pub enabled: bool,
    /// Its unix socket; Docker's name for the driver is the file name without `.sock`.
    pub socket: PathBuf,
}

impl Default for DockerSpec {
    fn default() -> Self {
        Self { enabled: false, socket: "/run/docker/plugins/vswitch.sock".into() }
    }
}

/// Everything `net.toml` declares.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[switch]`
    pub switch: SwitchSpec,
    /// `[api]`
    pub api: ApiSpec,
    /// `[docker]`
    pub docker: DockerSpec,
    /// `[dns]`
    pub dns: DnsSpec,
    /// `[ipam]`
    pub ipam: PoolsSpec,
    /// `[[network]]`
    #[serde(rename = "network")]
    pub networks: Vec<NetworkSpec>,
    /// `[[port]]`
    #[serde(rename = "port")]
    pub ports: Vec<PortSpec>,
    /// `[[endpoint]]`
    #[serde(rename = "endpoint")]
    pub endpoints: Vec<DeclaredEndpoint>,
    /// `[[service]]`
    #[serde(rename = "service")]
    pub services: Vec<ServiceSpec>,
}
