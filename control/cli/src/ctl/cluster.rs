//! `vswitchctl cluster`, in the words of `docker swarm` and `docker node`; `vswitchctl endpoint`.

use std::{fmt::Write, net::IpAddr, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use super::{
    done, render,
    show::{duration, or_dash, table},
};
use crate::client::{Client, ClientError};
use vswitch_model::{
    Error, Name,
    api::{
        Endpoint,
        cluster::{Cluster, Given, Host, HostUpdate, Init, Join, JoinToken, Leave, PlacedEndpoint, Restore},
    },
};

/// `vswitchctl cluster`
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Begin a cluster on this host, and print how others join.
    #[command(
        after_help = "Examples:\n  vswitchctl cluster init --advertise 10.8.0.1\n  vswitchctl cluster init --advertise 10.8.0.1 --store https://10.8.0.9:2379 --cacert ca.crt --cert host1.crt --key host1.key"
    )]
    Init(InitArguments),
    /// Join a cluster: by a token at a manager, or by its store.
    #[command(
        after_help = "Examples:\n  vswitchctl cluster join --token VSWT-1-… 10.8.0.1\n  vswitchctl cluster join --advertise 10.8.0.2 --store https://10.8.0.9:2379 --cacert ca.crt --cert host2.crt --key host2.key"
    )]
    Join(JoinArguments),
    /// Leave the cluster.
    #[command(after_help = "Example:\n  vswitchctl cluster leave")]
    Leave {
        /// Also with endpoints in global networks; without telling the store.
        #[arg(short, long)]
        force: bool,
    },
    /// List the hosts.
    #[command(visible_alias = "list", after_help = "Example:\n  vswitchctl cluster ls")]
    Ls,
    /// Show hosts as JSON.
    #[command(after_help = "Example:\n  vswitchctl cluster inspect host2")]
    Inspect {
        /// The hosts; default: this one.
        hosts: Vec<Name>,
    },
    /// Show the cluster: its store, this host's copy of it, its hosts.
    #[command(after_help = "Example:\n  vswitchctl cluster status")]
    Status,
    /// Print how hosts join.
    #[command(after_help = "Examples:\n  vswitchctl cluster token\n  vswitchctl cluster token --rotate")]
    Token {
        /// Make another token; the old one is not valid any more.
        #[arg(long)]
        rotate: bool,
        /// Print only the token.
        #[arg(short, long)]
        quiet: bool,
    },
    /// Remove a host that is gone: its addresses are free, and it is fenced if it comes back.
    #[command(visible_alias = "remove", after_help = "Example:\n  vswitchctl cluster rm host3")]
    Rm {
        /// The hosts.
        #[arg(required = true)]
        hosts: Vec<Name>,
    },
    /// Print what the store has, as JSON: networks, addresses, endpoints, hosts.
    #[command(after_help = "Example:\n  vswitchctl cluster backup >cluster.json")]
    Backup,
    /// Put back what the store has lost; what it has stays.
    #[command(after_help = "Example:\n  vswitchctl cluster restore cluster.json")]
    Restore {
        /// A file that `cluster backup` has printed.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Change a host.
    #[command(after_help = "Example:\n  vswitchctl cluster update --availability drain host2")]
    Update {
        /// Whether the host gets work.
        #[arg(long)]
        availability: Option<Availability>,
        /// Set a label.
        #[arg(long, value_name = "KEY=VALUE")]
        label_add: Vec<String>,
        /// Remove a label.
        #[arg(long, value_name = "KEY")]
        label_rm: Vec<String>,
        /// The host.
        host: Name,
    },
}

/// Whether a host gets work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Availability {
    /// It does.
    Active,
    /// Its endpoints leave names and services while others are left.
    Drain,
}

/// `vswitchctl cluster init`
#[derive(Debug, Args)]
pub struct InitArguments {
    /// The address of this host by which the others reach it; default: vxlan.local of net.toml.
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<IpAddr>,
    /// This host's name in the cluster; default: switch.name of net.toml.
    #[arg(long)]
    name: Option<Name>,
    #[command(flatten)]
    store: StoreArguments,
}

