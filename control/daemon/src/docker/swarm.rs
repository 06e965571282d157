//! The tasks of a swarm on other hosts: their names, as the engine of this host knows them.
//!
//! An engine knows all tasks of a network that it has, and says nothing when one comes or goes elsewhere, so it is asked at times. Docker's
//! own server answers its containers at once from what it knows; ours answers sandboxes, and whom Docker does not.
//!
//! A service that is not created with `--endpoint-mode dnsrr` has an address, to which Docker's own server leads its clients; Docker serves
//! that for its own driver alone. So the switch serves it: to the tasks of this host, and to those of other hosts as they were known last.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::Arc,
};

use serde::Deserialize;
use tracing::{debug, warn};

use super::{
    engine::{Engine, Listed},
    names::SWARM_SERVICE,
};
use crate::{
    core::{Handle, Request},
    state::{Command, RemoteBackend, SwarmServices, derived_mac},
};
use vswitch_model::{Id, Name, ServiceSpec};
use vswitch_names::Record;

/// The networks of swarms, as a filter of the engine's API in percent encoding: `{"scope":["swarm"]}`.
const NETWORKS: &str = "/networks?filters=%7B%22scope%22%3A%5B%22swarm%22%5D%7D";

/// Maximum number of services that are remembered as warned of.
const WARNED: usize = 1024;

/// What an engine knows of a network, tasks of all hosts included.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
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
    #[serde(default)]
    info: Option<BTreeMap<String, String>>,
}

impl Task {
    /// The task as the switch of another host sees it: its station has the MAC address that each of our hosts derives.
    fn backend(&self) -> Option<RemoteBackend> {
        let address: IpAddr = self.address.parse().ok()?;
        let host = self.info.as_ref().and_then(|info| info.get("Host IP")?.parse().ok());
        Some(RemoteBackend {
            id: super::driver::id(&self.endpoint).ok()?,
            name: self.name.parse().ok()?,
            host: host.or_else(|| "swarm".parse().ok())?,
            is_there: true,
            mac: derived_mac(address),
            addresses: vec![address],
            passes: true,
        })
    }
}

impl Network {
    /// The names of the tasks that are on other hosts.
    fn elsewhere(&self, is_here: impl Fn(&str) -> bool) -> Vec<Record> {
        let has_address = |service: &str| self.addressed().any(|(name, _)| name == service);
        let services = self.services.iter().flatten();
        let tasks =
            services.flat_map(|(service, it)| it.tasks.iter().flatten().map(move |task| (service, task)));
        let record = |(service, task): (&String, &Task)| {
            let address: IpAddr = task.address.parse().ok()?;
            let record = Record {
                name: task.name.clone(),
                addresses: vec![address],
                // Containers that were started by hand are those of a service without a name.
                service: Some(service.clone()).filter(|name| !name.is_empty() && !has_address(name)),
                aliases: if has_address(service) { vec![format!("tasks.{service}")] } else { Vec::new() },
                ..Record::default()
            };
            Some(record).filter(|_| !is_here(&task.endpoint))
        };
        tasks.filter_map(record).collect()
    }

