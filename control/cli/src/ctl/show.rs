//! Responses as text: aligned columns without borders, within 80 columns for names of ordinary length.

use std::{collections::BTreeMap, fmt::Write};

use comfy_table::{CellAlignment, Row, Table};

use vswitch_model::api::{
    Acceleration, Action, Drop, FdbEntry, NameEntry, Origin, Port, PortState, Reload, Stats, Status, Traffic,
    Trouble, TroubleKind,
};

use vswitch_model::{Name, Offloads, sentence::printable};

/// The state of the daemon.
pub fn status(status: &Status) -> String {
    let config = status.config.as_ref().map_or_else(|| "none".into(), |path| path.display().to_string());
    let mut rows = vec![
        ("name", status.name.clone()),
        ("version", status.version.clone()),
        ("running", format!("{}, process {}", duration(status.uptime_s), status.pid)),
        ("config", config),
        ("networks", status.networks.to_string()),
        ("ports", format!("{}, {} up", status.ports, status.ports_up)),
        ("addresses", format!("{} of at most {}", status.macs, status.mac_limit)),
    ];
    rows.extend(status.acceleration.as_ref().map(|it| ("accelerated", acceleration(it))));
    rows.extend(status.busy.clone().map(|it| ("busy", it)));
    let mut text = pairs(&rows);
    let rows = status.workers.iter().map(|worker| {
        vec![
            worker.id.to_string(),
            worker.ports.to_string(),
            worker.frames.to_string(),
            worker.turns.to_string(),
        ]
    });
    text.push('\n');
    text += &table(&["WORKER", "PORTS", "FRAMES", "TURNS"], "rrrr", rows);
    if !status.troubles.is_empty() {
        text.push('\n');
        text += &troubles(&status.troubles);
    }
    let is_told = |warning: &&String| status.troubles.iter().any(|trouble| trouble.detail == **warning);
    for warning in status.warnings.iter().filter(|warning| !is_told(warning)) {
        let _ = write!(text, "\nwarning: {warning}\n");
    }
    text
}

/// What does not work: a line each.
pub fn troubles(troubles: &[Trouble]) -> String {
    let line = |trouble: &Trouble| {
        let detail = &trouble.detail;
        match (trouble.kind, &trouble.of) {
            (TroubleKind::Port, Some(port)) => format!("port {port} is down: {detail}\n"),
            (TroubleKind::Peer, Some(peer)) => format!("peer {peer} is silent: {detail}\n"),
            (TroubleKind::Tunnel, _) => format!("the tunnel is down: {detail}\n"),
            _ => format!("{detail}\n"),
        }
    };
    troubles.iter().map(line).collect()
}

/// The ports, and why some are down.
pub fn ports(ports: &[Port]) -> String {
    if ports.is_empty() {
        return "no ports: create one with `vswitchctl attach` or `vswitchctl port add`\n".into();
    }
    let rows = ports.iter().map(|port| {
        let dropped: u64 = port.drops.iter().map(|drop| drop.frames).sum();
        vec![
            port.name.to_string(),
            carried(port),
            device(port),
            state(port.state).into(),
            port.macs.to_string(),
            short(port.rx.frames),
            short(port.tx.frames),
            short(dropped),
            fast(port).into(),
        ]
    });
    let headings = ["NAME", "NETWORK", "DEVICE", "STATE", "MACS", "RX", "TX", "DROPS", "FAST"];
    let mut text = table(&headings, "llllrrrrl", rows);
    let any_is_fast = ports.iter().any(|port| fast(port) == "yes");
    for port in ports {
        if let Some(reason) = &port.reason {
            let _ = writeln!(text, "{} is down: {reason}", port.name);
        }
        for warning in &port.warnings {
            let _ = writeln!(text, "warning: port {}: {warning}", port.name);
        }
        let slow = port.acceleration.as_ref().and_then(|it| it.reason.as_ref());
        if let Some(reason) = slow.filter(|_| any_is_fast && port.kind == "veth") {
            let _ = writeln!(text, "{} is not accelerated: {reason}", port.name);
        }
    }
    text
}

/// Whether the kernel forwards for a port: `-`, where there is nothing to forward for.
fn fast(port: &Port) -> &'static str {
    match &port.acceleration {
        Some(it) if it.on => "yes",
        Some(_) => "no",
        None => "-",
    }
}