/// `vswitchctl cluster join`
#[derive(Debug, Args)]
pub struct JoinArguments {
    /// The join token, as `cluster init` and `cluster token` print it.
    #[arg(long, requires = "manager")]
    token: Option<String>,
    /// The address of this host by which the others reach it; default: the one it reaches the manager from.
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<IpAddr>,
    /// This host's name in the cluster; default: switch.name of net.toml.
    #[arg(long)]
    name: Option<Name>,
    #[command(flatten)]
    store: StoreArguments,
    /// Address of a manager, with or without a port.
    #[arg(value_name = "MANAGER", requires = "token")]
    manager: Option<String>,
}

/// A store that is there already.
#[derive(Debug, Args)]
struct StoreArguments {
    /// An etcd that is there already, versions 3.4 to 3.6; one address for each member.
    #[arg(long, value_name = "URL,…", value_delimiter = ',')]
    store: Vec<String>,
    /// Certificate of the authority that signed the store's, PEM.
    #[arg(long, value_name = "FILE", requires = "store")]
    cacert: Option<PathBuf>,
    /// This host's certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "store")]
    cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", requires = "store")]
    key: Option<PathBuf>,
    /// Where the cluster's keys are.
    #[arg(long, requires = "store")]
    prefix: Option<String>,
}

/// `vswitchctl endpoint`
#[derive(Debug, Subcommand)]
pub enum EndpointCommand {
    /// List the endpoints of this host, or of all hosts of the cluster.
    #[command(after_help = "Examples:\n  vswitchctl endpoint ls\n  vswitchctl endpoint ls --all")]
    Ls {
        /// Those of all hosts in global networks.
        #[arg(short, long)]
        all: bool,
    },
}

impl StoreArguments {
    fn given(&self) -> Result<Option<Given>, Error> {
        if self.store.is_empty() {
            return Ok(None);
        }
        // The daemon reads the files, and has another working directory.
        let absolute = |path: &Option<PathBuf>| {
            let absolute = path.as_ref().map(std::path::absolute).transpose()?;
            Ok::<_, Error>(absolute.map(|path| path.to_string_lossy().into_owned()))
        };
        Ok(Some(Given {
            members: self.store.clone(),
            cacert: absolute(&self.cacert)?,
            cert: absolute(&self.cert)?,
            key: absolute(&self.key)?,
            prefix: self.prefix.clone(),
        }))
    }
}

pub(super) async fn execute(
    client: &Client,
    command: &ClusterCommand,
    json: bool,
) -> Result<String, ClientError> {
    match command {
        ClusterCommand::Init(arguments) => {
            let (advertise, name) = (arguments.advertise, arguments.name.clone());
            let init = Init { advertise, name, store: arguments.store.given()? };
            render(json, &client.cluster_init(&init).await?, begun)
        }
        ClusterCommand::Join(arguments) => {
            let join = Join {
                manager: arguments.manager.clone(),
                token: arguments.token.clone(),
                advertise: arguments.advertise,
                name: arguments.name.clone(),
                store: arguments.store.given()?,
            };
            render(json, &client.cluster_join(&join).await?, |cluster| {
                format!("This host joined the cluster as {}.\n\n{}", cluster.host, hosts(&cluster.hosts))
            })
        }
        ClusterCommand::Leave { force } => {
            client.cluster_leave(&Leave { force: *force }).await?;
            Ok(done(json, format_args!("This host left the cluster.")))
        }
        ClusterCommand::Ls => render(json, &client.cluster().await?.hosts, |all| hosts(all)),
        ClusterCommand::Inspect { hosts } => {
            let all = client.cluster().await?.hosts;
            let wanted = |host: &Host| if hosts.is_empty() { host.this } else { hosts.contains(&host.name) };
            if let Some(missing) = hosts.iter().find(|name| all.iter().all(|host| host.name != **name)) {
                let why = format!("there is no host {missing} in the cluster: see `vswitchctl cluster ls`");
                return Err(Error::not_found(why).into());
            }
            let found: Vec<_> = all.into_iter().filter(wanted).collect();
            render(true, &found, |_| String::new())
        }
        ClusterCommand::Status => render(json, &client.cluster().await?, status),
        ClusterCommand::Token { rotate, quiet } => {
            let token =
                if *rotate { client.rotate_cluster_token().await? } else { client.cluster_token().await? };
            render(json, &token, |token| match (&token.token, quiet) {
                (Some(token), true) => format!("{token}\n"),
                _ => format!("{}\n", token.command),
            })
        }
        ClusterCommand::Backup => render(true, &client.cluster_backup().await?, |_| String::new()),
        ClusterCommand::Restore { file } => {
            let file = std::path::absolute(file).map_err(Error::from)?.to_string_lossy().into_owned();
            render(json, &client.cluster_restore(&Restore { file }).await?, |restored| {
                format!("{} keys put back\n", restored.keys)
            })
        }
        ClusterCommand::Rm { hosts } => {
            let mut text = String::new();
            for host in hosts {
                client.remove_cluster_host(host).await?;
                text += &done(json, format_args!("{host}"));
            }
            Ok(text)
        }
        ClusterCommand::Update { availability, label_add, label_rm, host } => {
            let availability = availability.map(|it| match it {
                Availability::Active => "active".to_owned(),
                Availability::Drain => "drain".to_owned(),
            });
            let set = label_add.iter().map(|text| match text.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (text.clone(), Some(String::new())),
            });
            let labels = set.chain(label_rm.iter().map(|key| (key.clone(), None))).collect();
            client.update_cluster_host(host, &HostUpdate { availability, labels }).await?;
            Ok(done(json, format_args!("{host}")))
        }
    }
}

