//! `net.toml`, section by section: the keys and the values each may have.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;

use super::{reader::Table, rules::MAC_LIMIT};
use crate::{names, state::network::choose_addresses};
use vswitch_model::{
    ApiSpec, BURST, Carries, Config, Connect, Damping, DeclaredEndpoint, DnsSpec, DockerSpec, Dscp,
    EndpointMode, Family, FloodLimits, GuardSpec, HealthSpec, LimitSpec, MirrorSpec, Mtu, Name, Netns,
    NetworkSpec, Offloads, PeerSpec, PoolSpec, PoolsSpec, PortSpec, ServiceSpec, SubnetSpec, SwitchSpec,
    Tags, Ttl, UnderlayAddr, Vni, VxlanSpec,
    fields::{Misfit, PortFields},
    options::{self, EndpointOptions, Meaning},
    publish::Publish,
};

/// Maximum length of a socket path: `sun_path` holds 108 bytes, of which `.attach` and a NUL take eight.
const SOCKET_PATH_MAX: usize = 99;

/// From the least that every IPv4 host must accept (RFC 791 section 3.1).
const UNDERLAY_MTU: RangeInclusive<u16> = 576..=u16::MAX;

/// RFC 7348 section 5.
const VNI: RangeInclusive<u32> = Vni::MIN.as_u32()..=Vni::MAX.as_u32();

/// Reads the whole file. A value that cannot be read is reported and gets its default.
pub(super) fn config(mut file: Table<'_, '_, '_>) -> Config {
    let switch = file.table("switch").map(switch).unwrap_or_default();
    let api = file.table("api").map(api).unwrap_or_default();
    let docker = file.table("docker").map(docker).unwrap_or_default();
    let dns = file.table("dns").map(dns).unwrap_or_default();
    let ipam = file.table("ipam").map(ipam).unwrap_or_default();
    let mut networks = Vec::new();
    file.tables("network", |table| networks.push(network(table)));
    let mut ports = Vec::new();
    file.tables("port", |table| ports.push(port(table)));
    if let Some(table) = file.table("vxlan") {
        vxlan(table, &mut ports);
    }
    let mut endpoints: Vec<DeclaredEndpoint> = Vec::new();
    file.tables("endpoint", |table| {
        let new = endpoint(table, &networks, &endpoints);
        endpoints.extend(new);
    });
    let mut services = Vec::new();
    file.tables("service", |table| services.push(service(table)));
    file.finish();
    Config { switch, api, docker, dns, ipam, networks, ports, endpoints, services }
}

fn switch(mut table: Table<'_, '_, '_>) -> SwitchSpec {
    let default = SwitchSpec::default();
    let name = table.text("name").map_or(default.name, str::to_owned);
    if name.is_empty() {
        table.fault("name", "is empty: name this host, or remove the key");
    }
    let spec = SwitchSpec {
        name,
        workers: workers(&mut table),
        state: absolute(&mut table, "state").unwrap_or(default.state),
        busy_poll: table.integer("busy_poll", 0..=1000).unwrap_or(default.busy_poll),
        accelerate: table.parsed("accelerate").unwrap_or(default.accelerate),
        ageing: table.integer("ageing", 1..=1_000_000).unwrap_or(default.ageing),
        mac_limit: table.integer("mac_limit", MAC_LIMIT).unwrap_or(default.mac_limit),
        group_forward_mask: table
            .integer("group_forward_mask", 0..=u16::MAX)
            .unwrap_or(default.group_forward_mask),
        damping: table.table("damping").map(damping).unwrap_or_default(),
    };
    table.finish();
    spec
}

/// `"auto"` is `None`.
fn workers(table: &mut Table<'_, '_, '_>) -> Option<u16> {
    if table.is_word("workers", "auto") {
        table.text("workers");
        return None;
    }
    table.integer("workers", 1..=64)
}

fn damping(mut table: Table<'_, '_, '_>) -> Damping {
    let default = Damping::default();
    let mut seconds = |key| table.integer(key, 1..=86_400_u32).map(|it| Duration::from_secs(it.into()));
    let (window, hold) = (seconds("window"), seconds("hold"));
    let spec = Damping {
        moves: table.integer("moves", 0..=1000).unwrap_or(default.moves),
        window: window.unwrap_or(default.window),
        hold: hold.unwrap_or(default.hold),
    };
    table.finish();
    spec
}

