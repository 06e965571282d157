//! Types of the HTTP API, besides those of [`crate`].
//!
//! Counters only grow, from the daemon's start. Times are whole milliseconds or seconds, as the name says.

pub mod capture;
pub mod cluster;
pub mod counters;
pub mod directory;
pub mod events;
mod names;
mod network;
pub mod service;
pub mod trace;
pub mod tunnel;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::{
    IntoParams, ToSchema,
    openapi::schema::{Object, ObjectBuilder, Type},
};
use vswitch::addr::MacAddr;

use self::counters::{Load, Loop, NetworkStats, TableStats};
pub use self::names::{DnsStatus, NameEntry, NamesFilter, StaticName};
pub use self::network::{Endpoint, Network, Prune, Pruned, SubnetUsage, has_label};
pub use crate::Direction;
use crate::{GuardSpec, LimitSpec, MirrorSpec, Mtu, Name, Offloads};

/// Version of the API: major version of the paths, and the number of additions since.
///
/// 1.1: `api_version` in [`Status`]. 1.2: `guard` of ports and endpoints, addresses that are `pinned`, the event `guard_dropped`.
/// 1.3: `troubles` in [`Status`], [`Log`]. 1.4: the [directory](directory::Directory) of a network, `answered` questions.
/// 1.5: `acceleration` in [`Status`] and [`Port`]. 1.6: [clusters](cluster).
/// 1.7: names, `nameservers` of endpoints. 1.8: names by hand, `dns`, the events `renamed`, `name_added` and others of names.
/// 1.9: [services](service), `services` and `labels` of endpoints.
pub const API_VERSION: &str = "1.10";

/// Header with the number of a capture.
pub const CAPTURE_ID: &str = "capture-id";

/// The daemon at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Name of this host: `switch.name`.
    pub name: String,
    /// The daemon's version.
    pub version: String,
    /// The API's version; empty before 1.1.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// The daemon's process.
    pub pid: u32,
    /// Seconds since the daemon's start.
    pub uptime_s: u64,
    /// The configuration file, if there is one.
    #[schema(value_type = Option<String>)]
    pub config: Option<PathBuf>,
    /// How many networks there are.
    pub networks: u32,
    /// How many ports there are.
    pub ports: u32,
    /// How many of them carry frames.
    pub ports_up: u32,
    /// Addresses in the MAC table.
    pub macs: u32,
    /// Capacity of the MAC table.
    pub mac_limit: u32,
    /// The forwarding threads.
    pub workers: Vec<Worker>,
    /// Warnings about the configuration: sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What does not work at the moment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<Trouble>,
    /// Whether the kernel can forward for ports; absent before 1.5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceleration: Option<Acceleration>,
    /// What the daemon is busy with, and how far it is: a change that takes more than a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy: Option<String>,
}

/// Whether the kernel forwards in place of the daemon, and how much.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Acceleration {
    /// Whether it does, where it knows the stations.
    pub on: bool,
    /// Why not, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Received frames that the kernel forwarded; they are among the port's.
    pub rx_frames: u64,
    /// The same of sent ones.
    pub tx_frames: u64,
}

/// Something that does not work at the moment. It is tried again, and goes from the list when it works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Trouble {
    /// Of what kind.
    pub kind: TroubleKind,
    /// Of which port, peer or key of net.toml.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// What is wrong and what to do about it.
    pub detail: String,
}

/// What is in trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TroubleKind {
    /// A port carries no frames.
    Port,
    /// This host's tunnel endpoint is down, and all peers with it.
    Tunnel,
    /// A peer was sent to and has never answered.
    Peer,
    /// Networks do not reach the outside, or a port is not published.
    Gateway,
    /// Changes are refused: they cannot be kept.
    Store,
    /// The file was not applied.
    Reload,
    /// The MAC table is full.
    Table,
    /// An address of `[api]` is not served.
    Listener,
    /// Names are not served at an address.
    Dns,
    /// A kind of a later version.
    #[serde(other)]
    Other,
}

/// The log: what is logged, and its latest lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Log {
    /// A level, or a list of `target=level`.
    pub level: String,
    /// The latest lines as text, oldest first.
    #[serde(default)]
    pub lines: Vec<String>,
}