pub(super) async fn endpoint(
    client: &Client,
    EndpointCommand::Ls { all }: &EndpointCommand,
    json: bool,
) -> Result<String, ClientError> {
    if *all {
        return render(json, &client.cluster_endpoints().await?, |placed| everywhere(placed));
    }
    render(json, &client.endpoints().await?, |own| here(own))
}

fn begun(token: &JoinToken) -> String {
    format!("This host began a cluster. On each of the others:\n\n    {}\n", token.command)
}

fn hosts(hosts: &[Host]) -> String {
    let row = |host: &Host| {
        vec![
            if host.this { format!("{} *", host.name) } else { host.name.to_string() },
            host.status.clone(),
            host.availability.clone(),
            host.address.to_string(),
            if host.manager { "manager" } else { "" }.into(),
            host.endpoints.to_string(),
            host.version.clone(),
        ]
    };
    let header = ["HOST", "STATUS", "AVAILABILITY", "ADDRESS", "ROLE", "ENDPOINTS", "VERSION"];
    table(&header, "lllllrl", hosts.iter().map(row))
}

fn status(cluster: &Cluster) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<10}{value}");
    };
    line("cluster", cluster.id.short().into());
    line("host", cluster.host.to_string());
    let store = &cluster.store;
    let kept = if store.kept_here { " (on this host)" } else { "" };
    let state = match &store.reason {
        None if store.up => "up".to_owned(),
        None => "not followed yet".to_owned(),
        Some(why) => format!("lost for {}: {why}", duration(store.contact_ms / 1000)),
    };
    line("store", format!("{}{kept}: {state}", store.members.join(", ")));
    line(
        "copy",
        format!("revision {}, {} keys, last sign {} ms ago", store.revision, store.keys, store.contact_ms),
    );
    line("audits", format!("{} right, {} mended", store.audits, store.differences));
    line("networks", format!("{}, with {} endpoints", cluster.networks, cluster.endpoints));
    if let Some(why) = &cluster.fenced {
        line("fenced", why.clone());
    }
    for trouble in &cluster.troubles {
        line("trouble", trouble.clone());
    }
    text.push('\n');
    text + &hosts(&cluster.hosts)
}

fn everywhere(endpoints: &[PlacedEndpoint]) -> String {
    let row = |it: &PlacedEndpoint| {
        let ips: Vec<_> = it.ips.iter().map(IpAddr::to_string).collect();
        vec![
            it.network.to_string(),
            it.name.to_string(),
            it.host.to_string(),
            it.mac.to_string(),
            ips.join(" "),
            it.id.short().into(),
        ]
    };
    table(&["NETWORK", "ENDPOINT", "HOST", "MAC", "ADDRESSES", "ID"], "llllll", endpoints.iter().map(row))
}

fn here(endpoints: &[Endpoint]) -> String {
    let row = |it: &Endpoint| {
        let ips: Vec<_> = it.spec.addresses.iter().map(|net| net.addr().to_string()).collect();
        vec![
            it.spec.network.to_string(),
            it.spec.name.to_string(),
            or_dash(it.spec.sandbox.as_ref()),
            it.spec.mac.to_string(),
            ips.join(" "),
            it.spec.id.short().into(),
        ]
    };
    table(&["NETWORK", "ENDPOINT", "SANDBOX", "MAC", "ADDRESSES", "ID"], "llllll", endpoints.iter().map(row))
}
