//! The commands of CNI: each is a request to the daemon, and a result for the runtime.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};
use vswitch::addr::MacAddr;

use super::{
    VERSIONS, delegate,
    wire::{Attachment, Code, Config, Failure, Ip, Outcome, PortMapping, Verb},
};
use crate::client::{Client, ClientError};
use vswitch_host::{
    link::{LinkError, Links, Route, Wanted},
    netns::Namespace,
};
use vswitch_model::{
    Also, ApiSpec, Connect, ErrorKind, Family, Id, InterfaceSpec, InvalidIfName, LimitSpec, Name, Netns,
    Reference,
    api::{Endpoint, Network, PortState},
    options::{self, EndpointOptions, Meaning},
    publish::Publish,
};

/// The IPAM type of the daemon's own address management.
const OWN: &str = "vswitch";

/// A call of the plugin, parsed and validated.
#[derive(Debug)]
pub(super) struct Call {
    config: Config,
    /// The unchanged configuration, for other plugins.
    text: String,
    container: String,
    netns: Option<PathBuf>,
    ifname: String,
    /// `CNI_ARGS`
    arguments: Vec<(String, String)>,
}

impl Call {
    pub(super) fn read(verb: Verb, text: &str) -> Result<Self, Failure> {
        let config: Config = serde_json::from_str(text).map_err(|error| {
            Failure::new(Code::Decode, format!("cannot parse the configuration: {error}"))
        })?;
        if !VERSIONS.contains(&config.cni_version.as_str()) {
            let known = VERSIONS.join(", ");
            let what = format!("cniVersion {:?} is not supported: use one of {known}", config.cni_version);
            return Err(Failure::new(Code::Version, what));
        }
        if config.name.is_empty() {
            return Err(Failure::new(Code::Config, "name is missing: set it to the name of the network"));
        }
        let needed = |key: &str, needed: bool| match std::env::var(key) {
            Ok(value) if !value.is_empty() || !needed => Ok(value),
            Err(_) if !needed => Ok(String::new()),
            _ => Err(Failure::new(Code::Environment, format!("{key} is missing in the environment"))),
        };
        let of_container = matches!(verb, Verb::Add | Verb::Del | Verb::Check);
        let arguments = std::env::var("CNI_ARGS").unwrap_or_default();
        let arguments = arguments.split(';').filter_map(|it| it.split_once('='));
        Ok(Self {
            container: needed("CNI_CONTAINERID", of_container)?,
            ifname: needed("CNI_IFNAME", of_container)?,
            netns: Some(needed("CNI_NETNS", of_container && verb != Verb::Del)?)
                .filter(|it| !it.is_empty())
                .map(PathBuf::from),
            arguments: arguments.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            text: text.to_owned(),
            config,
        })
    }

    pub(super) async fn execute(&self, verb: Verb) -> Result<Option<Value>, Failure> {
        match verb {
            Verb::Add => self.add().await.map(Some),
            Verb::Del => self.del().await.map(|()| None),
            Verb::Check => self.check().await.map(|()| None),
            Verb::Gc => self.gc().await.map(|()| None),
            Verb::Status => self.status().await.map(|()| None),
            Verb::Version => Ok(None),
        }
    }

    async fn add(&self) -> Result<Value, Failure> {
        let network = self.network().await?;
        let inside = self.inside()?;
        inside
            .check_free(&self.ifname)
            .await
            .map_err(|error| Failure::new(Code::Environment, error.to_string()))?;
        let Some(kind) = self.delegate() else {
            let endpoint = self.connect(&network, self.ask(self.asked_addresses()?)?).await?;
            return self.outcome(&network, &endpoint, &inside, None).await;
        };
        let given = delegate::run(kind, "ADD", &self.text).await?.unwrap_or_default();
        let done = self.add_with(&network, &inside, given).await;
        if done.is_err() {
            // Release the assigned addresses; report the first failure.
            let _ = delegate::run(kind, "DEL", &self.text).await;
        }
        done
    }

