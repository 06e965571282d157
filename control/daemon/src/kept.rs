//! What was kept, held against what is there when the daemon starts.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{info, warn};

use super::{Failure, sight};
use crate::{state::Record, store::Store};
use vswitch_model::{Config, Name};

/// What is kept, without the endpoints whose sandboxes ended while nobody looked.
///
/// The file may have dropped a network meanwhile that endpoints are in, or that ports carry. A running daemon refuses that;
/// one that starts goes on with the network as it was, as if the API had made it, so that the host and its containers come
/// up. It is the file's again when the file declares it again.
pub(crate) fn living(store: &Store, config: &Config) -> Result<Vec<Record>, Failure> {
    let mut living = Vec::new();
    let mut networks: BTreeSet<Name> = config.networks.iter().map(|it| it.name.clone()).collect();
    // What cannot be written now does not keep the host's containers down: it is found again at the next start.
    let forget = |record: &Record| {
        if let Err(error) = store.remove(record.kind(), record.key()) {
            warn!("{} {} is kept still: {error}", record.kind(), record.key());
        }
    };
    for record in store.load() {
        match &record {
            Record::Endpoint(endpoint) if sight::is_orphan(endpoint) => {
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
            Record::Port(_) | Record::Endpoint(_) => {}
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
            Record::Network(_) => {}
        }
    }
    let mut dropped = Vec::new();
    for network in store.declared().into_iter().filter(|it| !networks.contains(&it.name)) {
        let Some(users) = users.get(&network.name) else { continue };
        warn!(
            network = %network.name,
            "the file declares it no longer, but {} use it: it is kept as it was; declare it again, or remove it with \
             `vswitchctl network rm {}` when nobody does",
            users.join(", "),
            network.name
        );
        let record = Record::Network(network.into());
        if let Err(error) = store.put(&record) {
            warn!(network = record.key(), "it is not kept: {error}");
        }
        dropped.push(record);
    }
    living.extend(dropped);
    Ok(living)
}