fn api(mut table: Table<'_, '_, '_>) -> ApiSpec {
    let socket = absolute(&mut table, "socket").unwrap_or_else(|| ApiSpec::default().socket);
    if socket.as_os_str().len() > SOCKET_PATH_MAX {
        table.fault("socket", format!("is longer than {SOCKET_PATH_MAX} bytes: use a shorter path"));
    }
    let group = table.text("group").map(str::to_owned);
    if group.as_deref() == Some("") {
        table.fault("group", "is empty: name a group, or remove the key");
    }
    let web_hosts = table.parsed_list("web_hosts").unwrap_or_default();
    let web = web(&mut table);
    if web.is_none() && !web_hosts.is_empty() {
        table.fault("web_hosts", "belongs to web: set web to an address, or remove the key");
    }
    let metrics = listen_address(&mut table, "metrics");
    table.finish();
    ApiSpec { socket, group, web, web_hosts, metrics }
}

/// Reads the web page's address. The page has no password, so it is served to other hosts only if the operator allows it
/// explicitly.
fn web(table: &mut Table<'_, '_, '_>) -> Option<SocketAddr> {
    let public = table.boolean("web_public");
    let Some(text) = table.text("web") else {
        if public.is_some() {
            table.fault("web_public", "belongs to web: set web to an address, or remove the key");
        }
        return None;
    };
    let Ok(address) = text.parse::<SocketAddr>() else {
        table.fault("web", format!("{text:?} is not an address with a port: write it like 127.0.0.1:9478"));
        return None;
    };
    if address.port() == 0 {
        table.fault("web", "has port 0: choose the port that browsers connect to");
    } else if !address.ip().is_loopback() && public != Some(true) {
        let why =
            "shows ports, addresses and traffic to everyone who can reach it, without password or encryption";
        let what = format!("{} can be reached by other hosts, and the page {why}", address.ip());
        table.fault("web", format!("{what}: use 127.0.0.1 and a tunnel, or set web_public = true"));
    }
    Some(address)
}

fn docker(mut table: Table<'_, '_, '_>) -> DockerSpec {
    let socket = absolute(&mut table, "socket").unwrap_or_else(|| DockerSpec::default().socket);
    if socket.as_os_str().len() > SOCKET_PATH_MAX {
        table.fault("socket", format!("is longer than {SOCKET_PATH_MAX} bytes: use a shorter path"));
    } else if socket.extension().is_none_or(|extension| extension != "sock") {
        table.fault(
            "socket",
            "does not end in .sock: the file name without .sock is Docker's name for the driver",
        );
    }
    let enabled = table.boolean("enabled").unwrap_or(false);
    table.finish();
    DockerSpec { enabled, socket }
}

fn dns(mut table: Table<'_, '_, '_>) -> DnsSpec {
    let default = DnsSpec::default();
    let domain = table.text("domain").map_or(default.domain, str::to_ascii_lowercase);
    if !names::is_zone(&domain) {
        table.fault(
            "domain",
            format!("{domain:?} is not a zone: write two or more labels, like vswitch.internal"),
        );
    }
    let address = table.parsed("address").unwrap_or(default.address);
    if address.is_loopback() || address.is_multicast() || address.is_unspecified() {
        table
            .fault("address", format!("containers do not reach {address}: use one like {}", default.address));
    }
    let spec = DnsSpec {
        enabled: table.boolean("enabled").unwrap_or(default.enabled),
        address,
        domain,
        upstream: table.parsed_list("upstream").unwrap_or_default(),
        ttl: table.integer("ttl", 0..=86_400_u32).unwrap_or(default.ttl),
        allow: table.parsed_list("allow").unwrap_or_default(),
    };
    table.finish();
    spec
}

fn health(mut table: Table<'_, '_, '_>) -> Option<HealthSpec> {
    let check = table.parsed("check");
    if check.is_none() {
        table.fault("check", "missing: write tcp:PORT or http:PORT/PATH");
    }
    let mut number = |key| table.integer(key, HealthSpec::RANGE);
    let (interval, timeout, retries) = (number("interval"), number("timeout"), number("retries"));
    table.finish();
    let default = HealthSpec::new(check?);
    Some(HealthSpec {
        interval: interval.unwrap_or(default.interval),
        timeout: timeout.unwrap_or(default.timeout),
        retries: retries.unwrap_or(default.retries),
        ..default
    })
}

