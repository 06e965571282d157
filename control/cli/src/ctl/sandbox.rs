//! `vswitchctl sandbox`: sandboxes and their endpoints.

use std::{collections::BTreeMap, str::FromStr};

use clap::Subcommand;

use super::{render, show::table};
use crate::{
    attach::target::{DOCKER_SOCKET, Resolved, Target},
    client::{Client, ClientError},
};
use vswitch_model::{Error, Netns, Reference, api::Endpoint};

/// `vswitchctl sandbox`
#[derive(Debug, Subcommand)]
pub enum SandboxCommand {
    /// List the sandboxes that are connected to networks.
    #[command(after_help = "Example:\n  vswitchctl sandbox ls")]
    Ls,
    /// Show all details of a sandbox's endpoints as JSON.
    #[command(after_help = "Example:\n  vswitchctl sandbox inspect netns:web")]
    Inspect {
        /// The sandbox: netns:NAME, pid:NUMBER, docker:NAME, or a path.
        sandbox: SandboxArgument,
    },
}

/// A sandbox as given on the command line: `netns:NAME`, `pid:NUMBER`, `docker:NAME`, or a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxArgument(Target);

impl FromStr for SandboxArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let netns = |netns| Ok(Self(Target::Netns(netns)));
        match text.split_once(':') {
            Some(("netns", name)) if !name.is_empty() && !name.contains('/') => {
                netns(Netns::Name(name.into()))
            }
            Some(("pid", pid)) => match pid.parse() {
                Ok(pid) => netns(Netns::Pid(pid)),
                Err(_) => Err(format!("{pid:?} is not a process id")),
            },
            Some(("docker", name)) if !name.is_empty() => Ok(Self(Target::Docker(name.into()))),
            _ if text.contains('/') => {
                let path = std::path::absolute(text).map_err(|error| error.to_string())?;
                netns(Netns::Path(path))
            }
            _ => Err("write netns:NAME, pid:NUMBER, docker:NAME, or a path".into()),
        }
    }
}

impl SandboxArgument {
    /// Resolves the namespace, and the container if there is one; containers by a request to Docker.
    pub(super) async fn resolve(&self) -> Result<Resolved, Error> {
        self.0.resolve(DOCKER_SOCKET.as_ref()).await
    }
}

/// Executes the command.
pub(super) async fn execute(
    client: &Client,
    command: &SandboxCommand,
    json: bool,
) -> Result<String, ClientError> {
    let endpoints = client.endpoints().await?;
    match command {
        SandboxCommand::Ls => {
            let mut sandboxes: BTreeMap<String, Vec<Endpoint>> = BTreeMap::new();
            for endpoint in endpoints {
                sandboxes.entry(place(&endpoint)).or_default().push(endpoint);
            }
            render(json, &sandboxes, list)
        }
        SandboxCommand::Inspect { sandbox } => {
            let netns = sandbox.resolve().await?.netns;
            let is_there =
                |it: &&Endpoint| it.spec.sandbox.as_ref().is_some_and(|own| own.path() == netns.path());
            let found: Vec<_> = endpoints.iter().filter(is_there).collect();
            if found.is_empty() {
                return Err(Error::not_found(format!("{netns} is not connected to any network")).into());
            }
            render(true, &found, |_| String::new())
        }
    }
}

/// Finds the endpoint by its own name or id, or by its sandbox.
pub(super) async fn endpoint_in(
    client: &Client,
    network: &Reference,
    text: &str,
) -> Result<Reference, ClientError> {
    let Ok(sandbox) = text.parse::<SandboxArgument>() else {
        return text.parse().map_err(|error| Error::invalid(format!("{error}")).into());
    };
    let path = sandbox.resolve().await?.netns.path();
    let is_there = |it: &Endpoint| it.spec.sandbox.as_ref().is_some_and(|own| own.path() == path);
    match client.network(network).await?.endpoints.into_iter().find(is_there) {
        Some(endpoint) => Ok(endpoint.spec.id.into()),
        None => {
            Err(Error::not_found(format!("container {text} is not connected to network {network}")).into())
        }
    }
}

/// A created endpoint, in one line.
pub(super) fn endpoint_line(endpoint: &Endpoint) -> String {
    let spec = &endpoint.spec;
    let addresses: Vec<_> = spec.addresses.iter().map(ToString::to_string).collect();
    let mut text = format!("{} in {}: {} {}", spec.name, spec.network, spec.ifname, spec.mac);
    for address in addresses {
        text += &format!(", {address}");
    }
    for published in &spec.published {
        text += &format!(", {published}");
    }
    text + "\n"
}

fn list(sandboxes: &BTreeMap<String, Vec<Endpoint>>) -> String {
    if sandboxes.is_empty() {
        return "no sandboxes: connect one with `vswitchctl network connect`\n".into();
    }
    let rows = sandboxes.iter().flat_map(|(sandbox, endpoints)| {
        endpoints.iter().map(move |endpoint| {
            let spec = &endpoint.spec;
            let addresses: Vec<_> = spec.addresses.iter().map(|net| net.addr().to_string()).collect();
            let address = if addresses.is_empty() { "-".into() } else { addresses.join(",") };
            let state = super::show::state(endpoint.state).to_owned();
            let names = [sandbox, spec.name.as_str(), spec.network.as_str(), &spec.ifname].map(str::to_owned);
            names.into_iter().chain([address, state]).collect()
        })
    });
    table(&["SANDBOX", "ENDPOINT", "NETWORK", "INTERFACE", "ADDRESS", "STATE"], "llllll", rows)
}

/// The sandbox of an endpoint, in the notation of the command line.
fn place(endpoint: &Endpoint) -> String {
    match &endpoint.spec.sandbox {
        None => "-".into(),
        Some(Netns::Name(name)) => format!("netns:{name}"),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_typed_in_four_ways() {
        let parse = |text: &str| text.parse::<SandboxArgument>().map(|it| it.0);
        assert_eq!(parse("netns:web"), Ok(Target::Netns(Netns::Name("web".into()))));
        assert_eq!(parse("pid:7"), Ok(Target::Netns(Netns::Pid(7))));
        assert_eq!(parse("docker:web"), Ok(Target::Docker("web".into())));
        assert_eq!(parse("/proc/7/ns/net"), Ok(Target::Netns(Netns::Path("/proc/7/ns/net".into()))));
        for text in ["web", "netns:", "pid:x", "docker:"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
