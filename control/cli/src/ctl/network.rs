//! `vswitchctl network`: Docker's verbs, with Docker's flags.

mod docker;
mod filter;
mod template;

use std::{
    collections::BTreeMap,
    io::{BufRead, Write, stdin, stdout},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use clap::{Args, Subcommand};
use ipnet::IpNet;
use vswitch::addr::MacAddr;

use self::{
    filter::{ListFilter, PruneFilter},
    template::Template,
};
use super::{
    arguments::{GuardArguments, LimitArguments, station},
    done, render,
    sandbox::{self, SandboxArgument},
};
use crate::client::{Client, ClientError};
use vswitch_model::{
    Connect, Driver, Error, ErrorKind, Ipam, Mtu, Name, NetworkSpec, NetworkUpdate, Reference, Scope,
    SubnetSpec, Tags, VlanId, Vni,
    api::{FdbFilter, Network},
    options,
    publish::Publish,
};

/// `vswitchctl network`
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Create a network.
    Create(Box<CreateArguments>),
    /// List the networks.
    #[command(visible_alias = "list")]
    Ls(ListArguments),
    /// Show networks as Docker's JSON.
    Inspect(InspectArguments),
    /// Connect a container, or another sandbox, to a network.
    Connect(Box<ConnectArguments>),
    /// Disconnect a container, or another sandbox, from a network.
    #[command(after_help = "Examples:\n  vswitchctl network disconnect blue web\n  \
        vswitchctl network disconnect blue netns:web")]
    Disconnect {
        /// Accepted for compatibility with Docker: an endpoint that is gone is no error.
        #[arg(short, long)]
        force: bool,
        /// The network, by name or id.
        network: Reference,
        /// The endpoint's name or id, the container's id, or the sandbox as for `connect`.
        #[arg(value_name = "ENDPOINT|SANDBOX")]
        endpoint: String,
    },
    /// Remove networks.
    #[command(visible_alias = "remove", after_help = "Example:\n  vswitchctl network rm blue red")]
    Rm {
        /// Do not fail for networks that do not exist.
        #[arg(short, long)]
        force: bool,
        /// The networks, by name or id.
        #[arg(required = true, value_name = "NETWORK")]
        networks: Vec<Reference>,
    },
    /// Remove the unused networks.
    Prune(PruneArguments),
    /// Change a network while containers stay connected.
    Update(UpdateArguments),
}

/// `vswitchctl network create`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    vswitchctl network create blue\n  \
    vswitchctl network create --subnet 10.9.0.0/24 --gateway 10.9.0.1 --ip-range 10.9.0.128/25 blue\n  \
    vswitchctl network create --driver overlay --opt vni=5000 wide\n  \
    vswitchctl network create --driver uplink --opt parent=eth1.10 --subnet 192.0.2.0/24 lan\n  \
    vswitchctl network create --ipam-driver null --vlan 10 segment\n\n\
    Options for --opt are described in docs/networks.md.")]
pub struct CreateArguments {
    /// Driver: bridge, overlay or uplink.
    #[arg(short, long, default_value = "bridge")]
    driver: Driver,
    /// Subnet; one each for IPv4 and IPv6. Default: chosen from the pools.
    #[arg(long, value_name = "SUBNET")]
    subnet: Vec<IpNet>,
    /// Assign only addresses of this part of the subnet.
    #[arg(long, value_name = "RANGE")]
    ip_range: Vec<IpNet>,
    /// The containers' next hop; default: the first free address.
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<IpAddr>,
    /// A reserved address, never assigned.
    #[arg(long, value_name = "NAME=ADDRESS", value_parser = aux_address)]
    aux_address: Vec<(String, IpAddr)>,
    /// Isolate it from the outside.
    #[arg(long)]
    internal: bool,
    /// Stored and shown without effect: every container may join.
    #[arg(long)]
    attachable: bool,
    /// Add an IPv6 subnet.
    #[arg(long)]
    ipv6: bool,
    /// An option of the driver.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    opt: Vec<(String, String)>,
    /// A label.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// Expected scope: local (bridge, uplink) or global (overlay).
    #[arg(long)]
    scope: Option<Scope>,
    /// Address management: default, or null for a plain segment without addresses.
    #[arg(long, default_value = "default", value_parser = ipam)]
    ipam_driver: Ipam,
    /// Accepted for compatibility with Docker: there are no options.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    ipam_opt: Vec<(String, String)>,
    /// VLAN tag on trunks, 1 to 4094.
    #[arg(long, value_name = "ID")]
    vlan: Option<VlanId>,
    /// Identifier in tunnels, 0 to 16777215; default for overlay networks: chosen.
    #[arg(long)]
    vni: Option<Vni>,
    /// Longest IP packet of its ports, in bytes.
    #[arg(long, value_name = "BYTES")]
    mtu: Option<Mtu>,
    /// Forward tagged frames of access ports instead of dropping them.
    #[arg(long)]
    pass_tags: bool,
    /// Name of the network.
    #[arg(value_name = "NETWORK")]
    name: Name,
}

