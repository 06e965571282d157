//! The network driver: maps Docker's networks and endpoints to ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    ipam::Holds,
    server::Plugin,
    wire::{
        CreateNetwork, ENABLE_IPV6, GENERIC, INTERNAL, Interface, IpamData, OfEndpoint, OfNetwork, Options,
        PORT_MAP, PortBinding, flag, text,
    },
};
use crate::core::Request;
use vswitch_model::{
    Connect, Driver, Error, ErrorKind, Family, Id, IfName, Name, Netns, NetworkSpec, Reference, Scope,
    SubnetSpec, Vni,
    api::{Endpoint, Network},
    options,
    publish::{PortRange, Protocol, Publish},
};

/// The option that names a network, or adopts an existing one.
pub(super) const NETWORK: &str = "vswitch.network";

/// The option that chooses a driver.
pub(super) const DRIVER: &str = "driver";

impl Plugin {
    pub(super) async fn create_network(&self, ask: CreateNetwork) -> Result<Value, Error> {
        let id = id(&ask.network_id)?;
        if self.find_network(&id)?.is_some() {
            // A repeated request: the first answer was lost.
            return Ok(json!({}));
        }
        let mut wanted = Wanted::read(&id, &ask, &self.holds())?;
        wanted.spec.swarm = self.scope == Scope::Global;
        match self.core.snapshot().network(&wanted.spec.name.clone().into()) {
            Ok(there) if wanted.is_named => {
                wanted.check_adoption(&there)?;
                self.core.adopt(id, Some(wanted.spec.name)).await?;
            }
            _ => {
                self.core.add_network(wanted.spec).await?;
            }
        }
        // The network has them from now on.
        let subnets: Vec<IpNet> =
            ask.ipv4.iter().chain(&ask.ipv6).filter_map(|data| data.pool.parse().ok()).collect();
        self.take_back_all(Scope::Local, |subnet| subnets.contains(subnet)).await?;
        Ok(json!({}))
    }

    /// What a swarm's manager asks, once for all hosts: the answer's options are those that each host is told when it gets the
    /// network. They have a VNI, which all hosts must agree upon. The manager asks again with what it was answered before.
    pub(super) fn allocate_network(&self, ask: CreateNetwork) -> Result<Value, Error> {
        let mut options = ask.options;
        let has = |name| options.keys().any(|key| options::short_name(key) == name);
        if !has("vni") && !has(DRIVER) && !has("parent") {
            let snapshot = self.core.snapshot();
            if snapshot.state.endpoint().is_none() {
                return Err(Error::conflict(
                    "vswitchd has no tunnels to the swarm's other hosts: set local below [vxlan] in net.toml on each host and name the \
                     others as [[vxlan.peer]]; or, if every host may have the network for itself, add -o driver=bridge",
                ));
            }
            let taken = snapshot.state.networks().filter_map(|it| it.spec.vni).map(Vni::as_u32).collect();
            let vni = vni(&ask.network_id, &taken)?;
            options.insert("vni".into(), vni.to_string().into());
        }
        let options: BTreeMap<_, _> = options.iter().map(|(key, value)| (key, text(value))).collect();
        Ok(json!({ "Options": options }))
    }

    pub(super) async fn delete_network(&self, ask: OfNetwork) -> Result<Value, Error> {
        let id = id(&ask.network_id)?;
        if self.core.snapshot().engines.adopted.contains_key(&id) {
            self.core.adopt(id, None).await?;
        } else if let Some(network) = self.find_network(&id)? {
            // Docker deletes no network with endpoints, so the remaining ones are those it has forgotten.
            self.core.clear(network.spec.name.clone()).await?;
            self.core.delete_network(network.spec.name.into()).await?;
        }
        Ok(json!({}))
    }

    pub(super) async fn create_endpoint(&self, ask: OfEndpoint) -> Result<Value, Error> {
        self.asked.notify_one();
        let network = self.network(&ask.network_id)?;
        let id = id(&ask.endpoint_id)?;
        let connect = connect(&id, &ask)?;
        let endpoint = match self.find_endpoint(&id)? {
            Some(endpoint) => endpoint,
            None => {
                let name = network.spec.name;
                self.core.make_room(name.clone(), connect.clone()).await?;
                let done = self.core.connect(name.into(), connect).await?;
                done.snapshot.endpoint(&done.value)?
            }
        };
        Ok(json!({ "Interface": answer(&ask.interface, &endpoint) }))
    }

