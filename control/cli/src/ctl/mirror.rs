//! `vswitchctl mirror`: ports that get copies of others' frames.

use std::net::IpAddr;

use clap::{Args, Subcommand};

use super::{arguments::DeviceArguments, done, render, show};
use crate::client::{Client, ClientError};
use vswitch_model::{
    Carries, CollectorSpec, DeviceSpec, Direction, Error, MirrorSpec, Name, PortSpec, api::Port,
};

/// `vswitchctl mirror`
#[derive(Debug, Subcommand)]
pub enum MirrorCommand {
    /// List the ports that get copies.
    #[command(after_help = "Example:\n  vswitchctl mirror ls")]
    Ls,
    /// Make a port that gets copies.
    Add(Box<MirrorArguments>),
    /// Remove such a port.
    #[command(after_help = "Example:\n  vswitchctl mirror rm ids")]
    Rm {
        /// The port.
        name: Name,
    },
}

/// `vswitchctl mirror add`
#[derive(Debug, Args)]
#[command(
    long_about = "Make a port that gets copies of others' frames.\n\n\
        It carries no network: nothing else leaves by it, and nothing that it sends is taken in.",
    after_help = "Examples:\n  \
        vswitchctl mirror add ids --port web,db --netns ids\n  \
        vswitchctl mirror add tap0 --network blue --kind packet --device eth2\n  \
        vswitchctl mirror add far --port web --remote 10.8.0.9 --vni 9000\n\n\
        With --remote copies leave as VXLAN datagrams (needs [vxlan]), what does not fit the way in fragments. There a kernel takes them \
        in by\n  \
        ip link add ids0 type vxlan id 9000 local 10.8.0.9 remote 10.8.0.1 dstport 4789"
)]
pub struct MirrorArguments {
    /// Its name.
    name: Name,
    /// Copies of what comes in and leaves by these ports.
    #[arg(long, value_name = "PORT,…", value_delimiter = ',', required_unless_present = "network")]
    port: Vec<Name>,
    /// Copies of what comes in in these networks.
    #[arg(long, value_name = "NETWORK,…", value_delimiter = ',')]
    network: Vec<Name>,
    /// Of the ports' frames, only those that come in, or that leave.
    #[arg(long, value_name = "rx|tx", value_parser = direction)]
    direction: Option<Direction>,
    #[command(flatten)]
    device: DeviceArguments,
    /// The host that copies are sent to by VXLAN, instead of an interface here; it may be a peer as well.
    #[arg(
        long,
        value_name = "ADDRESS",
        requires = "vni",
        conflicts_with_all = ["kind", "device", "netns", "ifname", "address", "gateway", "mac", "persist"]
    )]
    remote: Option<IpAddr>,
    /// The VNI by which that host knows them, 0 to 16777215; no network here has it.
    #[arg(long, requires = "remote", value_parser = clap::value_parser!(u32).range(0..=0xff_ffff))]
    vni: Option<u32>,
    /// The UDP port it receives at; this host's own unless told.
    #[arg(long, value_name = "PORT", requires = "remote", value_parser = clap::value_parser!(u16).range(1..))]
    remote_port: Option<u16>,
}

impl MirrorArguments {
    fn spec(&self) -> Result<PortSpec, Error> {
        let mirror = MirrorSpec {
            ports: self.port.clone(),
            networks: self.network.clone(),
            direction: self.direction,
        };
        let device = match self.remote.zip(self.vni) {
            Some((remote, vni)) => {
                DeviceSpec::Collector(CollectorSpec { remote, remote_port: self.remote_port, vni })
            }
            None => self.device.spec()?,
        };
        let port = PortSpec::new(self.name.clone(), Carries::Mirror { mirror }, device);
        Ok(PortSpec { mtu: self.device.mtu(), ..port })
    }
}

fn direction(text: &str) -> Result<Direction, String> {
    match text {
        "rx" => Ok(Direction::Rx),
        "tx" => Ok(Direction::Tx),
        _ => Err("write rx or tx".into()),
    }
}

pub(super) async fn mirror(
    client: &Client,
    command: &MirrorCommand,
    json: bool,
) -> Result<String, ClientError> {
    match command {
        MirrorCommand::Ls => {
            let mut ports = client.ports().await?;
            ports.retain(|port| port.mirror.is_some());
            render(json, &ports, |ports| mirrors(ports))
        }
        MirrorCommand::Add(arguments) => {
            render(json, &client.add_port(&arguments.spec()?).await?, show::port_line)
        }
        MirrorCommand::Rm { name } => {
            if client.port(name).await?.mirror.is_none() {
                let why = format!("port {name} is no mirror: `vswitchctl port del` removes it");
                return Err(Error::invalid(why).into());
            }
            client.delete_port(name).await?;
            Ok(done(json, format_args!("mirror {name} removed")))
        }
    }
}

fn mirrors(ports: &[Port]) -> String {
    if ports.is_empty() {
        "no mirrors: make one with `vswitchctl mirror add`\n".into()
    } else {
        show::ports(ports)
    }
}
