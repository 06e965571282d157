//! `vswitchctl dns`: names, and what a container is answered.

use std::net::IpAddr;

use clap::Subcommand;

use super::{done, render, show};
use crate::client::{Client, ClientError};
use vswitch_model::{
    Name,
    api::{NamesFilter, StaticName},
};

/// `vswitchctl dns`
#[derive(Clone, Debug, Subcommand)]
pub enum DnsCommand {
    /// List the names of all networks, or of one.
    #[command(after_help = "Example: vswitchctl dns ls --network blue")]
    Ls {
        /// Only names of this network.
        #[arg(long, value_name = "NETWORK")]
        network: Option<Name>,
    },
    /// Give a name by hand; again, with what it means from now on.
    #[command(after_help = "Example: vswitchctl dns add --network blue printer 10.9.0.200")]
    Add {
        /// The network whose clients may ask for it.
        #[arg(long, value_name = "NETWORK")]
        network: Name,
        /// The name.
        #[arg(value_name = "NAME")]
        name: Name,
        /// What it means.
        #[arg(required = true, value_name = "ADDRESS")]
        addresses: Vec<IpAddr>,
    },
    /// Take a name away that was given by hand.
    #[command(after_help = "Example: vswitchctl dns rm --network blue printer")]
    Rm {
        /// The network.
        #[arg(long, value_name = "NETWORK")]
        network: Name,
        /// The name.
        #[arg(value_name = "NAME")]
        name: Name,
    },
    /// Look up a name, or who has an address, as a container would.
    #[command(
        after_help = "Examples:\n  vswitchctl dns lookup db.blue\n  vswitchctl dns lookup db --from 10.9.0.2\n  vswitchctl dns lookup 10.9.0.3"
    )]
    Lookup {
        /// What is asked for: db, db.blue, db.blue.vswitch.internal, tasks.SERVICE, or an IP address.
        #[arg(value_name = "NAME")]
        name: String,
        /// The address of the container that asks. By default all networks are searched.
        #[arg(long, value_name = "ADDRESS")]
        from: Option<IpAddr>,
    },
}

pub(super) async fn execute(
    client: &Client,
    command: &DnsCommand,
    json: bool,
) -> Result<String, ClientError> {
    let filter = match command.clone() {
        DnsCommand::Add { network, name, addresses } => {
            let given = client.add_name(&StaticName { network, name, addresses }).await?;
            return render(json, &given, |it| format!("name {} added to network {}\n", it.name, it.network));
        }
        DnsCommand::Rm { network, name } => {
            client.remove_name(&network, &name).await?;
            return Ok(done(json, format_args!("name {name} removed from network {network}")));
        }
        DnsCommand::Ls { network } => NamesFilter { network, ..NamesFilter::default() },
        DnsCommand::Lookup { name, from } => NamesFilter { name: Some(name), from, ..NamesFilter::default() },
    };
    render(json, &client.names(&filter).await?, |entries| show::names(entries))
}