/// `vswitchctl network ls`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    vswitchctl network ls\n  \
    vswitchctl network ls --filter driver=overlay --filter label=team=a --quiet\n  \
    vswitchctl network ls --format '{{.Name}}: {{.Driver}}'\n  \
    vswitchctl network ls --format 'table {{.ID}}\\t{{.Name}}\\t{{.Labels}}'\n\n\
    Filters: dangling=true|false, driver=, id=, label=KEY[=VALUE], name=, scope=, type=custom|builtin.")]
pub struct ListArguments {
    /// Only matching networks: any value per key, all keys.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    filter: Vec<(String, String)>,
    /// `json`, `table`, a template, or `table` and a template.
    #[arg(long)]
    format: Option<String>,
    /// Print whole ids.
    #[arg(long)]
    no_trunc: bool,
    /// Print only ids.
    #[arg(short, long)]
    quiet: bool,
}

/// `vswitchctl network inspect`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    vswitchctl network inspect blue\n  \
    vswitchctl network inspect --verbose blue\n  \
    vswitchctl network inspect --format '{{range .IPAM.Config}}{{.Subnet}} {{end}}' blue\n  \
    vswitchctl network inspect --format '{{json .Containers}}' blue")]
pub struct InspectArguments {
    /// `json`, or a template.
    #[arg(short, long)]
    format: Option<String>,
    /// Add the switch's data: the MAC table, peers and counters.
    #[arg(short, long)]
    verbose: bool,
    /// The networks, by name or id.
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<Reference>,
}

/// `vswitchctl network connect`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    vswitchctl network connect blue netns:web\n  \
    vswitchctl network connect --ip 10.9.0.7 --alias db --publish 8080:80 blue docker:web\n  \
    vswitchctl network connect --driver-opt kind=veth blue pid:4711\n  \
    vswitchctl network connect --rx-limit 100Mbit/s --tx-limit 1Gbit/s blue netns:web\n  \
    vswitchctl network connect --guard-also 10.9.0.100,00:00:5e:00:01:0a blue netns:web")]
pub struct ConnectArguments {
    /// IPv4 address; default: the first free one.
    #[arg(long)]
    ip: Option<Ipv4Addr>,
    /// IPv6 address; default: the first free one.
    #[arg(long)]
    ip6: Option<Ipv6Addr>,
    /// Additional name of the endpoint in the network.
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// MAC address; default: derived from the IPv4 address.
    #[arg(long, value_parser = station)]
    mac_address: Option<MacAddr>,
    /// An additional link-local address.
    #[arg(long, value_name = "ADDRESS")]
    link_local_ip: Vec<IpAddr>,
    /// An option for the interface: kind=tap|veth, ifname=NAME, limit.rx=RATE, guard=off and so on.
    #[arg(short = 'o', long, value_name = "KEY=VALUE", value_parser = pair)]
    driver_opt: Vec<(String, String)>,
    /// Publish a port: [[ADDRESS:]HOST PORT:]PORT[/tcp|udp|sctp].
    #[arg(short, long, value_name = "PORTS")]
    publish: Vec<Publish>,
    /// A service of the network that it serves.
    #[arg(long, value_name = "SERVICE")]
    service: Vec<Name>,
    /// A label, by which services select it.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    #[command(flatten)]
    limit: LimitArguments,
    #[command(flatten)]
    guard: GuardArguments,
    /// Name of the endpoint; default: derived from its sandbox.
    #[arg(long)]
    name: Option<Name>,
    /// The network, by name or id.
    network: Reference,
    /// The sandbox: netns:NAME, pid:NUMBER, docker:NAME, or a path.
    sandbox: SandboxArgument,
}

