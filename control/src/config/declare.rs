//! `net.toml`, section by section: which keys there are and what each may hold.

use std::path::PathBuf;

use vswitch::addr::VlanId;

use super::{
    reader::Table,
    rules::{MAC_LIMIT, MTU, VNI},
};
use crate::{
    fields::{Misfit, PortFields},
    model::{ApiSpec, Config, DampingSpec, Name, Netns, NetworkSpec, PortSpec, StormSpec, SwitchSpec, Tags},
};

/// The longest socket path: `sun_path` holds 108 octets, of which `.attach` and a NUL take eight.
const SOCKET_PATH_MAX: usize = 100;

/// Reads the whole file; what could not be read is reported and stands at its default.
pub(super) fn config(mut file: Table<'_, '_, '_>) -> Config {
    let switch = file.table("switch").map(switch).unwrap_or_default();
    let api = file.table("api").map(api).unwrap_or_default();
    let mut networks = Vec::new();
    file.tables("network", |table| networks.push(network(table)));
    let mut ports = Vec::new();
    file.tables("port", |table| ports.push(port(table)));
    file.unsupported("vxlan");
    file.unsupported("docker");
    file.finish();
    Config { switch, api, networks, ports }
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

fn damping(mut table: Table<'_, '_, '_>) -> DampingSpec {
    let default = DampingSpec::default();
    let spec = DampingSpec {
        moves: table.integer("moves", 0..=1000).unwrap_or(default.moves),
        window: table.integer("window", 1..=86_400).unwrap_or(default.window),
        hold: table.integer("hold", 1..=86_400).unwrap_or(default.hold),
    };
    table.finish();
    spec
}

fn api(mut table: Table<'_, '_, '_>) -> ApiSpec {
    let socket = absolute(&mut table, "socket").unwrap_or_else(|| ApiSpec::default().socket);
    if socket.as_os_str().len() > SOCKET_PATH_MAX {
        table.fault("socket", format!("is longer than {SOCKET_PATH_MAX} octets: use a shorter path"));
    }
    let group = table.text("group").map(str::to_owned);
    if group.as_deref() == Some("") {
        table.fault("group", "is empty: name a group, or remove the key");
    }
    table.unsupported("metrics");
    table.finish();
    ApiSpec { socket, group }
}

fn network(mut table: Table<'_, '_, '_>) -> NetworkSpec {
    let name = table.parsed("name").unwrap_or_else(|| {
        table.fault("name", "missing: name the network");
        Name::unnamed()
    });
    let vlan = table.integer("vlan", 0..=u16::MAX).and_then(|number| {
        VlanId::try_from(number).map_err(|error| table.fault("vlan", error.to_string())).ok()
    });
    let spec = NetworkSpec {
        name,
        vlan,
        vni: table.integer("vni", VNI),
        mtu: table.integer("mtu", MTU),
        tags: match table.text("tags") {
            None | Some("drop") => Tags::Drop,
            Some("pass") => Tags::Pass,
            Some(other) => {
                table.fault("tags", format!("{other:?} is no answer: use \"drop\" or \"pass\""));
                Tags::Drop
            }
        },
    };
    table.finish();
    spec
}

fn port(mut table: Table<'_, '_, '_>) -> PortSpec {
    let fields = PortFields {
        name: table.parsed("name"),
        network: table.parsed("network"),
        trunk: table.parsed_list("trunk"),
        native: table.parsed("native"),
        kind: table.parsed("kind"),
        device: table.text("device").map(str::to_owned),
        netns: table.text("netns").map(|text| Netns::from(text.to_owned())),
        ifname: table.text("ifname").map(str::to_owned),
        mac: table.parsed("mac"),
        address: table.parsed_list("address"),
        gateway: table.parsed_list("gateway"),
        persist: table.boolean("persist"),
        mtu: table.integer("mtu", MTU),
        isolated: table.boolean("isolated"),
        mac_limit: table.integer("mac_limit", MAC_LIMIT),
        storm: table.table("storm").map(storm).unwrap_or_default(),
        offload: table.boolean("offload"),
    };
    let (spec, misfits) = fields.resolve();
    for Misfit { key, what } in misfits {
        table.fault(key, what);
    }
    table.finish();
    spec
}

/// 0 is a limit, too: no such frame is flooded.
fn storm(mut table: Table<'_, '_, '_>) -> StormSpec {
    let spec = StormSpec {
        broadcast: table.integer("broadcast", 0..=u32::MAX),
        multicast: table.integer("multicast", 0..=u32::MAX),
        unknown: table.integer("unknown", 0..=u32::MAX),
    };
    table.finish();
    spec
}

/// A path that means the same wherever the daemon was started.
fn absolute(table: &mut Table<'_, '_, '_>, key: &'static str) -> Option<PathBuf> {
    let path = PathBuf::from(table.text(key)?);
    if !path.is_absolute() {
        table.fault(key, format!("{:?} is relative: write it from the root, /…", path));
        return None;
    }
    Some(path)
}
