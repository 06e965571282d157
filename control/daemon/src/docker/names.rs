//! What an engine calls its containers: a driver is told ids alone, so the engine is asked.
//!
//! ```text
//! events: connect, rename, health_status ┐
//! all containers, at first and at times  ┴─ inspect ─ EndpointID ─> EndpointUpdate::Called
//! ```
//! The names are kept with the endpoint, so they stay while the engine is away, and after a restart of either. An engine is looked
//! for at times, and whenever the plugin is asked for an endpoint. Events are read before the list of containers, so nothing
//! between the two is missed. An engine does not inspect a container while it starts it: each is waited for on its own.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{debug, info, warn};

use super::{
    engine::{Engine, engines},
    swarm::Swarm,
};
use crate::{core::Handle, state::Called};
use vswitch_model::Id;

/// Interval of the search for engines.
const SEARCH: Duration = Duration::from_secs(5);

/// Interval at which an engine is asked for all containers, should an event have been lost.
const LIST: Duration = Duration::from_mins(1);

/// Interval at which an engine is asked for the tasks of its swarm on other hosts: it does not say when one comes.
const TASKS: Duration = Duration::from_secs(5);

/// Maximum number of containers that are inspected at once.
const LOOKS: usize = 16;

/// The events after which a container may be called otherwise.
const EVENTS: &str = r#"{"type":["network","container"],"event":["connect","rename","health_status"]}"#;

/// Labels of a container that are kept, at most.
const LABELS: usize = 64;

/// Bytes of a label and its key, at most: a longer one is not kept.
const LABEL: usize = 256;

/// Labels that name the service of a container: of Compose, of swarm.
const SERVICES: [&str; 2] = ["com.docker.compose.service", "com.docker.swarm.service.name"];

/// A container in the list of all that run.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    network_settings: Networks,
}

