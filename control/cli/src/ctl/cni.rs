//! `vswitchctl cni`: registers the plugin and networks with podman, containerd and CRI-O.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::done;
use crate::{
    client::{Client, ClientError},
    cni::list::{CONFIGS, PLUGINS, conflist, copy_into, link_into, write},
};
use vswitch_model::{ApiSpec, Error, Name};

/// `vswitchctl cni`
#[derive(Debug, Subcommand)]
pub enum CniCommand {
    /// Link the plugin into the folders where container runtimes look for it.
    #[command(
        after_help = "Example:\n  vswitchctl cni install\n  vswitchctl cni install --copy --into /host/opt/cni/bin"
    )]
    Install {
        /// The plugin; default: in the folder of this program.
        #[arg(long, value_name = "FILE")]
        plugin: Option<PathBuf>,
        /// The folders.
        #[arg(long = "into", value_name = "FOLDER", default_values = PLUGINS)]
        folders: Vec<PathBuf>,
        /// Copy it instead, as from a container whose folders the host does not have.
        #[arg(long)]
        copy: bool,
    },
    /// Write a network's configuration into the folder that container runtimes read.
    #[command(
        after_help = "Examples:\n  vswitchctl cni conflist blue\n  vswitchctl cni conflist blue --print\n  podman run --network blue …"
    )]
    Conflist {
        /// The network, which must exist.
        network: Name,
        /// The folder.
        #[arg(long, value_name = "FOLDER", default_value = CONFIGS)]
        into: PathBuf,
        /// Print the configuration instead.
        #[arg(long)]
        print: bool,
        /// Do not ask the daemon whether the network exists: it may come later.
        #[arg(long)]
        unchecked: bool,
    },
}

pub(super) async fn execute(
    client: &Client,
    command: &CniCommand,
    socket: &Path,
    json: bool,
) -> Result<String, ClientError> {
    match command {
        CniCommand::Install { plugin, folders, copy } => {
            let plugin = plugin.clone().map_or_else(beside, Ok)?;
            let plugin = plugin.canonicalize().map_err(|error| {
                Error::not_found(format!("{}: {error}: give its path with --plugin", plugin.display()))
            })?;
            let install = if *copy { copy_into } else { link_into };
            let links = install(&plugin, folders).map_err(Error::from)?;
            let links: Vec<_> = links.iter().map(|link| link.display().to_string()).collect();
            let how = if *copy { "copied to" } else { "linked as" };
            Ok(done(json, format_args!("{} is {how} {}", plugin.display(), links.join(" and "))))
        }
        CniCommand::Conflist { network, into, print, unchecked } => {
            if !unchecked {
                client.network(&network.clone().into()).await?;
            }
            let socket = Some(socket).filter(|socket| *socket != ApiSpec::default().socket);
            if *print {
                return Ok(format!("{:#}\n", conflist(network, socket)));
            }
            let path = write(into, network, socket).map_err(Error::from)?;
            Ok(done(json, format_args!("{} written", path.display())))
        }
    }
}

/// The plugin installed with this program.
fn beside() -> Result<PathBuf, Error> {
    Ok(std::env::current_exe()?.with_file_name("vswitch-cni"))
}
