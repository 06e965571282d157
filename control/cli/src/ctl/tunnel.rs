//! `vswitchctl peer` and `vswitchctl tunnel`: other hosts, and the tunnel to them.

use std::fmt::Write;

use clap::{Args, Subcommand};

use super::{
    done, render,
    show::{self, duration, or_dash, short, state, table},
};
use crate::client::{Client, ClientError};
use vswitch_model::{
    Carries, Name, PeerSpec, PortSpec, UnderlayAddr,
    api::tunnel::{Peer, PeerOrigin, Probe, Tunnel, TunnelEnd},
};

/// `vswitchctl peer`
#[derive(Debug, Subcommand)]
pub enum PeerCommand {
    /// List the peers: their networks, path MTU, and when they were last heard.
    #[command(after_help = "Example:\n  vswitchctl peer ls")]
    Ls,
    /// Add a peer: extend networks to another host.
    Add(PeerArguments),
    /// Remove a peer.
    #[command(after_help = "Example:\n  vswitchctl peer rm 10.8.0.2")]
    Rm {
        /// The peer's name or address.
        #[arg(value_name = "PEER", value_parser = peer_name)]
        peer: Name,
    },
    /// Measure the path MTU to a peer, with echo requests that must not be fragmented.
    #[command(
        after_help = "Example:\n  vswitchctl peer probe 10.8.0.2\n\nThe result is used until the next probe, or until the peer is created anew."
    )]
    Probe {
        /// The peer's name or address.
        #[arg(value_name = "PEER", value_parser = peer_name)]
        peer: Name,
    },
}

/// `vswitchctl peer add`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  vswitchctl peer add 10.8.0.2\n  vswitchctl peer add 10.8.0.3 --name host3 --networks blue,red --port 8472"
)]
pub struct PeerArguments {
    /// Address it sends from and receives at.
    address: UnderlayAddr,
    /// Name of the peer; default: its address.
    #[arg(long)]
    name: Option<Name>,
    /// UDP port it receives at; default: this host's own. Older Linux hosts use 8472.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Networks that extend to it; default: all networks with a vni.
    #[arg(long, value_name = "NETWORK,…", value_delimiter = ',')]
    networks: Option<Vec<Name>>,
    /// Do not send it flooded frames, only frames to addresses learned from it or pinned to it.
    #[arg(long)]
    no_flood: bool,
    /// Count it as an isolated port: its stations and this host's isolated ports exchange no frames.
    #[arg(long)]
    isolated: bool,
}

impl PeerArguments {
    fn spec(&self) -> PortSpec {
        let peer =
            PeerSpec { remote: self.address, remote_port: self.port, flood: self.no_flood.then_some(false) };
        let name = self.name.clone().unwrap_or_else(|| PeerSpec::default_name(self.address));
        let carries = Carries::Tunnel { networks: self.networks.clone() };
        PortSpec { isolated: self.isolated, ..PortSpec::new(name, carries, peer) }
    }
}

/// `vswitchctl tunnel`
#[derive(Debug, Subcommand)]
pub enum TunnelCommand {
    /// Show the local endpoint, its kernel features, and the traffic of each peer.
    #[command(after_help = "Example:\n  vswitchctl tunnel ls")]
    Ls,
}

pub(super) async fn peer(client: &Client, command: &PeerCommand, json: bool) -> Result<String, ClientError> {
    match command {
        PeerCommand::Ls => render(json, &client.tunnel().await?.peers, |peers| peers_table(peers)),
        PeerCommand::Add(arguments) => {
            render(json, &client.add_port(&arguments.spec()).await?, show::port_line)
        }
        PeerCommand::Rm { peer } => {
            client.delete_port(peer).await?;
            Ok(done(json, format_args!("peer {peer} removed")))
        }
        PeerCommand::Probe { peer } => render(json, &client.probe(peer).await?, probe),
    }
}

pub(super) async fn tunnel(
    client: &Client,
    command: &TunnelCommand,
    json: bool,
) -> Result<String, ClientError> {
    match command {
        TunnelCommand::Ls => render(json, &client.tunnel().await?, tunnel_text),
    }
}

/// Returns a name unchanged, and an address as the name derived from it.
pub(super) fn peer_name(text: &str) -> Result<Name, String> {
    match text.parse() {
        Ok(address) => Ok(PeerSpec::default_name(address)),
        Err(_) => text.parse().map_err(|error: vswitch_model::InvalidName| error.to_string()),
    }
}

fn peers_table(peers: &[Peer]) -> String {
    if peers.is_empty() {
        return "no peers: add one with `vswitchctl peer add ADDRESS`\n".into();
    }
    let rows = peers.iter().map(|peer| {
        let networks: Vec<_> = peer.networks.iter().map(Name::as_str).collect();
        let origin = match peer.origin {
            PeerOrigin::File => "file",
            PeerOrigin::Api => "api",
            PeerOrigin::Learned => "learned",
            PeerOrigin::Cluster => "cluster",
        };
        vec![
            peer.name.to_string(),
            address(peer.address, peer.port),
            origin.into(),
            state(peer.state).into(),
            heard(peer),
            peer.path_mtu.to_string(),
            if networks.is_empty() { "-".into() } else { networks.join(",") },
        ]
    });
    let mut text =
        table(&["NAME", "ADDRESS", "BY", "STATE", "HEARD", "PATH MTU", "NETWORKS"], "llllrrl", rows);
    for peer in peers {
        if let Some(reason) = &peer.reason {
            let _ = writeln!(text, "{} is down: {reason}", peer.name);
        }
    }
    text
}