    pub(super) async fn endpoint_info(&self, ask: OfEndpoint) -> Result<Value, Error> {
        let endpoint = self.core.snapshot().endpoint(&id(&ask.endpoint_id)?)?;
        let published: Vec<_> = endpoint
            .spec
            .published
            .iter()
            .map(|it| format!("{}->{}/{}", it.at(), it.to(), it.protocol.as_str()))
            .collect();
        Ok(json!({ "Value": {
            "vswitch.network": endpoint.spec.network,
            "vswitch.port": endpoint.spec.port,
            "vswitch.state": endpoint.state,
            "vswitch.published": published,
        }}))
    }

    pub(super) async fn join(&self, ask: OfEndpoint) -> Result<Value, Error> {
        let network = self.network(&ask.network_id)?;
        let endpoint = self.core.snapshot().endpoint(&id(&ask.endpoint_id)?)?;
        if !ask.sandbox_key.is_empty() {
            let sandbox = Netns::Path(PathBuf::from(&ask.sandbox_key));
            self.core.moved(endpoint.spec.id.clone(), sandbox).await?;
        }
        let gateway = |family| {
            let gateway = endpoint.spec.gateways.iter().find(|it| Family::of(**it) == family);
            gateway.map(IpAddr::to_string).unwrap_or_default()
        };
        Ok(json!({
            "InterfaceName": { "SrcName": endpoint.spec.ifname, "DstPrefix": network.spec.options.prefix },
            "Gateway": gateway(Family::V4),
            "GatewayIPv6": gateway(Family::V6),
            "StaticRoutes": [],
            // Without a gateway Docker would connect the container to the outside by a bridge of its own.
            "DisableGatewayService": endpoint.spec.gateways.is_empty(),
        }))
    }

    /// The interface must not be touched before Docker has moved it back.
    pub(super) async fn leave(&self, ask: OfEndpoint) -> Result<Value, Error> {
        id(&ask.endpoint_id)?;
        Ok(json!({}))
    }

