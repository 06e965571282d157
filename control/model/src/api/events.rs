//! What happened: events, in the order in which they became known.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vswitch::addr::MacAddr;

use crate::Name;

/// Something that happened. On the wire a flat object: `{"seq": 7, "time_ms": …, "event": "port_up", "port": "web"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Sequence number, from 1 at the daemon's start, without gaps.
    pub seq: u64,
    /// Time in milliseconds since 1970 UTC; events of addresses are precise to the second.
    pub time_ms: u64,
    /// What.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub what: What,
}

/// What an [`Event`] tells. A peer is a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// The daemon has started to forward.
    Started,
    /// The port carries frames.
    PortUp {
        /// The port.
        port: Name,
    },
    /// The port does not carry frames, any more or yet.
    PortDown {
        /// The port.
        port: Name,
        /// Why, and what to do about it.
        reason: String,
    },
    /// A port was created.
    PortAdded {
        /// The port.
        port: Name,
    },
    /// A port was changed.
    PortChanged {
        /// The port.
        port: Name,
        /// What, such as `mtu 1500 -> 1450`.
        detail: String,
    },
    /// A port was removed.
    PortRemoved {
        /// The port.
        port: Name,
    },
    /// A network was created.
    NetworkAdded {
        /// The network.
        network: Name,
    },
    /// A network was changed.
    NetworkChanged {
        /// The network.
        network: Name,
        /// What.
        detail: String,
    },
    /// A network was removed.
    NetworkRemoved {
        /// The network.
        network: Name,
    },
    /// A service was created.
    ServiceAdded {
        /// The service.
        service: Name,
    },
    /// A service was changed.
    ServiceChanged {
        /// The service.
        service: Name,
        /// The differences.
        detail: String,
    },
    /// A service was removed.
    ServiceRemoved {
        /// The service.
        service: Name,
    },
    /// A sandbox was connected to a network.
    Connected {
        /// The endpoint.
        endpoint: Name,
        /// The network.
        network: Name,
    },
    /// A sandbox was disconnected from a network, or ended.
    Disconnected {
        /// The endpoint.
        endpoint: Name,
        /// The network.
        network: Name,
    },
    /// The switch as a whole was changed.
    SwitchChanged {
        /// What.
        detail: String,
    },
    /// Something was wrong with the store when the daemon started.
    StoreMended {
        /// What, and what came of it.
        detail: String,
    },
    /// Another program changed what is the switch's on this host, and it was set again: rules, settings of the kernel, interfaces.
    HostMended {
        /// What, and by whom as far as known.
        detail: String,
    },
    /// The cluster's store does not answer; everything goes on without it.
    StoreLost {
        /// Why.
        detail: String,
    },
    /// The cluster's store answers again.
    StoreBack,
    /// A host of the cluster is there, again or for the first time.
    NodeReady {
        /// The host.
        node: Name,
    },
    /// The lease of a host has ended; its entries stay.
    NodeSuspect {
        /// The host.
        node: Name,
    },
    /// A suspect host was not heard by the tunnel either; its entries stay.
    NodeDown {
        /// The host.
        node: Name,
    },
    /// Two hosts assign the same addresses.
    AddressConflict {
        /// Which, and what to do.
        detail: String,
    },
    /// This host is no longer a member of its cluster.
    Fenced {
        /// Why, and what to do.
        detail: String,
    },
    /// An endpoint is called otherwise, as its engine says.
    Renamed {
        /// Its name by now.
        endpoint: Name,
        /// The network.
        network: Name,
        /// Its name before.
        before: Name,
    },
    /// The health check of an endpoint's container has passed: answers have it again.
    EndpointReady {
        /// The endpoint.
        endpoint: Name,
        /// The network.
        network: Name,
    },
    /// It has not: answers leave it out while there are others.
    EndpointUnready {
        /// The endpoint.
        endpoint: Name,
        /// The network.
        network: Name,
    },
    /// A name was given by hand.
    NameAdded {
        /// The name.
        name: Name,
        /// The network.
        network: Name,
    },
    /// A name that was given by hand was taken away.
    NameRemoved {
        /// The name.
        name: Name,
        /// The network.
        network: Name,
    },
    /// The configuration file was read again and applied.
    Reloaded {
        /// How many objects it changed.
        changes: usize,
    },
    /// An address was heard for the first time.
    MacLearned(Station),
    /// An address was heard on another port than before.
    MacMoved {
        /// Which, and where it is now.
        #[serde(flatten)]
        station: Station,
        /// Where it was.
        from: String,
    },
    /// An address was heard on too many ports in too short a time, and stays where it is for a while.
    MacHeld {
        /// Which, and where it stays.
        #[serde(flatten)]
        station: Station,
        /// Where it was heard too.
        rival: String,
    },
    /// An address keeps arriving at two ports: these are connected to each other outside of the switch.
    Loop {
        /// Which, and one of the ports.
        #[serde(flatten)]
        station: Station,
        /// The other port.
        rival: String,
    },
    /// An address was not learned: its network has as many as it may. Noted once a minute for each network.
    MacRefused {
        /// Which, and where it was heard.
        #[serde(flatten)]
        station: Station,
        /// The network's limit.
        limit: u32,
    },
    /// An address that was held may move freely again.
    MacReleased(Station),
    /// An address was not heard for the ageing time.
    MacExpired(Station),
    /// An address made room for another.
    MacEvicted(Station),
    /// The guard of a port refused frames of its station. Told at most once a minute per port.
    GuardDropped {
        /// The port.
        port: Name,
        /// How many since the last such event, by reason: `12 GUARD_MAC, 1 GUARD_ARP`.
        detail: String,
    },
    /// Events are missing here: too many came at once, or the reader was too slow.
    Lost {
        /// How many.
        count: u64,
    },
}