fn service(mut table: Table<'_, '_, '_>) -> ServiceSpec {
    let mut named = |key: &'static str, what: &str| {
        table.parsed(key).unwrap_or_else(|| {
            table.fault(key, format!("missing: name the {what}"));
            Name::unnamed()
        })
    };
    let (name, network) = (named("name", "service"), named("network", "network that it is in"));
    let spec = ServiceSpec {
        mode: table.parsed("mode").unwrap_or_default(),
        address: table.parsed_list("address").unwrap_or_default(),
        selector: table.texts("selector"),
        affinity: table.parsed("affinity").unwrap_or_default(),
        health: table.table("health").and_then(health),
        publish: table.parsed_list("publish").unwrap_or_default(),
        drain: table.parsed_list("drain").unwrap_or_default().into_iter().collect(),
        drain_time: table.number("drain_time", 0..=86_400),
        labels: table.texts("labels"),
        ..ServiceSpec::plain(name, network)
    };
    if spec.mode == EndpointMode::Vip && spec.address.is_empty() {
        table.fault("address", "missing: choose an address of the network's subnet, so that it stays the same; or set mode = \"dnsrr\"");
    }
    table.finish();
    spec
}

fn network(mut table: Table<'_, '_, '_>) -> NetworkSpec {
    let name = table.parsed("name").unwrap_or_else(|| {
        table.fault("name", "missing: name the network");
        Name::unnamed()
    });
    let mut spec = NetworkSpec {
        vlan: table.number("vlan", 0..=u16::MAX),
        vni: table.number("vni", VNI),
        mtu: table.number("mtu", Mtu::RANGE),
        tags: match table.text("tags") {
            None | Some("drop") => Tags::Drop,
            Some("pass") => Tags::Pass,
            Some(other) => {
                table.fault("tags", format!("{other:?} is not valid: use \"drop\" or \"pass\""));
                Tags::Drop
            }
        },
        driver: table.parsed("driver"),
        internal: table.boolean("internal").unwrap_or(false),
        attachable: table.boolean("attachable").unwrap_or(false),
        swarm: false,
        fragment: table.boolean("fragment").unwrap_or(false),
        labels: table.texts("labels"),
        ..NetworkSpec::plain(name)
    };
    if spec.fragment && spec.vni.is_none() {
        table.fault(
            "fragment",
            "concerns tunnels, which carry networks with a vni: give it one, or leave this out",
        );
    }
    table.tables("subnet", |table| spec.subnets.extend(subnet(table)));
    spec.ipv6 = spec.subnet(Family::V6).is_some();
    let read = table.texts("options").try_into().and_then(|options| {
        spec.options = options;
        options::absorb(&mut spec)
    });
    if let Err(error) = read {
        table.fault_within("options", &error.key, error.what);
    }
    if let Err((item, error)) = choose_addresses(&mut spec) {
        table.fault(&format!("subnet[{item}]"), error.to_string());
    }
    table.finish();
    spec
}

/// Reads a subnet. One without addresses is reported and skipped.
fn subnet(mut table: Table<'_, '_, '_>) -> Option<SubnetSpec> {
    let subnet: Option<IpNet> = table.parsed("subnet");
    if subnet.is_none() {
        table.fault_unless_read("subnet", "missing: write all its addresses, like 10.9.0.0/24");
    }
    let ip_range = table.parsed("ip_range");
    let gateway = table.parsed("gateway");
    let aux = table.texts("aux");
    let mut addresses = BTreeMap::new();
    for (name, text) in aux {
        match text.parse::<IpAddr>() {
            Ok(address) => drop(addresses.insert(name, address)),
            Err(_) => table.fault_within("aux", &name, format!("{text:?} is not an IP address")),
        }
    }
    table.finish();
    Some(SubnetSpec { subnet: subnet?, ip_range, gateway, aux: addresses })
}

fn ipam(mut table: Table<'_, '_, '_>) -> PoolsSpec {
    let default = PoolsSpec::default();
    let spec = PoolsSpec {
        local: pools(&mut table, "local", Family::V4).unwrap_or(default.local),
        overlay: pools(&mut table, "overlay", Family::V4).unwrap_or(default.overlay),
        ipv6: pools(&mut table, "ipv6", Family::V6).unwrap_or(default.ipv6),
    };
    table.finish();
    spec
}

/// Reads the pools of `key`. `None` if the key is missing: an empty list is a valid value.
fn pools(table: &mut Table<'_, '_, '_>, key: &'static str, family: Family) -> Option<Vec<PoolSpec>> {
    let mut pools = Vec::new();
    let is_there = table.has(key);
    table.tables(key, |table| pools.extend(pool(table, family)));
    is_there.then_some(pools)
}