/// The used fields of a container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    id: String,
    name: String,
    config: Config,
    state: State,
    network_settings: Networks,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    labels: Option<HashMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    #[serde(default)]
    health: Option<Health>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Health {
    status: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Networks {
    #[serde(default)]
    networks: Option<HashMap<String, Attached>>,
}

impl Networks {
    fn each(&self) -> impl Iterator<Item = &Attached> {
        self.networks.iter().flat_map(HashMap::values)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attached {
    #[serde(rename = "EndpointID")]
    endpoint: String,
    #[serde(default)]
    aliases: Option<Vec<String>>,
    /// All names that the engine itself answers to (Docker 25).
    #[serde(default, rename = "DNSNames")]
    names: Option<Vec<String>>,
}

impl Container {
    /// Its endpoints by id, and what each is called.
    fn called(&self) -> impl Iterator<Item = (&str, Called)> {
        let name = self.name.trim_start_matches('/');
        let labels = self.config.labels.as_ref();
        let service = SERVICES.iter().find_map(|key| labels?.get(*key)).cloned();
        let health = self.state.health.as_ref().map(|health| health.status.as_str());
        // The engine adds the first digits of the id by itself, and so do we.
        let is_id = |alias: &str| alias.len() == 12 && self.id.starts_with(alias);
        self.network_settings.each().map(move |it| {
            let given = it.names.iter().chain(&it.aliases).flatten();
            let mut aliases: Vec<String> = Vec::new();
            for alias in given.filter(|alias| *alias != name && !is_id(alias)) {
                if !aliases.contains(alias) {
                    aliases.push(alias.clone());
                }
            }
            let called = Called {
                container: self.id.clone(),
                name: name.to_owned(),
                aliases,
                service: service.clone(),
                unready: matches!(health, Some("starting" | "unhealthy")),
                labels: kept(labels),
            };
            (it.endpoint.as_str(), called)
        })
    }
}

/// The labels that services may select a container by: not those of an image that carries half a manual along.
fn kept(labels: Option<&HashMap<String, String>>) -> BTreeMap<String, String> {
    let is_short = |(key, value): &(&String, &String)| key.len() + value.len() <= LABEL;
    let mut labels: Vec<_> = labels.into_iter().flatten().filter(is_short).collect();
    labels.sort_unstable();
    labels.into_iter().take(LABELS).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Follows all engines of this host until it is dropped. `asked` tells that an engine has called the plugin.
pub(crate) async fn follow(core: Handle, asked: Arc<Notify>) {
    let (mut following, mut followed) = (JoinSet::new(), BTreeSet::new());
    loop {
        for engine in engines() {
            if followed.insert(engine.clone()) {
                let core = core.clone();
                following.spawn(async move {
                    let ended = Follower::new(core, engine.clone()).follow().await;
                    (engine, ended)
                });
            }
        }
        tokio::select! {
            Some(Ok((engine, ended))) = following.join_next() => {
                match ended {
                    Ok(()) => info!(engine = %engine.socket().display(), "it has ended: its containers keep their names"),
                    Err(error) => warn!(engine = %engine.socket().display(), "its containers keep the names they have: {error}"),
                }
                // Not at once: what fails would fail again.
                sleep(Duration::from_secs(1)).await;
                followed.remove(&engine);
            }
            () = asked.notified() => {}
            () = sleep(SEARCH) => {}
        }
    }
}

/// What a look at a container found: the container's id, the number of the look, and the container if it is still there.
type Look = (String, u64, io::Result<Option<Container>>);

/// One engine.
struct Follower {
    core: Handle,
    engine: Engine,
    /// The name of the container of each endpoint, as it was looked at last.
    noted: HashMap<String, String>,
    looks: JoinSet<Look>,
    places: Arc<Semaphore>,
    /// The number of the last look at each container that is under way. What an earlier one found is old.
    latest: HashMap<String, u64>,
    number: u64,
    swarm: Swarm,
}

impl Follower {
    fn new(core: Handle, engine: Engine) -> Self {
        Self {
            core,
            engine,
            noted: HashMap::new(),
            looks: JoinSet::new(),
            places: Arc::new(Semaphore::new(LOOKS)),
            latest: HashMap::new(),
            number: 0,
            swarm: Swarm::default(),
        }
    }

    /// Follows it to its end.
    async fn follow(mut self) -> io::Result<()> {
        let mut events = self.engine.events(EVENTS).await?;
        debug!(engine = %self.engine.socket().display(), "its containers' names are followed");
        let mut again = interval(LIST);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tasks = interval(TASKS);
        tasks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.next() => match event? {
                    Some(event) => event.container().into_iter().for_each(|id| self.look(id)),
                    None => return Ok(()),
                },
                _ = again.tick() => self.list().await?,
                _ = tasks.tick() => self.swarm.look(&self.core, &self.engine).await?,
                Some(Ok((id, number, found))) = self.looks.join_next() => {
                    if self.latest.get(&id) == Some(&number) {
                        self.latest.remove(&id);
                        match found {
                            Ok(Some(container)) => self.note(&container).await,
                            Ok(None) => {}
                            // Of this container alone: the others are followed.
                            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                                debug!(container = id, "its names are not understood: {error}");
                            }
                            Err(error) => return Err(error),
                        }
                    }
                }
            }
        }
    }

    /// Looks at containers that are new, or have another name.
    async fn list(&mut self) -> io::Result<()> {
        let Some(body) = self.engine.ask("GET", "/containers/json").await? else { return Ok(()) };
        let listed: Vec<Listed> = serde_json::from_slice(&body)?;
        let mut there = HashSet::new();
        for Listed { id, names, network_settings } in listed {
            let mut is_new = false;
            for Attached { endpoint, .. } in network_settings.each() {
                let noted = self.noted.get(endpoint);
                let is_called = |noted: &String| names.iter().any(|it| it.trim_start_matches('/') == noted);
                is_new |= self.is_ours(endpoint) && !noted.is_some_and(is_called);
                there.insert(endpoint.clone());
            }
            if is_new {
                self.look(id);
            }
        }
        self.noted.retain(|endpoint, _| there.contains(endpoint));
        Ok(())
    }

    /// Inspects a container.
    fn look(&mut self, id: String) {
        self.number += 1;
        self.latest.insert(id.clone(), self.number);
        let (engine, places, number) = (self.engine.clone(), Arc::clone(&self.places), self.number);
        self.looks.spawn(async move {
            let _place = places.acquire_owned().await;
            let found = async {
                let Some(body) = engine.ask("GET", &format!("/containers/{id}/json")).await? else {
                    return Ok(None);
                };
                Ok(Some(serde_json::from_slice(&body)?))
            };
            let found = found.await;
            (id, number, found)
        });
    }

    fn is_ours(&self, endpoint: &str) -> bool {
        endpoint.parse::<Id>().is_ok_and(|id| self.core.snapshot().endpoint(&id).is_ok())
    }

    /// Tells the core what the endpoints of a container are called.
    async fn note(&mut self, container: &Container) {
        for (endpoint, called) in container.called() {
            let Ok(id) = endpoint.parse::<Id>() else { continue };
            let snapshot = self.core.snapshot();
            let Ok(ours) = snapshot.endpoint(&id) else { continue };
            self.noted.insert(endpoint.to_owned(), called.name.clone());
            if !snapshot.state.is_called(&ours.spec, &called)
                && let Err(error) = self.core.called(id, called).await
            {
                // It has ended meanwhile, or is tried again with the next list.
                debug!(endpoint, "its name is not noted: {}", error.sentence);
                self.noted.remove(endpoint);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_is_called_what_the_engine_says() {
        let id = "4f5c".repeat(16);
        let container = json!({
            "Id": id, "Name": "/shop-api-1", "State": { "Status": "running", "Health": { "Status": "starting" } },
            "Config": { "Labels": { "com.docker.compose.service": "api" }, "Hostname": "4f5c4f5c4f5c" },
            "NetworkSettings": { "Networks": {
                "blue": { "EndpointID": "e1", "Aliases": ["shop-api-1", "api", "4f5c4f5c4f5c"] },
                "red": { "EndpointID": "", "Aliases": null, "DNSNames": ["shop-api-1", "sql", "4f5c4f5c4f5c"] },
            }},
        });
        let container: Container = serde_json::from_value(container).unwrap();
        let mut called: Vec<_> = container.called().collect();
        called.sort_by_key(|(endpoint, _)| *endpoint);
        let expected = |alias: &str| Called {
            container: id.clone(),
            name: "shop-api-1".into(),
            aliases: vec![alias.into()],
            service: Some("api".into()),
            unready: true,
            labels: [("com.docker.compose.service".into(), "api".into())].into(),
        };
        assert_eq!(called, [("", expected("sql")), ("e1", expected("api"))]);
    }

    #[test]
    fn a_container_without_labels_health_or_networks() {
        let bare = json!({
            "Id": "1a", "Name": "/db", "Config": { "Labels": null }, "State": { "Running": true },
            "NetworkSettings": { "Networks": { "blue": { "EndpointID": "e1", "Aliases": null } } },
        });
        let container: Container = serde_json::from_value(bare).unwrap();
        let (_, called) = container.called().next().unwrap();
        assert!(called.aliases.is_empty() && called.service.is_none() && !called.unready);
        assert!(called.labels.is_empty());
        let long =
            HashMap::from([("help".to_owned(), "x".repeat(LABEL)), ("app".to_owned(), "web".to_owned())]);
        assert_eq!(kept(Some(&long)).into_keys().collect::<Vec<_>>(), ["app"]);
        let listed: Listed = serde_json::from_value(json!({
            "Id": "1a", "Names": ["/db"], "NetworkSettings": { "Networks": null },
        }))
        .unwrap();
        assert_eq!(listed.network_settings.each().count(), 0);
    }
}
