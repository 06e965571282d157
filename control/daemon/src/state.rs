//! The wanted state of this host, and the effects of changing it.
//!
//! The control plane without I/O: [`State`] holds the wanted networks and ports, declared in the file or created through the
//! API, and turns a [`Command`] into [`Effect`]s for the edge to perform. Commands, reload and `reload --dry-run` all use the
//! difference between two states ([`Change`]), so what is shown is what is done.
//!
//! # Doing and undoing
//! A state is cheap to clone (objects are shared), and [`State::plan`] does not change it. So the owner keeps the old state
//! until the edge has succeeded, and every effect has an inverse:
//!
//! ```
//! use vswitch_daemon::state::{Command, Effect, State};
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
mod check;
mod command;
mod derive;
mod effect;
mod endpoint;
mod known;
mod membership;
pub(crate) mod network;
mod outside;
mod peers;
mod record;
mod refusal;
mod registry;
mod service;
mod serving;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use vswitch::addr::{NetworkId, PortId};

use self::registry::{Entry, Registry};
pub(crate) use self::serving::{Backend, Place, Serving};
pub use self::{
    change::{Change, Delta},
    command::Command,
    effect::{Effect, Layout},
    endpoint::{Called, EndpointUpdate, Sandbox},
    known::Known,
    membership::{Membership, PeerHost},
    network::{Host, NetworkError, predefined},
    record::Record,
    refusal::{Kind, Refusal},
    service::{Service, ServiceError},
    serving::RemoteBackend,
};
use vswitch_host::gateway::Outside;
use vswitch_model::{
    ApiSpec, Carries, Config, DeclaredEndpoint, DnsSpec, DockerSpec, EndpointSpec, Id, Mtu, Name,
    NetworkSpec, PoolsSpec, PortSpec, ServiceSpec, SwitchSpec, ipam::Turns, rules,
};

/// The source of an object, which decides who may remove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Declared in `net.toml`.
    File,
    /// Created through the API; kept in the store.
    Api,
    /// A peer learned from its datagrams. It lives as long as the daemon, and is replaced by a configured peer of the same
    /// address.
    Learned,
    /// Given by the cluster: a global network, another host.
    Cluster,
    /// Derived from other objects: the port of an endpoint, of a network's gateway, or to the LAN.
    Derived,
}

/// A wanted network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Constant while the network lives; reused afterwards.
    pub id: NetworkId,
    /// Its source.
    pub origin: Origin,
    /// Effective MTU of its ports in bytes: its own, that of tunnels, or 1500.
    pub mtu: Mtu,
    /// Its specification.
    pub spec: Arc<NetworkSpec>,
}

/// A wanted port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Constant while the port lives; reused afterwards.
    pub id: PortId,
    /// Its source.
    pub origin: Origin,
    /// Effective MTU in bytes: the port's own, its untagged network's, or 9198.
    pub mtu: Mtu,
    /// Its specification.
    pub spec: Arc<PortSpec>,
}

/// The outcome of a command before anything is performed.
#[derive(Clone, Debug)]
pub struct Transition {
    /// The state once all effects have succeeded.
    pub next: State,
    /// The difference for people; displayed one per line.
    pub changes: Vec<Change>,
    /// What the edge must do, in order.
    pub effects: Vec<Effect>,
}

/// The wanted state of this host. See the [module](self).
#[derive(Clone, Debug, Default)]
pub struct State {
    switch: SwitchSpec,
    api: ApiSpec,
    docker: DockerSpec,
    dns: DnsSpec,
    pools: PoolsSpec,
    membership: Arc<Membership>,
    networks: Registry<NetworkSpec>,
    ports: Registry<PortSpec>,
    services: Registry<ServiceSpec>,
    /// The endpoints that pass a service's check. Not stored.
    passing: Arc<BTreeSet<(Name, Id)>>,
    /// Longest packet that tunnels carry, in bytes, if there is an endpoint.
    overlay_mtu: Option<Mtu>,
    endpoints: Arc<BTreeMap<Id, Arc<EndpointSpec>>>,
    /// The endpoints that the file declares, connected or not.
    declared: Arc<Vec<DeclaredEndpoint>>,
    /// Which addresses are next. Not stored: it only orders what is free.
    turns: Arc<Turns>,
    host: Arc<Host>,
    /// Derived from all that, once per plan.
    layout: Arc<Layout>,
    outside: Arc<Vec<Outside>>,
}