    /// Connects with addresses assigned by another plugin. The daemon records those of the network's own subnets.
    async fn add_with(&self, network: &Network, inside: &Links, given: Outcome) -> Result<Value, Failure> {
        let is_ours = |ip: &&Ip| network.spec.subnets.iter().any(|it| it.subnet.contains(&ip.address.addr()));
        let ours = given.ips.iter().filter(is_ours).map(|ip| ip.address.addr()).collect();
        let others: Vec<IpNet> = given.ips.iter().filter(|ip| !is_ours(ip)).map(|ip| ip.address).collect();
        if let Some(address) = others.first().filter(|_| !network.spec.subnets.is_empty()) {
            let what = format!(
                "the IPAM plugin assigned {address}, which is in no subnet of network {}: correct one of them",
                network.spec.name
            );
            return Err(Failure::new(Code::Config, what));
        }
        let mut ask = self.ask(ours)?;
        let_use(&mut ask.options, &others)?;
        let endpoint = self.connect(network, ask).await?;
        let gateway = others
            .iter()
            .filter_map(|net| given.ips.iter().find(|ip| ip.address == *net).and_then(|ip| ip.gateway));
        let wanted = Wanted {
            ifname: self.ifname.clone(),
            spec: InterfaceSpec { gateway: gateway.collect(), address: others, ..InterfaceSpec::default() },
            ..Wanted::default()
        };
        if let Err(error) = inside.configure(&wanted).await {
            let _ = self.disconnect().await;
            return Err(Failure::new(Code::Io, error.to_string()));
        }
        self.outcome(network, &endpoint, inside, Some(given)).await
    }

    async fn connect(&self, network: &Network, ask: Connect) -> Result<Endpoint, Failure> {
        let reference: Reference = network.spec.name.clone().into();
        let friendly = Connect { name: Some(self.friendly_name()), ..ask.clone() };
        match self.client().connect(&reference, &friendly).await {
            // Two containers may have the same name; their ids differ.
            Err(ClientError::Refused(refusal)) if refusal.kind == ErrorKind::Conflict => {}
            other => return Ok(other?),
        }
        Ok(self.client().connect(&reference, &ask).await?)
    }

    /// The request to the daemon.
    fn ask(&self, addresses: Vec<IpAddr>) -> Result<Connect, Failure> {
        let wrong = |what: String| Failure::new(Code::Config, what);
        let mut options = self.options()?;
        if self.is_podman() {
            options.entry("hold".into()).or_insert_with(|| "false".into());
        }
        let runtime = &self.config.runtime_config;
        let mac = runtime.mac.clone().or_else(|| self.argument("MAC"));
        let mac = mac.map(|text| text.parse::<MacAddr>().map_err(|error| wrong(error.to_string())));
        let v4 = |it: &IpAddr| if let IpAddr::V4(it) = it { Some(*it) } else { None };
        let v6 = |it: &IpAddr| if let IpAddr::V6(it) = it { Some(*it) } else { None };
        let mut ip: Vec<Ipv4Addr> = addresses.iter().filter_map(v4).collect();
        let mut ip6: Vec<Ipv6Addr> = addresses.iter().filter_map(v6).collect();
        // podman asks twice for a fixed address when it reloads a network.
        ip.dedup();
        ip6.dedup();
        if ip.len() > 1 || ip6.len() > 1 {
            return Err(wrong("an interface has at most one address per family: request only one".into()));
        }
        let ifname = self.ifname.parse().map_err(|error: InvalidIfName| {
            Failure::new(Code::Environment, format!("CNI_IFNAME: {error}"))
        })?;
        Ok(Connect {
            sandbox: self.netns.clone().map(Netns::Path),
            id: Some(self.id(&self.attachment())),
            name: Some(self.unique_name()),
            container: Some(self.container.clone()),
            ip: ip.first().copied(),
            ip6: ip6.first().copied(),
            mac: mac.transpose()?,
            ifname: Some(ifname),
            aliases: self.aliases(),
            options,
            publish: runtime.port_mappings.iter().map(publish).collect::<Result<_, _>>()?,
            link_local: Vec::new(),
            declared: None,
            services: Vec::new(),
            labels: BTreeMap::new(),
        })
    }

