//! The command line as types. Its help texts make up the manual.

use std::{net::IpAddr, path::PathBuf};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use clap_complete::Shell;
use ipnet::IpNet;
use vswitch::addr::MacAddr;

use super::{
    CaptureArguments, ClusterCommand, CniCommand, DnsCommand, DockerCommand, EXIT_CODES, EndpointCommand,
    EventsArguments, MirrorCommand, NetworkCommand, PeerCommand, SandboxCommand, TraceArguments,
    TunnelCommand, WhyArguments, default_socket,
};
use crate::attach::{
    helper::{self, Order},
    target::Target,
};
use vswitch_model::{
    Accelerate, Also, BURST, Carries, DeviceSpec, Direction, Error, GuardSpec, IfName, InterfaceSpec,
    LimitSpec, Mtu, Name, Netns, Offloads, PortSpec, Rate, options,
};

/// Shows and controls a running vswitchd.
#[derive(Debug, Parser)]
#[command(name = "vswitchctl", version, max_term_width = 100, after_help = EXIT_CODES)]
#[command(long_about = "Shows and controls a running vswitchd.\n\n\
    Example: connect a container to a network and check it\n  \
    vswitchctl network create --subnet 10.9.0.0/24 blue\n  \
    vswitchctl network connect blue docker:web\n  \
    vswitchctl port ls")]
pub struct Cli {
    /// The daemon's socket.
    #[arg(long, global = true, help_heading = "Global options", env = "VSWITCH_SOCKET", value_name = "PATH", default_value_os_t = default_socket())]
    pub socket: PathBuf,
    /// Print the API's JSON; errors too.
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the state of the daemon.
    #[command(
        after_help = "Examples:\n  vswitchctl status\n  vswitchctl status --watch=5\n  vswitchctl status --check || alert"
    )]
    Status {
        /// Print only what does not work. Exit code for monitoring: 0 all is well, 1 something does not work, 3 the daemon is
        /// unreachable.
        #[arg(long, conflicts_with = "watch")]
        check: bool,
        /// Repeat every SECONDS, until interrupted. With --json: one line per sample.
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1",
              value_parser = clap::value_parser!(u16).range(1..=3600))]
        watch: Option<u16>,
    },
    /// Ports: interfaces of the switch.
    #[command(subcommand)]
    Port(PortCommand),
    /// Networks: broadcast domains.
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Sandboxes: namespaces of containers, with their endpoints.
    #[command(subcommand)]
    Sandbox(SandboxCommand),
    /// Names: what containers call each other by.
    #[command(subcommand)]
    Dns(DnsCommand),
    /// Docker Engine on this host.
    #[command(subcommand)]
    Docker(DockerCommand),
    /// Peers: other hosts, reached by VXLAN.
    #[command(subcommand)]
    Peer(PeerCommand),
    /// The tunnel to other hosts: endpoint and counters.
    #[command(subcommand)]
    Tunnel(TunnelCommand),
    /// The cluster: hosts that share networks, addresses and endpoints.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Endpoints: sandboxes' interfaces in networks.
    #[command(subcommand)]
    Endpoint(EndpointCommand),
    /// The CNI plugin, for podman, containerd and CRI-O.
    #[command(subcommand)]
    Cni(CniCommand),
    /// The MAC table.
    #[command(subcommand)]
    Fdb(FdbCommand),
    /// Counters of all ports, or their rates.
    #[command(
        after_help = "Examples:\n  vswitchctl stats\n  vswitchctl stats --watch\n  vswitchctl stats --watch=5 --json"
    )]
    Stats {
        /// Show rates every SECONDS, until interrupted. With --json: the counters, one line per sample.
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1",
              value_parser = clap::value_parser!(u16).range(1..=3600))]
        watch: Option<u16>,
    },
    /// Live view of ports, networks, workers and drops, with keys to sort and filter.
    #[command(
        after_help = "Examples:\n  vswitchctl top\n  ssh -t host vswitchctl top --interval 5\n\nKeys: Tab or 1-4 switch the view, left and right select the sort column, r reverses the order, / filters,\nup and down scroll, space pauses, q quits."
    )]
    Top {
        /// Seconds between updates.
        #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=3600))]
        interval: u16,
    },
    /// Events: ports up and down, addresses learned and moved, networks created and removed, reloads.
    Events(EventsArguments),
    /// Dropped frames by reason, with a remedy for each.
    #[command(after_help = "Example:\n  vswitchctl drops --port web")]
    Drops {
        /// Only this port.
        #[arg(long, value_name = "PORT")]
        port: Option<Name>,
    },
    /// Capture frames as the switch sees them.
    Capture(Box<CaptureArguments>),
    /// Mirrors: ports that get copies of other ports' frames.
    #[command(subcommand)]
    Mirror(MirrorCommand),
    /// Trace frames through the switch: a hypothetical one, or real ones.
    Trace(Box<TraceArguments>),
    /// Show what is known about an address, and what is wrong with it.
    Why(WhyArguments),
    /// Read the configuration file again and apply the difference.
    #[command(
        after_help = "Example: preview, then apply\n  vswitchctl reload --dry-run\n  vswitchctl reload"
    )]
    Reload {
        /// Only print what would change.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show what is logged, or change it until the daemon ends.
    #[command(
        after_help = "Examples:\n  vswitchctl log\n  vswitchctl log debug\n  vswitchctl log info,vswitch_host=debug\n  vswitchctl log --lines 50"
    )]
    Log {
        /// A level (error, warn, info, debug, trace), or a list of TARGET=LEVEL.
        level: Option<String>,
        /// Print the latest lines of the log, at most 1000.
        #[arg(long, value_name = "NUMBER", conflicts_with = "level")]
        lines: Option<usize>,
    },
    /// Write what a bug report needs into one archive.
    #[command(
        long_about = "Write what a bug report needs into one archive: state, configuration, counters, events, the log, and facts \
        about the kernel.\n\nValues of keys that look like secrets are removed. Names, MAC and IP addresses are not: read it before \
        you publish it.",
        after_help = "Examples:\n  vswitchctl support\n  vswitchctl support --output - | tar -tf -"
    )]
    Support {
        /// The archive; default: vswitch-support-TIME.tar here. `-`: standard output.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Create an interface in a container and connect it to a network.
    Attach(Box<AttachArguments>),
    /// Remove a port and its interface.
    #[command(after_help = "Example:\n  vswitchctl detach web")]
    Detach {
        /// The port.
        #[arg(value_name = "PORT")]
        name: Name,
    },
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  vswitchctl completions bash > /etc/bash_completion.d/vswitchctl")]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page, or write one page per command, and net.toml(5), into a folder.
    #[command(
        after_help = "Examples:\n  vswitchctl man | man -l -\n  vswitchctl man /tmp/pages && man /tmp/pages/net.toml.5"
    )]
    Man {
        /// The folder; created if missing.
        #[arg(value_name = "DIR")]
        folder: Option<PathBuf>,
    },
}

