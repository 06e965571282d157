//! The tunnel: this host's end, its peers, and how far they are.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{PortState, Traffic};
use crate::{Name, UnderlayAddr};

/// The tunnel at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tunnel {
    /// This host's end; absent when the configuration file has no `[vxlan]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<TunnelEnd>,
    /// By name.
    pub peers: Vec<Peer>,
}

/// This host's end of all tunnels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = TunnelEndpoint)]
pub struct TunnelEnd {
    /// The address peers send to.
    #[schema(value_type = String)]
    pub local: UnderlayAddr,
    /// The UDP port they send to.
    pub port: u16,
    /// The underlay's multicast group, if one is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub group: Option<UnderlayAddr>,
    /// The policy group by which frames of isolated ports are marked, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolated_group: Option<u16>,
    /// Whether it is open.
    pub state: PortState,
    /// Why it is not, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Longest packet that the underlay carries, in bytes.
    pub underlay_mtu: u16,
    /// Longest inner packet that tunnels carry, in bytes.
    pub overlay_mtu: u16,
    /// Whether unknown senders become peers.
    pub learn_peers: bool,
    /// Features of its sockets; absent while it is not open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Features>,
    /// Datagrams that were dropped because a socket's buffer was full.
    pub overflow: u64,
    /// Recent senders that are not peers.
    pub strangers: Vec<Stranger>,
}

/// Features of the endpoint's sockets, as the kernel grants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Features {
    /// Datagrams per send (UDP_SEGMENT); 1 means one by one.
    pub datagrams_per_send: usize,
    /// Whether many datagrams are received as one message (UDP_GRO).
    pub gro: bool,
    /// Receive buffer of each socket in bytes, as the kernel counts them.
    pub receive_buffer: usize,
    /// Send buffer of each socket in bytes, as the kernel counts them.
    pub send_buffer: usize,
    /// Sockets that receive.
    pub inlets: usize,
}

/// An unknown sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stranger {
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Messages received from it.
    pub messages: u64,
}

/// Another host's end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// Its name, that of its port.
    #[schema(value_type = String)]
    pub name: Name,
    /// Where datagrams go to and come from.
    #[schema(value_type = String)]
    pub address: UnderlayAddr,
    /// The UDP port it receives at.
    pub port: u16,
    /// The networks that cross the tunnel to it.
    #[schema(value_type = Vec<String>)]
    pub networks: Vec<Name>,
    /// How it became a peer.
    pub origin: PeerOrigin,
    /// Whether frames can be sent to it.
    pub state: PortState,
    /// Why they cannot, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Path MTU as far as known, in bytes.
    pub path_mtu: u16,
    /// Milliseconds since the last datagram from it, to the second; absent if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_ms: Option<u64>,
    /// Addresses learned behind it.
    pub macs: u32,
    /// What came from it.
    pub rx: Traffic,
    /// What went to it.
    pub tx: Traffic,
    /// Frames dropped there, for any reason.
    pub drops: u64,
}

/// How a peer came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PeerOrigin {
    /// The configuration file.
    File,
    /// The API.
    Api,
    /// The cluster: it is one of its hosts.
    Cluster,
    /// It sent to the tunnel, and `vxlan.learn_peers` is set.
    Learned,
}

/// Measured path to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Probe {
    /// The peer.
    #[schema(value_type = String)]
    pub peer: Name,
    /// Path MTU in bytes: the longest packet that arrived unfragmented.
    pub path_mtu: u16,
    /// Longest inner packet that the tunnel to it carries, in bytes.
    pub overlay_mtu: u16,
    /// Shortest round-trip time in microseconds.
    pub rtt_us: u64,
}
