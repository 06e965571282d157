//! The command line as types. Its help texts are the manual.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ipnet::IpNet;
use vswitch::addr::{MacAddr, VlanId};

use super::{
    CaptureArguments, CniCommand, EXIT_CODES, EventsArguments, MirrorCommand, NetworkCommand, PeerCommand,
    SandboxCommand, TraceArguments, TunnelCommand, WhyArguments, default_socket,
};
use crate::attach::{
    helper::{self, Order},
    target::Target,
};
use vswitch_model::{
    BURST, Carries, DeviceSpec, Error, InterfaceSpec, LimitSpec, Name, Netns, PortSpec, Rate,
};

/// Looks at and commands a running vswitchd.
#[derive(Debug, Parser)]
#[command(name = "vswitchctl", version, max_term_width = 100, after_help = EXIT_CODES)]
#[command(long_about = "Looks at and commands a running vswitchd.\n\n\
    Example: put a container on a network and see how it fares\n  \
    vswitchctl network create --subnet 10.9.0.0/24 blue\n  \
    vswitchctl network connect blue docker:web\n  \
    vswitchctl port ls")]
pub struct Cli {
    /// The daemon's socket.
    #[arg(long, global = true, help_heading = "Global options", env = "VSWITCH_SOCKET", value_name = "PATH", default_value_os_t = default_socket())]
    pub socket: PathBuf,
    /// Print JSON for programs, in the words of the API; refusals too.
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The daemon at a glance.
    #[command(after_help = "Examples:\n  vswitchctl status\n  vswitchctl status --watch=5")]
    Status {
        /// Show it again every SECONDS, until interrupted. With --json: a line each.
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1",
              value_parser = clap::value_parser!(u16).range(1..=3600))]
        watch: Option<u16>,
    },
    /// Ports: places where frames come and go.
    #[command(subcommand)]
    Port(PortCommand),
    /// Networks: broadcast domains.
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Sandboxes: namespaces of containers, and what connects them.
    #[command(subcommand)]
    Sandbox(SandboxCommand),
    /// Other hosts, to which networks cross by VXLAN.
    #[command(subcommand)]
    Peer(PeerCommand),
    /// The tunnel to other hosts, and its counters.
    #[command(subcommand)]
    Tunnel(TunnelCommand),
    /// The CNI plugin, for podman, containerd and CRI-O.
    #[command(subcommand)]
    Cni(CniCommand),
    /// The MAC table.
    #[command(subcommand)]
    Fdb(FdbCommand),
    /// Counters of every port, or what they do per second.
    #[command(
        after_help = "Examples:\n  vswitchctl stats\n  vswitchctl stats --watch\n  vswitchctl stats --watch=5 --json"
    )]
    Stats {
        /// Show what happens per second, every SECONDS, until interrupted. With --json: the counters, a line each.
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1",
              value_parser = clap::value_parser!(u16).range(1..=3600))]
        watch: Option<u16>,
    },
    /// Ports, networks, workers and drops as they change: a screen, with keys to sort and filter.
    #[command(
        after_help = "Examples:\n  vswitchctl top\n  ssh -t host vswitchctl top --interval 5\n\nKeys: Tab or 1-4 the view, left and right the column to sort by, r the other way round, / to filter,\nup and down to scroll, space to pause, q to end."
    )]
    Top {
        /// Seconds between two looks.
        #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=3600))]
        interval: u16,
    },
    /// What happened: ports up and down, addresses learned and moved, networks made and removed, reloads.
    Events(EventsArguments),
    /// Why frames died, and what to do about it.
    #[command(after_help = "Example:\n  vswitchctl drops --port web")]
    Drops {
        /// Of this port only.
        #[arg(long, value_name = "PORT")]
        port: Option<Name>,
    },
    /// Capture frames as the switch sees them.
    Capture(Box<CaptureArguments>),
    /// Ports that get copies of others' frames, for who watches there.
    #[command(subcommand)]
    Mirror(MirrorCommand),
    /// Follow a frame through the switch: a hypothetical one, or real ones.
    Trace(Box<TraceArguments>),
    /// What is known of an address, and what is wrong with it.
    Why(WhyArguments),
    /// Read the configuration file again and apply the difference.
    #[command(after_help = "Example: see first, then do\n  vswitchctl reload --dry-run\n  vswitchctl reload")]
    Reload {
        /// Only say what would change.
        #[arg(long)]
        dry_run: bool,
    },
    /// Make an interface in a container and put it on a network.
    Attach(Box<AttachArguments>),
    /// Take a port away again, and the interface with it.
    #[command(after_help = "Example:\n  vswitchctl detach web")]
    Detach {
        /// The port.
        name: Name,
    },
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  vswitchctl completions bash > /etc/bash_completion.d/vswitchctl")]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page, or write a page for every command into a folder.
    #[command(
        after_help = "Examples:\n  vswitchctl man | man -l -\n  vswitchctl man /usr/local/share/man/man1"
    )]
    Man {
        /// The folder; made if it is missing.
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
    /// Everything about a port.
    #[command(after_help = "Example:\n  vswitchctl port show web")]
    Show {
        /// The port.
        name: Name,
    },
    /// Make a port; the daemon makes its interface.
    Add(Box<PortArguments>),
    /// Delete a port and the interface made for it.
    #[command(after_help = "Example:\n  vswitchctl port del web")]
    Del {
        /// The port.
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
        /// Of this network.
        #[arg(long, value_name = "NETWORK")]
        network: Option<Name>,
        /// Behind this port.
        #[arg(long, value_name = "PORT")]
        port: Option<Name>,
        /// This address.
        #[arg(long)]
        mac: Option<MacAddr>,
    },
    /// Pin an address to a port: it is not learned elsewhere and does not age.
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
    /// Forget one address, pinned or learned.
    #[command(after_help = "Example:\n  vswitchctl fdb del blue 02:42:0a:09:00:02")]
    Del {
        /// The network.
        network: Name,
        /// The address.
        mac: MacAddr,
    },
    /// Forget learned addresses; pinned ones stay.
    #[command(after_help = "Examples:\n  vswitchctl fdb flush --port web\n  vswitchctl fdb flush --all")]
    #[group(required = true, multiple = false)]
    Flush {
        /// Those behind a port.
        #[arg(long, value_name = "PORT")]
        port: Option<Name>,
        /// Those of a network.
        #[arg(long, value_name = "NETWORK")]
        network: Option<Name>,
        /// All of them.
        #[arg(long)]
        all: bool,
    },
}

