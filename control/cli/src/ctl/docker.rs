//! `vswitchctl docker`: Docker Engine on this host.

mod dns;
mod plugin;
mod relay;

use std::path::PathBuf;

use clap::Subcommand;

use crate::{
    attach::target::DOCKER_SOCKET,
    client::{Client, ClientError},
};

/// `vswitchctl docker`
#[derive(Clone, Debug, Subcommand)]
pub enum DockerCommand {
    /// Let all containers of Docker ask vswitchd for names that Docker does not know, as those of other hosts.
    #[command(
        long_about = "Let all containers of Docker ask vswitchd for names that Docker does not know, as those of other hosts.\n\n\
        Puts the address of the DNS server before all others in Docker's configuration file. Docker reads it when it starts, and a container \
        gets its servers when it starts; nothing is restarted by this command.",
        after_help = "Examples:\n  vswitchctl docker dns\n  vswitchctl docker dns --remove\n  docker run --dns 169.254.53.53 …   # for one container, without this"
    )]
    Dns {
        /// Docker's configuration file.
        #[arg(long, value_name = "FILE", default_value = "/etc/docker/daemon.json")]
        config: PathBuf,
        /// Take the address out again.
        #[arg(long)]
        remove: bool,
    },
    /// Make the managed plugin, which a swarm needs: the driver of its networks.
    #[command(
        long_about = "Make the managed plugin, which a swarm needs: the driver of its networks.\n\n\
        A swarm takes no driver that Docker finds by its socket. The managed plugin is a container of Docker's own, made here from this program \
        without a registry, that passes Docker's calls on to vswitchd. Every host of the swarm needs one, by the same name. Nothing is restarted.",
        after_help = "Examples:\n  vswitchctl docker plugin          # on each host of the swarm\n  \
        docker network create -d vswitch:latest --attachable blue\n  docker service create --network blue --endpoint-mode dnsrr …\n  \
        vswitchctl docker plugin --remove"
    )]
    Plugin {
        /// Its name, which is that of the driver.
        #[arg(long, default_value = "vswitch:latest", value_parser = plugin::name)]
        name: String,
        /// The engine's socket.
        #[arg(long, value_name = "SOCKET", default_value = DOCKER_SOCKET)]
        engine: PathBuf,
        /// Remove it. Docker refuses while a network uses it.
        #[arg(long)]
        remove: bool,
    },
    /// What runs in the managed plugin: passes connections on.
    #[command(hide = true)]
    Relay {
        /// The socket that Docker asks.
        listen: PathBuf,
        /// The socket of vswitchd.
        to: PathBuf,
    },
}

pub(super) async fn execute(
    client: &Client,
    command: &DockerCommand,
    json: bool,
) -> Result<String, ClientError> {
    match command {
        DockerCommand::Dns { config, remove } => dns::execute(client, config, *remove, json).await,
        DockerCommand::Plugin { name, engine, remove: false } => {
            plugin::make(client, engine, name, json).await
        }
        DockerCommand::Plugin { name, engine, remove: true } => plugin::remove(engine, name, json).await,
        DockerCommand::Relay { listen, to } => relay::relay(listen, to).await,
    }
}
