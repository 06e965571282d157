//! Invariants of a state, and of a change from one to another.

use super::{Kind, NetworkError, Origin, Refusal, State, change::fields, registry::Entry};
use vswitch_model::{
    ApiSpec, Config, DnsSpec, DockerSpec, PortSpec, SwitchSpec,
    rules::{self, Index},
};

impl State {
    /// Refuses changes of what a process gets at its start.
    pub(super) fn same_process(&self, config: &Config) -> Result<(), Refusal> {
        let given = |switch: &SwitchSpec, api: &ApiSpec, docker: &DockerSpec, dns: &DnsSpec| {
            let workers = switch.workers.map_or_else(|| "auto".into(), |number| number.to_string());
            serde_json::json!({
                "switch": {
                    "workers": workers,
                    "state": switch.state,
                    "mac_limit": switch.mac_limit,
                    "accelerate": switch.accelerate,
                },
                "api": api,
                "docker": docker,
                "dns": dns
            })
        };
        let old = given(&self.switch, &self.api, &self.docker, &self.dns);
        let new = given(&config.switch, &config.api, &config.docker, &config.dns);
        let changes: Vec<_> =
            fields(&old, &new).map(|(key, old, new)| format!("{key} ({old} -> {new})")).collect();
        if changes.is_empty() { Ok(()) } else { Err(Refusal::NeedsRestart(changes)) }
    }

    /// Checks everything against the rules. New objects come last, because the last one of a conflict is blamed.
    pub(super) fn check(&self, old: &Self) -> Result<(), Refusal> {
        if let Some(bereft) = self.endpoints().find(|it| self.networks.entry(&it.network).is_none()) {
            let endpoints = self.endpoints_of(&bereft.network).map(|it| it.name.to_string()).collect();
            return Err(NetworkError::ActiveEndpoints(bereft.network.clone(), endpoints).into());
        }
        self.none_is_bereft(old)?;
        self.check_all_services(old)?;
        for entry in self.networks.entries().filter(|entry| !old.networks.holds(entry)) {
            self.subnets_of(&entry.spec)?;
        }
        let mut networks: Vec<_> = self.networks.entries().collect();
        networks.sort_by_cached_key(|entry| (!old.networks.holds(entry), entry.origin == Origin::File));
        let networks: Vec<_> = networks.into_iter().map(|entry| &*entry.spec).collect();
        let mut ports: Vec<_> = self.ports.entries().collect();
        ports.sort_by_cached_key(|entry| (!old.ports.holds(entry), entry.origin == Origin::File));
        let ports: Vec<_> = ports.into_iter().map(|entry| &*entry.spec).collect();
        let faults = rules::check(&networks, &ports);
        let sentence = |fault: rules::Fault| {
            let (kind, name) = match fault.at.object {
                Index::Network(index) => (Kind::Network, &networks[index].name),
                Index::Port(index) => (Kind::Port, &ports[index].name),
            };
            format!("{kind} {name}: {}: {}", fault.at.field(), fault.what)
        };
        if faults.is_empty() {
            Ok(())
        } else {
            Err(Refusal::Invalid(faults.into_iter().map(sentence).collect()))
        }
    }

    /// Refuses to remove a network that ports carry.
    fn none_is_bereft(&self, old: &Self) -> Result<(), Refusal> {
        for network in old.networks.entries().map(|entry| &entry.spec.name) {
            if self.networks.entry(network).is_some() {
                continue;
            }
            let carries = |entry: &&Entry<PortSpec>| entry.spec.carries.named().any(|it| it == network);
            let ports: Vec<_> = self.ports.entries().filter(carries).map(|it| it.spec.name.clone()).collect();
            if !ports.is_empty() {
                return Err(Refusal::InUse { network: network.clone(), ports });
            }
        }
        Ok(())
    }
}
