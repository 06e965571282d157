//! Docker's plugin: the network driver and the IPAM driver `vswitch`.
//!
//! ```text
//! dockerd (libnetwork)                          vswitchd
//!   POST /NetworkDriver.CreateNetwork       ->    a network is created, or adopted
//!   POST /NetworkDriver.CreateEndpoint      ->    an endpoint is created: a bare interface in the host's namespace
//!   POST /NetworkDriver.Join                ->    where it will be moved
//!   moves the interface, renames it, gives it addresses and routes
//!   POST /NetworkDriver.ProgramExternalConnectivity -> ports of the host
//!   POST /NetworkDriver.Leave               ->    nothing: it brings the interface back first
//!   POST /NetworkDriver.DeleteEndpoint      ->    the endpoint is deleted
//! ```
//!
//! A network of Docker's is a network like any other, with the same id. Docker's choices are kept in the daemon's store,
//! because Docker says each thing once: a restarted plugin is told nothing. Neither does an engine that is killed; the daemon
//! recognizes its endpoints because their interfaces are gone.
//!
//! The protocol is `pkg/plugins` and `libnetwork/drivers/remote/api` of moby: POST, a JSON body or none, an answer in JSON.
//! dockerd waits for an answer without a limit of its own, so [`server`] has one.

mod driver;
mod engine;
mod ipam;
mod names;
mod revive;
mod server;
mod spec;
mod swarm;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use self::{
    names::follow,
    revive::revive,
    server::{Plugin, serve},
    spec::SpecFile,
};