/// How an interface is set up.
#[derive(Debug, Args)]
pub(super) struct InterfaceArguments {
    /// The interface's name; the port's name unless told.
    #[arg(long)]
    ifname: Option<String>,
    /// An address with prefix length, such as 10.9.0.2/24; may be given several times.
    #[arg(long = "ip", value_name = "ADDRESS/LEN", value_parser = address)]
    address: Vec<IpNet>,
    /// The next hop of the default route; once per address family.
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<IpAddr>,
    /// Its MAC address; the kernel chooses one unless told.
    #[arg(long, value_parser = station)]
    mac: Option<MacAddr>,
    /// Octets of the longest IP packet; the network's unless told.
    #[arg(long, value_name = "OCTETS", value_parser = clap::value_parser!(u16).range(68..=9198))]
    pub(super) mtu: Option<u16>,
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
        }
    }
}

/// What a port may send and be sent.
#[derive(Debug, Args)]
pub(super) struct LimitArguments {
    /// What it may send at most, such as 100Mbit/s; more is dropped.
    #[arg(long, value_name = "RATE")]
    rx_limit: Option<Rate>,
    /// What it may send at once after a pause; as much as in 200 ms unless told.
    #[arg(long, value_name = "OCTETS", requires = "rx_limit", value_parser = burst)]
    rx_burst: Option<u32>,
    /// What it may be sent at most, such as 1Gbit/s; more is dropped.
    #[arg(long, value_name = "RATE")]
    tx_limit: Option<Rate>,
    /// What it may be sent at once after a pause; as much as in 200 ms unless told.
    #[arg(long, value_name = "OCTETS", requires = "tx_limit", value_parser = burst)]
    tx_burst: Option<u32>,
}