/// What is to be logged from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogRequest {
    /// A level (error, warn, info, debug, trace), or a list of `target=level`.
    pub level: String,
}

/// A forwarding thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Worker {
    /// Its number, from 0.
    pub id: u16,
    /// Ports it receives on.
    pub ports: u32,
    /// Turns that received frames.
    pub turns: u64,
    /// Frames it received.
    pub frames: u64,
}

/// A port and its counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Port {
    /// Its name.
    #[schema(value_type = String)]
    pub name: Name,
    /// Its number in the switch; numbers of removed ports are reused.
    pub id: u16,
    /// Whether the configuration file declares it; else it came through the API.
    pub declared: bool,
    /// The untagged network: an access port's only one, or a trunk's native one.
    #[schema(value_type = Option<String>)]
    pub network: Option<Name>,
    /// A trunk's tagged networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub trunk: Vec<Name>,
    /// Source of the copies it receives, instead of carrying a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub mirror: Option<MirrorSpec>,
    /// Kind of its device: `tap`, `veth`, `packet`, `vxlan`, `peer` or `collector`.
    pub kind: String,
    /// The interface's name, in its namespace.
    pub device: String,
    /// The interface's namespace; the daemon's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Whether it carries frames.
    pub state: PortState,
    /// Why not, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Warnings about what this kernel lacks: sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Longest IP packet, in bytes.
    #[schema(value_type = u16)]
    pub mtu: Mtu,
    /// Which offloads of its device are used: `true`, `false`, or `"udp"`.
    #[schema(value_type = Object)]
    pub offload: Offloads,
    /// Its rate limits, such as `{"rx": "100 Mbit/s"}`.
    #[serde(default, skip_serializing_if = "LimitSpec::is_none")]
    #[schema(value_type = Object)]
    pub limit: LimitSpec,
    /// Its guard, if it has one: `true`, or `{"also": ["10.9.0.100"]}`.
    #[serde(default, deserialize_with = "crate::guard::written", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub guard: Option<GuardSpec>,
    /// Whether it reaches no other isolated port.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub isolated: bool,
    /// Whether the kernel forwards for it; absent for tunnels and before 1.5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceleration: Option<Acceleration>,
    /// The worker that receives on it.
    pub worker: u16,
    /// Addresses learned or pinned on it.
    pub macs: u32,
    /// Received frames.
    pub rx: Traffic,
    /// Sent frames.
    pub tx: Traffic,
    /// Outcomes of its frames.
    #[serde(default)]
    pub fates: Fates,
    /// Dropped frames by reason; only reasons that occurred.
    pub drops: Vec<Drop>,
}

/// Outcomes of a port's frames. Two laws hold: `rx.frames` is `unicast + flooded + answered + waiting` and the drops met on the way in;
/// `offered` is `tx.frames` and the drops met on the way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fates {
    /// Received frames that were sent to the one port their destination is behind.
    pub unicast: u64,
    /// Received frames that were sent to every other port of their network.
    pub flooded: u64,
    /// Received frames that asked for a neighbour's address, and were answered instead of flooded.
    #[serde(default)]
    pub answered: u64,
    /// Received frames that wait to be sent to hundreds of ports, at this moment.
    #[serde(default)]
    pub waiting: u64,
    /// Frames that were to leave by this port.
    pub offered: u64,
    /// Wire frames made by segmenting super-frames for this port.
    pub segments: u64,
    /// Addresses that were new on this port.
    #[serde(default)]
    pub learned: u64,
    /// Addresses that moved here from another port.
    #[serde(default)]
    pub moved: u64,
    /// Received frames whose source was not learned because the port's limit was reached or the table was full.
    #[serde(default)]
    pub unlearned: u64,
    /// Addresses learned here that were evicted.
    #[serde(default)]
    pub evicted: u64,
    /// Frames that the kernel dropped before the switch could receive them: since the device was opened, of a TAP since the
    /// interface was made.
    pub overflow: u64,
}

/// Whether a port carries frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PortState {
    /// It does.
    Up,
    /// It does not, for the port's `reason`.
    Down,
}

/// Frames in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    /// Frames; a super-frame counts as one.
    pub frames: u64,
    /// Bytes from the destination MAC on, without frame check sequence.
    pub bytes: u64,
    /// Super-frames: longer than the MTU, segmented where a device requires it.
    pub super_frames: u64,
}