impl State {
    /// The first plan of a daemon: the file's declarations and the stored objects.
    ///
    /// Its effects open all ports. None sets up the switch, which is created from [`State::switch`], and none stores anything,
    /// because the records come from the store.
    ///
    /// # Errors
    /// The file and the store contradict each other.
    pub fn start(config: Config, stored: impl IntoIterator<Item = Record>) -> Result<Transition, Refusal> {
        Self::start_in(config, stored, Arc::default())
    }

    /// The same for a host of a cluster, with what that gave it last.
    ///
    /// # Errors
    /// Those of [`State::start`].
    pub fn start_in(
        config: Config,
        stored: impl IntoIterator<Item = Record>,
        membership: Arc<Membership>,
    ) -> Result<Transition, Refusal> {
        let nothing = Self { switch: config.switch.clone(), api: config.api.clone(), ..Self::default() };
        let mut next = nothing.clone();
        let endpoints = Arc::make_mut(&mut next.endpoints);
        for record in stored {
            match record {
                Record::Network(spec) => next.networks.add(spec, Origin::Api)?,
                Record::Port(spec) => next.ports.add(spec, Origin::Api)?,
                Record::Endpoint(spec) => drop(endpoints.insert(spec.id.clone(), spec)),
                Record::Service(spec) => next.services.add(spec, Origin::Api)?,
            }
        }
        next.resume_turns();
        let connected = Arc::clone(&next.endpoints);
        next.declare(config)?;
        next.keep_undeclared(&connected);
        next.membership = membership;
        next.follow()?;
        next.derive()?;
        next.check(&nothing)?;
        let mut transition = Transition::between(&nothing, next);
        transition.effects.retain(|effect| !matches!(effect, Effect::Store(_)));
        Ok(transition)
    }

    /// The outcome of `command`. The state is not changed: see the [module](self) for how to execute it.
    ///
    /// # Errors
    /// The command is refused; the sentence says what to do.
    pub fn plan(&self, command: Command) -> Result<Transition, Refusal> {
        let mut next = self.clone();
        match command {
            Command::Reload(config) => {
                self.same_process(&config)?;
                next.declare(config)?;
            }
            Command::Follow(membership) => next.membership = membership,
            Command::AddNetwork(spec) => next.add_network(spec)?,
            Command::UpdateNetwork { name, update } => next.update_network(&name, update)?,
            Command::RemoveNetwork(name) => next.remove_network(&name)?,
            Command::AddPort(spec) => next.ports.add(Arc::new(spec), Origin::Api)?,
            Command::RemovePort(name) => next.remove_port(&name)?,
            Command::LearnPeer(address) => next.learn_peer(address)?,
            Command::MeasureUnderlay(mtu) => next.measure_underlay(mtu),
            Command::BelievePeer(name) => next.believe_peer(&name),
            Command::Connect { network, connect, sandbox } => next.connect(&network, *connect, &sandbox)?,
            Command::UpdateEndpoint { id, update } => next.update_endpoint(&id, update)?,
            Command::Disconnect { ids, now } => next.disconnect(&ids, now),
            Command::AddService { spec, now } => next.add_service(spec, now)?,
            Command::UpdateService { name, update } => next.update_service(&name, update)?,
            Command::NoteHealth { service, endpoint, passes } => {
                next.note_health(service, endpoint, passes);
            }
            Command::RemoveService { name, now } => next.remove_service(&name, now)?,
        }
        next.follow()?;
        next.give_way();
        next.derive()?;
        next.check(self)?;
        Ok(Transition::between(self, next))
    }

    /// Executes `command` at once, for an owner whose edge cannot fail.
    ///
    /// # Errors
    /// Those of [`State::plan`]; the state is unchanged.
    #[cfg(test)]
    pub fn apply(&mut self, command: Command) -> Result<Vec<Effect>, Refusal> {
        let plan = self.plan(command)?;
        *self = plan.next;
        Ok(plan.effects)
    }