impl LimitArguments {
    pub(super) fn spec(&self) -> LimitSpec {
        LimitSpec { rx: self.rx_limit, rx_burst: self.rx_burst, tx: self.tx_limit, tx_burst: self.tx_burst }
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
    /// Its only network, untagged.
    #[arg(long, value_name = "NETWORK", required_unless_present = "trunk", conflicts_with = "trunk")]
    network: Option<Name>,
    /// The networks it carries by VLAN tag.
    #[arg(long, value_name = "NETWORK,…", value_delimiter = ',')]
    trunk: Vec<Name>,
    /// The network of a trunk's untagged frames.
    #[arg(long, value_name = "NETWORK", requires = "trunk")]
    native: Option<Name>,
    #[command(flatten)]
    device: DeviceArguments,
    /// Frames never go from an isolated port to another.
    #[arg(long)]
    isolated: bool,
    /// Frames may leave by the port they came in by.
    #[arg(long)]
    hairpin: bool,
    /// The native network leaves tagged as well.
    #[arg(long, requires = "native")]
    native_tagged: bool,
    /// Frames to groups and unknown stations do not leave by it.
    #[arg(long)]
    no_flood: bool,
    /// No addresses are learned on it.
    #[arg(long)]
    no_learning: bool,
    /// Addresses learned on the port at most.
    #[arg(long, value_name = "COUNT")]
    mac_limit: Option<u32>,
    #[command(flatten)]
    limit: LimitArguments,
    /// Do not ask the device to carry checksum and segmentation offloads.
    #[arg(long)]
    no_offload: bool,
}

/// What stands behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PortKind {
    /// A TAP interface.
    Tap,
    /// A veth pair.
    Veth,
    /// An interface that exists.
    Packet,
}

/// What stands behind a port.
#[derive(Debug, Args)]
pub(super) struct DeviceArguments {
    /// What stands behind it.
    #[arg(long, default_value = "tap")]
    kind: PortKind,
    /// The interface that exists already, for --kind packet.
    #[arg(long, value_name = "IFNAME", required_if_eq("kind", "packet"))]
    device: Option<String>,
    /// The namespace for the interface: a name, a path, or pid:NUMBER; the daemon's own unless told.
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
                "a packet port is set up by whoever made its --device: leave --netns, --ifname, --ip, --gateway, --mac and --persist out",
            )),
            (_, Some(_)) => Err(Error::invalid("--device is for --kind packet alone")),
        }
    }

    /// Octets of the longest IP packet, if told.
    pub(super) fn mtu(&self) -> Option<u16> {
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
            offload: !self.no_offload,
            limit: self.limit.spec(),
            ..PortSpec::new(self.name.clone(), carries, device)
        })
    }
}

/// `vswitchctl attach`
#[derive(Debug, Args)]
#[command(
    long_about = "Make an interface in a container and put it on a network.\n\n\
        This runs with your rights, not the daemon's: it makes the interface inside the target's namespace, sets it \
        up, and hands it to the daemon. It needs CAP_SYS_ADMIN and CAP_NET_ADMIN over the target. If anything fails, \
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
    /// The port's name; the target's name unless told.
    #[arg(long)]
    name: Option<Name>,
    /// What kind of interface.
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

/// What kind of interface `attach` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AttachKind {
    /// A TAP; fastest, and it needs nothing in the host.
    Tap,
    /// A veth pair, its other end in the host.
    Veth,
}

impl AttachArguments {
    /// What is to be done.
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
    let octets = text.parse().ok().filter(|octets| BURST.contains(octets));
    octets.ok_or_else(|| format!("write a number of octets, {} to {}", BURST.start(), BURST.end()))
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
        Err("it is the address of a group, or zero: no interface can have it".into())
    }
}

pub(super) fn vlan(text: &str) -> Result<VlanId, String> {
    let number: u16 = text.parse().map_err(|_| "write a number, 1 to 4094".to_owned())?;
    number.try_into().map_err(|error: vswitch::addr::InvalidVlan| error.to_string())
}

/// A relative path means something else to the daemon than to the caller: make it absolute here.
pub(super) fn netns(text: &str) -> Result<Netns, String> {
    match Netns::from(text.to_owned()) {
        Netns::Path(path) => std::path::absolute(path).map(Netns::Path).map_err(|error| error.to_string()),
        other => Ok(other),
    }
}