/// Everything about a port.
pub fn port(port: &Port) -> String {
    let state = match &port.reason {
        Some(reason) => format!("{}: {reason}", state(port.state)),
        None => state(port.state).into(),
    };
    let mut rows = vec![("name", port.name.to_string()), ("state", state)];
    rows.extend(port.warnings.iter().map(|warning| ("warning", warning.clone())));
    if let Some(network) = &port.network {
        rows.push(("network", network.to_string()));
    }
    if !port.trunk.is_empty() {
        rows.push(("tagged", port.trunk.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")));
    }
    rows.extend([
        ("device", device(port)),
        ("origin", if port.declared { "the configuration file" } else { "the API" }.into()),
        ("mtu", port.mtu.to_string()),
        ("offload", offload(port.offload).into()),
    ]);
    if !port.limit.is_none() {
        rows.push(("limit", port.limit.to_string()));
    }
    if let Some(guard) = &port.guard {
        rows.push(("guard", guard.to_string()));
    }
    rows.extend(port.acceleration.as_ref().map(|it| ("accelerated", acceleration(it))));
    rows.extend([
        ("worker", port.worker.to_string()),
        ("addresses", port.macs.to_string()),
        ("received", traffic(&port.rx)),
        ("sent", traffic(&port.tx)),
    ]);
    let mut text = pairs(&rows);
    if !port.drops.is_empty() {
        text.push('\n');
        text += &drops(&port.drops);
    }
    text
}

/// Whether the kernel forwards, and how much.
fn acceleration(it: &Acceleration) -> String {
    let Acceleration { on, reason, rx_frames, tx_frames } = it;
    let mut text = match (on, reason) {
        (true, _) => "yes".to_owned(),
        (false, Some(reason)) => format!("no: {reason}"),
        (false, None) => "no".to_owned(),
    };
    if rx_frames + tx_frames > 0 {
        let _ = write!(text, "; {rx_frames} frames received and {tx_frames} sent by the kernel");
    }
    text
}

/// A created port, in one line.
pub fn port_line(port: &Port) -> String {
    let mut text =
        format!("port {} on {}: {}, {}", port.name, carried(port), device(port), state(port.state));
    if let Some(reason) = &port.reason {
        let _ = write!(text, " ({reason})");
    }
    text.push('\n');
    text
}

/// The MAC table.
pub fn fdb(entries: &[FdbEntry]) -> String {
    if entries.is_empty() {
        return "no addresses\n".into();
    }
    let rows = entries.iter().map(|entry| {
        let origin = match (entry.origin, entry.held) {
            (Origin::Static, _) => "static",
            (Origin::Pinned, _) => "pinned",
            (Origin::Learned, false) => "learned",
            (Origin::Learned, true) => "held",
        };
        let age = entry.age_ms.map_or_else(|| "-".into(), |age| duration(age / 1000));
        vec![entry.network.to_string(), entry.mac.to_string(), entry.port.to_string(), origin.into(), age]
    });
    table(&["NETWORK", "MAC", "PORT", "ORIGIN", "AGE"], "llllr", rows)
}

/// Names and their addresses.
pub fn names(entries: &[NameEntry]) -> String {
    if entries.is_empty() {
        return "no names\n".into();
    }
    let rows = entries.iter().map(|entry| {
        let addresses: Vec<_> = entry.addresses.iter().map(ToString::to_string).collect();
        vec![entry.name.clone(), entry.network.clone(), addresses.join(", "), entry.full.clone()]
    });
    table(&["NAME", "NETWORK", "ADDRESSES", "IN FULL"], "llll", rows)
}

/// The counters of every port.
pub fn stats(stats: &Stats) -> String {
    let rows = stats.ports.iter().map(|port| {
        let (rx, tx) = (&port.rx, &port.tx);
        let numbers = [rx.frames, rx.bytes, tx.frames, tx.bytes, port.drops];
        [port.port.to_string()].into_iter().chain(numbers.map(|number| number.to_string())).collect()
    });
    table(&["PORT", "RX FRAMES", "RX BYTES", "TX FRAMES", "TX BYTES", "DROPS"], "lrrrrr", rows)
}

/// Rates of every port between two samples. A counter that went back (the port was created anew) counts from zero.
pub fn rates(before: &Stats, now: &Stats) -> String {
    let millis = now.at_ms.saturating_sub(before.at_ms).max(1);
    let per_second = |now: u64, before: u64| {
        let difference = u128::from(now.checked_sub(before).unwrap_or(now)) * 1000 / u128::from(millis);
        u64::try_from(difference).unwrap_or(u64::MAX)
    };
    let old: BTreeMap<_, _> = before.ports.iter().map(|port| (&port.port, port)).collect();
    let rows = now.ports.iter().map(|port| {
        let old = old.get(&port.port);
        let (rx, tx) = old.map_or_else(<(Traffic, Traffic)>::default, |old| (old.rx, old.tx));
        vec![
            port.port.to_string(),
            short(per_second(port.rx.frames, rx.frames)),
            short(per_second(port.rx.bytes, rx.bytes).saturating_mul(8)),
            short(per_second(port.tx.frames, tx.frames)),
            short(per_second(port.tx.bytes, tx.bytes).saturating_mul(8)),
            short(per_second(port.drops, old.map_or(0, |old| old.drops))),
        ]
    });
    table(&["PORT", "RX/s", "RX bit/s", "TX/s", "TX bit/s", "DROPS/s"], "lrrrrr", rows)
}

/// Drop counters, followed by the meaning of each reason.
pub fn drops(drops: &[Drop]) -> String {
    if drops.is_empty() {
        return "no frame was dropped\n".into();
    }
    let rows = drops.iter().map(|drop| {
        vec![drop.port.to_string(), drop.direction.to_string(), drop.frames.to_string(), drop.reason.clone()]
    });
    let mut text = table(&["PORT", "DIR", "FRAMES", "REASON"], "llrl", rows);
    let hints: BTreeMap<_, _> = drops.iter().map(|drop| (&drop.reason, &drop.hint)).collect();
    text.push('\n');
    for (reason, hint) in hints {
        let _ = writeln!(text, "{reason}: {hint}");
    }
    text
}

/// The changes of a reload, or those it would make.
pub fn reload(reload: &Reload) -> String {
    if reload.changes.is_empty() {
        return "nothing to change\n".into();
    }
    let mut text = String::from(if reload.dry_run { "would change:\n" } else { "changed:\n" });
    for change in &reload.changes {
        let sign = match change.action {
            Action::Add => '+',
            Action::Change => '~',
            Action::Remove => '-',
        };
        let _ = write!(text, "{sign} {} {}", change.object, change.name);
        let _ = if change.detail.is_empty() { writeln!(text) } else { writeln!(text, ": {}", change.detail) };
    }
    text
}

/// A table without borders. `alignment` has a letter per column: `l` for text, `r` for numbers.
pub(super) fn table(header: &[&str], alignment: &str, rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(Row::from(header.to_vec()));
    table.add_rows(rows.map(|row| row.into_iter().map(|cell| printable(&cell).into_owned())));
    for (column, letter) in table.column_iter_mut().zip(alignment.chars()) {
        column.set_padding((0, 2));
        column.set_cell_alignment(if letter == 'r' { CellAlignment::Right } else { CellAlignment::Left });
    }
    table.trim_fmt() + "\n"
}

/// Names and values, one per line.
pub(super) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name:width$}  {}", printable(value));
        text
    })
}

