//! Records of the store: objects that only the API creates.

use std::sync::Arc;

use super::Kind;
use vswitch_model::{EndpointSpec, NetworkSpec, PortSpec, ServiceSpec};

/// An object that only the API creates and the store keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A network.
    Network(Arc<NetworkSpec>),
    /// A port.
    Port(Arc<PortSpec>),
    /// An endpoint.
    Endpoint(Arc<EndpointSpec>),
    /// A service.
    Service(Arc<ServiceSpec>),
}

impl Record {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Network(_) => Kind::Network,
            Self::Port(_) => Kind::Port,
            Self::Endpoint(_) => Kind::Endpoint,
            Self::Service(_) => Kind::Service,
        }
    }

    /// Its key among others of its kind: a name, or an endpoint's id.
    pub fn key(&self) -> &str {
        match self {
            Self::Network(spec) => spec.name.as_str(),
            Self::Port(spec) => spec.name.as_str(),
            Self::Endpoint(spec) => spec.id.as_str(),
            Self::Service(spec) => spec.name.as_str(),
        }
    }
}
