//! `vswitchctl mirror`: ports that get copies of other ports' frames.

use clap::{Args, Subcommand};

use super::{
    arguments::{DeviceArguments, direction},
    done, render, show,
};
use crate::client::{Client, ClientError};
use vswitch_model::{
    Carries, CollectorSpec, Direction, Error, MirrorSpec, Name, PortSpec, UnderlayAddr, Vni, api::Port,
};

/// `vswitchctl mirror`
#[derive(Debug, Subcommand)]
pub enum MirrorCommand {
    /// List the mirrors.
    #[command(after_help = "Example:\n  vswitchctl mirror ls")]
    Ls,
    /// Create a mirror.
    Add(Box<MirrorArguments>),
    /// Remove a mirror.
    #[command(after_help = "Example:\n  vswitchctl mirror rm ids")]
    Rm {
        /// The port.
        name: Name,
    },
}

/// `vswitchctl mirror add`
#[derive(Debug, Args)]
#[command(
    long_about = "Create a mirror: a port that gets copies of other ports' frames.\n\n\
        It carries no network: only copies leave by it, and frames received from it are dropped.",
    after_help = "Examples:\n  \
        vswitchctl mirror add ids --port web,db --netns ids\n  \
        vswitchctl mirror add tap0 --network blue --kind packet --device eth2\n  \
        vswitchctl mirror add far --port web --remote 10.8.0.9 --vni 9000\n\n\
        With --remote copies are sent as VXLAN datagrams (needs [vxlan]), in fragments if longer than the path MTU. \
        The kernel of the remote host receives them by\n  \
        ip link add ids0 type vxlan id 9000 local 10.8.0.9 remote 10.8.0.1 dstport 4789"
)]
pub struct MirrorArguments {
    /// Name of the mirror.
    name: Name,
    /// Copy the frames that these ports receive and send.
    #[arg(long, value_name = "PORT,…", value_delimiter = ',', required_unless_present = "network")]
    port: Vec<Name>,
    /// Copy the frames received in these networks.
    #[arg(long, value_name = "NETWORK,…", value_delimiter = ',')]
    network: Vec<Name>,
    /// Of the ports' frames, only received (rx) or only sent ones (tx).
    #[arg(long, value_parser = direction())]
    direction: Option<Direction>,
    #[command(flatten)]
    device: DeviceArguments,
    /// Host to send copies to by VXLAN, instead of a local interface; it may be a peer as well.
    #[arg(
        long,
        value_name = "ADDRESS",
        requires = "vni",
        conflicts_with_all = ["kind", "device", "netns", "ifname", "address", "gateway", "mac", "persist"]
    )]
    remote: Option<UnderlayAddr>,
    /// VNI of the copies, 0 to 16777215; no network of this switch may have it.
    #[arg(long, requires = "remote")]
    vni: Option<Vni>,
    /// UDP port of the remote host; default: this host's own.
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
            Some((remote, vni)) => CollectorSpec { remote, remote_port: self.remote_port, vni }.into(),
            None => self.device.spec()?,
        };
        let port = PortSpec::new(self.name.clone(), Carries::Mirror { mirror }, device);
        Ok(PortSpec { mtu: self.device.mtu(), ..port })
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
                let why = format!("port {name} is not a mirror: `vswitchctl port del` removes it");
                return Err(Error::invalid(why).into());
            }
            client.delete_port(name).await?;
            Ok(done(json, format_args!("mirror {name} removed")))
        }
    }
}

fn mirrors(ports: &[Port]) -> String {
    if ports.is_empty() {
        "no mirrors: create one with `vswitchctl mirror add`\n".into()
    } else {
        show::ports(ports)
    }
}
