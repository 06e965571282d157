//! What the edge must do to follow a change, and in which order.

use std::{collections::HashMap, net::IpAddr, num::NonZeroU16, sync::Arc};

use ipnet::IpNet;

use vswitch::{
    addr::{MacAddr, NetworkId, PortId},
    mirror::Mirror,
    topology::{self, PortMode, PortRules, Topology, TopologyError},
};

use super::{Change, Delta, Network, Origin, Port, Record, Service, State, derive::host_port_name};
use vswitch_host::gateway::Outside;
use vswitch_model::{Carries, DeviceSpec, EndpointSpec, Name, Netns, PortSpec, SwitchSpec, Tags};

/// One step of the edge, with all that is needed to [`undo`](Effect::undo) it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Changes ageing, limits and damping.
    SetSwitch {
        /// Before.
        old: Box<SwitchSpec>,
        /// After.
        new: Box<SwitchSpec>,
    },
    /// Closes the port's device and flushes the addresses learned on it.
    ClosePort(Port),
    /// Keeps the port's device and changes in place what can be: the MTU, networks and limits (which the topology holds), and
    /// the interface's addresses, MAC and gateways.
    UpdatePort {
        /// Before.
        old: Port,
        /// After; with the same number and device.
        new: Port,
    },
    /// Creates the port's device, or takes it over.
    OpenPort(Port),
    /// Changes the rules between networks and the outside.
    SetOutside {
        /// Before.
        old: Arc<Vec<Outside>>,
        /// After.
        new: Arc<Vec<Outside>>,
    },
    /// Stores a record.
    Store(Record),
    /// Deletes a record from the store.
    Unstore(Record),
    /// Replaces a record.
    Restore {
        /// Before.
        old: Record,
        /// After; of the same kind and key.
        new: Record,
    },
}

impl Effect {
    /// The inverse step. The last one is undone first.
    #[must_use]
    pub fn undo(self) -> Self {
        match self {
            Self::SetSwitch { old, new } => Self::SetSwitch { old: new, new: old },
            Self::ClosePort(port) => Self::OpenPort(port),
            Self::UpdatePort { old, new } => Self::UpdatePort { old: new, new: old },
            Self::OpenPort(port) => Self::ClosePort(port),
            Self::Store(record) => Self::Unstore(record),
            Self::Unstore(record) => Self::Store(record),
            Self::SetOutside { old, new } => Self::SetOutside { old: new, new: old },
            Self::Restore { old, new } => Self::Restore { old: new, new: old },
        }
    }

    /// The rank of the step: names and addresses are freed before they are used, and a port's number changes owner only while
    /// it has none, so no frame is forwarded by the previous port's networks.
    fn turn(&self) -> u8 {
        match self {
            Self::SetSwitch { .. } => 0,
            Self::ClosePort(_) => 1,
            Self::UpdatePort { .. } => 2,
            // The endpoint sends to peers and collectors.
            Self::OpenPort(port) if port.spec.device.endpoint().is_some() => 3,
            Self::OpenPort(_) => 4,
            Self::SetOutside { .. } => 5,
            Self::Store(_) | Self::Unstore(_) | Self::Restore { .. } => 6,
        }
    }
}

/// The effects of `changes`, in order.
pub(super) fn of(changes: &[Change], old: &State, new: &State) -> Vec<Effect> {
    let mut effects: Vec<_> = changes.iter().cloned().flat_map(deeds).collect();
    let (before, after) = (&old.outside, &new.outside);
    if before != after {
        effects.push(Effect::SetOutside { old: Arc::clone(before), new: Arc::clone(after) });
    }
    effects.sort_by_key(Effect::turn);
    effects
}

fn deeds(change: Change) -> Vec<Effect> {
    match change {
        Change::Switch { old, new } => vec![Effect::SetSwitch { old, new }],
        Change::Network(delta) => {
            kept(delta, |it: Network| (it.origin, Record::Network(it.spec))).into_iter().collect()
        }
        Change::Port(delta) => {
            let mut effects = match delta.clone() {
                Delta::Added(port) => vec![Effect::OpenPort(port)],
                Delta::Removed(port) => vec![Effect::ClosePort(port)],
                Delta::Changed { old, new } if old.id != new.id || device(&old.spec) != device(&new.spec) => {
                    vec![Effect::ClosePort(old), Effect::OpenPort(new)]
                }
                Delta::Changed { old, new } => vec![Effect::UpdatePort { old, new }],
            };
            effects.extend(kept(delta, |it: Port| (it.origin, Record::Port(it.spec))));
            effects
        }
        Change::Endpoint(delta) => {
            kept(delta, |it| (Origin::Api, Record::Endpoint(lasting(it)))).into_iter().collect()
        }
        Change::Service(delta) => {
            kept(delta, |it: Service| (it.origin, Record::Service(it.spec))).into_iter().collect()
        }
    }
}