fn pool(mut table: Table<'_, '_, '_>, family: Family) -> Option<PoolSpec> {
    let base: Option<IpNet> = table.parsed("base");
    let size = table.integer("size", 1..=127_u8);
    let pool = base.zip(size).map(|(base, size)| PoolSpec { base, size });
    if let Some(PoolSpec { base, size }) = pool {
        if Family::of(base) != family {
            table.fault("base", format!("{base} is not {family}"));
        } else if base != base.trunc() {
            table.fault("base", format!("has host bits: write {}", base.trunc()));
        } else if base.prefix_len() == 0 {
            table.fault("base", "covers all addresses: use a longer prefix");
        } else if !(base.prefix_len()..base.max_prefix_len()).contains(&size) {
            let most = base.max_prefix_len() - 1;
            table.fault("size", format!("{size} is out of range: use {} to {most}", base.prefix_len()));
        }
    } else {
        for key in ["base", "size"] {
            table.fault_unless_read(key, "missing: a pool has a base and the size of each subnet");
        }
    }
    table.finish();
    pool
}

fn port(mut table: Table<'_, '_, '_>) -> PortSpec {
    let fields = PortFields {
        name: table.parsed("name"),
        network: table.parsed("network"),
        trunk: table.parsed_list("trunk"),
        native: table.parsed("native"),
        mirror: table.table("mirror").map(mirror),
        kind: table.parsed("kind"),
        device: table.parsed("device"),
        netns: table.text("netns").map(|text| Netns::from(text.to_owned())),
        ifname: table.parsed("ifname"),
        mac: table.parsed("mac"),
        address: table.parsed_list("address"),
        gateway: table.parsed_list("gateway"),
        persist: table.boolean("persist"),
        mtu: table.number("mtu", Mtu::RANGE),
        isolated: table.boolean("isolated"),
        hairpin: table.boolean("hairpin"),
        native_tagged: table.boolean("native_tagged"),
        flood: table.boolean("flood"),
        learning: table.boolean("learning"),
        mac_limit: table.integer("mac_limit", MAC_LIMIT),
        storm: table.table("storm").map(storm).unwrap_or_default(),
        limit: table.table("limit").map(limit).unwrap_or_default(),
        guard: guard(&mut table),
        offload: offload(&mut table),
        accelerate: table.parsed("accelerate"),
        remote: table.parsed("remote"),
        remote_port: table.integer("remote_port", 1..=u16::MAX),
        vni: table.number("vni", VNI),
        ..PortFields::default()
    };
    let (spec, misfits) = fields.resolve();
    for Misfit { key, what } in misfits {
        table.fault(key, what);
    }
    table.finish();
    spec
}

/// Reads `[vxlan]` and appends its ports: the peers in the order of the file, the endpoint, and the group.
fn vxlan(mut table: Table<'_, '_, '_>, ports: &mut Vec<PortSpec>) {
    let every = || Carries::Tunnel { networks: None };
    table.tables("peer", |table| ports.push(peer(table)));
    let local = table.parsed("local").unwrap_or_else(|| {
        table.fault_unless_read("local", "missing: name the address of this host that peers send to");
        UnderlayAddr::UNSPECIFIED
    });
    if table.is_right("local") && (local.ip().is_unspecified() || local.is_multicast()) {
        let what = format!(
            "{local} is not a host's address: use the one that peers send to, by which they know this host"
        );
        table.fault("local", what);
    }
    let default = VxlanSpec::new(local);
    let spec = VxlanSpec {
        port: table.integer("port", 1..=u16::MAX).unwrap_or(default.port),
        underlay_mtu: table.integer("underlay_mtu", UNDERLAY_MTU),
        checksum: table.boolean("checksum").unwrap_or(default.checksum),
        ttl: ttl(&mut table).unwrap_or(default.ttl),
        dscp: dscp(&mut table).unwrap_or(default.dscp),
        strict: table.boolean("strict").unwrap_or(default.strict),
        learn_peers: table.boolean("learn_peers").unwrap_or(default.learn_peers),
        clamp_mss: table.boolean("clamp_mss").unwrap_or(default.clamp_mss),
        group: table.parsed("group"),
        isolated_group: table.integer("isolated_group", 1..=u16::MAX),
        ..default
    };
    if let Some(group) = spec.group {
        if !group.is_multicast() {
            table.fault(
                "group",
                format!("{group} is not a multicast group: use one of 224.0.0.0/4 or ff00::/8"),
            );
        } else if table.is_right("local") && Family::of(group.ip()) != Family::of(local.ip()) {
            table.fault("group", format!("{group} is not of the family of the local address {local}"));
        }
    }
    table.finish();
    let group = spec.group.map(|remote| PeerSpec { remote, remote_port: None, flood: Some(true) });
    ports.push(PortSpec::new(fixed_name(VxlanSpec::NAME), every(), spec));
    ports.extend(group.map(|it| PortSpec::new(fixed_name(VxlanSpec::GROUP_NAME), every(), it)));
}

