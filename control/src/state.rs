//! What this host is asked to be, and what must be done when that changes.
//!
//! The control plane without I/O: [`State`] holds the networks and ports that are wanted, whether the
//! file declares them or the API made them, and turns a [`Command`] into [`Effect`]s for the edge to
//! perform. Both ways, and `reload --dry-run`, go through one difference between two states
//! ([`Change`]), so what is shown is what is done.
//!
//! # Doing and undoing
//! A state is cheap to clone (objects are shared), and [`State::plan`] leaves it as it is. So the
//! owner keeps the old state until the edge has succeeded, and every effect knows its own reverse:
//!
//! ```
//! use vswitch_control::state::{Command, Effect, State};
//!
//! fn execute(
//!     state: &mut State,
//!     command: Command,
//!     perform: &mut impl FnMut(&Effect) -> std::io::Result<()>,
//! ) -> Result<(), Box<dyn std::error::Error>> {
//!     let plan = state.plan(command)?;
//!     for (index, effect) in plan.effects.iter().enumerate() {
//!         if let Err(error) = perform(effect) {
//!             for done in plan.effects[..index].iter().rev() {
//!                 perform(&done.clone().undo())?; // or log it, and go on
//!             }
//!             return Err(error.into());
//!         }
//!     }
//!     *state = plan.next;
//!     Ok(())
//! }
//! # let command = Command::AddNetwork(serde_json::from_str(r#"{"name": "blue"}"#)?);
//! # execute(&mut State::default(), command, &mut |_| Ok(()))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod change;
mod derive;
mod effect;
mod endpoint;
pub(crate) mod network;
mod outside;
mod registry;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use vswitch::addr::{NetworkId, PortId};

use self::{
    change::fields,
    registry::{Entry, Registry},
};
pub use self::{
    change::{Change, Delta},
    effect::{Effect, Layout},
    endpoint::{EndpointUpdate, Sandbox},
    network::{Host, NetworkError, is_predefined, predefined},
};
use crate::{
    config::rules::{self, Index},
    gateway::Outside,
    model::{
        ApiSpec, Carries, Config, Connect, DeviceSpec, DockerSpec, EndpointSpec, Id, Name, NetworkSpec,
        NetworkUpdate, PeerSpec, PoolsSpec, PortSpec, SwitchSpec,
    },
};

/// Peers that are taken in without being asked for, at most: anybody can send from many addresses.
const LEARNED_PEERS: usize = 256;

/// Who asked for an object, and so who may remove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// `net.toml` declares it.
    File,
    /// The API made it; it is kept in the store.
    Api,
    /// Nobody: a peer that was heard and taken in. It lives as long as the daemon, and gives way to who is asked for.
    Learned,
    /// It follows from others: a port of an endpoint, of a network's gateway, or to the LAN.
    Derived,
}

/// A network that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Stays the same while the network lives; used again after it.
    pub id: NetworkId,
    /// Who asked for it.
    pub origin: Origin,
    /// Octets of the longest IP packet of its ports, settled: its own, what tunnels carry, or 1500.
    pub mtu: u16,
    /// What was asked for.
    pub spec: Arc<NetworkSpec>,
}

/// A port that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Stays the same while the port lives; used again after it.
    pub id: PortId,
    /// Who asked for it.
    pub origin: Origin,
    /// Octets of the longest IP packet, settled: the port's own, its untagged network's, or 9198.
    pub mtu: u16,
    /// What was asked for.
    pub spec: Arc<PortSpec>,
}

/// Something that only the API makes and the store keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A network.
    Network(Arc<NetworkSpec>),
    /// A port.
    Port(Arc<PortSpec>),
    /// An endpoint.
    Endpoint(Arc<EndpointSpec>),
}

/// What may be asked of a [`State`].
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Put this in the place of what the file declared before; what the API made stays.
    Reload(Config),
    /// Make a network, and choose what is not told.
    AddNetwork(NetworkSpec),
    /// Change a network that the API made, and nothing that containers would notice.
    UpdateNetwork {
        /// The network.
        name: Name,
        /// What shall be different.
        update: NetworkUpdate,
    },
    /// Remove a network that the API made, no port carries and nobody is connected to.
    RemoveNetwork(Name),
    /// Connect a sandbox to a network, and choose what is not told.
    Connect {
        /// The network.
        network: Name,
        /// What is asked for.
        connect: Box<Connect>,
        /// What the sandbox is like.
        sandbox: Box<Sandbox>,
    },
    /// Note what has become of an endpoint since it was connected.
    UpdateEndpoint {
        /// The endpoint.
        id: Id,
        /// What is new.
        update: EndpointUpdate,
    },
    /// Disconnect endpoints.
    Disconnect(Vec<Id>),
    /// Make a port.
    AddPort(PortSpec),
    /// Remove a port that the API made, or a peer that was taken in.
    RemovePort(Name),
    /// Take in a peer that was heard.
    LearnPeer(IpAddr),
}

