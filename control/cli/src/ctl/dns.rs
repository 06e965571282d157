//! `vswitchctl dns`: names, and what a container is answered.

use std::net::IpAddr;

use clap::Subcommand;

use super::{render, show};
use crate::client::{Client, ClientError};
use vswitch_model::{Name, api::NamesFilter};

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
        DnsCommand::Ls { network } => NamesFilter { network, ..NamesFilter::default() },
        DnsCommand::Lookup { name, from } => NamesFilter { name: Some(name), from, ..NamesFilter::default() },
    };
    render(json, &client.names(&filter).await?, |entries| show::names(entries))
}