    /// The options of the configuration, with the runtime's rates taking precedence.
    fn options(&self) -> Result<BTreeMap<String, String>, Failure> {
        let limit = match &self.config.runtime_config.bandwidth {
            None => LimitSpec::default(),
            Some(bandwidth) => bandwidth.limit()?,
        };
        let mut options = self.config.options.clone();
        let replaced = |key: &str| {
            limit.rx.is_some() && key.starts_with("limit.rx")
                || limit.tx.is_some() && key.starts_with("limit.tx")
        };
        options.retain(|key, _| !replaced(key));
        options.extend(options::written(&limit));
        Ok(options)
    }

    /// The requested addresses: from the runtime, from the configuration, or from `CNI_ARGS`.
    fn asked_addresses(&self) -> Result<Vec<IpAddr>, Failure> {
        let written = [
            self.config.runtime_config.ips.clone(),
            self.config.args.clone().map(|it| it.cni.ips).unwrap_or_default(),
            self.argument("IP").into_iter().collect(),
        ];
        let written = written.into_iter().find(|it| !it.is_empty()).unwrap_or_default();
        let address = |text: &String| {
            let address = text.split('/').next().unwrap_or_default();
            address.parse().map_err(|_| Failure::new(Code::Config, format!("{text:?} is not an IP address")))
        };
        written.iter().map(address).collect()
    }

    fn argument(&self, key: &str) -> Option<String> {
        self.arguments.iter().find(|it| it.0 == key).map(|it| it.1.clone()).filter(|it| !it.is_empty())
    }

    /// The container's display name, if it is a valid name; otherwise the beginning of its id.
    fn friendly_name(&self) -> Name {
        let pod = self.argument("K8S_POD_NAME").and_then(|name| name.parse().ok());
        let short = || {
            let short: String = self.container.chars().take(12).collect();
            format!("{short}-{}", self.ifname).parse().ok()
        };
        pod.or_else(short).unwrap_or_else(|| self.unique_name())
    }

    /// Whether the caller is podman: it names a container as Kubernetes names a pod, but names no Kubernetes namespace.
    /// podman binds the published host ports itself after ADD, and fails if another process holds them.
    fn is_podman(&self) -> bool {
        self.argument("K8S_POD_NAME").is_some() && self.argument("K8S_POD_NAMESPACE").is_none()
    }

    /// An unused name for the interface.
    fn unique_name(&self) -> Name {
        format!("cni-{}", self.id(&self.attachment()).short()).parse().expect("digits make a name")
    }

    /// A list, or podman's map of lists by network; and what nerdctl gives as `--hostname`.
    fn aliases(&self) -> Vec<String> {
        let list = match &self.config.runtime_config.aliases {
            Value::Object(by_network) => by_network.get(&self.config.name).cloned().unwrap_or_default(),
            other => other.clone(),
        };
        let texts = list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        // nerdctl tells no name, but the host's name in the container: by default the beginning of the id, which is a name anyway.
        let host = self.argument("NERDCTL_CNI_DHCP_HOSTNAME");
        texts.chain(host.filter(|name| !self.container.starts_with(name))).collect()
    }