/// Why a command was not obeyed; the state is as before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The name is taken.
    #[error("{kind} {name} exists already: choose another name, or remove it first")]
    Exists {
        /// Network or port.
        kind: Kind,
        /// The name.
        name: Name,
    },
    /// There is nothing of that name.
    #[error("there is no {kind} {name}")]
    Missing {
        /// Network or port.
        kind: Kind,
        /// The name.
        name: Name,
    },
    /// The API may not remove what the file declares.
    #[error("{kind} {name} is declared in the configuration file: remove it there and reload")]
    Declared {
        /// Network or port.
        kind: Kind,
        /// The name.
        name: Name,
    },
    /// The file declares what the API has made.
    #[error(
        "{kind} {name} is declared in the configuration file, and {kind} {name} was made through the API: rename one, or remove one"
    )]
    Both {
        /// Network or port.
        kind: Kind,
        /// The name.
        name: Name,
    },
    /// Ports carry the network.
    #[error("network {network} is in use by {}: remove them first", list(.ports))]
    InUse {
        /// The network.
        network: Name,
        /// Who carries it.
        ports: Vec<Name>,
    },
    /// The rules of [`rules`] are broken.
    #[error("{}", .0.join("; "))]
    Invalid(
        /// One sentence each: `port web: address[0]: …`.
        Vec<String>,
    ),
    /// A port that follows from others goes with them.
    #[error("port {name} is there for {of}: {what}")]
    Derived {
        /// The port.
        name: Name,
        /// Whose it is.
        of: String,
        /// What to do.
        what: &'static str,
    },
    /// A network, or an endpoint of it, cannot be had, changed or removed.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The change cannot be made while running.
    #[error("{} cannot change while running: restart the daemon to apply it", .0.join(", "))]
    NeedsRestart(
        /// Keys with both values: `switch.workers (2 -> 4)`.
        Vec<String>,
    ),
    /// Enough peers were taken in.
    #[error(
        "{address} is not taken in as a peer: {LEARNED_PEERS} were, and that is enough; declare it as [[vxlan.peer]], or see who sends from so many addresses"
    )]
    Crowded {
        /// The one that is not.
        address: IpAddr,
    },
    /// All 65536 numbers are taken.
    #[error("there are 65536 {kind}s, and no more are possible: remove some first")]
    Full {
        /// Network or port.
        kind: Kind,
    },
}

/// The kinds of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A broadcast domain.
    Network,
    /// A place where frames come and go.
    Port,
    /// A sandbox's interface in a network.
    Endpoint,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Network => "network",
            Self::Port => "port",
            Self::Endpoint => "endpoint",
        })
    }
}

fn list(ports: &[Name]) -> String {
    let names: Vec<_> = ports.iter().map(Name::as_str).collect();
    format!("port{} {}", if names.len() == 1 { "" } else { "s" }, names.join(", "))
}

/// What a command comes to, before anything is done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The state once all effects have succeeded.
    pub next: State,
    /// The difference, for people; displayed one per line.
    pub changes: Vec<Change>,
    /// What the edge must do, in this order.
    pub effects: Vec<Effect>,
}

/// What is wanted of this host. See the [module](self).
#[derive(Clone, Debug, Default)]
pub struct State {
    switch: SwitchSpec,
    api: ApiSpec,
    docker: DockerSpec,
    pools: PoolsSpec,
    networks: Registry<NetworkSpec>,
    ports: Registry<PortSpec>,
    /// Octets of the longest packet that tunnels carry, if there is an endpoint.
    overlay_mtu: Option<u16>,
    endpoints: Arc<BTreeMap<Id, Arc<EndpointSpec>>>,
    host: Arc<Host>,
}