/// The change of the stored records: only objects of the API have one.
fn kept<T>(delta: Delta<T>, record: impl Fn(T) -> (Origin, Record)) -> Option<Effect> {
    let record = |it: T| Some(record(it)).filter(|it| it.0 == Origin::Api).map(|it| it.1);
    match delta {
        Delta::Added(it) => record(it).map(Effect::Store),
        Delta::Removed(it) => record(it).map(Effect::Unstore),
        Delta::Changed { old, new } => match (record(old), record(new)) {
            // A port's MTU may follow its network's, which does not change the request.
            (Some(old), Some(new)) => (old != new).then_some(Effect::Restore { old, new }),
            // The file declares it again.
            (Some(old), None) => Some(Effect::Unstore(old)),
            (None, new) => new.map(Effect::Store),
        },
    }
}

/// What is stored of an endpoint. Whether its engine thinks that it serves is not: that may change every second, and the engine says
/// it again after a restart.
fn lasting(mut endpoint: Arc<EndpointSpec>) -> Arc<EndpointSpec> {
    if endpoint.unready {
        Arc::make_mut(&mut endpoint).unready = false;
    }
    endpoint
}

/// The part of a port that cannot change while its device is open.
fn device(port: &PortSpec) -> impl PartialEq {
    (port.device.fixed(), port.ifname().to_owned(), port.offload)
}

/// The networks of each port, by number, in terms of the data plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// By number.
    pub networks: Vec<topology::Network>,
    /// By number.
    pub ports: Vec<PortRules>,
    /// By the number of the mirror's port.
    pub mirrors: Vec<Mirror>,
    /// Bit X set: frames to 01:80:C2:00:00:0X are forwarded.
    pub group_forward_mask: u16,
}

impl Layout {
    pub(super) fn of(state: &State) -> Self {
        let marks = state.endpoint().is_some_and(|endpoint| marks_isolated(&endpoint));
        let mut networks: Vec<_> = state.networks().map(|network| data_network(&network, marks)).collect();
        networks.sort_by_key(|network| network.id);
        let group = state.endpoint().is_some_and(|endpoint| has_group(&endpoint));
        let recorded = recorded(state);
        let (mut ports, mut mirrors) = (Vec::new(), Vec::new());
        for port in state.ports() {
            let recorded = recorded.get(&port.spec.name).map(Vec::as_slice).unwrap_or_default();
            ports.extend(port_rules(state, &port, group, recorded));
            mirrors.extend(mirror(state, &port));
        }
        ports.sort_by_key(|port| port.id);
        mirrors.sort_by_key(|mirror| mirror.to);
        Self { networks, ports, mirrors, group_forward_mask: state.switch.group_forward_mask }
    }

    /// The addresses of known stations, which are pinned to their ports.
    pub(crate) fn stations(&self) -> impl Iterator<Item = ((NetworkId, MacAddr), PortId)> {
        self.ports.iter().filter_map(|port| match (&port.mode, port.station) {
            (PortMode::Access(network), Some(mac)) => Some(((*network, mac), port.id)),
            _ => None,
        })
    }

    /// Builds the topology for the workers.
    ///
    /// # Errors
    /// A contradiction; no layout of a [`State`] has one.
    pub fn build(&self) -> Result<Topology, TopologyError> {
        Topology::build(&self.networks, &self.ports, self.group_forward_mask)
    }
}

/// `marks`: frames of isolated ports are marked for other hosts, which tell them from others.
fn data_network(network: &Network, marks: bool) -> topology::Network {
    topology::Network {
        vlan: network.spec.vlan,
        passes_tags: network.spec.tags == Tags::Pass,
        // All containers here are isolated, and so are all elsewhere.
        isolates_tunnels: !network.spec.options.icc && !marks,
        ..topology::Network::new(network.id)
    }
}

/// The rules guarantee that everything a mirror names exists.
fn mirror(state: &State, port: &Port) -> Option<Mirror> {
    let Carries::Mirror { mirror } = &port.spec.carries else { return None };
    Some(Mirror {
        to: port.id,
        ports: mirror.ports.iter().filter_map(|name| Some(state.port(name)?.id)).collect(),
        networks: mirror.networks.iter().filter_map(|name| Some(state.network(name)?.id)).collect(),
        direction: mirror.direction,
    })
}

/// The split-horizon group of all tunnel ports: nothing is forwarded from tunnel to tunnel.
const TUNNELS: NonZeroU16 = NonZeroU16::MIN;

/// Whether flooded frames leave by it. With a multicast group they reach peers through that.
fn is_flooded_to(device: &DeviceSpec, group: bool) -> bool {
    match device.peer() {
        Some(peer) => peer.flood.unwrap_or(!group),
        None => device.endpoint().is_none(),
    }
}