/// `vswitchctl network prune`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  vswitchctl network prune\n  \
    vswitchctl network prune --force --filter until=24h --filter label!=keep\n\n\
    Filters: label=KEY[=VALUE], label!=KEY[=VALUE], until=TIME (a moment, or how long ago, as 24h).")]
pub struct PruneArguments {
    /// Only networks that match all filters.
    #[arg(long, value_name = "KEY=VALUE", value_parser = prune_pair)]
    filter: Vec<(String, String)>,
    /// Do not ask for confirmation.
    #[arg(short, long)]
    force: bool,
}

/// `vswitchctl network update`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    vswitchctl network update --mtu 1400 blue\n  \
    vswitchctl network update --label-add team=a --label-rm old --opt icc=false blue\n  \
    vswitchctl network update --peer-rm 192.0.2.2 wide")]
pub struct UpdateArguments {
    /// Longest IP packet, in bytes.
    #[arg(long, value_name = "BYTES")]
    mtu: Option<Mtu>,
    /// Set a label.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label_add: Vec<(String, String)>,
    /// Remove a label.
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// Set an option of the driver.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    opt: Vec<(String, String)>,
    /// Unset an option of the driver.
    #[arg(long, value_name = "KEY")]
    opt_rm: Vec<String>,
    /// Extend it to this peer.
    #[arg(long, value_name = "PEER")]
    peer_add: Vec<Name>,
    /// No longer extend it to this peer.
    #[arg(long, value_name = "PEER")]
    peer_rm: Vec<Name>,
    /// The network, by name or id.
    network: Reference,
}

/// Executes the command.
pub(super) async fn execute(
    client: &Client,
    command: &NetworkCommand,
    json: bool,
) -> Result<String, ClientError> {
    match command {
        NetworkCommand::Create(arguments) => {
            let network = client.add_network(&arguments.spec()?).await?;
            for warning in &network.warnings {
                let _ = writeln!(std::io::stderr(), "WARNING: {warning}");
            }
            render(json, &network, |network| format!("{}\n", network.id()))
        }
        NetworkCommand::Ls(arguments) => list(client, arguments, json).await,
        NetworkCommand::Inspect(arguments) => inspect(client, arguments, json).await,
        NetworkCommand::Connect(arguments) => {
            let connect = arguments.connect().await?;
            let endpoint = client.connect(&arguments.network, &connect).await?;
            // Docker prints nothing here; print the choices that were made by the daemon.
            render(json, &endpoint, sandbox::endpoint_line)
        }
        NetworkCommand::Disconnect { network, endpoint, force: _ } => {
            let endpoint = sandbox::endpoint_in(client, network, endpoint).await?;
            client.disconnect(network, &endpoint).await?;
            Ok(String::new())
        }
        NetworkCommand::Rm { networks, force } => remove(client, networks, *force, json).await,
        NetworkCommand::Prune(arguments) => prune(client, arguments, json).await,
        NetworkCommand::Update(arguments) => {
            let network = client.update_network(&arguments.network, &arguments.update()).await?;
            render(json, &network, |network| format!("{}\n", network.spec.name))
        }
    }
}

impl CreateArguments {
    fn spec(&self) -> Result<NetworkSpec, Error> {
        // `--scope global` alone says it all.
        let driver = match (self.driver, self.scope) {
            (Driver::Bridge, Some(Scope::Global)) => Driver::Overlay,
            (driver, _) => driver,
        };
        if let Some(scope) = self.scope.filter(|scope| *scope != driver.scope()) {
            let own = driver.scope();
            let sentence = format!("networks of driver {driver} are {own}, not {scope}: omit --scope");
            return Err(Error::invalid(sentence));
        }
        if let Some((key, _)) = self.ipam_opt.first() {
            return Err(Error::invalid(format!("--ipam-opt {key}: there is no such option: omit it")));
        }
        if self.ipam_driver == Ipam::Null && !self.subnet.is_empty() {
            return Err(Error::invalid(
                "--ipam-driver null is for a network without subnets: omit one of them",
            ));
        }
        Ok(NetworkSpec {
            vlan: self.vlan,
            vni: self.vni,
            mtu: self.mtu,
            tags: if self.pass_tags { Tags::Pass } else { Tags::Drop },
            driver: Some(driver),
            subnets: self.subnets()?,
            ipam: self.ipam_driver,
            internal: self.internal,
            attachable: self.attachable,
            swarm: false,
            ipv6: self.ipv6,
            options: self.opt.iter().cloned().collect::<BTreeMap<_, _>>().try_into()?,
            labels: self.label.iter().cloned().collect(),
            ..NetworkSpec::plain(self.name.clone())
        })
    }

