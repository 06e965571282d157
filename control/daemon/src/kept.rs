//! Compares the stored records with the host when the daemon starts.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use tracing::{info, warn};

use super::{Failure, sight};
use crate::{
    state::{Membership, Record},
    store::Store,
};
use vswitch_host::netns::Presences;
use vswitch_model::{Config, EndpointSpec, Family, Name, NetworkSpec, SubnetSpec};

/// The stored records, without endpoints whose sandboxes have ended.
///
/// The file may have dropped a network that endpoints or ports still use. A running daemon refuses that; a starting one keeps
/// the network unchanged, as if it had been created through the API, so that the host and its containers come up. It belongs to
/// the file again when the file declares it again.
pub(crate) fn living(store: &Store, config: &Config, given: &Membership) -> Result<Vec<Record>, Failure> {
    let mut living = Vec::new();
    let mut networks: BTreeSet<Name> = config.networks.iter().map(|it| it.name.clone()).collect();
    networks.extend(given.networks.iter().map(|it| it.name.clone()));
    // A failed write must not keep the host's containers down: the next start finds the record again.
    let forget = |record: &Record| {
        if let Err(error) = store.remove(record.kind(), record.key()) {
            warn!("cannot delete {} {}: {error}", record.kind(), record.key());
        }
    };
    let records = store.load();
    let sandboxes = records.iter().filter_map(|record| match record {
        Record::Endpoint(endpoint) => endpoint.sandbox.as_ref(),
        Record::Network(_) | Record::Port(_) | Record::Service(_) => None,
    });
    let now = Presences::of(sandboxes);
    for record in records {
        match &record {
            Record::Endpoint(endpoint) if sight::is_orphan(endpoint, &now) => {
                forget(&record);
                warn!(endpoint = %endpoint.name, network = %endpoint.network, "reaped: its namespace is gone");
                continue;
            }
            Record::Network(network) if network.is_declared() && networks.contains(&network.name) => {
                forget(&record);
                info!(network = %network.name, "the file declares it again");
                continue;
            }
            Record::Network(network) => drop(networks.insert(network.name.clone())),
            Record::Endpoint(endpoint) => {
                if let Some(identified) = identified(endpoint, &now) {
                    let record = Record::Endpoint(identified.into());
                    if let Err(error) = store.put(&record) {
                        warn!(endpoint = %endpoint.name, "its namespace's identity is not kept: {error}");
                    }
                    living.push(record);
                    continue;
                }
            }
            Record::Port(_) | Record::Service(_) => {}
        }
        living.push(record);
    }
    let mut users: BTreeMap<&Name, Vec<&str>> = BTreeMap::new();
    for record in &living {
        match record {
            Record::Endpoint(it) => users.entry(&it.network).or_default().push(it.name.as_str()),
            Record::Port(it) => {
                it.carries
                    .named()
                    .for_each(|network| users.entry(network).or_default().push(it.name.as_str()));
            }
            Record::Service(it) => users.entry(&it.network).or_default().push(it.name.as_str()),
            Record::Network(_) => {}
        }
    }
    let mut dropped = Vec::new();
    for network in store.declared().into_iter().filter(|it| !networks.contains(&it.name)) {
        let Some(users) = users.get(&network.name) else { continue };
        warn!(
            network = %network.name,
            "the file no longer declares it, but {} use it: it is kept unchanged; declare it again, or remove it with \
             `vswitchctl network rm {}` when it is unused",
            users.join(", "),
            network.name
        );
        let record = Record::Network(network.into());
        if let Err(error) = store.put(&record) {
            warn!(network = record.key(), "it cannot be stored: {error}");
        }
        dropped.push(record);
    }
    networks.extend(dropped.iter().map(|record| record.key().parse()).collect::<Result<Vec<Name>, _>>()?);
    living.extend(dropped);
    living.extend(missing(store, &living, &networks)?);
    Ok(living)
}