pub(super) fn carried(port: &Port) -> String {
    match port.kind.as_str() {
        "peer" => return "by vni".into(),
        "vxlan" => return "-".into(),
        _ => {}
    }
    if let Some(mirror) = &port.mirror {
        let names: Vec<_> = mirror.ports.iter().chain(&mirror.networks).map(Name::as_str).collect();
        return format!("mirrors {}", names.join(","));
    }
    match (&port.network, port.trunk.len()) {
        (Some(network), 0) => network.to_string(),
        (Some(network), tagged) => format!("{network}+{tagged}"),
        (None, 1) => port.trunk[0].to_string(),
        (None, tagged) => format!("{tagged} tagged"),
    }
}

fn device(port: &Port) -> String {
    match &port.netns {
        Some(netns) => format!("{} {}@{netns}", port.kind, port.device),
        None => format!("{} {}", port.kind, port.device),
    }
}

pub(super) fn state(state: PortState) -> &'static str {
    match state {
        PortState::Up => "up",
        PortState::Down => "down",
    }
}

fn traffic(traffic: &Traffic) -> String {
    format!("{} frames ({} super-frames), {} bytes", traffic.frames, traffic.super_frames, traffic.bytes)
}

pub(super) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

/// Three significant digits and an SI letter; exact below 10000.
pub(super) fn short(number: u64) -> String {
    if number < 10_000 {
        return number.to_string();
    }
    let (mut scaled, mut letters) = (number, "kMGTPE".chars());
    let (mut rest, mut letter) = (0, ' ');
    while scaled >= 1000 {
        rest = scaled % 1000;
        scaled /= 1000;
        letter = letters.next().unwrap_or('?');
    }
    match scaled {
        0..10 => format!("{scaled}.{:02}{letter}", rest / 10),
        10..100 => format!("{scaled}.{}{letter}", rest / 100),
        _ => format!("{scaled}{letter}"),
    }
}