    /// Adds the services that have an address to `given`, in the network `ours`, with their tasks on other hosts.
    fn serve(&self, ours: &Name, is_here: impl Fn(&str) -> bool, given: &mut SwarmServices) {
        for (service, address) in self.addressed() {
            let Ok(name) = service.parse::<Name>() else { continue };
            // The swarm gives a service an address in each of its networks, and we have one service of a name.
            if given.backends.contains_key(&name) {
                continue;
            }
            let mut spec = ServiceSpec::plain(name.clone(), ours.clone());
            spec.address = vec![address];
            spec.selector = [(SWARM_SERVICE.to_owned(), service.to_owned())].into();
            given.services.push(spec.into());
            let tasks = self.services.iter().flatten().filter(|(name, _)| *name == service);
            let tasks =
                tasks.flat_map(|(_, it)| it.tasks.iter().flatten()).filter(|it| !is_here(&it.endpoint));
            given.backends.insert(name, tasks.filter_map(Task::backend).collect());
        }
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
    given: Arc<SwarmServices>,
}

impl Swarm {
    /// Asks for all tasks, and tells the core their names.
    pub(super) async fn look(&mut self, core: &Handle, engine: &Engine) -> io::Result<()> {
        let has_any = core.snapshot().state.networks().any(|it| it.spec.swarm);
        let has_told = !self.told.is_empty() || *self.given != SwarmServices::default();
        if !has_any && !has_told && core.snapshot().engines.adopted.is_empty() {
            return Ok(());
        }
        let mut given = SwarmServices::default();
        let Some(body) = engine.ask("GET", NETWORKS).await? else { return Ok(()) };
        let listed: Vec<Listed> = serde_json::from_slice(&body)?;
        let mut seen = BTreeSet::new();
        for Listed { id } in listed {
            let Some(name) = ours(core, &id) else { continue };
            let path = format!("/networks/{id}?verbose=true");
            let Some(body) = engine.ask("GET", &path).await? else { continue };
            let network: Network = serde_json::from_slice(&body)?;
            let is_here =
                |endpoint: &str| endpoint.parse::<Id>().is_ok_and(|id| core.snapshot().endpoint(&id).is_ok());
            network.serve(&name, is_here, &mut given);
            self.tell(core, name.clone(), network.elsewhere(is_here)).await;
            seen.insert(name);
        }
        if *self.given != given {
            let given = Arc::new(given);
            match core.execute(Command::FollowSwarm(Arc::clone(&given))).await {
                Ok(_) => self.given = given,
                Err(error) => debug!("the services of a swarm are not taken: {}", error.sentence),
            }
        }
        self.warn(core);
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

    /// Tells of services that cannot be served, once of each.
    fn warn(&mut self, core: &Handle) {
        let snapshot = core.snapshot();
        for service in &self.given.services {
            let is_served = snapshot.state.service(&service.name).is_some_and(|it| it.spec == *service);
            if !is_served && self.warned.len() < WARNED && self.warned.insert(format!("{service:?}")) {
                warn!(
                    "service {0} of the swarm is not served at {1:?}, for another service has its name, or an endpoint its address: \
                     rename it, or `docker service update --endpoint-mode dnsrr {0}`",
                    service.name, service.address
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
        let task = |name: &str, endpoint: &str, address: &str| json!({ "Name": name, "EndpointID": endpoint, "EndpointIP": address, "Info": { "Host IP": "10.8.0.2" } });
        let network: Network = serde_json::from_value(json!({
            "Name": "blue", "Id": "ptb06l5fzmxx6aj4emg5ez1gp", "Scope": "swarm",
            "Services": {
                "api": { "VIP": "<nil>", "Ports": [], "Tasks": [task("api.1.x", "e1", "10.77.0.6"), task("api.2.y", "e2", "10.77.0.7")] },
                "web": { "VIP": "10.77.0.5", "Tasks": [task("web.1.z", "e5", "10.77.0.10"), task("web.2.z", "e1", "10.77.0.11")] },
                "idle": { "VIP": "10.77.0.4", "Tasks": null },
                "": { "VIP": "<nil>", "Tasks": [task("job", "e3", "10.77.0.9"), task("odd", "e4", "")] },
            },
        }))
        .unwrap();
        let records = network.elsewhere(|endpoint| endpoint == "e1");
        let said: Vec<_> = records.iter().map(|it| (it.name.as_str(), it.service.as_deref())).collect();
        // What has an address has that by its name, and its tasks by another.
        assert_eq!(said, [("job", None), ("api.2.y", Some("api")), ("web.1.z", None)]);
        assert_eq!(records[2].aliases, ["tasks.web"]);
        let mut given = SwarmServices::default();
        network.serve(&"ours".parse().unwrap(), |endpoint| endpoint == "e1", &mut given);
        let services: Vec<_> =
            given.services.iter().map(|it| (it.name.as_str(), it.address[0].to_string())).collect();
        assert_eq!(services, [("idle", "10.77.0.4".into()), ("web", "10.77.0.5".into())]);
        let tasks = &given.backends[&"web".parse::<Name>().unwrap()];
        assert_eq!((tasks.len(), tasks[0].name.as_str(), tasks[0].host.as_str()), (1, "web.1.z", "10.8.0.2"));
        assert_eq!(tasks[0].mac.0, [2, 0x42, 10, 77, 0, 10]);
        let bare: Network = serde_json::from_value(json!({ "Name": "blue" })).unwrap();
        assert!(bare.elsewhere(|_| false).is_empty());
    }
}