impl State {
    /// The first plan of a daemon: what the file declares, and what the API had made before.
    ///
    /// Its effects open all ports. They set no switch, for the switch is made from
    /// [`State::switch`], and store nothing, for what is stored was read from the store.
    ///
    /// # Errors
    /// The file and the store contradict each other.
    pub fn start(config: Config, stored: impl IntoIterator<Item = Record>) -> Result<Plan, Refusal> {
        let nothing = Self { switch: config.switch.clone(), api: config.api.clone(), ..Self::default() };
        let mut next = nothing.clone();
        let endpoints = Arc::make_mut(&mut next.endpoints);
        for record in stored {
            match record {
                Record::Network(spec) => next.networks.add(spec, Origin::Api)?,
                Record::Port(spec) => next.ports.add(spec, Origin::Api)?,
                Record::Endpoint(spec) => drop(endpoints.insert(spec.id.clone(), spec)),
            }
        }
        next.declare(config)?;
        next.derive()?;
        next.check(&nothing)?;
        let mut plan = Plan::between(&nothing, next);
        plan.effects.retain(|effect| !matches!(effect, Effect::Store(_)));
        Ok(plan)
    }

    /// What `command` comes to. Nothing is changed: see the [module](self) for what to do with it.
    ///
    /// # Errors
    /// The command cannot be obeyed; the sentence says what to do.
    pub fn plan(&self, command: Command) -> Result<Plan, Refusal> {
        let mut next = self.clone();
        match command {
            Command::Reload(config) => {
                self.same_process(&config)?;
                next.declare(config)?;
            }
            Command::AddNetwork(spec) => next.add_network(spec)?,
            Command::UpdateNetwork { name, update } => next.update_network(&name, update)?,
            Command::RemoveNetwork(name) => next.remove_network(&name)?,
            Command::AddPort(spec) => next.ports.add(Arc::new(spec), Origin::Api)?,
            Command::RemovePort(name) => next.remove_port(&name)?,
            Command::LearnPeer(address) => next.learn_peer(address)?,
            Command::Connect { network, connect, sandbox } => next.connect(&network, *connect, &sandbox)?,
            Command::UpdateEndpoint { id, update } => next.update_endpoint(&id, update)?,
            Command::Disconnect(ids) => next.disconnect(&ids),
        }
        next.give_way();
        next.derive()?;
        next.check(self)?;
        Ok(Plan::between(self, next))
    }

    /// Obeys `command` at once, for an owner whose edge cannot fail.
    ///
    /// # Errors
    /// As [`State::plan`]; the state is as before.
    pub fn apply(&mut self, command: Command) -> Result<Vec<Effect>, Refusal> {
        let plan = self.plan(command)?;
        *self = plan.next;
        Ok(plan.effects)
    }

    /// The switch as a whole.
    pub fn switch(&self) -> &SwitchSpec {
        &self.switch
    }

    /// Where the API listens.
    pub fn api(&self) -> &ApiSpec {
        &self.api
    }

    /// Whether, and where, Docker finds us.
    pub fn docker(&self) -> &DockerSpec {
        &self.docker
    }

    /// All networks, by name.
    pub fn networks(&self) -> impl Iterator<Item = Network> {
        self.networks.entries().map(|entry| self.settle_network(entry))
    }

    /// All ports, by name.
    pub fn ports(&self) -> impl Iterator<Item = Port> {
        self.ports.entries().map(|entry| self.settle(entry))
    }

    /// The network of that name.
    pub fn network(&self, name: &Name) -> Option<Network> {
        self.networks.entry(name).map(|entry| self.settle_network(entry))
    }

    /// The port of that name.
    pub fn port(&self, name: &Name) -> Option<Port> {
        self.ports.entry(name).map(|entry| self.settle(entry))
    }

    /// What an operator is told of datagrams from `address`, which is no peer.
    pub fn about_stranger(&self, address: IpAddr) -> String {
        let peers: Vec<_> = self
            .ports()
            .filter_map(|port| match &port.spec.device {
                DeviceSpec::Peer(peer) => Some(peer.remote.to_string()),
                _ => None,
            })
            .collect();
        match &peers[..] {
            [] => format!(
                "{address} is not a peer, and there are none: add it with `vswitchctl peer add {address}`"
            ),
            [peer] => format!("{address} is not a peer; {peer} is: does it send from another address?"),
            [first, rest @ ..] => format!(
                "{address} is not a peer; {first} and {} others are: does one of them send from another address?",
                rest.len()
            ),
        }
    }