fn fixed_name(name: &str) -> Name {
    name.parse().expect("the names of the tunnel's own ports are names")
}

/// `"udp"`, true or false.
fn offload(table: &mut Table<'_, '_, '_>) -> Option<Offloads> {
    if table.is_word("offload", "udp") {
        table.text("offload");
        return Some(Offloads::Udp);
    }
    table.boolean("offload").map(|any| if any { Offloads::On } else { Offloads::Off })
}

/// Reads `"inherit"` or a number.
fn dscp(table: &mut Table<'_, '_, '_>) -> Option<Dscp> {
    if table.is_word("dscp", "inherit") {
        table.text("dscp");
        return Some(Dscp::Inherit);
    }
    table.integer("dscp", 0..=63).map(Dscp::Fixed)
}

/// `"inherit"`, or a number.
fn ttl(table: &mut Table<'_, '_, '_>) -> Option<Ttl> {
    if table.is_word("ttl", "inherit") {
        table.text("ttl");
        return Some(Ttl::Inherit);
    }
    table.integer("ttl", 1..=u8::MAX).map(Ttl::Fixed)
}

fn peer(mut table: Table<'_, '_, '_>) -> PortSpec {
    let remote = table.parsed("address").unwrap_or_else(|| {
        table.fault_unless_read("address", "missing: name the peer's address");
        UnderlayAddr::UNSPECIFIED
    });
    let name = table.parsed("name").unwrap_or_else(|| PeerSpec::default_name(remote));
    let networks = table.parsed_list("networks");
    let spec =
        PeerSpec { remote, remote_port: table.integer("port", 1..=u16::MAX), flood: table.boolean("flood") };
    let isolated = table.boolean("isolated").unwrap_or(false);
    let mac_limit = table.integer("mac_limit", MAC_LIMIT);
    let storm = table.table("storm").map(storm).unwrap_or_default();
    let limit = table.table("limit").map(limit).unwrap_or_default();
    if let Some((key, what)) = limit.misfit() {
        table.fault(key, what);
    }
    table.finish();
    PortSpec { isolated, mac_limit, storm, limit, ..PortSpec::new(name, Carries::Tunnel { networks }, spec) }
}

/// Reads an endpoint of one of `networks`, after `others`. One without name, network or namespace is reported and skipped.
fn endpoint(
    mut table: Table<'_, '_, '_>,
    networks: &[NetworkSpec],
    others: &[DeclaredEndpoint],
) -> Option<DeclaredEndpoint> {
    let (name, network): (Option<Name>, Option<Name>) = (table.parsed("name"), table.parsed("network"));
    let netns = table.text("netns").map(|text| Netns::from(text.to_owned()));
    for (key, what) in [
        ("name", "missing: name the endpoint, uniquely in its network"),
        ("network", "missing: name the network that it is in"),
        ("netns", "missing: name the namespace of its interface, or write its path"),
    ] {
        table.fault_unless_read(key, what);
    }
    let connect = Connect {
        sandbox: netns.clone(),
        ip: table.parsed("ip"),
        ip6: table.parsed("ip6"),
        mac: table.parsed("mac"),
        ifname: table.parsed("ifname"),
        aliases: table.parsed_list("aliases").unwrap_or_default(),
        publish: table.parsed_list("publish").unwrap_or_default(),
        services: table.parsed_list("services").unwrap_or_default(),
        labels: table.texts("labels"),
        options: table.texts("options"),
        ..Connect::default()
    };
    if let Err(error) = EndpointOptions::read(&connect.options) {
        table.fault_within("options", &error.key, error.what);
    }
    let declared =
        name.zip(network).zip(netns).map(|((name, network), _)| DeclaredEndpoint { network, name, connect });
    if let Some(it) = &declared
        && others.iter().any(|other| (&other.network, &other.name) == (&it.network, &it.name))
    {
        table.fault(
            "name",
            format!("network {} has an endpoint {} already: use another name", it.network, it.name),
        );
    }
    if let Some(it) = &declared {
        place(&mut table, it, networks, others);
    }
    table.finish();
    declared
}