/// An endpoint stored by an earlier version, with the present identity of its namespace.
fn identified(endpoint: &EndpointSpec, now: &Presences) -> Option<EndpointSpec> {
    let identity = now.get(endpoint.sandbox.as_ref()?)?;
    let is_old = endpoint.identity.is_none_or(|kept| kept.cookie.is_none()) && identity.cookie.is_some();
    is_old.then(|| EndpointSpec { identity: Some(identity), ..endpoint.clone() })
}

/// Recreates networks that are used but whose records are lost, as far as their endpoints allow. The records were in a part of
/// a damaged store that could not be read.
fn missing(store: &Store, living: &[Record], known: &BTreeSet<Name>) -> Result<Vec<Record>, Failure> {
    let mut missing: BTreeMap<Name, NetworkSpec> = BTreeMap::new();
    let mut network = |name: &Name| {
        missing.entry(name.clone()).or_insert_with(|| NetworkSpec::plain(name.clone()));
    };
    for record in living {
        match record {
            Record::Endpoint(it) if !known.contains(&it.network) => network(&it.network),
            Record::Port(it) => {
                it.carries.named().filter(|name| !known.contains(*name)).for_each(&mut network)
            }
            Record::Service(it) if !known.contains(&it.network) => network(&it.network),
            Record::Endpoint(_) | Record::Network(_) | Record::Service(_) => {}
        }
    }
    let endpoints = living.iter().filter_map(|record| match record {
        Record::Endpoint(endpoint) => Some(endpoint),
        _ => None,
    });
    for endpoint in endpoints {
        let Some(network) = missing.get_mut(&endpoint.network) else { continue };
        for address in &endpoint.addresses {
            let family = Family::of(*address);
            if network.subnet(family).is_none() {
                let gateway = endpoint.gateways.iter().copied().find(|it| Family::of(*it) == family);
                network.subnets.push(SubnetSpec { gateway, ..address.trunc().into() });
            }
        }
    }
    let mut records = Vec::new();
    for (name, mut network) in missing {
        network.id = Some(vswitch_host::random::id()?);
        network.created = Some(Timestamp::now());
        warn!(
            network = %name,
            "it is used, and its record is lost: it is recreated from the addresses in it, without its id, options, labels, VLAN \
             id and VNI"
        );
        let record = Record::Network(network.into());
        if let Err(error) = store.put(&record) {
            warn!(network = %name, "it cannot be stored: {error}");
        }
        records.push(record);
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::state::State;
    use vswitch_model::{EndpointSpec, Id};

    #[test]
    fn a_network_whose_record_is_lost_is_made_from_who_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        // There is no database to read.
        let store = Store::open_with(folder.path(), None, "/nonexistent".as_ref()).unwrap();
        let endpoint = json!({
            "id": Id::of("web"), "network": "blue", "name": "web", "ifname": "eth0", "mac": "02:42:0a:09:00:02",
            "addresses": ["10.9.0.2/24", "fd00::2/64"], "gateways": ["10.9.0.1"], "port": "web.blue",
            "created": "2026-11-27T09:17:32Z",
        });
        let port = json!({ "name": "desk", "network": "red", "kind": "tap" });
        let endpoint: EndpointSpec = serde_json::from_value(endpoint).unwrap();
        store.put(&Record::Endpoint(endpoint.into())).unwrap();
        store.put_port(&serde_json::from_value(port).unwrap()).unwrap();
        let config = Config::default();
        let living = living(&store, &config, &Membership::default()).unwrap();
        let networks: Vec<_> = living
            .iter()
            .filter_map(|record| match record {
                Record::Network(network) => Some((network.name.as_str(), network.subnets.clone())),
                _ => None,
            })
            .collect();
        let subnet = |text: &str, gateway: Option<&str>| SubnetSpec {
            gateway: gateway.map(|it| it.parse().unwrap()),
            ..text.parse::<ipnet::IpNet>().unwrap().into()
        };
        let subnets = vec![subnet("10.9.0.0/24", Some("10.9.0.1")), subnet("fd00::/64", None)];
        assert_eq!(networks, [("blue", subnets), ("red", vec![])]);
        assert!(State::start(config, living).is_ok(), "the daemon comes up with them");
        assert_eq!(store.load().len(), 4);
    }
}