    /// The result, which extends that of the previous plugin.
    async fn outcome(
        &self,
        network: &Network,
        endpoint: &Endpoint,
        inside: &Links,
        given: Option<Outcome>,
    ) -> Result<Value, Failure> {
        let mut outcome = self.before()?.unwrap_or_default();
        outcome.cni_version = self.config.cni_version.clone();
        let index = outcome.interfaces.len();
        outcome.interfaces.push(json!({
            "name": self.ifname,
            "mac": endpoint.spec.mac.to_string(),
            "sandbox": self.netns,
        }));
        let gateway = |net: &IpNet| {
            let subnet = network.spec.subnet(Family::of(*net))?;
            subnet.next_hop().filter(|_| !network.spec.internal)
        };
        let ips = match &given {
            Some(given) => given.ips.clone(),
            None => {
                let ip =
                    |net: &IpNet| Ip { version: None, address: *net, gateway: gateway(net), interface: None };
                endpoint.spec.addresses.iter().map(ip).collect()
            }
        };
        outcome.ips.extend(ips.into_iter().map(|ip| Ip { interface: Some(index), ..ip }));
        let is_old = self.config.cni_version.starts_with("0.");
        for ip in &mut outcome.ips {
            let version = match Family::of(ip.address) {
                Family::V4 => "4",
                Family::V6 => "6",
            };
            ip.version = is_old.then(|| version.into());
        }
        // Of several networks of a pod, one has the default route.
        let routes = inside.routes().await.map_err(|error| Failure::new(Code::Io, error.to_string()))?;
        let is_routed = |gateway: &&IpAddr| {
            let leads = |route: &Route| route.to.prefix_len() == 0 && route.ifname == self.ifname;
            routes.iter().any(|route| leads(route) && Family::of(route.to) == Family::of(**gateway))
        };
        for gateway in endpoint.spec.gateways.iter().filter(is_routed) {
            let all = match Family::of(*gateway) {
                Family::V4 => "0.0.0.0/0",
                Family::V6 => "::/0",
            };
            outcome.routes.push(json!({ "dst": all, "gw": gateway }));
        }
        let given = given.unwrap_or_default();
        if endpoint.spec.gateways.is_empty() {
            outcome.routes.extend(given.routes);
        }
        let requested = self.config.runtime_config.dns.as_ref().map(|dns| {
            json!({ "nameservers": dns["servers"], "search": dns["searches"], "options": dns["options"] })
        });
        // The names of the network, unless the runtime or the configuration says where to ask.
        let own = json!({ "nameservers": endpoint.nameservers, "options": ["ndots:0"] });
        let own = if endpoint.nameservers.is_empty() { Value::Null } else { own };
        let dns = [requested.unwrap_or_default(), self.config.dns.clone(), given.dns, own];
        let is_told = |it: &Value| it.as_object().is_some_and(|it| !it.is_empty());
        if let Some(dns) = dns.into_iter().find(is_told) {
            outcome.dns = dns;
        }
        serde_json::to_value(&outcome).map_err(|error| Failure::new(Code::Decode, error.to_string()))
    }

    async fn del(&self) -> Result<(), Failure> {
        let released = match self.delegate() {
            Some(kind) => delegate::run(kind, "DEL", &self.text).await.map(drop),
            None => Ok(()),
        };
        match self.disconnect().await {
            // The daemon notices by itself that a namespace is gone.
            Err(ClientError::NotRunning(_) | ClientError::Died(_)) if !self.has_namespace() => {}
            done => done?,
        }
        released
    }

    fn has_namespace(&self) -> bool {
        self.netns.as_ref().is_some_and(|path| Namespace::open(&Netns::Path(path.clone())).is_ok())
    }