/// `vswitchctl port`
#[derive(Debug, Subcommand)]
pub enum PortCommand {
    /// List the ports.
    #[command(after_help = "Example:\n  vswitchctl port ls")]
    Ls,
    /// Show all details of a port.
    #[command(after_help = "Example:\n  vswitchctl port show web")]
    Show {
        /// The port.
        #[arg(value_name = "PORT")]
        name: Name,
    },
    /// Create a port; the daemon creates its interface.
    Add(Box<PortArguments>),
    /// Delete a port and the interface created for it.
    #[command(after_help = "Example:\n  vswitchctl port del web")]
    Del {
        /// The port.
        #[arg(value_name = "PORT")]
        name: Name,
    },
}

/// `vswitchctl fdb`
#[derive(Clone, Debug, Subcommand)]
pub enum FdbCommand {
    /// List the addresses the switch knows.
    #[command(
        after_help = "Examples:\n  vswitchctl fdb ls --port web\n  vswitchctl fdb ls --mac 02:42:0a:09:00:02"
    )]
    Ls {
        /// Only this network.
        #[arg(long, value_name = "NETWORK")]
        network: Option<Name>,
        /// Only addresses behind this port.
        #[arg(long, value_name = "PORT")]
        port: Option<Name>,
        /// Only this address.
        #[arg(long)]
        mac: Option<MacAddr>,
    },
    /// Pin an address to a port: it is not learned on other ports and does not age.
    #[command(after_help = "Example:\n  vswitchctl fdb add blue 02:42:0a:09:00:02 web")]
    Add {
        /// The network.
        network: Name,
        /// The address.
        #[arg(value_parser = station)]
        mac: MacAddr,
        /// The port.
        port: Name,
    },
    /// Remove one address, pinned or learned.
    #[command(after_help = "Example:\n  vswitchctl fdb del blue 02:42:0a:09:00:02")]
    Del {
        /// The network.
        network: Name,
        /// The address.
        mac: MacAddr,
    },
    /// Remove learned addresses; pinned ones stay.
    #[command(after_help = "Examples:\n  vswitchctl fdb flush --port web\n  vswitchctl fdb flush --all")]
    #[group(required = true, multiple = false)]
    Flush {
        /// Addresses behind this port.
        #[arg(long, value_name = "PORT")]
        port: Option<Name>,
        /// Addresses of this network.
        #[arg(long, value_name = "NETWORK")]
        network: Option<Name>,
        /// All addresses.
        #[arg(long)]
        all: bool,
    },
}