/// Frames dropped at one port for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drop {
    /// The port they were received on, or would have been sent by.
    #[schema(value_type = String)]
    pub port: Name,
    /// Whether they were received or to be sent.
    #[schema(schema_with = direction)]
    pub direction: Direction,
    /// The reason's name, the kernel's where it has one.
    pub reason: String,
    /// How many.
    pub frames: u64,
    /// What it means and what to do about it.
    pub hint: String,
}

/// The counters of every port, network and worker, taken at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// Milliseconds from the daemon's start to that moment.
    pub at_ms: u64,
    /// By port name.
    pub ports: Vec<PortStats>,
    /// By number.
    pub workers: Vec<Worker>,
    /// By network name.
    #[serde(default)]
    pub networks: Vec<NetworkStats>,
    /// The MAC table.
    #[serde(default)]
    pub table: TableStats,
    /// How busy the workers are, by number.
    #[serde(default)]
    pub loads: Vec<Load>,
    /// Pairs of ports that are connected to each other outside of the switch.
    #[serde(default)]
    pub loops: Vec<Loop>,
}

/// The counters of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortStats {
    /// Its name.
    #[schema(value_type = String)]
    pub port: Name,
    /// Received frames.
    pub rx: Traffic,
    /// Sent frames.
    pub tx: Traffic,
    /// Frames dropped here for any reason, including those the kernel dropped before the switch could receive them.
    pub drops: u64,
}

/// An address in the MAC table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FdbEntry {
    /// The network it is known in.
    #[schema(value_type = String)]
    pub network: Name,
    /// The address.
    #[schema(value_type = String)]
    pub mac: MacAddr,
    /// The port behind which it is.
    #[schema(value_type = String)]
    pub port: Name,
    /// How it got there.
    pub origin: Origin,
    /// Milliseconds since its last frame; absent if pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// Whether it moved too often and is limited to one move a second for a while.
    #[serde(default)]
    pub held: bool,
}

/// How an address got into the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// From a frame; it ages.
    Learned,
    /// By command; it stays.
    Static,
    /// It is that of a gateway or of a guarded station, and stays with its port.
    Pinned,
}

/// Filter of the MAC table: everything given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FdbFilter {
    /// Of this network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub network: Option<Name>,
    /// Behind this port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub port: Option<Name>,
    /// This address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub mac: Option<MacAddr>,
}

/// An address in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdbKey {
    /// The network.
    pub network: Name,
    /// The address.
    pub mac: MacAddr,
}

/// An address to pin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StaticEntry {
    /// The network.
    #[schema(value_type = String)]
    pub network: Name,
    /// The address.
    #[schema(value_type = String)]
    pub mac: MacAddr,
    /// The port behind which it is.
    #[schema(value_type = String)]
    pub port: Name,
}

/// Which learned addresses to forget.
///
/// On the wire: `"all"`, `{"port": "web"}` or `{"network": "blue"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flush {
    /// All of them.
    All,
    /// Those behind a port.
    Port(Name),
    /// Those of a network.
    Network(Name),
}

/// How many addresses were forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flushed {
    /// The entries.
    pub entries: u32,
}

/// Which drops: of one port, or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DropsFilter {
    /// Of this port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub port: Option<Name>,
}

/// How to reload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReloadRequest {
    /// Only report what would change.
    pub dry_run: bool,
}

/// What a reload changed, or would change; nothing when the list is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reload {
    /// Whether it was only reported.
    pub dry_run: bool,
    /// The changes, in the order they are done.
    pub changes: Vec<Change>,
}

/// One difference between what is and what the file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// What is done.
    pub action: Action,
    /// To what kind of thing: `switch`, `network`, `port`, `endpoint`.
    pub object: String,
    /// To which of them.
    pub name: String,
    /// Details, such as `mtu 1500 -> 1450`; empty when action and name say it all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// What is done to a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is created.
    Add,
    /// It becomes different.
    Change,
    /// It is deleted.
    Remove,
}

/// Schema of a [`Direction`], which the data plane defines.
fn direction() -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["rx", "tx"])).build()
}
