//! The difference between two states, object by object.

use std::{collections::BTreeSet, fmt, sync::Arc};

use serde_json::Value;

use super::{Network, Port, Service, State};
use vswitch_model::{EndpointSpec, Id, Mtu, SwitchSpec};

/// One difference, displayed as a line: `+ network red`, `~ port web: isolated false -> true`, `- port db`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The switch as a whole.
    Switch {
        /// Before.
        old: Box<SwitchSpec>,
        /// After.
        new: Box<SwitchSpec>,
    },
    /// A network.
    Network(Delta<Network>),
    /// A port.
    Port(Delta<Port>),
    /// An endpoint.
    Endpoint(Delta<Arc<EndpointSpec>>),
    /// A service.
    Service(Delta<Service>),
}

/// The kind of a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta<T> {
    /// It is new.
    Added(T),
    /// It is gone.
    Removed(T),
    /// It differs, under the same name and number.
    Changed {
        /// Before.
        old: T,
        /// After.
        new: T,
    },
}

/// All differences: the switch, then networks, ports, endpoints and services, each by name.
pub(super) fn between(old: &State, new: &State) -> Vec<Change> {
    let mut changes = Vec::new();
    if old.switch != new.switch {
        changes.push(Change::Switch { old: old.switch.clone().into(), new: new.switch.clone().into() });
    }
    // An untouched object's MTU may change too: it follows that of tunnels or of the network.
    let mut names = old.networks.unlike(&new.networks);
    if old.overlay_mtu != new.overlay_mtu {
        names.extend(new.networks.names());
    }
    let networks: Vec<_> =
        names.into_iter().filter_map(|name| delta(old.network(name), new.network(name))).collect();
    let mut names = old.ports.unlike(&new.ports);
    if networks.iter().any(|delta| matches!(delta, Delta::Changed { old, new } if old.mtu != new.mtu)) {
        names.extend(new.ports.names());
    }
    changes.extend(networks.into_iter().map(Change::Network));
    let ports = names.into_iter().filter_map(|name| delta(old.port(name), new.port(name)));
    changes.extend(ports.map(Change::Port));
    if !Arc::ptr_eq(&old.endpoints, &new.endpoints) {
        let ids: BTreeSet<&Id> = old.endpoints.keys().chain(new.endpoints.keys()).collect();
        let of = |state: &State, id: &Id| state.endpoints.get(id).cloned();
        let endpoints = ids.into_iter().filter_map(|id| delta(of(old, id), of(new, id)));
        changes.extend(endpoints.map(Change::Endpoint));
    }
    let services = old.services.unlike(&new.services);
    let services = services.into_iter().filter_map(|name| delta(old.service(name), new.service(name)));
    changes.extend(services.map(Change::Service));
    changes
}

fn delta<T: PartialEq>(old: Option<T>, new: Option<T>) -> Option<Delta<T>> {
    match (old, new) {
        (None, None) => None,
        (None, Some(new)) => Some(Delta::Added(new)),
        (Some(old), None) => Some(Delta::Removed(old)),
        (Some(old), Some(new)) => (old != new).then_some(Delta::Changed { old, new }),
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch { old, new } => changed(f, "switch", &written(&**old), &written(&**new)),
            Self::Network(Delta::Added(network)) => write!(f, "+ network {}", network.spec.name),
            Self::Network(Delta::Removed(network)) => write!(f, "- network {}", network.spec.name),
            Self::Network(Delta::Changed { old, new }) => {
                let values = [old, new].map(|it| with_mtu(written(&*it.spec), it.mtu));
                changed(f, &format!("network {}", new.spec.name), &values[0], &values[1])
            }
            Self::Port(Delta::Added(port)) => write!(f, "+ port {}", port.spec.name),
            Self::Port(Delta::Removed(port)) => write!(f, "- port {}", port.spec.name),
            Self::Port(Delta::Changed { old, new }) => {
                let values = [old, new].map(|it| with_mtu(written(&*it.spec), it.mtu));
                changed(f, &format!("port {}", new.spec.name), &values[0], &values[1])
            }
            Self::Endpoint(Delta::Added(it)) => write!(f, "+ endpoint {} of network {}", it.name, it.network),
            Self::Endpoint(Delta::Removed(it)) => {
                write!(f, "- endpoint {} of network {}", it.name, it.network)
            }
            Self::Service(Delta::Added(it)) => write!(f, "+ service {}", it.spec.name),
            Self::Service(Delta::Removed(it)) => write!(f, "- service {}", it.spec.name),
            Self::Service(Delta::Changed { old, new }) => {
                changed(f, &format!("service {}", new.spec.name), &written(&*old.spec), &written(&*new.spec))
            }
            Self::Endpoint(Delta::Changed { old, new }) => {
                let who = format!("endpoint {} of network {}", new.name, new.network);
                changed(f, &who, &written(&**old), &written(&**new))
            }
        }
    }
}

/// `~ port web: isolated false -> true, mtu 1500 -> 1450`
fn changed(f: &mut fmt::Formatter<'_>, who: &str, old: &Value, new: &Value) -> fmt::Result {
    write!(f, "~ {who}")?;
    for (index, (key, old, new)) in fields(old, new).enumerate() {
        write!(f, "{} {key} {old} -> {new}", if index == 0 { ":" } else { "," })?;
    }
    Ok(())
}

/// A specification as the API writes it, so every key is compared under its own name.
fn written(spec: &impl serde::Serialize) -> Value {
    serde_json::to_value(spec).expect("a spec has text keys and writes without I/O")
}

/// Adds the effective MTU, given or inherited.
fn with_mtu(mut spec: Value, mtu: Mtu) -> Value {
    spec["mtu"] = mtu.get().into();
    spec
}

/// The keys whose values differ, with both values as text.
pub(super) fn fields(old: &Value, new: &Value) -> impl Iterator<Item = (String, String, String)> {
    let mut found = Vec::new();
    collect("", old, new, &mut found);
    found.into_iter()
}

fn collect(path: &str, old: &Value, new: &Value, found: &mut Vec<(String, String, String)>) {
    if old == new {
        return;
    }
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        found.push((path.into(), text(old), text(new)));
        return;
    };
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for key in keys {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        collect(&path, &old[key], &new[key], found);
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "unset".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
