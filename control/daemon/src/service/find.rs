//! What is meant by a name, an id or the beginning of one; and what is shown of it.

use super::core::Core;
use crate::{
    state::{self, NetworkError, Refusal},
    view,
};
use vswitch_model::{
    Driver, Error, Id, Name, Reference,
    api::{Endpoint, Network, Port},
};

impl Core {
    pub(super) fn port(&self, name: &Name) -> Result<Port, Error> {
        let port = self.state.port(name).ok_or_else(|| missing(state::Kind::Port, name))?;
        Ok(view::port(&self.state, &self.edge, &port))
    }

    /// The network as the API shows it, one that was there from the start too.
    pub(super) fn network(&self, reference: &Reference) -> Result<Network, Error> {
        match self.state.find_network(reference) {
            Ok(network) => Ok(view::network(&self.state, &self.edge, &network)),
            Err(refusal) => {
                let text = reference.as_str();
                let is_called =
                    |it: &Network| it.spec.name.as_str() == text || it.id().as_str().starts_with(text);
                view::predefined().find(is_called).ok_or_else(|| refusal.into())
            }
        }
    }

    /// The name of a network that may be changed.
    pub(super) fn changeable(&self, reference: &Reference) -> Result<Name, Error> {
        match self.state.find_network(reference) {
            Ok(network) => Ok(network.spec.name.clone()),
            Err(_) if self.network(reference).is_ok() => {
                Err(NetworkError::Predefined(reference.to_string()).into())
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// The name of a network that sandboxes can be in.
    pub(super) fn connectable(&self, reference: &Reference) -> Result<Name, Error> {
        match (self.state.find_network(reference), self.network(reference)) {
            (Ok(network), _) => Ok(network.spec.name.clone()),
            (Err(_), Ok(network)) if network.spec.driver() == Driver::Host => {
                Err(NetworkError::HostNetwork.into())
            }
            (Err(_), Ok(_)) => Err(NetworkError::NoNetwork.into()),
            (Err(refusal), Err(_)) => Err(refusal.into()),
        }
    }

    pub(super) fn endpoint(&self, id: &Id) -> Result<Endpoint, Error> {
        let endpoint = self.state.endpoints().find(|it| it.id == *id);
        let endpoint = endpoint.ok_or_else(|| Error::not_found(format!("there is no endpoint {id}")))?;
        Ok(view::endpoint(&self.state, &self.edge, endpoint))
    }

    pub(super) fn port_id(&self, name: &Name) -> Result<vswitch::addr::PortId, Error> {
        self.state.port(name).map(|port| port.id).ok_or_else(|| missing(state::Kind::Port, name))
    }

    pub(super) fn network_id(&self, name: &Name) -> Result<vswitch::addr::NetworkId, Error> {
        self.state.network(name).map(|network| network.id).ok_or_else(|| missing(state::Kind::Network, name))
    }
}

fn missing(kind: state::Kind, name: &Name) -> Error {
    Refusal::Missing { kind, name: name.clone() }.into()
}