    /// Ranges, gateways and auxiliary addresses, each in the subnet it belongs to. The sentences are Docker's.
    fn subnets(&self) -> Result<Vec<SubnetSpec>, Error> {
        let mut subnets: Vec<SubnetSpec> = self.subnet.iter().map(|subnet| (*subnet).into()).collect();
        let invalid = |what: String| Error::invalid(what);
        if self.subnet.len() < self.ip_range.len().max(self.gateway.len()) {
            return Err(invalid("every ip-range or gateway must have a corresponding subnet".into()));
        }
        for range in &self.ip_range {
            let home = subnets.iter_mut().find(|it| it.subnet.contains(range));
            let home = home.ok_or_else(|| invalid(format!("no matching subnet for range {range}")))?;
            if home.ip_range.replace(*range).is_some() {
                return Err(invalid(format!(
                    "cannot configure multiple ranges ({range}) on the same subnet"
                )));
            }
        }
        for gateway in &self.gateway {
            let home = subnets.iter_mut().find(|it| it.subnet.contains(gateway));
            let home = home.ok_or_else(|| invalid(format!("no matching subnet for gateway {gateway}")))?;
            if home.gateway.replace(*gateway).is_some() {
                return Err(invalid(format!(
                    "cannot configure multiple gateways ({gateway}) for the same subnet"
                )));
            }
        }
        for (name, address) in &self.aux_address {
            let home = subnets.iter_mut().find(|it| it.subnet.contains(address));
            let home =
                home.ok_or_else(|| invalid(format!("no matching subnet for aux-address {address}")))?;
            home.aux.insert(name.clone(), *address);
        }
        Ok(subnets)
    }
}

impl ConnectArguments {
    async fn connect(&self) -> Result<Connect, Error> {
        let found = self.sandbox.resolve().await?;
        let (container, called) =
            found.container.map_or((None, None), |it| (Some(it.id), it.name.parse().ok()));
        Ok(Connect {
            sandbox: Some(found.netns),
            name: self.name.clone().or(called),
            container,
            ip: self.ip,
            ip6: self.ip6,
            mac: self.mac_address,
            link_local: self.link_local_ip.clone(),
            aliases: self.alias.clone(),
            options: self
                .driver_opt
                .iter()
                .cloned()
                .chain(options::written(&self.limit.spec()))
                .chain(self.guard.options())
                .collect(),
            publish: self.publish.clone(),
            services: self.service.clone(),
            labels: self.label.iter().cloned().collect(),
            ..Connect::default()
        })
    }
}

impl UpdateArguments {
    fn update(&self) -> NetworkUpdate {
        let some = |(key, value): &(String, String)| (key.clone(), Some(value.clone()));
        let none = |key: &String| (key.clone(), None);
        NetworkUpdate {
            mtu: self.mtu,
            labels: self.label_rm.iter().map(none).chain(self.label_add.iter().map(some)).collect(),
            options: self.opt_rm.iter().map(none).chain(self.opt.iter().map(some)).collect(),
            peers_add: self.peer_add.iter().cloned().collect(),
            peers_remove: self.peer_rm.iter().cloned().collect(),
            other: BTreeMap::new(),
        }
    }
}

async fn list(client: &Client, arguments: &ListArguments, json: bool) -> Result<String, ClientError> {
    let filter = ListFilter::parse(&arguments.filter)?;
    let mut networks = client.networks().await?;
    networks.retain(|network| filter.wants(network));
    if json {
        return render(true, &networks, |_| String::new());
    }
    let id = |network: &Network| {
        let id = network.id();
        if arguments.no_trunc { id.to_string() } else { id.short().to_owned() }
    };
    if arguments.quiet {
        return Ok(networks.iter().map(|network| id(network) + "\n").collect());
    }
    let rows: Vec<_> = networks.iter().map(|network| docker::row(network, &id(network))).collect();
    let format = arguments.format.as_deref().unwrap_or("table");
    Ok(template::render_list(
        format,
        "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
        &docker::HEADINGS,
        &rows,
    )?)
}

