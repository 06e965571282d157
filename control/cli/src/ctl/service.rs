//! `vswitchctl service`: Docker's verbs, with Docker's flags as far as they make sense on one host.

use std::{collections::BTreeMap, net::IpAddr};

use clap::{Args, Subcommand};

use super::{done, network::pair, render, show::table};
use crate::client::{Client, ClientError};
use vswitch_model::{
    Affinity, Check, EndpointMode, ErrorKind, HealthSpec, Name, ServicePort, ServiceSpec, ServiceUpdate,
    api::service::{Backend, Service},
    publish::Publish,
};

/// `vswitchctl service`
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Create a service: one name and address for several endpoints of a network.
    Create(Box<CreateArguments>),
    /// List the services.
    #[command(visible_alias = "list")]
    Ls {
        /// Print only names.
        #[arg(short, long)]
        quiet: bool,
    },
    /// Show services as JSON.
    #[command(after_help = "Example:\n  vswitchctl service inspect web")]
    Inspect {
        /// The services.
        #[arg(required = true, value_name = "SERVICE")]
        services: Vec<Name>,
    },
    /// List the endpoints that serve, and their connections.
    #[command(after_help = "Example:\n  vswitchctl service ps web")]
    Ps {
        /// The services.
        #[arg(required = true, value_name = "SERVICE")]
        services: Vec<Name>,
    },
    /// Change a service while its clients stay connected.
    Update(Box<UpdateArguments>),
    /// Remove services; their endpoints stay.
    #[command(visible_alias = "remove", after_help = "Example:\n  vswitchctl service rm web api")]
    Rm {
        /// Do not fail for services that do not exist.
        #[arg(short, long)]
        force: bool,
        /// The services.
        #[arg(required = true, value_name = "SERVICE")]
        services: Vec<Name>,
    },
}

/// `vswitchctl service create`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    vswitchctl service create --network blue web\n  \
    vswitchctl network connect --service web blue netns:web-1\n\n  \
    vswitchctl service create --network blue --selector app=api --affinity client-ip:10m api\n  \
    vswitchctl network connect --label app=api blue netns:api-1\n\n\
    Services are described in docs/services.md.")]
pub struct CreateArguments {
    /// The network it is in.
    #[arg(long)]
    network: Name,
    /// Its own address; one each for IPv4 and IPv6. Default: chosen from the network's subnets.
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<IpAddr>,
    /// vip: an address of its own; dnsrr: its name stands for the addresses of all endpoints.
    #[arg(long, default_value = "vip", value_name = "MODE")]
    endpoint_mode: EndpointMode,
    /// Endpoints with this label serve; with several: with all of them.
    #[arg(long, value_name = "LABEL=VALUE", value_parser = pair)]
    selector: Vec<(String, String)>,
    /// What keeps the connections of a client together: none, client-ip, or client-ip:TTL.
    #[arg(long, default_value = "none")]
    affinity: Affinity,
    #[command(flatten)]
    health: HealthArguments,
    /// Open a port of every host that leads to the service: 8080:80, 5353:53/udp, 8000-8002:80-82, or
    /// published=8080,target=80,mode=host to open it only where an endpoint is.
    #[arg(short, long, value_name = "PORTS")]
    publish: Vec<ServicePort>,
    /// Reset the connections of an endpoint that is drained after this time; by default they go on.
    #[arg(long, value_name = "SECONDS")]
    drain_time: Option<u32>,
    /// A label.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// Name of the service.
    #[arg(value_name = "SERVICE")]
    name: Name,
}

/// How a service finds out which endpoints serve.
#[derive(Debug, Args)]
struct HealthArguments {
    /// Give connections only to endpoints that pass: tcp:PORT, or http:PORT/PATH.
    #[arg(long, value_name = "CHECK")]
    health: Option<Check>,
    /// Seconds between two checks of an endpoint; default: 5.
    #[arg(long, value_name = "SECONDS", requires = "health")]
    health_interval: Option<u32>,
    /// Seconds that a check may take; default: 2.
    #[arg(long, value_name = "SECONDS", requires = "health")]
    health_timeout: Option<u32>,
    /// Failures in a row after which an endpoint gets nothing new; default: 3.
    #[arg(long, value_name = "NUMBER", requires = "health")]
    health_retries: Option<u32>,
}

impl HealthArguments {
    fn spec(&self) -> Option<HealthSpec> {
        let default = HealthSpec::new(self.health.clone()?);
        Some(HealthSpec {
            interval: self.health_interval.unwrap_or(default.interval),
            timeout: self.health_timeout.unwrap_or(default.timeout),
            retries: self.health_retries.unwrap_or(default.retries),
            ..default
        })
    }
}

/// `vswitchctl service update`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    vswitchctl service update --drain web-1 web\n  \
    vswitchctl service update --resume web-1 --affinity client-ip web")]
pub struct UpdateArguments {
    /// What keeps the connections of a client together: none, client-ip, or client-ip:TTL.
    #[arg(long)]
    affinity: Option<Affinity>,
    #[command(flatten)]
    health: HealthArguments,
    /// Check endpoints no longer.
    #[arg(long, conflicts_with = "health")]
    no_healthcheck: bool,
    /// Give this endpoint no new connections; those that it has go on.
    #[arg(long, value_name = "ENDPOINT")]
    drain: Vec<Name>,
    /// Reset the connections of endpoints that are drained after this time.
    #[arg(long, value_name = "SECONDS")]
    drain_time: Option<u32>,
    /// Give this endpoint new connections again.
    #[arg(long, value_name = "ENDPOINT")]
    resume: Vec<Name>,
    /// Open a further port of every host.
    #[arg(long, value_name = "PORTS")]
    publish_add: Vec<ServicePort>,
    /// Close the ports of the hosts that lead to this port of the service.
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    publish_rm: Vec<Publish>,
    /// Set a label of the selector.
    #[arg(long, value_name = "LABEL=VALUE", value_parser = pair)]
    selector_add: Vec<(String, String)>,
    /// Remove a label of the selector.
    #[arg(long, value_name = "LABEL")]
    selector_rm: Vec<String>,
    /// Set a label.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label_add: Vec<(String, String)>,
    /// Remove a label.
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// The service.
    service: Name,
}

