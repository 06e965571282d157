//! The tasks of a swarm on other hosts: their names, as the engine of this host knows them.
//!
//! An engine knows all tasks of a network that it has, and says nothing when one comes or goes elsewhere, so it is asked at times. Docker's
//! own server answers its containers at once from what it knows; ours answers sandboxes, and whom Docker does not.
//!
//! A service that is not created with `--endpoint-mode dnsrr` gets an address from the swarm, to which Docker's own server leads its
//! clients; Docker serves that for its own driver alone. A warning says so, once for each service.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::Arc,
};

use serde::Deserialize;
use tracing::{debug, warn};

use super::engine::Engine;
use crate::core::{Handle, Request};
use vswitch_model::{Id, Name};
use vswitch_names::Record;

/// The networks of swarms, as a filter of the engine's API in percent encoding: `{"scope":["swarm"]}`.
const NETWORKS: &str = "/networks?filters=%7B%22scope%22%3A%5B%22swarm%22%5D%7D";

/// Maximum number of services that are remembered as warned of.
const WARNED: usize = 1024;

/// A network in the list of all.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
}

/// What an engine knows of a network, tasks of all hosts included.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    name: String,
    #[serde(default)]
    services: Option<BTreeMap<String, Service>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(default, rename = "VIP")]
    vip: String,
    #[serde(default)]
    tasks: Option<Vec<Task>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Task {
    name: String,
    #[serde(rename = "EndpointID")]
    endpoint: String,
    #[serde(rename = "EndpointIP")]
    address: String,
}

impl Network {
    /// The names of the tasks that are on other hosts.
    fn elsewhere(&self, is_here: impl Fn(&str) -> bool) -> Vec<Record> {
        let services = self.services.iter().flatten();
        let tasks =
            services.flat_map(|(service, it)| it.tasks.iter().flatten().map(move |task| (service, task)));
        let record = |(service, task): (&String, &Task)| {
            let address: IpAddr = task.address.parse().ok()?;
            let record = Record {
                name: task.name.clone(),
                addresses: vec![address],
                // Containers that were started by hand are those of a service without a name.
                service: Some(service.clone()).filter(|name| !name.is_empty()),
                ..Record::default()
            };
            Some(record).filter(|_| !is_here(&task.endpoint))
        };
        tasks.filter_map(record).collect()
    }

    /// The services that have an address of their own.
    fn addressed(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        let services = self.services.iter().flatten();
        services.filter_map(|(name, it)| Some((name.as_str(), it.vip.parse().ok()?)))
    }
}

/// What was told of the swarms that one engine is in.
#[derive(Debug, Default)]
pub(super) struct Swarm {
    /// The names that the core was told, by network.
    told: BTreeMap<Name, Arc<[Record]>>,
    warned: BTreeSet<String>,
}

impl Swarm {
    /// Asks for all tasks, and tells the core their names.
    pub(super) async fn look(&mut self, core: &Handle, engine: &Engine) -> io::Result<()> {
        let has_any = core.snapshot().state.networks().any(|it| it.spec.swarm);
        if !has_any && self.told.is_empty() && core.snapshot().engines.adopted.is_empty() {
            return Ok(());
        }
        let Some(body) = engine.ask("GET", NETWORKS).await? else { return Ok(()) };
        let listed: Vec<Listed> = serde_json::from_slice(&body)?;
        let mut seen = BTreeSet::new();
        for Listed { id } in listed {
            let Some(name) = ours(core, &id) else { continue };
            let path = format!("/networks/{id}?verbose=true");
            let Some(body) = engine.ask("GET", &path).await? else { continue };
            let network: Network = serde_json::from_slice(&body)?;
            self.warn(&network);
            let is_here =
                |endpoint: &str| endpoint.parse::<Id>().is_ok_and(|id| core.snapshot().endpoint(&id).is_ok());
            self.tell(core, name.clone(), network.elsewhere(is_here)).await;
            seen.insert(name);
        }
        let over: Vec<_> = self.told.keys().filter(|name| !seen.contains(name)).cloned().collect();
        for name in over {
            self.tell(core, name.clone(), Vec::new()).await;
            self.told.remove(&name);
        }
        Ok(())
    }

    async fn tell(&mut self, core: &Handle, name: Name, records: Vec<Record>) {
        if self.told.get(&name).map_or(records.is_empty(), |told| **told == *records) {
            return;
        }
        let records: Arc<[Record]> = records.into();
        let given = Arc::clone(&records);
        match core.tell(|reply| Request::Names(name.clone(), given, reply)).await {
            Ok(_) => drop(self.told.insert(name, records)),
            Err(error) => debug!(%name, "the names of a swarm are not taken: {}", error.sentence),
        }
    }

    fn warn(&mut self, network: &Network) {
        for (service, address) in network.addressed() {
            if self.warned.len() < WARNED && self.warned.insert(format!("{service} {address}")) {
                warn!(
                    "service {service} of the swarm has the address {address} in network {}, and nothing answers there: \
                     `docker service update --endpoint-mode dnsrr {service}`",
                    network.name
                );
            }
        }
    }
}

/// The network of ours that an engine knows by this id.
fn ours(core: &Handle, id: &str) -> Option<Name> {
    let id = super::driver::id(id).ok()?;
    let snapshot = core.snapshot();
    let adopted = snapshot.engines.adopted.get(&id).cloned();
    adopted.or_else(|| snapshot.state.networks().find(|it| it.spec.id() == id).map(|it| it.spec.name.clone()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tasks_of_other_hosts_have_names_and_addresses_of_services_are_found() {
        let task = |name: &str, endpoint: &str, address: &str| json!({ "Name": name, "EndpointID": endpoint, "EndpointIP": address, "Info": {} });
        let network: Network = serde_json::from_value(json!({
            "Name": "blue", "Id": "ptb06l5fzmxx6aj4emg5ez1gp", "Scope": "swarm",
            "Services": {
                "api": { "VIP": "<nil>", "Ports": [], "Tasks": [task("api.1.x", "e1", "10.77.0.6"), task("api.2.y", "e2", "10.77.0.7")] },
                "web": { "VIP": "10.77.0.5", "Tasks": null },
                "": { "VIP": "<nil>", "Tasks": [task("job", "e3", "10.77.0.9"), task("odd", "e4", "")] },
            },
        }))
        .unwrap();
        let records = network.elsewhere(|endpoint| endpoint == "e1");
        let said: Vec<_> = records.iter().map(|it| (it.name.as_str(), it.service.as_deref())).collect();
        assert_eq!(said, [("job", None), ("api.2.y", Some("api"))]);
        assert_eq!(network.addressed().collect::<Vec<_>>(), [("web", "10.77.0.5".parse().unwrap())]);
        let bare: Network = serde_json::from_value(json!({ "Name": "blue" })).unwrap();
        assert!(bare.elsewhere(|_| false).is_empty());
    }
}
