//! What only the API makes, and the store keeps.

use std::sync::Arc;

use super::Kind;
use vswitch_model::{EndpointSpec, NetworkSpec, PortSpec};

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