/// Two units at most: `3d 4h`, `5m 6s`.
pub(super) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// Which offloads are used, in a word.
fn offload(offloads: Offloads) -> &'static str {
    match offloads {
        Offloads::Off => "no",
        Offloads::On => "yes",
        Offloads::Udp => "yes, and UDP merged",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vswitch_model::{
        Direction, GuardSpec, LimitSpec, Mtu, Name,
        api::{API_VERSION, Change, Fates, PortStats, Worker},
    };

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn drop_at(port: &str, direction: Direction, frames: u64) -> Drop {
        let (reason, hint) = ("FULL_RING".into(), "the egress device's queue is full".into());
        Drop { port: name(port), direction, reason, frames, hint }
    }

    fn web() -> Port {
        Port {
            name: name("web"),
            id: 0,
            declared: true,
            network: Some(name("blue")),
            trunk: vec![],
            mirror: None,
            isolated: false,
            kind: "tap".into(),
            device: "eth0".into(),
            netns: Some("web".into()),
            state: PortState::Up,
            reason: None,
            warnings: vec![],
            mtu: Mtu::DEFAULT,
            offload: Offloads::On,
            limit: LimitSpec { rx: "100 Mbit/s".parse().ok(), ..LimitSpec::default() },
            guard: Some(GuardSpec { also: vec!["10.9.0.100".parse().unwrap()] }),
            acceleration: None,
            worker: 1,
            macs: 1,
            rx: Traffic { frames: 1_234_567, bytes: 9_876_543_210, super_frames: 1000 },
            tx: Traffic { frames: 9_999, bytes: 64, super_frames: 0 },
            fates: Fates::default(),
            drops: vec![drop_at("web", Direction::Tx, 12)],
        }
    }

    fn uplink() -> Port {
        Port {
            name: name("uplink"),
            network: None,
            trunk: vec![name("blue"), name("red")],
            mirror: None,
            kind: "packet".into(),
            device: "eth1".into(),
            netns: None,
            guard: None,
            isolated: false,
            state: PortState::Down,
            reason: Some("eth1 has no carrier: plug it in".into()),
            drops: vec![],
            ..web()
        }
    }

    #[test]
    fn ports_fit_a_terminal() {
        let expected = "\
NAME    NETWORK   DEVICE        STATE  MACS     RX    TX  DROPS  FAST
web     blue      tap eth0@web  up        1  1.23M  9999     12  -
uplink  2 tagged  packet eth1   down      1  1.23M  9999      0  -
uplink is down: eth1 has no carrier: plug it in
";
        assert_eq!(ports(&[web(), uplink()]), expected);
        let veth = |name: &str, reason: Option<&str>| Port {
            name: self::name(name),
            kind: "veth".into(),
            acceleration: Some(Acceleration {
                on: reason.is_none(),
                reason: reason.map(str::to_owned),
                ..Acceleration::default()
            }),
            ..web()
        };
        let expected = "\
NAME  NETWORK  DEVICE         STATE  MACS     RX    TX  DROPS  FAST
a     blue     veth eth0@web  up        1  1.23M  9999     12  yes
b     blue     veth eth0@web  up        1  1.23M  9999     12  no
b is not accelerated: the port has a rate limit
";
        assert_eq!(ports(&[veth("a", None), veth("b", Some("the port has a rate limit"))]), expected);
        assert_eq!(ports(&[]), "no ports: create one with `vswitchctl attach` or `vswitchctl port add`\n");
        assert_eq!(port_line(&web()), "port web on blue: tap eth0@web, up\n");
    }

    #[test]
    fn a_port_tells_everything() {
        let expected = "\
name       web
state      up
network    blue
device     tap eth0@web
origin     the configuration file
mtu        1500
offload    yes
limit      rx 100 Mbit/s
guard      on, also 10.9.0.100
worker     1
addresses  1
received   1234567 frames (1000 super-frames), 9876543210 bytes
sent       9999 frames (0 super-frames), 64 bytes

PORT  DIR  FRAMES  REASON
web   tx       12  FULL_RING

FULL_RING: the egress device's queue is full
";
        assert_eq!(port(&web()), expected);
        assert!(port(&uplink()).contains("tagged     blue, red\n"));
    }

    #[test]
    fn the_daemon_at_a_glance() {
        let worker = |id| Worker { id, ports: 1, turns: 50, frames: 1000 };
        let expected = "\
name       host1
version    0.1.0
running    1h 1m, process 42
config     /etc/vswitch/net.toml
networks   1
ports      2, 1 up
addresses  1 of at most 65536

WORKER  PORTS  FRAMES  TURNS
     0      1    1000     50
     1      1    1000     50
";
        let answer = Status {
            name: "host1".into(),
            version: "0.1.0".into(),
            api_version: API_VERSION.into(),
            pid: 42,
            uptime_s: 3661,
            config: Some("/etc/vswitch/net.toml".into()),
            networks: 1,
            ports: 2,
            ports_up: 1,
            macs: 1,
            mac_limit: 65536,
            workers: vec![worker(0), worker(1)],
            warnings: vec![],
            troubles: vec![],
            acceleration: None,
            busy: None,
        };
        assert_eq!(status(&answer), expected);
        let reason = Some("this kernel interprets BPF programs".into());
        let off = Acceleration { reason, ..Acceleration::default() };
        let on = Acceleration { on: true, rx_frames: 7, tx_frames: 8, ..Acceleration::default() };
        let line = |acceleration| status(&Status { acceleration: Some(acceleration), ..answer.clone() });
        assert!(line(off).contains("accelerated  no: this kernel interprets BPF programs\n"));
        assert!(line(on).contains("accelerated  yes; 7 frames received and 8 sent by the kernel\n"));
    }

    #[test]
    fn addresses() {
        let entry = |origin, age_ms, held| FdbEntry {
            network: name("blue"),
            mac: "02:42:0a:09:00:02".parse().unwrap(),
            port: name("web"),
            origin,
            age_ms,
            held,
        };
        let expected = "\
NETWORK  MAC                PORT  ORIGIN      AGE
blue     02:42:0a:09:00:02  web   learned      3s
blue     02:42:0a:09:00:02  web   held     4m 59s
blue     02:42:0a:09:00:02  web   static        -
";
        let entries = [
            entry(Origin::Learned, Some(3999), false),
            entry(Origin::Learned, Some(299_000), true),
            entry(Origin::Static, None, false),
        ];
        assert_eq!(fdb(&entries), expected);
    }

    #[test]
    fn rates_are_per_second_and_survive_a_port_made_anew() {
        let stats_of = |at_ms, frames| Stats {
            at_ms,
            ports: vec![PortStats {
                port: name("web"),
                rx: Traffic { frames, bytes: frames * 100, super_frames: 0 },
                tx: Traffic::default(),
                drops: 0,
            }],
            ..Stats::default()
        };
        let expected = "\
PORT  RX/s  RX bit/s  TX/s  TX bit/s  DROPS/s
web    500      400k     0         0        0
";
        assert_eq!(rates(&stats_of(1000, 1000), &stats_of(3000, 2000)), expected);
        assert_eq!(
            rates(&stats_of(1000, 5000), &stats_of(3000, 1000)),
            expected,
            "the counter started again"
        );
        assert_eq!(rates(&Stats::default(), &stats_of(2000, 1000)), expected, "the port is new");
        assert!(rates(&stats_of(1, u64::MAX / 100), &stats_of(1, u64::MAX / 100)).contains("web"));
    }

    #[test]
    fn reloads_read_like_a_diff() {
        let change = |action, name: &str, detail: &str| Change {
            action,
            object: "port".into(),
            name: name.into(),
            detail: detail.into(),
        };
        let changes = vec![
            change(Action::Remove, "old", ""),
            change(Action::Change, "web", "mtu 1500 -> 1450"),
            change(Action::Add, "db", ""),
        ];
        let expected = "would change:\n- port old\n~ port web: mtu 1500 -> 1450\n+ port db\n";
        assert_eq!(reload(&Reload { dry_run: true, changes }), expected);
        assert_eq!(reload(&Reload::default()), "nothing to change\n");
    }

    #[test]
    fn numbers_and_times_stay_short() {
        let numbers = [
            (9_999, "9999"),
            (10_000, "10.0k"),
            (123_456, "123k"),
            (1_049_999, "1.04M"),
            (u64::MAX, "18.4E"),
        ];
        for (number, text) in numbers {
            assert_eq!(short(number), text);
        }
        for (seconds, text) in [(0, "0s"), (61, "1m 1s"), (7_260, "2h 1m"), (90_000, "1d 1h")] {
            assert_eq!(duration(seconds), text);
        }
    }
}