    /// The switch as a whole.
    pub fn switch(&self) -> &SwitchSpec {
        &self.switch
    }

    /// The API's settings.
    pub fn api(&self) -> &ApiSpec {
        &self.api
    }

    /// The settings of Docker's plugin.
    pub fn docker(&self) -> &DockerSpec {
        &self.docker
    }

    /// The settings of the DNS server.
    pub fn dns(&self) -> &DnsSpec {
        &self.dns
    }

    /// Whether `other` is this state, and not only equal to it.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.layout, &other.layout)
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

    /// Warnings about requests that do not do what they seem to: a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let Some(overlay) = self.overlay_mtu else { return Vec::new() };
        let mut warnings = self.long_ports(overlay);
        warnings.extend(self.half_isolated());
        warnings
    }

    /// A warning for each port that is isolated here and reaches isolated ports of other hosts.
    fn half_isolated(&self) -> Vec<String> {
        let marks = self.endpoint().is_some_and(|port| {
            port.device.endpoint().is_some_and(|endpoint| endpoint.isolated_group.is_some())
        });
        if marks {
            return Vec::new();
        }
        let open: Vec<_> =
            self.ports().filter(|port| port.spec.device.peer().is_some() && !port.spec.isolated).collect();
        let is_half = |port: &Port| {
            let mut networks = port.spec.carries.named().filter_map(|name| self.network(name));
            networks.any(|it| it.spec.options.icc && open.iter().any(|peer| peer.spec.holds(&it.spec)))
        };
        let isolated = self.ports().filter(|port| port.spec.isolated && !port.spec.device.is_tunnel());
        let warning = |port: Port| {
            format!(
                "port {} is isolated on this host only, and reaches isolated ports of other hosts: set vxlan.isolated_group on all of them, or isolated = true for their peers",
                port.spec.name
            )
        };
        isolated.filter(is_half).map(warning).collect()
    }

    /// A warning for each port whose MTU is more than tunnels carry.
    fn long_ports(&self, overlay: Mtu) -> Vec<String> {
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
                "port {}: its mtu of {} exceeds the {overlay} bytes that tunnels carry: lower it, or longer packets to other hosts are dropped",
                port.spec.name, port.mtu
            )
        };
        self.ports().filter(is_long).filter(crosses).map(warning).collect()
    }

    /// The layout of the data plane: networks and ports by number.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// This host's end of all tunnels, if there is one.
    pub fn endpoint(&self) -> Option<Arc<PortSpec>> {
        let endpoint = |entry: &&Entry<PortSpec>| entry.spec.device.endpoint().is_some();
        self.ports.entries().find(endpoint).map(|entry| Arc::clone(&entry.spec))
    }

    /// Longest packet that tunnels carry, in bytes, if there is an endpoint.
    pub fn overlay_mtu(&self) -> Option<Mtu> {
        self.overlay_mtu
    }

    /// The networks' access to the outside.
    pub fn outside(&self) -> &[Outside] {
        &self.outside
    }

    /// Removes a port that was created through the API.
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
            None => (format!("network {network}"), "it is removed with the network"),
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

    /// Replaces the file's previous declarations.
    fn declare(&mut self, config: Config) -> Result<(), Refusal> {
        self.switch = config.switch;
        self.api = config.api;
        self.docker = config.docker;
        self.dns = config.dns;
        self.pools = config.ipam;
        self.declare_endpoints(config.endpoints);
        self.networks.declare(config.networks, Origin::File)?;
        self.ports.declare(config.ports, Origin::File)?;
        self.services.declare(config.services, Origin::File)?;
        self.overlay_mtu = rules::overlay_mtu(self.ports.entries().map(|entry| &*entry.spec));
        Ok(())
    }
}

impl Transition {
    fn between(old: &State, mut next: State) -> Self {
        next.layout = Layout::of(&next).into();
        next.outside = outside::of(&next).into();
        let changes = change::between(old, &next);
        let effects = effect::of(&changes, old, &next);
        Self { next, changes, effects }
    }
}