/// Configuration of an interface.
#[derive(Debug, Args)]
pub(super) struct InterfaceArguments {
    /// Name of the interface; default: the port's name.
    #[arg(long)]
    ifname: Option<IfName>,
    /// An address with prefix length, such as 10.9.0.2/24; may be repeated.
    #[arg(long = "ip", value_name = "ADDRESS/LEN", value_parser = address)]
    address: Vec<IpNet>,
    /// Next hop of the default route; once per address family.
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<IpAddr>,
    /// MAC address; by default the kernel chooses one.
    #[arg(long, value_parser = station)]
    mac: Option<MacAddr>,
    /// Longest IP packet in bytes; default: the network's.
    #[arg(long, value_name = "BYTES")]
    pub(super) mtu: Option<Mtu>,
    /// Keep the interface when the daemon stops, so that the container's sockets and routes survive a restart.
    #[arg(long)]
    persist: bool,
}

impl InterfaceArguments {
    pub(super) fn spec(&self, netns: Option<Netns>) -> InterfaceSpec {
        InterfaceSpec {
            netns,
            ifname: self.ifname.clone(),
            mac: self.mac,
            address: self.address.clone(),
            gateway: self.gateway.clone(),
            persist: self.persist,
            bare: None,
            identity: None,
        }
    }
}

/// Rate limits of a port.
#[derive(Debug, Args)]
pub(super) struct LimitArguments {
    /// Limit of what it sends, such as 100Mbit/s; excess frames are dropped.
    #[arg(long, value_name = "RATE")]
    rx_limit: Option<Rate>,
    /// Burst it may send after a pause; default: the amount of 200 ms.
    #[arg(long, value_name = "BYTES", requires = "rx_limit", value_parser = burst)]
    rx_burst: Option<u32>,
    /// Limit of what it receives, such as 1Gbit/s; excess frames are dropped.
    #[arg(long, value_name = "RATE")]
    tx_limit: Option<Rate>,
    /// Burst it may receive after a pause; default: the amount of 200 ms.
    #[arg(long, value_name = "BYTES", requires = "tx_limit", value_parser = burst)]
    tx_burst: Option<u32>,
}

impl LimitArguments {
    pub(super) fn spec(&self) -> LimitSpec {
        LimitSpec { rx: self.rx_limit, rx_burst: self.rx_burst, tx: self.tx_limit, tx_burst: self.tx_burst }
    }
}

/// The guard of a port.
#[derive(Debug, Args)]
pub(super) struct GuardArguments {
    /// Drop what claims to be from another station, a router or a DHCP server.
    #[arg(long, value_name = "on|off", value_parser = ["on", "off"], num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    guard: Option<String>,
    /// Addresses, subnets and MAC addresses that it may use besides its own.
    #[arg(long, value_name = "ADDRESS,…", value_delimiter = ',')]
    guard_also: Vec<Also>,
}

impl GuardArguments {
    /// The guard of a port that has none by default.
    pub(super) fn spec(&self) -> Option<GuardSpec> {
        let is_on = self.guard.as_deref().map_or(!self.guard_also.is_empty(), |word| word == "on");
        is_on.then(|| GuardSpec { also: self.guard_also.clone() })
    }

    /// The same as options of an endpoint.
    pub(super) fn options(&self) -> impl Iterator<Item = (String, String)> + use<> {
        let guard = self.guard.clone().map(|word| ("guard".to_owned(), word));
        let also: Vec<_> = self.guard_also.iter().map(ToString::to_string).collect();
        let also = (!also.is_empty()).then(|| (options::ALSO.to_owned(), also.join(",")));
        guard.into_iter().chain(also)
    }
}

/// `vswitchctl port add`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    vswitchctl port add web --network blue --netns web --ip 10.9.0.2/24\n  \
    vswitchctl port add db --network blue --netns db --rx-limit 100Mbit/s --tx-limit 1Gbit/s\n  \
    vswitchctl port add uplink --kind packet --device eth1 --trunk blue,red")]