/// Reports what would keep an endpoint from ever being connected beside the rest of the file: what it is in, its addresses, and the
/// host's ports that lead to it.
fn place(
    table: &mut Table<'_, '_, '_>,
    endpoint: &DeclaredEndpoint,
    networks: &[NetworkSpec],
    others: &[DeclaredEndpoint],
) {
    let connect = &endpoint.connect;
    let Some(network) = networks.iter().find(|it| it.name == endpoint.network) else {
        table.fault("network", format!("there is no network {}: declare it in this file", endpoint.network));
        return;
    };
    for (key, address) in [("ip", connect.ip.map(IpAddr::V4)), ("ip6", connect.ip6.map(IpAddr::V6))] {
        let Some(address) = address else { continue };
        let home = network.subnets.iter().find(|it| it.subnet.contains(&address));
        let holder = others.iter().find(|it| it.network == endpoint.network && it.has(address));
        let wrong = if let Some(other) = holder {
            format!("{address} is that of endpoint {} already: use another", other.name)
        } else if home.is_none() {
            format!("{address} is in no subnet of network {}: use an address of one", network.name)
        } else if home.is_some_and(|it| it.gateway == Some(address)) {
            format!("{address} is the gateway of network {}: use another", network.name)
        } else {
            continue;
        };
        table.fault(key, wrong);
    }
    for (place, publish) in connect.publish.iter().enumerate() {
        let mut all = others.iter().map(|it| (it, &it.connect.publish[..]));
        let own = (endpoint, &connect.publish[..place]);
        let claims = |(_, all): &(_, &[Publish])| all.iter().any(|other| other.collides(publish));
        if let Some((other, _)) = all.find(&claims).or_else(|| Some(own).filter(claims)) {
            let what = format!("the host's port leads to endpoint {} already: use another", other.name);
            table.fault(&format!("publish[{place}]"), what);
        }
    }
}

fn mirror(mut table: Table<'_, '_, '_>) -> MirrorSpec {
    let spec = MirrorSpec {
        ports: table.parsed_list("ports").unwrap_or_default(),
        networks: table.parsed_list("networks").unwrap_or_default(),
        direction: table.parsed("direction"),
    };
    table.finish();
    spec
}

/// Reads storm limits. 0 is a limit too: no such frame is flooded.
fn storm(mut table: Table<'_, '_, '_>) -> FloodLimits {
    let spec = FloodLimits {
        broadcast: table.integer("broadcast", 0..=u32::MAX),
        multicast: table.integer("multicast", 0..=u32::MAX),
        unknown: table.integer("unknown", 0..=u32::MAX),
    };
    table.finish();
    spec
}

fn limit(mut table: Table<'_, '_, '_>) -> LimitSpec {
    let mut spec = LimitSpec {
        rx: table.parsed("rx"),
        rx_burst: table.integer("rx_burst", BURST),
        tx: table.parsed("tx"),
        tx_burst: table.integer("tx_burst", BURST),
    };
    // A burst whose rate cannot be read is not reported as well.
    spec.rx_burst = spec.rx_burst.filter(|_| spec.rx.is_some() || !table.has("rx"));
    spec.tx_burst = spec.tx_burst.filter(|_| spec.tx.is_some() || !table.has("tx"));
    table.finish();
    spec
}

/// Reads `true`, `false` or a table.
fn guard(port: &mut Table<'_, '_, '_>) -> Option<GuardSpec> {
    if port.is_boolean("guard") {
        return port.boolean("guard")?.then(GuardSpec::default);
    }
    let mut table = port.table("guard")?;
    let also = table.parsed_list("also").unwrap_or_default();
    table.finish();
    Some(GuardSpec { also })
}

/// Reads the address that a server listens at.
fn listen_address(table: &mut Table<'_, '_, '_>, key: &'static str) -> Option<SocketAddr> {
    let text = table.text(key)?;
    let Ok(address) = text.parse() else {
        let what = format!("{text:?} is not an address with a port: write it like \"127.0.0.1:9477\"");
        table.fault(key, what);
        return None;
    };
    Some(address)
}

/// Reads an absolute path: it must not depend on the daemon's working directory.
fn absolute(table: &mut Table<'_, '_, '_>, key: &'static str) -> Option<PathBuf> {
    let path = PathBuf::from(table.text(key)?);
    if !path.is_absolute() {
        table.fault(key, format!("{:?} is relative: write it from the root, /…", path));
        return None;
    }
    Some(path)
}