/// Executes the command.
pub(super) async fn execute(
    client: &Client,
    command: &ServiceCommand,
    json: bool,
) -> Result<String, ClientError> {
    match command {
        ServiceCommand::Create(arguments) => {
            let service = client.add_service(&arguments.spec()).await?;
            render(json, &service, service_line)
        }
        ServiceCommand::Ls { quiet } => {
            let services = client.services().await?;
            render(json, &services, |services| if *quiet { names(services) } else { list(services) })
        }
        ServiceCommand::Inspect { services } => {
            // For programs, as Docker's: always JSON.
            render(true, &find(client, services).await?, |_| String::new())
        }
        ServiceCommand::Ps { services } => {
            render(json, &find(client, services).await?, |services| backends(services))
        }
        ServiceCommand::Update(arguments) => {
            let service = client.update_service(&arguments.service, &arguments.update()).await?;
            render(json, &service, |service| format!("{}\n", service.spec.name))
        }
        ServiceCommand::Rm { services, force } => {
            let mut text = String::new();
            for name in services {
                match client.delete_service(name).await {
                    Ok(()) => text += &done(json, format_args!("{name}")),
                    Err(ClientError::Refused(refusal)) if *force && refusal.kind == ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(text)
        }
    }
}

async fn find(client: &Client, names: &[Name]) -> Result<Vec<Service>, ClientError> {
    let mut services = Vec::new();
    for name in names {
        services.push(client.service(name).await?);
    }
    Ok(services)
}

impl CreateArguments {
    fn spec(&self) -> ServiceSpec {
        ServiceSpec {
            mode: self.endpoint_mode,
            address: self.ip.clone(),
            selector: self.selector.iter().cloned().collect(),
            affinity: self.affinity,
            health: self.health.spec(),
            publish: self.publish.clone(),
            drain_time: self.drain_time,
            labels: self.label.iter().cloned().collect(),
            ..ServiceSpec::plain(self.name.clone(), self.network.clone())
        }
    }
}

impl UpdateArguments {
    fn update(&self) -> ServiceUpdate {
        let changes = |add: &[(String, String)], remove: &[String]| -> BTreeMap<_, _> {
            let some = add.iter().map(|(key, value)| (key.clone(), Some(value.clone())));
            remove.iter().map(|key| (key.clone(), None)).chain(some).collect()
        };
        ServiceUpdate {
            affinity: self.affinity,
            selector: changes(&self.selector_add, &self.selector_rm),
            health: self.health.spec(),
            no_health: self.no_healthcheck,
            publish: self.publish_add.clone(),
            unpublish: self.publish_rm.clone(),
            drain: self.drain.iter().cloned().collect(),
            drain_time: self.drain_time,
            resume: self.resume.iter().cloned().collect(),
            labels: changes(&self.label_add, &self.label_rm),
        }
    }
}

/// `web at 10.9.0.7`
fn service_line(service: &Service) -> String {
    match addresses(service).as_str() {
        "-" => format!("{}\n", service.spec.name),
        addresses => format!("{} at {addresses}\n", service.spec.name),
    }
}

fn addresses(service: &Service) -> String {
    let addresses: Vec<_> = service.spec.address.iter().map(IpAddr::to_string).collect();
    if addresses.is_empty() { "-".into() } else { addresses.join(", ") }
}

/// The ports of the hosts that lead to it: `8080:80/tcp`.
fn ports(service: &Service) -> String {
    let ports: Vec<_> = service.spec.publish.iter().map(ServicePort::to_string).collect();
    if ports.is_empty() { "-".into() } else { ports.join(", ") }
}

fn names(services: &[Service]) -> String {
    services.iter().map(|service| format!("{}\n", service.spec.name)).collect()
}

fn list(services: &[Service]) -> String {
    let row = |service: &Service| {
        let is_ready = |backend: &&Backend| backend.state == "ready";
        let ready = service.backends.iter().filter(is_ready).count();
        vec![
            service.spec.name.to_string(),
            service.spec.network.to_string(),
            service.spec.mode.to_string(),
            addresses(service),
            format!("{ready}/{}", service.backends.len()),
            ports(service),
            service.backends.iter().map(|backend| backend.flows).sum::<u64>().to_string(),
        ]
    };
    table(
        &["NAME", "NETWORK", "MODE", "ADDRESS", "READY", "PORTS", "FLOWS"],
        "llllrlr",
        services.iter().map(row),
    )
}

fn backends(services: &[Service]) -> String {
    let rows = services.iter().flat_map(|service| {
        service.backends.iter().map(|backend| {
            vec![
                service.spec.name.to_string(),
                backend.name.to_string(),
                backend.host.as_ref().map_or("-", Name::as_str).to_owned(),
                backend.addresses.join(", "),
                backend.state.clone(),
                backend.flows.to_string(),
                backend.given.to_string(),
            ]
        })
    });
    table(&["SERVICE", "ENDPOINT", "HOST", "ADDRESS", "STATE", "FLOWS", "GIVEN"], "lllllrr", rows)
}
