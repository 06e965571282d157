//! Commands of the state.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;

use super::{EndpointUpdate, Membership, Sandbox, SwarmServices};
use vswitch_model::{
    Config, Connect, Id, Name, NetworkSpec, NetworkUpdate, PortSpec, ServiceSpec, ServiceUpdate,
};

/// A command that changes a [`State`](super::State).
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Replaces what the file declared before; objects of the API stay.
    Reload(Config),
    /// Replaces what the cluster gives this host.
    Follow(Arc<Membership>),
    /// Replaces what Docker's swarm gives this host.
    FollowSwarm(Arc<SwarmServices>),
    /// Creates a network, and chooses what is not given.
    AddNetwork(NetworkSpec),
    /// Changes a network of the API, without interrupting its containers.
    UpdateNetwork {
        /// The network.
        name: Name,
        /// The differences.
        update: NetworkUpdate,
    },
    /// Removes a network of the API that has neither ports nor endpoints.
    RemoveNetwork(Name),
    /// Connects a sandbox to a network, and chooses what is not given.
    Connect {
        /// The network.
        network: Name,
        /// The request.
        connect: Box<Connect>,
        /// The observed sandbox.
        sandbox: Box<Sandbox>,
    },
    /// Notes what changed about an endpoint since it was connected.
    UpdateEndpoint {
        /// The endpoint.
        id: Id,
        /// The differences.
        update: EndpointUpdate,
    },
    /// Disconnects endpoints, whose addresses rest from `now` on.
    Disconnect {
        /// The endpoints; unknown ids are ignored.
        ids: Vec<Id>,
        /// The current time.
        now: Timestamp,
    },
    /// Creates a service, and chooses what is not given.
    AddService {
        /// The service.
        spec: ServiceSpec,
        /// The current time.
        now: Timestamp,
    },
    /// Changes a service of the API, without interrupting its clients.
    UpdateService {
        /// The service.
        name: Name,
        /// The differences.
        update: ServiceUpdate,
    },
    /// Notes whether an endpoint passes the check of a service.
    NoteHealth {
        /// The service.
        service: Name,
        /// The endpoint.
        endpoint: Id,
        /// Whether it passes.
        passes: bool,
    },
    /// Removes a service of the API. Its address rests from `now` on.
    RemoveService {
        /// The service.
        name: Name,
        /// The current time.
        now: Timestamp,
    },
    /// Creates a port.
    AddPort(PortSpec),
    /// Removes a port of the API, or a learned peer.
    RemovePort(Name),
    /// Adds a peer that was heard.
    LearnPeer(IpAddr),
    /// Note what the ways to the peers carry at this host, in bytes.
    MeasureUnderlay(u16),
    /// Flood to a learned peer: it has answered.
    BelievePeer(Name),
}