pub struct PortArguments {
    /// Its name.
    name: Name,
    /// The network of an access port, untagged.
    #[arg(long, value_name = "NETWORK", required_unless_present = "trunk", conflicts_with = "trunk")]
    network: Option<Name>,
    /// Networks carried by VLAN tag.
    #[arg(long, value_name = "NETWORK,…", value_delimiter = ',')]
    trunk: Vec<Name>,
    /// Network of a trunk's untagged frames.
    #[arg(long, value_name = "NETWORK", requires = "trunk")]
    native: Option<Name>,
    #[command(flatten)]
    device: DeviceArguments,
    /// Isolated ports do not exchange frames with each other.
    #[arg(long)]
    isolated: bool,
    /// Frames may leave by the port they came in by.
    #[arg(long)]
    hairpin: bool,
    /// Send the native network's frames tagged as well.
    #[arg(long, requires = "native")]
    native_tagged: bool,
    /// Do not send frames to groups and unknown stations by the port.
    #[arg(long)]
    no_flood: bool,
    /// Do not learn addresses on the port.
    #[arg(long)]
    no_learning: bool,
    /// Maximum number of addresses learned on the port.
    #[arg(long, value_name = "COUNT")]
    mac_limit: Option<u32>,
    #[command(flatten)]
    limit: LimitArguments,
    #[command(flatten)]
    guard: GuardArguments,
    /// Disable checksum and segmentation offloads of the device.
    #[arg(long, conflicts_with = "merge_udp")]
    no_offload: bool,
    /// Do not let the kernel forward for the port (veth).
    #[arg(long)]
    no_accelerate: bool,
    /// Merge datagrams of one flow for the device (TAP): raw sockets of the container see them merged.
    #[arg(long)]
    merge_udp: bool,
}

/// What is behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PortKind {
    /// A TAP interface.
    Tap,
    /// A veth pair.
    Veth,
    /// An existing interface.
    Packet,
}

/// What is behind a port.
#[derive(Debug, Args)]
pub(super) struct DeviceArguments {
    /// What is behind it.
    #[arg(long, default_value = "tap")]
    kind: PortKind,
    /// The existing interface, for --kind packet.
    #[arg(long, value_name = "IFNAME", required_if_eq("kind", "packet"))]
    device: Option<IfName>,
    /// Namespace of the interface: a name, a path, or pid:NUMBER; default: the daemon's own.
    #[arg(long, value_name = "NAME|PATH", value_parser = netns)]
    netns: Option<Netns>,
    #[command(flatten)]
    interface: InterfaceArguments,
}

impl DeviceArguments {
    pub(super) fn spec(&self) -> Result<DeviceSpec, Error> {
        let interface = self.interface.spec(self.netns.clone());
        match (self.kind, self.device.clone()) {
            (PortKind::Tap, None) => Ok(DeviceSpec::Tap(interface)),
            (PortKind::Veth, None) => Ok(DeviceSpec::Veth(interface)),
            (PortKind::Packet, Some(device)) if interface == InterfaceSpec::default() => {
                Ok(DeviceSpec::Packet { device })
            }
            (PortKind::Packet, _) => Err(Error::invalid(
                "a packet port uses its --device as it is: remove --netns, --ifname, --ip, --gateway, --mac and --persist",
            )),
            (_, Some(_)) => Err(Error::invalid("--device is for --kind packet only")),
        }
    }

    /// Longest IP packet in bytes, if given.
    pub(super) fn mtu(&self) -> Option<Mtu> {
        self.interface.mtu
    }
}

impl PortArguments {
    pub(super) fn spec(&self) -> Result<PortSpec, Error> {
        let device = self.device.spec()?;
        let carries = match &self.network {
            Some(network) => Carries::Access { network: network.clone() },
            None => Carries::Trunk { trunk: self.trunk.clone(), native: self.native.clone() },
        };
        Ok(PortSpec {
            mtu: self.device.mtu(),
            isolated: self.isolated,
            hairpin: self.hairpin,
            native_tagged: self.native_tagged,
            flood: !self.no_flood,
            learning: !self.no_learning,
            mac_limit: self.mac_limit,
            offload: match (self.no_offload, self.merge_udp) {
                (true, _) => Offloads::Off,
                (_, true) => Offloads::Udp,
                _ => Offloads::On,
            },
            limit: self.limit.spec(),
            guard: self.guard.spec(),
            accelerate: if self.no_accelerate { Accelerate::Off } else { Accelerate::Auto },
            ..PortSpec::new(self.name.clone(), carries, device)
        })
    }
}