/// What has changed of `whom`, if it is something that is configured.
fn changed(f: &mut fmt::Formatter<'_>, whom: &dyn fmt::Display, detail: &str) -> fmt::Result {
    write!(f, "{whom} changed")?;
    if detail.is_empty() { Ok(()) } else { write!(f, ": {detail}") }
}

/// A sentence, as `vswitchctl events` and the log show it.
impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => write!(f, "the daemon has started"),
            Self::PortUp { port } => write!(f, "port {port} is up"),
            Self::PortDown { port, reason } => write!(f, "port {port} is down: {reason}"),
            Self::PortAdded { port } => write!(f, "port {port} created"),
            Self::PortChanged { port, detail } => changed(f, &format_args!("port {port}"), detail),
            Self::PortRemoved { port } => write!(f, "port {port} removed"),
            Self::NetworkAdded { network } => write!(f, "network {network} created"),
            Self::NetworkChanged { network, detail } => {
                changed(f, &format_args!("network {network}"), detail)
            }
            Self::NetworkRemoved { network } => write!(f, "network {network} removed"),
            Self::ServiceAdded { service } => write!(f, "service {service} created"),
            Self::ServiceChanged { service, detail } => {
                changed(f, &format_args!("service {service}"), detail)
            }
            Self::ServiceRemoved { service } => write!(f, "service {service} removed"),
            Self::Connected { endpoint, network } => write!(f, "{endpoint} connected to network {network}"),
            Self::Disconnected { endpoint, network } => {
                write!(f, "{endpoint} disconnected from network {network}")
            }
            Self::SwitchChanged { detail } => changed(f, &"the switch", detail),
            Self::StoreMended { detail } => write!(f, "the store: {detail}"),
            Self::HostMended { detail } => write!(f, "{detail}"),
            Self::StoreLost { detail } => write!(f, "the cluster's store is lost: {detail}"),
            Self::StoreBack => write!(f, "the cluster's store is back"),
            Self::NodeReady { node } => write!(f, "host {node} is ready"),
            Self::NodeSuspect { node } => write!(f, "host {node} is suspect: its lease has ended"),
            Self::NodeDown { node } => write!(f, "host {node} is down: nothing is heard from it"),
            Self::AddressConflict { detail } | Self::Fenced { detail } => f.write_str(detail),
            Self::Renamed { endpoint, network, before } => {
                write!(f, "{before} of network {network} is called {endpoint}")
            }
            Self::EndpointReady { endpoint, network } => {
                write!(f, "{endpoint} of network {network} is ready: its health check has passed")
            }
            Self::EndpointUnready { endpoint, network } => {
                write!(f, "{endpoint} of network {network} is not ready: its health check has not passed")
            }
            Self::NameAdded { name, network } => write!(f, "name {name} added to network {network}"),
            Self::NameRemoved { name, network } => write!(f, "name {name} removed from network {network}"),
            Self::Reloaded { changes } => write!(f, "reloaded: {changes} changes"),
            Self::MacLearned(station) => write!(f, "{} learned", on(station)),
            Self::MacMoved { station, from } => write!(f, "{} moved from port {from}", on(station)),
            Self::MacHeld { station, rival } => {
                write!(
                    f,
                    "{} moves too often and is held to one move a second; seen on port {rival} too",
                    on(station)
                )
            }
            Self::Loop { station, rival } => {
                write!(f, "{} keeps arriving at port {rival} too: a loop between them", on(station))
            }
            Self::MacRefused { station, limit } => {
                write!(f, "{} not learned: the network has {limit} addresses, its mac_limit", on(station))
            }
            Self::MacReleased(station) => write!(f, "{} may move freely again", on(station)),
            Self::MacExpired(station) => write!(f, "{} expired: not seen for the ageing time", on(station)),
            Self::MacEvicted(station) => write!(f, "{} evicted in favour of another", on(station)),
            Self::GuardDropped { port, detail } => {
                write!(f, "the guard of port {port} refuses what its station sends: {detail}")
            }
            Self::Lost { count } => write!(f, "{count} events are missing here"),
        }
    }
}

fn on(station: &Station) -> String {
    format!("{} on {} at port {}", station.mac, station.network, station.port)
}

/// An address, and where it is. Names are empty if the network or port was removed before the lookup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Station {
    /// The address.
    pub mac: MacAddr,
    /// Its network.
    pub network: String,
    /// Its port.
    pub port: String,
}

/// Which events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsFilter {
    /// Not before this moment, in milliseconds since 1970 UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Whether to go on with what happens from now on.
    pub follow: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_what_is_not_configured_ends_with_its_verb() {
        let said = |detail: &str| What::SwitchChanged { detail: detail.to_owned() }.to_string();
        assert_eq!(said(""), "the switch changed");
        assert_eq!(said("ageing 300 -> 60"), "the switch changed: ageing 300 -> 60");
    }
}
