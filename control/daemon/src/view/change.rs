//! The changes of a reload, as the API reports them.

use crate::state;
use vswitch_model::{
    DeclaredEndpoint,
    api::{Action, Change},
};

/// A difference, from its line: `+ network red`, `~ port web: isolated false -> true`.
pub(crate) fn change(change: &state::Change) -> Change {
    use state::{Change as Difference, Delta};
    let action = match change {
        Difference::Network(Delta::Added(_))
        | Difference::Port(Delta::Added(_))
        | Difference::Endpoint(Delta::Added(_)) => Action::Add,
        Difference::Network(Delta::Removed(_))
        | Difference::Port(Delta::Removed(_))
        | Difference::Endpoint(Delta::Removed(_)) => Action::Remove,
        _ => Action::Change,
    };
    let (object, name) = match change {
        Difference::Switch { new, .. } => ("switch", new.name.clone()),
        Difference::Network(
            Delta::Added(network) | Delta::Removed(network) | Delta::Changed { new: network, .. },
        ) => ("network", network.spec.name.to_string()),
        Difference::Port(Delta::Added(port) | Delta::Removed(port) | Delta::Changed { new: port, .. }) => {
            ("port", port.spec.name.to_string())
        }
        Difference::Endpoint(
            Delta::Added(endpoint) | Delta::Removed(endpoint) | Delta::Changed { new: endpoint, .. },
        ) => ("endpoint", endpoint.name.to_string()),
    };
    let line = change.to_string();
    let detail = line.split_once(": ").map_or("", |(_, detail)| detail);
    Change { action, object: object.to_owned(), name, detail: detail.to_owned() }
}

/// That an endpoint is to be connected because the file declares it.
pub(crate) fn declared(endpoint: &DeclaredEndpoint) -> Change {
    let detail = format!("network {}", endpoint.network);
    Change { action: Action::Add, object: "endpoint".to_owned(), name: endpoint.name.to_string(), detail }
}