/// Whether the tunnel uses a multicast group of the underlay.
fn has_group(endpoint: &PortSpec) -> bool {
    endpoint.device.endpoint().is_some_and(|endpoint| endpoint.group.is_some())
}

fn marks_isolated(endpoint: &PortSpec) -> bool {
    endpoint.device.endpoint().is_some_and(|endpoint| endpoint.isolated_group.is_some())
}

/// Whether a port counts as isolated. The group does if any peer does, for all peers are its members.
fn is_isolated(state: &State, port: &Port) -> bool {
    let is_group = port.spec.device.peer().is_some_and(|peer| peer.remote.is_multicast());
    port.spec.isolated
        || is_group && state.ports().any(|it| it.spec.device.peer().is_some() && it.spec.isolated)
}

/// Whether it is a network's gateway on this host. Each host that tunnels lead to has one with the same addresses: none
/// shall hear of another's, nor answer for it, so nothing is flooded between it and the tunnels. By its MAC address, which
/// differs, it is reached from everywhere.
fn is_gateway(state: &State, port: &Port) -> bool {
    let network = || port.spec.carries.untagged().and_then(|name| state.network(name));
    port.origin == Origin::Derived
        && port.spec.is_hosts()
        && network().is_some_and(|it| host_port_name(&it.spec) == port.spec.name)
}

/// The addresses on record of each endpoint's station, by its port: its own, and those that its sandbox has in other networks.
/// A host sends with any of its addresses by any of its interfaces (the weak model of RFC 1122 section 3.3.4.2).
fn recorded(state: &State) -> HashMap<&Name, Vec<IpAddr>> {
    let sandbox = |it: &EndpointSpec| it.sandbox.as_ref().or(it.moved.as_ref()).map(Netns::path);
    let own =
        |it: &EndpointSpec| it.addresses.iter().chain(&it.link_local).map(IpNet::addr).collect::<Vec<_>>();
    let mut of_sandbox: HashMap<_, Vec<IpAddr>> = HashMap::new();
    for endpoint in state.endpoints() {
        if let Some(sandbox) = sandbox(endpoint) {
            of_sandbox.entry(sandbox).or_default().extend(own(endpoint));
        }
    }
    // Where an endpoint itself has none on record, its addresses are not known.
    let known = state.endpoints().filter(|endpoint| !endpoint.addresses.is_empty());
    let all = |endpoint: &EndpointSpec| {
        sandbox(endpoint)
            .and_then(|sandbox| of_sandbox.get(&sandbox).cloned())
            .unwrap_or_else(|| own(endpoint))
    };
    known.map(|endpoint| (&endpoint.port, all(endpoint))).collect()
}

/// The rules guarantee that every network a port names exists.
fn port_rules(state: &State, port: &Port, group: bool, recorded: &[IpAddr]) -> Option<PortRules> {
    let number = |name: &Name| state.network(name).map(|network| network.id);
    let is_endpoint = port.spec.device.endpoint().is_some();
    let mode = match &port.spec.carries {
        Carries::Access { network } => PortMode::Access(number(network)?),
        Carries::Trunk { trunk, native } => PortMode::Trunk {
            tagged: trunk.iter().filter_map(number).collect(),
            native: native.as_ref().and_then(number),
        },
        Carries::Tunnel { .. } if is_endpoint => PortMode::Tunnel(Vec::new()),
        Carries::Tunnel { .. } => {
            let held = state.networks().filter(|network| port.spec.holds(&network.spec));
            PortMode::Tunnel(held.map(|network| network.id).collect())
        }
        Carries::Mirror { .. } => PortMode::Mirror,
    };
    let is_tunnel = matches!(mode, PortMode::Tunnel(_));
    let is_gateway = is_gateway(state, port);
    let interface = port.spec.interface();
    let guard = port.spec.guard.as_ref().zip(interface).and_then(|(guard, it)| guard.guard(it, recorded));
    let own = interface.into_iter().flat_map(|interface| &interface.address).map(IpNet::addr);
    let addresses = own.chain(recorded.iter().copied());
    Some(PortRules {
        id: port.id,
        mode,
        station: interface.filter(|_| is_gateway || guard.is_some()).and_then(|interface| interface.mac),
        addresses: addresses.collect(),
        guard,
        isolated: is_isolated(state, port),
        hairpin: port.spec.hairpin,
        native_tagged: port.spec.native_tagged,
        horizon: is_tunnel.then_some(TUNNELS),
        flood_horizon: (is_tunnel || is_gateway).then_some(TUNNELS),
        flood: port.spec.flood && is_flooded_to(&port.spec.device, group),
        learning: port.spec.learning,
        mac_limit: port.spec.mac_limit,
        storm: port.spec.storm,
        limits: port.spec.limit.limits(),
        mtu: port.mtu.get(),
    })
}
