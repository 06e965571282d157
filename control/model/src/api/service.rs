//! Services on the wire.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Id, Name, ServiceSpec};

/// A service, with the endpoints that serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Its specification, with its addresses.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub spec: ServiceSpec,
    /// Whether the configuration file declares it; else it came through the API.
    pub declared: bool,
    /// Whether it is one of all hosts of a cluster.
    #[serde(default)]
    pub global: bool,
    /// The endpoints that serve, by name.
    pub backends: Vec<Backend>,
}

/// An endpoint that serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Backend {
    /// Its id.
    #[schema(value_type = String)]
    pub id: Id,
    /// Its name.
    #[schema(value_type = String)]
    pub name: Name,
    /// Its host, if that is another one of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub host: Option<Name>,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Whether it gets new connections: `ready`, `draining`; `unready`, if it fails the check; or `down`, it or its host.
    pub state: String,
    /// Connections of this host's clients through the service that it has at the moment.
    pub flows: u64,
    /// Connections of this host's clients through the service that it was given since the daemon started.
    pub given: u64,
}
