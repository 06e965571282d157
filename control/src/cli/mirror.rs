//! `vswitchctl mirror`: ports that get copies of others' frames.

use clap::{Args, Subcommand};

use super::{
    arguments::{InterfaceArguments, PortKind, netns},
    done, render, show,
};
use crate::{
    api::{ApiError, types::Port},
    client::{Client, ClientError},
    model::{Carries, Direction, MirrorSpec, Name, Netns, PortSpec, StormSpec},
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
        vswitchctl mirror add tap0 --network blue --kind packet --device eth2"
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

impl MirrorArguments {
    fn spec(&self) -> Result<PortSpec, ApiError> {
        let mirror = MirrorSpec {
            ports: self.port.clone(),
            networks: self.network.clone(),
            direction: self.direction,
        };
        Ok(PortSpec {
            name: self.name.clone(),
            carries: Carries::Mirror { mirror },
            device: self.kind.device(self.device.clone(), self.interface.spec(self.netns.clone()))?,
            mtu: self.interface.mtu,
            isolated: false,
            mac_limit: None,
            storm: StormSpec::default(),
            offload: true,
        })
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
                return Err(ApiError::invalid(why).into());
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