    pub(super) async fn delete_endpoint(&self, ask: OfEndpoint) -> Result<Value, Error> {
        if let Some(endpoint) = self.find_endpoint(&id(&ask.endpoint_id)?)? {
            let by_id = Reference::try_from(String::from(endpoint.spec.id))
                .map_err(|error| Error::internal(error.to_string()))?;
            let network = endpoint.spec.network.into();
            match self.core.ask(|reply| Request::Disconnect(network, by_id, reply)).await {
                Err(error) if error.kind != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(json!({}))
    }

    pub(super) async fn publish(&self, ask: OfEndpoint) -> Result<Value, Error> {
        let bindings = match ask.options.get(PORT_MAP) {
            None | Some(Value::Null) => Vec::new(),
            Some(value) => Vec::<PortBinding>::deserialize(value)
                .map_err(|error| Error::invalid(format!("{PORT_MAP} makes no sense here: {error}")))?,
        };
        let publish = bindings.iter().map(wish).collect::<Result<Vec<_>, _>>()?;
        let endpoint = self.core.snapshot().endpoint(&id(&ask.endpoint_id)?)?;
        if !(publish.is_empty() && endpoint.spec.published.is_empty()) {
            self.core.publish(endpoint.spec.id, publish).await?;
        }
        Ok(json!({}))
    }

    pub(super) async fn unpublish(&self, ask: OfEndpoint) -> Result<Value, Error> {
        match self.find_endpoint(&id(&ask.endpoint_id)?)? {
            Some(endpoint) if !endpoint.spec.published.is_empty() => {
                self.core.publish(endpoint.spec.id, Vec::new()).await?;
            }
            _ => {}
        }
        Ok(json!({}))
    }

    /// The network of a Docker id.
    fn network(&self, docker_id: &str) -> Result<Network, Error> {
        let id = id(docker_id)?;
        self.find_network(&id)?.ok_or_else(|| {
            Error::invalid(format!(
                "vswitchd has no network {} any more: remove it with `docker network rm {0}` and create it again",
                id.short()
            ))
        })
    }

    fn find_network(&self, id: &Id) -> Result<Option<Network>, Error> {
        let snapshot = self.core.snapshot();
        let reference = match snapshot.engines.adopted.get(id) {
            Some(name) => name.clone().into(),
            None => {
                Reference::try_from(id.to_string()).map_err(|error| Error::internal(error.to_string()))?
            }
        };
        found(snapshot.network(&reference))
    }

    fn find_endpoint(&self, id: &Id) -> Result<Option<Endpoint>, Error> {
        found(self.core.snapshot().endpoint(id))
    }
}

/// Treats "not found" as success.
fn found<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(it) => Ok(Some(it)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The id of what an engine calls so: the same where it has our form, otherwise one derived from it. A swarm's ids have 25 letters
/// and digits.
pub(super) fn id(text: &str) -> Result<Id, Error> {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if text.is_empty() || text.len() > 128 || !text.bytes().all(is_legal) {
        return Err(Error::invalid(format!(
            "{text:?} is not an id: use 1 to 128 letters, digits, '.', '_' or '-'"
        )));
    }
    Ok(text.parse().unwrap_or_else(|_| Id::of(text)))
}

/// VNIs of swarms: those that no host chooses by itself.
const SWARM_VNIS: u32 = 1 << 23;

/// A VNI for a swarm's network: from its id, so that managers choose alike, unless this host has that one for another network.
fn vni(network: &str, taken: &BTreeSet<u32>) -> Result<Vni, Error> {
    let seed = u32::from_str_radix(&Id::of(network).as_str()[..8], 16).unwrap_or_default();
    let mut candidates = (0..SWARM_VNIS).map(|step| SWARM_VNIS | (seed.wrapping_add(step) % SWARM_VNIS));
    let free = candidates.find(|vni| !taken.contains(vni));
    let free = free.ok_or_else(|| Error::conflict("no VNI is left: choose one with -o vni=N"))?;
    Vni::try_from(free).map_err(|error| Error::internal(error.to_string()))
}

/// A network requested by Docker.
struct Wanted {
    spec: NetworkSpec,
    /// Whether its name is given, rather than derived from its id.
    is_named: bool,
    /// Keys of its other options.
    options: Vec<String>,
}

impl Wanted {
    fn read(id: &Id, ask: &CreateNetwork, holds: &Holds) -> Result<Self, Error> {
        let mut generic: Options = match ask.options.get(GENERIC) {
            Some(Value::Object(options)) => options.clone().into_iter().collect(),
            _ => Options::new(),
        };
        let name = generic.remove(NETWORK).map(|value| text(&value));
        let is_named = name.is_some();
        let name = name.unwrap_or_else(|| format!("docker-{}", id.short()));
        let name: Name = name.parse().map_err(|error: vswitch_model::InvalidName| {
            Error::invalid(format!("option {NETWORK}: {error}"))
        })?;
        let driver = generic.remove(DRIVER).map(|value| text(&value));
        let options = driver.iter().map(|_| DRIVER.to_owned()).chain(generic.keys().cloned()).collect();
        let driver = match driver {
            Some(driver) => Some(driver.parse().map_err(|_| {
                Error::invalid(format!(
                    "option driver: {driver:?} is not supported: use bridge, overlay or uplink"
                ))
            })?),
            None if generic.contains_key("parent") => Some(Driver::Uplink),
            // Its VNI makes it an overlay.
            None if generic.keys().any(|key| options::short_name(key) == "vni") => Some(Driver::Overlay),
            None => None,
        };
        let mut spec = NetworkSpec::plain(name);
        spec.id = Some(id.clone());
        spec.driver = driver;
        spec.internal = flag(&ask.options, INTERNAL);
        spec.ipv6 = flag(&ask.options, ENABLE_IPV6);
        let written: BTreeMap<_, _> = generic.iter().map(|(key, value)| (key.clone(), text(value))).collect();
        spec.options = written.try_into()?;
        for data in ask.ipv4.iter().chain(&ask.ipv6) {
            spec.subnets.extend(subnet(data, holds)?);
        }
        Ok(Self { spec, is_named, options })
    }

    /// Checks whether Docker's request agrees with an existing network, which it adopts.
    fn check_adoption(&self, there: &Network) -> Result<(), Error> {
        let name = &there.spec.name;
        let is_same = |key: &&String| options::short_name(key) == "vni" && self.spec.vni == there.spec.vni;
        if let Some(key) = self.options.iter().find(|key| !is_same(key)) {
            return Err(Error::invalid(format!(
                "network {name} exists and is adopted as it is: leave the option {key} out"
            )));
        }
        let same = |ours: &SubnetSpec, theirs: &SubnetSpec| {
            ours.subnet == theirs.subnet && ours.gateway == theirs.gateway
        };
        let is_ours = |it: &SubnetSpec| there.spec.subnets.iter().any(|ours| same(ours, it));
        let v4 = |subnets: &[SubnetSpec]| subnets.iter().any(|it| it.family() == Family::V4);
        if self.spec.subnets.iter().all(is_ours) && v4(&self.spec.subnets) == v4(&there.spec.subnets) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "network {name} exists with other subnets: add --ipam-driver {}",
            written(&there.spec)
        )))
    }
}

