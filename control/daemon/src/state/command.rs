//! What may be asked of a state.

use std::net::IpAddr;

use super::{EndpointUpdate, Sandbox};
use vswitch_model::{Config, Connect, Id, Name, NetworkSpec, NetworkUpdate, PortSpec};

/// What may be asked of a [`State`](super::State).
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
    /// Note what the ways to the peers carry at this host, in bytes.
    MeasureUnderlay(u16),
    /// Flood to a learned peer: it has answered.
    BelievePeer(Name),
}
