//! Docker's plugin: the network driver and the IPAM driver `vswitch`.
//!
//! ```text
//! dockerd (libnetwork)                          vswitchd
//!   POST /NetworkDriver.CreateNetwork       ->    Backend::add_network, or a network is adopted
//!   POST /NetworkDriver.CreateEndpoint      ->    Backend::connect: a bare interface in the host's namespace
//!   POST /NetworkDriver.Join                ->    where it will be moved
//!   moves the interface, renames it, gives it addresses and routes
//!   POST /NetworkDriver.ProgramExternalConnectivity -> ports of the host
//!   POST /NetworkDriver.Leave               ->    nothing: it brings the interface back first
//!   POST /NetworkDriver.DeleteEndpoint      ->    Backend::disconnect
//! ```
//!
//! A network of Docker's is a network like any other, with the same id. What Docker has chosen is kept in the daemon's
//! store, because Docker tells each thing once: to a plugin that starts again it says nothing. An engine that is killed may
//! say nothing either; the daemon finds its endpoints by their interfaces, which nobody has any more.
//!
//! The protocol is `pkg/plugins` and `libnetwork/drivers/remote/api` of moby: POST, a JSON body or none, an answer in JSON.
//! dockerd waits for an answer without a limit of its own, so [`server`] has one.

mod driver;
mod ipam;
pub mod server;
mod spec;
mod wire;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::api::{Answer, Backend};
use vswitch_model::{Connect, Driver, Family, Id, Name, Netns, SubnetSpec, api::Endpoint, publish::Publish};

pub use self::{server::serve, spec::SpecFile};

/// What the plugin needs of the daemon besides what the API offers to everybody.
pub trait Plumbing: Backend {
    /// One endpoint; `not_found` when there is none.
    fn endpoint(&self, id: Id) -> Answer<'_, Endpoint>;
    /// Disconnects endpoints whose interfaces nobody has and that stand in the way of what is asked for.
    fn make_room<'a>(&'a self, network: &'a Name, ask: &'a Connect) -> Answer<'a, ()>;
    /// Disconnects all endpoints of a network whose interfaces nobody has.
    fn clear<'a>(&'a self, network: &'a Name) -> Answer<'a, ()>;
    /// Notes where a bare interface is moved.
    fn moved(&self, id: Id, to: Netns) -> Answer<'_, ()>;
    /// Makes these ports of the host lead to an endpoint, and no others.
    fn publish(&self, id: Id, publish: Vec<Publish>) -> Answer<'_, ()>;
    /// A subnet that is free, and none of `held`.
    fn choose_subnet(&self, driver: Driver, family: Family, held: Vec<IpNet>) -> Answer<'_, IpNet>;
    /// An address that is free in a subnet, and none of `held`.
    fn choose_address(&self, subnet: SubnetSpec, held: Vec<IpAddr>) -> Answer<'_, IpAddr>;
    /// The network that an engine knows by an id of its own.
    fn adopted(&self, id: Id) -> Answer<'_, Option<Name>>;
    /// Notes which network an engine knows by an id of its own, or that it does no longer.
    fn adopt(&self, id: Id, network: Option<Name>) -> Answer<'_, ()>;
}