/// `vswitchctl attach`
#[derive(Debug, Args)]
#[command(
    long_about = "Create an interface in a container and connect it to a network.\n\n\
        This runs with the caller's privileges, not the daemon's: it creates the interface inside the target's namespace, \
        configures it, and passes it to the daemon. It needs CAP_SYS_ADMIN and CAP_NET_ADMIN over the target. If a step fails, \
        the interface is deleted again.",
    after_help = "Examples:\n  \
        vswitchctl attach --netns web blue --ip 10.9.0.2/24 --gateway 10.9.0.1\n  \
        vswitchctl attach --docker web blue --ifname eth1 --ip 10.9.0.3/24\n  \
        vswitchctl attach --pid 4711 blue --name db --kind veth"
)]
pub struct AttachArguments {
    #[command(flatten)]
    target: TargetArguments,
    /// The network.
    network: Name,
    /// Name of the port; default: the target's name.
    #[arg(long)]
    name: Option<Name>,
    /// Kind of interface.
    #[arg(long, default_value = "tap")]
    kind: AttachKind,
    #[command(flatten)]
    interface: InterfaceArguments,
    #[command(flatten)]
    limit: LimitArguments,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct TargetArguments {
    /// A namespace, by name under /run/netns or by path.
    #[arg(long, value_name = "NAME|PATH", value_parser = netns)]
    netns: Option<Netns>,
    /// The namespace of a process.
    #[arg(long)]
    pid: Option<u32>,
    /// The namespace of a Docker container, by name or id.
    #[arg(long, value_name = "CONTAINER")]
    docker: Option<String>,
}

/// Kinds of interfaces that `attach` can create.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AttachKind {
    /// A TAP; the fastest, without an interface on the host.
    Tap,
    /// A veth pair, with its other end on the host.
    Veth,
}

impl AttachArguments {
    /// The attachment to make.
    pub(super) fn order(&self) -> Result<Order, Error> {
        let TargetArguments { netns, pid, docker } = &self.target;
        let (target, called) = match (netns, pid, docker) {
            (Some(netns), ..) => {
                let last = netns.path().file_name().map(|name| name.to_string_lossy().into_owned());
                (Target::Netns(netns.clone()), last.unwrap_or_default())
            }
            (None, Some(pid), _) => (Target::Netns(Netns::Pid(*pid)), format!("pid-{pid}")),
            (None, None, container) => {
                let container = container.clone().unwrap_or_default();
                (Target::Docker(container.clone()), container)
            }
        };
        let name = match &self.name {
            Some(name) => name.clone(),
            None => {
                called.parse().map_err(|error| Error::invalid(format!("{error}; choose one with --name")))?
            }
        };
        let kind = match self.kind {
            AttachKind::Tap => helper::Kind::Tap,
            AttachKind::Veth => helper::Kind::Veth,
        };
        let interface = self.interface.spec(None);
        let (mtu, limit) = (self.interface.mtu, self.limit.spec());
        Ok(Order { network: self.network.clone(), name, target, kind, interface, mtu, limit })
    }
}

fn burst(text: &str) -> Result<u32, String> {
    let bytes = text.parse().ok().filter(|bytes| BURST.contains(bytes));
    bytes.ok_or_else(|| format!("write a number of bytes, {} to {}", BURST.start(), BURST.end()))
}

fn address(text: &str) -> Result<IpNet, String> {
    text.parse()
        .map_err(|_| "write an address with its prefix length, such as 10.9.0.2/24 or fd09::2/64".into())
}

pub(super) fn station(text: &str) -> Result<MacAddr, String> {
    let mac: MacAddr = text.parse().map_err(|error: vswitch::addr::ParseMacError| error.to_string())?;
    if mac.is_station() {
        Ok(mac)
    } else {
        Err("it is a group address or zero, which no interface can have".into())
    }
}

/// The direction of a frame, one of the words that completion offers.
pub(super) fn direction() -> impl TypedValueParser<Value = Direction> {
    PossibleValuesParser::new(["rx", "tx"]).try_map(|word| word.parse::<Direction>())
}

/// A relative path would be resolved in the daemon's working directory: make it absolute here.
pub(super) fn netns(text: &str) -> Result<Netns, String> {
    match Netns::from(text.to_owned()) {
        Netns::Path(path) => std::path::absolute(path).map(Netns::Path).map_err(|error| error.to_string()),
        other => Ok(other),
    }
}