    /// What is asked for and will not do what it seems to: a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let Some(overlay) = self.overlay_mtu else { return Vec::new() };
        let crosses = |port: &Port| {
            let mut networks = port.spec.carries.named().filter_map(|name| self.network(name));
            networks.any(|network| network.spec.vni.is_some())
        };
        let is_long = |port: &Port| {
            !matches!(port.spec.carries, Carries::Tunnel { .. })
                && port.spec.interface().is_some()
                && port.mtu > overlay
        };
        let warning = |port: Port| {
            format!(
                "port {}: its mtu of {} is more than the {overlay} that tunnels carry: lower it, or longer packets to other hosts are dropped",
                port.spec.name, port.mtu
            )
        };
        self.ports().filter(is_long).filter(crosses).map(warning).collect()
    }

    /// Who carries what, by number.
    pub fn layout(&self) -> Layout {
        Layout::of(self)
    }

    /// This host's end of all tunnels, if there is one.
    pub fn endpoint(&self) -> Option<Arc<PortSpec>> {
        let endpoint = |entry: &&Entry<PortSpec>| matches!(entry.spec.device, DeviceSpec::Vxlan(_));
        self.ports.entries().find(endpoint).map(|entry| Arc::clone(&entry.spec))
    }

    /// Octets of the longest packet that tunnels carry, if there is an endpoint.
    pub fn overlay_mtu(&self) -> Option<u16> {
        self.overlay_mtu
    }

    /// What networks may of the outside world.
    pub fn outside(&self) -> Vec<Outside> {
        outside::of(self)
    }

    /// Removes a port that the API made.
    fn remove_port(&mut self, name: &Name) -> Result<(), Refusal> {
        let derived = self.ports.entry(name).filter(|entry| entry.origin == Origin::Derived);
        let Some(entry) = derived else { return self.ports.remove(name) };
        let endpoint = self.endpoints().find(|it| it.port == *name);
        let network = entry.spec.carries.named().next().map_or("", Name::as_str);
        let (of, what) = match endpoint {
            Some(it) => (
                format!("endpoint {} of network {}", it.name, it.network),
                "disconnect it with `network disconnect`",
            ),
            None => (format!("network {network}"), "it goes with the network"),
        };
        Err(Refusal::Derived { name: name.clone(), of, what })
    }

    fn settle_network(&self, entry: &Entry<NetworkSpec>) -> Network {
        Network {
            id: NetworkId(entry.number),
            origin: entry.origin,
            mtu: entry.spec.mtu(self.overlay_mtu),
            spec: entry.spec.clone(),
        }
    }

    fn settle(&self, entry: &Entry<PortSpec>) -> Port {
        let network_mtu = |name: &Name| Some(self.networks.entry(name)?.spec.mtu(self.overlay_mtu));
        Port {
            id: PortId(entry.number),
            origin: entry.origin,
            mtu: rules::port_mtu(&entry.spec, network_mtu),
            spec: entry.spec.clone(),
        }
    }

    fn learn_peer(&mut self, address: IpAddr) -> Result<(), Refusal> {
        let learned = self.ports.entries().filter(|entry| entry.origin == Origin::Learned).count();
        if learned >= LEARNED_PEERS {
            return Err(Refusal::Crowded { address });
        }
        self.ports.add(Arc::new(learned_peer(address)), Origin::Learned)
    }

    /// A peer that was taken in gives way to one that is asked for and has its address, under whatever name.
    fn give_way(&mut self) {
        let remote = |entry: &Entry<PortSpec>| match &entry.spec.device {
            DeviceSpec::Peer(peer) => Some(peer.remote),
            _ => None,
        };
        let is_learned = |entry: &&Entry<PortSpec>| entry.origin == Origin::Learned;
        if self.ports.entries().all(|entry| !is_learned(&entry)) {
            return;
        }
        let wanted: HashSet<_> =
            self.ports.entries().filter(|entry| !is_learned(entry)).filter_map(remote).collect();
        let goes = |entry: &&Entry<PortSpec>| remote(entry).is_some_and(|remote| wanted.contains(&remote));
        let gone: Vec<_> = self
            .ports
            .entries()
            .filter(is_learned)
            .filter(goes)
            .map(|entry| entry.spec.name.clone())
            .collect();
        for name in gone {
            self.ports.remove(&name).expect("it is there, and the file does not declare it");
        }
    }

    /// Puts what the file declares now in the place of what it declared before.
    fn declare(&mut self, config: Config) -> Result<(), Refusal> {
        self.switch = config.switch;
        self.api = config.api;
        self.docker = config.docker;
        self.overlay_mtu = rules::overlay_mtu(&config.ports);
        self.pools = config.ipam;
        self.networks.declare(config.networks, Origin::File)?;
        self.ports.declare(config.ports, Origin::File)
    }

    /// What a process is given at its start it keeps.
    fn same_process(&self, config: &Config) -> Result<(), Refusal> {
        let given = |switch: &SwitchSpec, api: &ApiSpec, docker: &DockerSpec| {
            let workers = switch.workers.map_or_else(|| "auto".into(), |number| number.to_string());
            serde_json::json!({
                "switch": { "workers": workers, "state": switch.state, "mac_limit": switch.mac_limit },
                "api": api,
                "docker": docker
            })
        };
        let old = given(&self.switch, &self.api, &self.docker);
        let new = given(&config.switch, &config.api, &config.docker);
        let changes: Vec<_> =
            fields(&old, &new).map(|(key, old, new)| format!("{key} ({old} -> {new})")).collect();
        if changes.is_empty() { Ok(()) } else { Err(Refusal::NeedsRestart(changes)) }
    }

    /// Holds everything against the rules. What is new since `old` comes last, to be blamed.
    fn check(&self, old: &Self) -> Result<(), Refusal> {
        if let Some(bereft) = self.endpoints().find(|it| self.networks.entry(&it.network).is_none()) {
            let endpoints = self.endpoints_of(&bereft.network).map(|it| it.name.to_string()).collect();
            return Err(NetworkError::ActiveEndpoints(bereft.network.clone(), endpoints).into());
        }
        self.none_is_bereft(old)?;
        for entry in self.networks.entries().filter(|entry| !old.networks.holds(entry)) {
            self.subnets_of(&entry.spec)?;
        }
        let mut networks: Vec<_> = self.networks.entries().collect();
        networks.sort_by_key(|entry| (!old.networks.holds(entry), entry.origin == Origin::File));
        let networks: Vec<_> = networks.into_iter().map(|entry| &*entry.spec).collect();
        let mut ports: Vec<_> = self.ports.entries().collect();
        ports.sort_by_key(|entry| (!old.ports.holds(entry), entry.origin == Origin::File));
        let ports: Vec<_> = ports.into_iter().map(|entry| &*entry.spec).collect();
        let faults = rules::check(&networks, &ports);
        let sentence = |fault: rules::Fault| {
            let (kind, name) = match fault.at.object {
                Index::Network(index) => (Kind::Network, &networks[index].name),
                Index::Port(index) => (Kind::Port, &ports[index].name),
            };
            format!("{kind} {name}: {}: {}", fault.at.field(), fault.what)
        };
        if faults.is_empty() {
            Ok(())
        } else {
            Err(Refusal::Invalid(faults.into_iter().map(sentence).collect()))
        }
    }

    /// Refuses to take a network from under its ports.
    fn none_is_bereft(&self, old: &Self) -> Result<(), Refusal> {
        for network in old.networks.entries().map(|entry| &entry.spec.name) {
            if self.networks.entry(network).is_some() {
                continue;
            }
            let carries = |entry: &&Entry<PortSpec>| entry.spec.carries.named().any(|it| it == network);
            let ports: Vec<_> = self.ports.entries().filter(carries).map(|it| it.spec.name.clone()).collect();
            if !ports.is_empty() {
                return Err(Refusal::InUse { network: network.clone(), ports });
            }
        }
        Ok(())
    }
}

impl Plan {
    fn between(old: &State, next: State) -> Self {
        let changes = change::between(old, &next);
        let effects = effect::of(&changes, old, &next);
        Self { next, changes, effects }
    }
}

fn learned_peer(address: IpAddr) -> PortSpec {
    PortSpec::new(
        PeerSpec::default_name(address),
        Carries::Tunnel { networks: None },
        DeviceSpec::Peer(PeerSpec { remote: address, remote_port: None, flood: None }),
    )
}

impl Record {
    /// What it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Network(_) => Kind::Network,
            Self::Port(_) => Kind::Port,
            Self::Endpoint(_) => Kind::Endpoint,
        }
    }

    /// What tells it from others of its kind: its name, or an endpoint's id.
    pub fn key(&self) -> &str {
        match self {
            Self::Network(spec) => spec.name.as_str(),
            Self::Port(spec) => spec.name.as_str(),
            Self::Endpoint(spec) => spec.id.as_str(),
        }
    }
}
