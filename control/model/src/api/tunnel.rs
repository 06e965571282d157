//! The tunnel: this host's end, its peers, and how far they are.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{PortState, Traffic};
use crate::Name;

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
    pub local: IpAddr,
    /// The UDP port they send to.
    pub port: u16,
    /// The underlay's multicast group, if one is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub group: Option<IpAddr>,
    /// Whether it is open.
    pub state: PortState,
    /// Why it is not, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Octets of the longest packet that the underlay carries.
    pub underlay_mtu: u16,
    /// Octets of the longest inner packet that tunnels carry.
    pub overlay_mtu: u16,
    /// Whether whoever sends becomes a peer.
    pub learn_peers: bool,
    /// What the kernel lets it do; absent while it is not open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Features>,
    /// Datagrams that were dropped because a socket's buffer was full.
    pub overflow: u64,
    /// Who sent to it without being a peer, of late.
    pub strangers: Vec<Stranger>,
}

/// What the kernel lets the endpoint do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Features {
    /// Datagrams that leave by one send (UDP_SEGMENT); 1: each by itself.
    pub datagrams_per_send: usize,
    /// Whether many datagrams are received as one message (UDP_GRO).
    pub gro: bool,
    /// Octets that may wait to be received by each socket, as the kernel counts them.
    pub receive_buffer: usize,
    /// Octets that may wait to be sent by each socket, as the kernel counts them.
    pub send_buffer: usize,
    /// Sockets that receive.
    pub inlets: usize,
}

/// Somebody who is no peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stranger {
    /// Where it sends from.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Messages that came from there.
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
    pub address: IpAddr,
    /// The UDP port it receives at.
    pub port: u16,
    /// The networks that cross the tunnel to it.
    #[schema(value_type = Vec<String>)]
    pub networks: Vec<Name>,
    /// Who asked for it.
    pub origin: PeerOrigin,
    /// Whether frames can be sent to it.
    pub state: PortState,
    /// Why they cannot, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Octets of the longest packet that is known to reach it in one piece.
    pub path_mtu: u16,
    /// Milliseconds since it was last heard, to the second; absent when it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_ms: Option<u64>,
    /// Addresses learned behind it.
    pub macs: u32,
    /// What came from it.
    pub rx: Traffic,
    /// What went to it.
    pub tx: Traffic,
    /// Frames that died there, for whatever reason.
    pub drops: u64,
}

/// Who asked for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PeerOrigin {
    /// The configuration file.
    File,
    /// The API.
    Api,
    /// Nobody: it was heard, and `vxlan.learn_peers` took it in.
    Learned,
}

/// What was found out about the way to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Probe {
    /// The peer.
    #[schema(value_type = String)]
    pub peer: Name,
    /// Octets of the longest packet that reached it in one piece.
    pub path_mtu: u16,
    /// Octets of the longest inner packet that the tunnel to it carries.
    pub overlay_mtu: u16,
    /// Microseconds there and back, of the quickest of all answers.
    pub rtt_us: u64,
}