    /// Disconnects the endpoint; a missing one is no error.
    async fn disconnect(&self) -> Result<(), ClientError> {
        let id = self.id(&self.attachment());
        let network = self.reference().map_err(|_| not_there())?;
        let endpoint = Reference::try_from(id.to_string()).map_err(|_| not_there())?;
        match self.client().disconnect(&network, &endpoint).await {
            Err(ClientError::Refused(refusal)) if refusal.kind == ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    async fn check(&self) -> Result<(), Failure> {
        if let Some(kind) = self.delegate() {
            delegate::run(kind, "CHECK", &self.text).await?;
        }
        let refused = |what: String| Failure::new(Code::Refused, what);
        let network = self.network().await?;
        let id = self.id(&self.attachment());
        let endpoint = network.endpoints.iter().find(|it| it.spec.id == id).ok_or_else(|| {
            refused(format!("container {} is not connected to network {}", self.container, network.spec.name))
        })?;
        if endpoint.state != PortState::Up {
            let why = endpoint.reason.clone().unwrap_or_default();
            return Err(refused(format!("port {} is down: {why}", endpoint.spec.port)));
        }
        let inside = self.inside()?;
        let link = inside.link(&self.ifname).await.map_err(|error| refused(error.to_string()))?;
        let before = self.before()?.unwrap_or_default();
        // Another plugin of the chain may have changed the MAC address.
        let current = before.interfaces.iter().find(|it| it["name"] == self.ifname.as_str());
        let current = current.and_then(|it| it["mac"].as_str()?.parse::<MacAddr>().ok());
        let mac = current.unwrap_or(endpoint.spec.mac);
        if link.mac != Some(mac) || !link.up {
            return Err(refused(format!("{} is not as it was created, up and with MAC {mac}", self.ifname)));
        }
        let looked_at = |error: LinkError| Failure::new(Code::Io, error.to_string());
        let addresses = inside.addresses(&link).await.map_err(looked_at)?;
        let routes = inside.routes().await.map_err(looked_at)?;
        match self.missing(&before, &addresses, &routes) {
            None => Ok(()),
            Some(what) => Err(refused(format!("{} no longer has {what}", self.ifname))),
        }
    }

    /// The first address or route that the interface had after the chain and has lost.
    fn missing(&self, before: &Outcome, addresses: &[IpNet], routes: &[Route]) -> Option<String> {
        let is_ours = |ip: &&Ip| {
            let interface = ip.interface.and_then(|index| before.interfaces.get(index));
            interface.is_some_and(|it| it["name"] == self.ifname.as_str())
        };
        let ours: Vec<_> = before.ips.iter().filter(is_ours).collect();
        if let Some(ip) = ours.iter().find(|ip| !addresses.contains(&ip.address)) {
            return Some(format!("the address {}", ip.address));
        }
        // Other plugins in the chain may have added routes; those through our gateway are ours.
        let by_us = |gateway: &Value| {
            let gateway = gateway.as_str().and_then(|text| text.parse::<IpAddr>().ok());
            gateway.is_some_and(|gateway| ours.iter().any(|ip| ip.gateway == Some(gateway)))
        };
        let there = |route: &&Value| {
            let to = route["dst"].as_str().and_then(|text| text.parse::<IpNet>().ok());
            routes.iter().any(|route| Some(route.to) == to && route.ifname == self.ifname)
        };
        let lost = before.routes.iter().filter(|route| by_us(&route["gw"])).find(|route| !there(route));
        lost.map(|route| format!("the route to {}", route["dst"].as_str().unwrap_or_default()))
    }

    /// The result of the previous plugins, if any; for CHECK, of the whole chain.
    fn before(&self) -> Result<Option<Outcome>, Failure> {
        let read = |before: &Value| {
            Outcome::deserialize(before)
                .map_err(|error| Failure::new(Code::Decode, format!("cannot parse prevResult: {error}")))
        };
        self.config.prev_result.as_ref().map(read).transpose()
    }

    /// Disconnects all endpoints of this configuration that are no longer valid.
    async fn gc(&self) -> Result<(), Failure> {
        let valid = self.config.valid()?;
        let mut failed = match self.delegate() {
            Some(kind) => delegate::run(kind, "GC", &self.text).await.err(),
            None => None,
        };
        let network = self.network().await?;
        for endpoint in &network.endpoints {
            let Some(container) = endpoint.spec.container.clone() else { continue };
            let attachment = Attachment { container, ifname: endpoint.spec.ifname.to_string() };
            if self.id(&attachment) != endpoint.spec.id || valid.contains(&&attachment) {
                continue;
            }
            let reference = Reference::try_from(endpoint.spec.id.to_string());
            let reference = reference.map_err(|error| Failure::new(Code::Decode, error.to_string()))?;
            let done = self.client().disconnect(&network.spec.name.clone().into(), &reference).await;
            failed = failed.or_else(|| done.err().map(Failure::from));
        }
        failed.map_or(Ok(()), Err)
    }

    async fn status(&self) -> Result<(), Failure> {
        if let Some(kind) = self.delegate() {
            delegate::run(kind, "STATUS", &self.text).await?;
        }
        let ready = self.client().network(&self.reference()?).await;
        ready.map(drop).map_err(|error| Failure::new(Code::Unavailable, error.to_string()))
    }

    fn client(&self) -> Client {
        Client::new(self.config.socket.clone().unwrap_or_else(|| ApiSpec::default().socket))
    }

    fn reference(&self) -> Result<Reference, Failure> {
        let name = self.config.network.as_ref().unwrap_or(&self.config.name);
        name.parse().map_err(|error| Failure::new(Code::Config, format!("network: {error}")))
    }

    async fn network(&self) -> Result<Network, Failure> {
        match self.client().network(&self.reference()?).await {
            Err(ClientError::Refused(refusal)) if refusal.kind == ErrorKind::NotFound => {
                let what =
                    format!("{refusal}: create it with `vswitchctl network create`, or set \"network\"");
                Err(Failure::new(Code::Config, what))
            }
            other => Ok(other?),
        }
    }

    fn inside(&self) -> Result<Links, Failure> {
        let environment = |error: String| Failure::new(Code::Environment, format!("CNI_NETNS: {error}"));
        let path = self.netns.clone().ok_or_else(|| environment("missing".into()))?;
        let namespace =
            Namespace::open(&Netns::Path(path)).map_err(|error| environment(error.to_string()))?;
        Links::open(namespace).map_err(|error| environment(error.to_string()))
    }

    /// The delegated IPAM plugin, if any.
    fn delegate(&self) -> Option<&str> {
        let kind = self.config.ipam.as_ref().map(|ipam| ipam.r#type.as_str());
        kind.filter(|kind| !kind.is_empty() && *kind != OWN)
    }

    fn attachment(&self) -> Attachment {
        Attachment { container: self.container.clone(), ifname: self.ifname.clone() }
    }

    /// The endpoint's identity: derived from what DEL passes again.
    fn id(&self, attachment: &Attachment) -> Id {
        Id::of(&format!("cni {} {} {}", self.config.name, attachment.container, attachment.ifname))
    }
}

/// Lets the container's guard pass addresses that the daemon does not record.
fn let_use(options: &mut BTreeMap<String, String>, addresses: &[IpNet]) -> Result<(), Failure> {
    let parsed =
        EndpointOptions::read(options).map_err(|error| Failure::new(Code::Config, error.to_string()))?;
    if !addresses.is_empty() && parsed.guard != Some(false) {
        let given = addresses.iter().map(|net| Also::Net(net.addr().into()));
        let also: Vec<_> = parsed.also.into_iter().chain(given).map(|also| also.to_string()).collect();
        options.insert(options::ALSO.into(), also.join(","));
    }
    Ok(())
}

/// A name that is invalid cannot exist.
fn not_there() -> ClientError {
    vswitch_model::Error::not_found("the name is invalid").into()
}

fn publish(mapping: &PortMapping) -> Result<Publish, Failure> {
    let ip = match mapping.host_ip.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]:"),
        _ if mapping.host_ip.is_empty() => String::new(),
        _ => format!("{}:", mapping.host_ip),
    };
    let host = if mapping.host_port == 0 { String::new() } else { mapping.host_port.to_string() };
    let protocol = if mapping.protocol.is_empty() { "tcp" } else { &mapping.protocol };
    format!("{ip}{host}:{}/{protocol}", mapping.container_port).parse().map_err(
        |error: vswitch_model::publish::InvalidPublish| {
            Failure::new(Code::Config, format!("portMappings: {error}"))
        },
    )
}
