//! Names by number.

use std::collections::HashMap;

use vswitch::addr::{NetworkId, PortId};

use crate::state::State;
use vswitch_model::Name;

/// The names of ports and networks.
#[derive(Debug)]
pub(crate) struct Names {
    networks: HashMap<NetworkId, Name>,
    ports: HashMap<PortId, Name>,
}

impl Names {
    pub(crate) fn of(state: &State) -> Self {
        Self {
            networks: state.networks().map(|it| (it.id, it.spec.name.clone())).collect(),
            ports: state.ports().map(|it| (it.id, it.spec.name.clone())).collect(),
        }
    }

    /// The network's name; empty if it was removed.
    pub(crate) fn network(&self, id: NetworkId) -> &str {
        self.find_network(id).map_or("", Name::as_str)
    }

    /// The port's name; empty if it was removed.
    pub(crate) fn port(&self, id: PortId) -> &str {
        self.find_port(id).map_or("", Name::as_str)
    }

    pub(super) fn find_network(&self, id: NetworkId) -> Option<&Name> {
        self.networks.get(&id)
    }

    pub(super) fn find_port(&self, id: PortId) -> Option<&Name> {
        self.ports.get(&id)
    }
}
