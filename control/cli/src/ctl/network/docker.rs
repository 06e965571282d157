//! Networks in Docker's format: the JSON of `docker network inspect`, the columns of `docker network ls`.

use serde_json::{Map, Value, json};

use super::addresses;
use crate::client::{Client, ClientError};
use vswitch_model::{Driver, Error, Family, api::Network, is_predefined, options::dockers_name};

/// The columns of `network ls`, by the field that a template names.
pub(super) const HEADINGS: [(&str, &str); 9] = [
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

/// A line of `network ls`; every value is text, as Docker's are.
pub(super) fn row(network: &Network, id: &str) -> Value {
    let spec = &network.spec;
    let labels: Vec<_> = spec.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    // As Go formats a time.
    let created =
        spec.created.map_or_else(String::new, |it| it.strftime("%Y-%m-%d %H:%M:%S%.f +0000 UTC").to_string());
    json!({
        "ID": id,
        "Name": spec.name,
        "Driver": spec.driver().as_str(),
        "Scope": network.scope.as_str(),
        "IPv4": (spec.subnet(Family::V4).is_some()).to_string(),
        "IPv6": (spec.subnet(Family::V6).is_some()).to_string(),
        "Internal": spec.internal.to_string(),
        "Labels": labels.join(","),
        "CreatedAt": created,
    })
}

/// The network as `docker network inspect` shows it.
pub(super) fn inspect(network: &Network) -> Value {
    let spec = &network.spec;
    let config: Vec<Value> = spec
        .subnets
        .iter()
        .map(|subnet| {
            let mut config = Map::new();
            config.insert("Subnet".into(), json!(subnet.subnet));
            if let Some(range) = subnet.ip_range {
                config.insert("IPRange".into(), json!(range));
            }
            if let Some(gateway) = subnet.gateway {
                config.insert("Gateway".into(), json!(gateway));
            }
            if !subnet.aux.is_empty() {
                config.insert("AuxiliaryAddresses".into(), json!(subnet.aux));
            }
            config.into()
        })
        .collect();
    let containers: Map<String, Value> = network
        .endpoints
        .iter()
        .map(|endpoint| {
            let spec = &endpoint.spec;
            let key = spec.container.clone().unwrap_or_else(|| format!("ep-{}", spec.id));
            let address = |family| spec.address(family).map_or_else(String::new, |net| net.to_string());
            let value = json!({
                "Name": spec.name,
                "EndpointID": spec.id,
                "MacAddress": spec.mac.to_string(),
                "IPv4Address": address(Family::V4),
                "IPv6Address": address(Family::V6),
            });
            (key, value)
        })
        .collect();
    let mut options: Map<String, Value> =
        spec.options.text().iter().map(|(key, value)| (dockers_name(key).to_owned(), json!(value))).collect();
    let has_keys = !is_predefined(spec.name.as_str());
    if let Some(mtu) = spec.mtu.filter(|_| has_keys) {
        options.insert(dockers_name("mtu").into(), mtu.to_string().into());
    }
    if let Some(vni) = spec.vni.filter(|_| spec.driver() == Driver::Overlay) {
        options.insert(dockers_name("vni").into(), vni.to_string().into());
    }
    let used = network.usage.iter().map(|usage| {
        let value = json!({ "IPsInUse": usage.used, "DynamicIPsAvailable": usage.available });
        (usage.subnet.to_string(), value)
    });
    let driver = if spec.subnets.is_empty() { "null" } else { "default" };
    json!({
        "Name": spec.name,
        "Id": network.id(),
        "Created": spec.created.map_or_else(|| "0001-01-01T00:00:00Z".into(), |created| created.to_string()),
        "Scope": network.scope.as_str(),
        "Driver": spec.driver().as_str(),
        "EnableIPv4": spec.subnet(Family::V4).is_some(),
        "EnableIPv6": spec.subnet(Family::V6).is_some(),
        "IPAM": { "Driver": driver, "Options": {}, "Config": config },
        "Internal": spec.internal,
        "Attachable": spec.attachable,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers,
        "Options": options,
        "Labels": spec.labels,
        "Status": { "IPAM": { "Subnets": used.collect::<Map<_, _>>() } },
    })
}

/// The network as the API's JSON.
pub(super) fn plain(network: &Network) -> Result<Value, Error> {
    Ok(serde_json::to_value(network).map_err(std::io::Error::from)?)
}

/// Adds the MAC table, the peers and the counters: `inspect --verbose`.
pub(super) async fn add_what_the_switch_knows(
    client: &Client,
    network: &Network,
    shown: &mut Value,
) -> Result<(), ClientError> {
    let predefined = is_predefined(network.spec.name.as_str());
    let table = if predefined { json!([]) } else { addresses(client, network).await? };
    let peers = client.tunnel().await?.peers.into_iter();
    let peers = peers.filter(|peer| peer.networks.contains(&network.spec.name));
    let ports = client.ports().await?.into_iter().filter(|port| network.ports.contains(&port.name));
    let value = |it| serde_json::to_value(it).map_err(std::io::Error::from).map_err(Error::from);
    shown["Peers"] = peers.map(|peer| json!({ "Name": peer.name, "IP": peer.address })).collect();
    shown["FDB"] = table;
    shown["Ports"] = Value::Array(ports.map(value).collect::<Result<_, _>>()?);
    Ok(())
}