/// Shows all networks it can, and fails with the first error.
async fn inspect(client: &Client, arguments: &InspectArguments, json: bool) -> Result<String, ClientError> {
    let template = match arguments.format.as_deref() {
        None | Some("json") => None,
        Some(format) => Some(Template::parse(format)?),
    };
    let mut found = Vec::new();
    let mut missing = None;
    for reference in &arguments.networks {
        match client.network(reference).await {
            Ok(network) => {
                let mut shown = if json { docker::plain(&network)? } else { docker::inspect(&network) };
                if arguments.verbose {
                    docker::add_what_the_switch_knows(client, &network, &mut shown).await?;
                }
                found.push(shown);
            }
            Err(error) => missing = missing.or(Some(error)),
        }
    }
    let text = match template {
        Some(template) => {
            let lines = found.iter().map(|value| Ok(template.render(value)? + "\n"));
            lines.collect::<Result<String, Error>>()?
        }
        None => render(true, &found, |_| String::new())?,
    };
    match missing {
        None => Ok(text),
        Some(error) => {
            super::print(&text)?;
            Err(error)
        }
    }
}

/// Removes all networks it can, printing each, and fails with the first error.
async fn remove(
    client: &Client,
    networks: &[Reference],
    force: bool,
    json: bool,
) -> Result<String, ClientError> {
    let mut removed = String::new();
    let mut failed = None;
    for network in networks {
        match client.delete_network(network).await {
            Ok(()) => removed += &done(json, format_args!("{network}")),
            Err(ClientError::Refused(error)) if force && error.kind == ErrorKind::NotFound => {}
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        None => Ok(removed),
        Some(error) => {
            super::print(&removed)?;
            Err(error)
        }
    }
}

async fn prune(client: &Client, arguments: &PruneArguments, json: bool) -> Result<String, ClientError> {
    let filter = PruneFilter::parse(&arguments.filter, jiff::Timestamp::now())?;
    if !arguments.force && !is_sure()? {
        return Ok(String::new());
    }
    let pruned = client.prune_networks(&filter.0).await?;
    render(json, &pruned, |pruned| {
        let names = pruned.networks.iter().map(|name| format!("{name}\n"));
        if pruned.networks.is_empty() {
            String::new()
        } else {
            format!("Deleted Networks:\n{}\n", names.collect::<String>())
        }
    })
}

fn is_sure() -> Result<bool, ClientError> {
    let mut out = stdout().lock();
    let question = "WARNING! This will remove all custom networks not used by at least one container.\n\
                    Are you sure you want to continue? [y/N] ";
    out.write_all(question.as_bytes()).and_then(|()| out.flush()).map_err(Error::from)?;
    let mut answer = String::new();
    stdin().lock().read_line(&mut answer).map_err(Error::from)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// A network's part of the MAC table.
async fn addresses(client: &Client, network: &Network) -> Result<serde_json::Value, ClientError> {
    let filter = FdbFilter { network: Some(network.spec.name.clone()), ..FdbFilter::default() };
    let entries = client.fdb(&filter).await?;
    Ok(serde_json::to_value(entries).map_err(std::io::Error::from).map_err(Error::from)?)
}

/// `KEY=VALUE`, or `KEY` alone for an empty value.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() { Err("write KEY=VALUE".into()) } else { Ok((key.into(), value.into())) }
}

/// `KEY=VALUE` or `KEY!=VALUE`; the key keeps its sign.
fn prune_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once("!=") {
        Some((key, value)) => Ok((format!("{key}!"), value.into())),
        None => pair(text),
    }
}

fn aux_address(text: &str) -> Result<(String, IpAddr), String> {
    let (name, address) = text.split_once('=').ok_or("write NAME=ADDRESS")?;
    let address = address.parse().map_err(|_| format!("{address:?} is not an IP address"))?;
    Ok((name.into(), address))
}

fn ipam(text: &str) -> Result<Ipam, String> {
    match text {
        "default" => Ok(Ipam::Default),
        "null" => Ok(Ipam::Null),
        _ => Err("use default, or null for a plain segment".into()),
    }
}