/// A network's subnets as options of `docker network create`.
fn written(spec: &NetworkSpec) -> String {
    let all: String = spec.subnets.iter().map(|it| format!(" --subnet {}", it.subnet)).collect();
    match (all.is_empty(), spec.subnet(Family::V6)) {
        (true, _) => "null".into(),
        (false, Some(_)) => format!("vswitch --ipv6{all}"),
        (false, None) => format!("vswitch{all}"),
    }
}

/// A subnet of Docker's request; `None` for the null IPAM driver's, which cover all addresses.
fn subnet(data: &IpamData, holds: &Holds) -> Result<Option<SubnetSpec>, Error> {
    let net: IpNet = data
        .pool
        .parse()
        .map_err(|_| Error::invalid(format!("{:?} is not a subnet: write it like 10.9.0.0/24", data.pool)))?;
    if net.prefix_len() == 0 {
        return Ok(None);
    }
    let address = |text: &String| match text.split('/').next().unwrap_or_default().parse::<IpAddr>() {
        Ok(address) => Ok(address),
        Err(_) => Err(Error::invalid(format!("{text:?} is not an address"))),
    };
    let gateway = Some(&data.gateway).filter(|text| !text.is_empty()).map(address).transpose()?;
    let aux = data.aux_addresses.iter();
    let aux = aux.map(|(key, text)| Ok((key.clone(), address(text)?))).collect::<Result<_, Error>>()?;
    Ok(Some(SubnetSpec { subnet: net.trunc(), ip_range: holds.range(net.trunc()), gateway, aux }))
}

fn connect(id: &Id, ask: &OfEndpoint) -> Result<Connect, Error> {
    let interface = &ask.interface;
    let wrong = |what: &str, text: &str| Error::invalid(format!("{text:?} is not a valid {what} address"));
    let address = |text: &str| text.split('/').next().unwrap_or_default().to_owned();
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let ip = given(&interface.address).map(|it| address(&it).parse().map_err(|_| wrong("IPv4", &it)));
    let ip6 = given(&interface.address_ipv6).map(|it| address(&it).parse().map_err(|_| wrong("IPv6", &it)));
    let mac = given(&interface.mac_address).map(|it| it.parse().map_err(|_| wrong("MAC", &it)));
    // Docker adds options of its own to those of the user.
    let written = ask.options.iter().filter(|(key, _)| !key.starts_with("com.docker."));
    Ok(Connect {
        id: Some(id.clone()),
        ip: ip.transpose()?,
        ip6: ip6.transpose()?,
        mac: mac.transpose()?,
        options: written.map(|(key, value)| (key.clone(), text(value))).collect(),
        // An interface that Docker moves needs a unique name.
        ifname: Some(IfName::bare(id)),
        ..Connect::default()
    })
}

/// Values that Docker's request left empty; it rejects others.
fn answer(asked: &Interface, endpoint: &Endpoint) -> Interface {
    let unless =
        |known: &String, value: Option<String>| value.filter(|_| known.is_empty()).unwrap_or_default();
    let address = |family| endpoint.spec.address(family).map(|net| net.to_string());
    Interface {
        address: unless(&asked.address, address(Family::V4)),
        address_ipv6: unless(&asked.address_ipv6, address(Family::V6)),
        mac_address: unless(&asked.mac_address, Some(endpoint.spec.mac.to_string())),
    }
}

/// A port to publish in Docker's form.
pub(super) fn wish(binding: &PortBinding) -> Result<Publish, Error> {
    // Protocol numbers assigned by IANA.
    let protocol = match binding.proto {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        132 => Protocol::Sctp,
        other => return Err(Error::invalid(format!("protocol {other} has no ports to publish"))),
    };
    let wrong = || Error::invalid(format!("{binding:?} is not a port to publish"));
    let host_ip = match binding.host_ip.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| wrong())?),
    };
    let last = binding.host_port_end.max(binding.host_port);
    Ok(Publish {
        host_ip,
        host: PortRange::new(binding.host_port, last),
        container: PortRange::new(binding.port, binding.port).ok_or_else(wrong)?,
        protocol,
    })
}