fn tunnel_text(tunnel: &Tunnel) -> String {
    let Some(endpoint) = &tunnel.endpoint else {
        return "no tunnel: write [vxlan] with this host's local address into the configuration file\n"
            .into();
    };
    let mut text = endpoint_text(endpoint);
    if tunnel.peers.is_empty() {
        text += "\nno peers: add one with `vswitchctl peer add ADDRESS`\n";
        return text;
    }
    let rows = tunnel.peers.iter().map(|peer| {
        vec![
            peer.name.to_string(),
            heard(peer),
            peer.macs.to_string(),
            short(peer.rx.frames),
            short(peer.rx.bytes),
            short(peer.tx.frames),
            short(peer.tx.bytes),
            short(peer.drops),
        ]
    });
    text.push('\n');
    text += &table(&["PEER", "HEARD", "MACS", "RX", "RX BYTES", "TX", "TX BYTES", "DROPS"], "lrrrrrrr", rows);
    text
}

fn endpoint_text(endpoint: &TunnelEnd) -> String {
    let state = match &endpoint.reason {
        Some(reason) => format!("{}: {reason}", state(endpoint.state)),
        None => state(endpoint.state).into(),
    };
    let mut rows = vec![
        ("endpoint", address(endpoint.local, endpoint.port)),
        ("state", state),
        ("underlay", format!("packets of {} bytes", endpoint.underlay_mtu)),
        ("overlay", format!("packets of {} bytes", endpoint.overlay_mtu)),
        ("group", or_dash(endpoint.group)),
        ("isolated group", or_dash(endpoint.isolated_group)),
    ];
    if let Some(features) = &endpoint.features {
        let sends = match features.datagrams_per_send {
            1 => "one datagram at a time".into(),
            many => format!("{many} datagrams at a time (UDP_SEGMENT)"),
        };
        let receives = if features.gro { "many at a time (UDP_GRO)" } else { "one datagram at a time" };
        rows.extend([
            ("sends", sends),
            ("receives", format!("{receives}, by {} sockets", features.inlets)),
            (
                "buffers",
                format!(
                    "{} in, {} out",
                    short(features.receive_buffer as u64),
                    short(features.send_buffer as u64)
                ),
            ),
            ("overflow", endpoint.overflow.to_string()),
        ]);
    }
    let mut text = show::pairs(&rows);
    for stranger in &endpoint.strangers {
        let _ = writeln!(text, "{} sent {} messages and is not a peer", stranger.address, stranger.messages);
    }
    text
}

fn probe(probe: &Probe) -> String {
    format!(
        "{}: packets of {} bytes reach it in one piece, so the tunnel carries packets of {}; there and back in {}.{:03} ms\n",
        probe.peer,
        probe.path_mtu,
        probe.overlay_mtu,
        probe.rtt_us / 1000,
        probe.rtt_us % 1000
    )
}

fn heard(peer: &Peer) -> String {
    peer.heard_ms.map_or_else(|| "never".into(), |ms| duration(ms / 1000))
}

fn address(address: UnderlayAddr, port: u16) -> String {
    if address.ip().is_ipv6() { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vswitch_model::api::{PortState, Traffic};

    fn a_peer() -> Peer {
        Peer {
            name: "host2".parse().unwrap(),
            address: "10.8.0.2".parse().unwrap(),
            port: 4789,
            networks: vec!["blue".parse().unwrap()],
            origin: PeerOrigin::File,
            state: PortState::Up,
            reason: None,
            path_mtu: 1500,
            heard_ms: Some(3000),
            macs: 2,
            rx: Traffic { frames: 5, bytes: 500, super_frames: 0 },
            tx: Traffic::default(),
            drops: 1,
        }
    }

    #[test]
    fn peers_in_columns() {
        let expected = "\
NAME   ADDRESS        BY    STATE  HEARD  PATH MTU  NETWORKS
host2  10.8.0.2:4789  file  up        3s      1500  blue
";
        assert_eq!(peers_table(&[a_peer()]), expected);
        let silent = Peer { heard_ms: None, networks: vec![], ..a_peer() };
        assert!(peers_table(&[silent]).contains("never"));
    }

    #[test]
    fn a_tunnel_and_what_the_kernel_lets_it_do() {
        assert!(tunnel_text(&Tunnel::default()).starts_with("no tunnel"));
        let endpoint = TunnelEnd {
            local: "fd00::1".parse().unwrap(),
            port: 4789,
            group: None,
            isolated_group: None,
            state: PortState::Up,
            reason: None,
            underlay_mtu: 1500,
            overlay_mtu: 1430,
            learn_peers: false,
            features: Some(vswitch_model::api::tunnel::Features {
                datagrams_per_send: 64,
                gro: true,
                receive_buffer: 1 << 20,
                send_buffer: 1 << 20,
                inlets: 1,
            }),
            overflow: 0,
            strangers: vec![],
        };
        let text = tunnel_text(&Tunnel { endpoint: Some(endpoint), peers: vec![a_peer()] });
        for part in ["[fd00::1]:4789", "64 datagrams at a time (UDP_SEGMENT)", "UDP_GRO", "host2"] {
            assert!(text.contains(part), "{text} lacks {part}");
        }
    }

    #[test]
    fn a_peer_is_called_by_name_or_address() {
        assert_eq!(peer_name("fd00::2").unwrap().as_str(), "fd00--2");
        assert_eq!(peer_name("host2").unwrap().as_str(), "host2");
        assert!(peer_name("a b").is_err());
    }
}
