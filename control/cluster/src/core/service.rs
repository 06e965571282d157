//! Services of global networks: a record each, and a key for each thing that only one of them can have.
//!
//! ```text
//! svc/NETWORK/web      the service                   NETWORK cannot be removed while there are such
//! svcname/web          its network                   its name is unique in the cluster
//! vip/NETWORK/10.0.0.9 web                           an address of a block of the host that has created it
//! port/tcp/8080        web                           the port that it publishes, on every host
//! ```
//! One transaction puts all of them, so two hosts that want the same thing at once cannot both have it. Who serves is not here: each
//! endpoint's own record says it.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use vswitch_model::{Id, Name, NetworkSpec, ServiceSpec};

use super::{
    Cluster,
    ask::{Refused, Verdict, no_network},
};
use crate::{
    blocks,
    keys::{Key, Short},
    record::Record,
    store::{Compare, Op, Revision, Txn},
};

impl Cluster {
    /// The services of a network.
    pub(super) fn services_of<'c>(&'c self, network: &'c Name) -> impl Iterator<Item = &'c Arc<ServiceSpec>> {
        self.services().filter(move |it| it.network == *network)
    }

    /// A service and the revision of its record.
    fn service(&self, name: &Name) -> Option<(&Arc<ServiceSpec>, Revision)> {
        let spec = self.services().find(|it| it.name == *name)?;
        let network = self.network_named(&spec.network)?;
        let entry = self.mirror.get(&Key::Service(Short::from(&network.id()), name.clone()))?;
        match &entry.record {
            Record::Service(spec) => Some((spec, entry.modified)),
            _ => None,
        }
    }

    fn network_named(&self, name: &Name) -> Option<&Arc<NetworkSpec>> {
        self.networks().find(|it| it.name == *name)
    }

    pub(super) fn judge_service(&self, spec: &ServiceSpec) -> Result<Verdict, Refused> {
        let network = self.network_named(&spec.network).ok_or_else(|| no_network(spec.network.as_str()))?;
        let id = network.id();
        if self.service(&spec.name).is_some_and(|(there, _)| **there == *spec) {
            return Ok(Verdict::Done);
        }
        if self.mirror.holds(&Key::ServiceName(spec.name.clone())) {
            return Err(Refused::conflict(format!("service {} exists already: remove it first", spec.name)));
        }
        for address in &spec.address {
            self.check_vip(network, spec, *address)?;
        }
        self.check_ports(spec)?;
        let keys = keys(&id, spec);
        let full = |key: &Key| self.mirror.full(key);
        let mut when: Vec<_> = keys.keys().map(|key| Compare::Absent(full(key))).collect();
        when.push(Compare::Present(full(&Key::Network((&id).into()))));
        // The block may be lost to another host meanwhile.
        when.extend(
            spec.address
                .iter()
                .filter_map(|it| self.block_of(network, *it))
                .map(|it| Compare::Present(full(&it))),
        );
        let then = keys.iter().map(|(key, record)| self.put(key, record)).collect();
        Ok(Verdict::Needs(Txn { when, then }))
    }

    pub(super) fn judge_service_update(&self, spec: &ServiceSpec) -> Result<Verdict, Refused> {
        let (before, modified) = self.service(&spec.name).ok_or_else(|| no_service(&spec.name))?;
        if **before == *spec {
            return Ok(Verdict::Done);
        }
        if (&before.network, &before.address) != (&spec.network, &spec.address) {
            return Err(Refused::conflict(format!(
                "service {} was removed and created anew meanwhile: look at it, and try again",
                spec.name
            )));
        }
        let network =
            self.network_named(&before.network).ok_or_else(|| no_network(before.network.as_str()))?;
        self.check_ports(spec)?;
        let id = network.id();
        let (old, new) = (keys(&id, before), keys(&id, spec));
        let full = |key: &Key| self.mirror.full(key);
        let own = Key::Service((&id).into(), spec.name.clone());
        let mut when = vec![Compare::Modified(full(&own), modified)];
        when.extend(new.keys().filter(|key| !old.contains_key(key)).map(|key| Compare::Absent(full(key))));
        let gone = old.keys().filter(|key| !new.contains_key(key)).map(|key| Op::Delete(full(key)));
        let put = new.iter().filter(|(key, record)| old.get(key) != Some(record));
        let then = gone.chain(put.map(|(key, record)| self.put(key, record))).collect();
        Ok(Verdict::Needs(Txn { when, then }))
    }

    pub(super) fn judge_service_removal(&self, name: &Name, begun: bool) -> Result<Verdict, Refused> {
        let Some((spec, modified)) = self.service(name) else {
            return if begun { Ok(Verdict::Done) } else { Err(no_service(name)) };
        };
        let network = self.network_named(&spec.network).ok_or_else(|| no_network(spec.network.as_str()))?;
        let full = |key: &Key| self.mirror.full(key);
        let own = Key::Service((&network.id()).into(), name.clone());
        let when = vec![Compare::Modified(full(&own), modified)];
        let then = keys(&network.id(), spec).keys().map(|key| Op::Delete(full(key))).collect();
        Ok(Verdict::Needs(Txn { when, then }))
    }

    /// Checks that a service can have an address: nobody else does, and this host assigns it.
    fn check_vip(&self, network: &NetworkSpec, spec: &ServiceSpec, address: IpAddr) -> Result<(), Refused> {
        let short = Short::from(&network.id());
        if let Some(other) = self.services_of(&network.name).find(|it| it.address.contains(&address)) {
            return Err(Refused::conflict(format!(
                "service {}: address {address} is that of service {}: choose another",
                spec.name, other.name
            )));
        }
        let taken = self.mirror.endpoints(short).find(|(it, _)| it.ips.contains(&address));
        if let Some((endpoint, _)) = taken {
            return Err(Refused::conflict(format!(
                "service {}: address {address} is that of endpoint {} on {}: choose another",
                spec.name, endpoint.name, endpoint.host
            )));
        }
        let block = self.block_of(network, address);
        if block.is_some_and(|block| self.held.contains_key(&block)) {
            return Ok(());
        }
        let holder = self.mirror.blocks(short).find(|it| it.range.contains(&address));
        Err(match holder {
            Some(other) => Refused::conflict(format!(
                "service {}: address {address} is one of those that host {} assigns: create the service there, or choose another",
                spec.name, other.host
            )),
            None => Refused::unavailable(format!(
                "service {}: address {address} is not reserved for this host yet: try again",
                spec.name
            )),
        })
    }

    /// The key of the block that an address is in.
    fn block_of(&self, network: &NetworkSpec, address: IpAddr) -> Option<Key> {
        let subnet = network.subnets.iter().find(|it| it.subnet.contains(&address))?.subnet;
        Some(Key::Block((&network.id()).into(), blocks::of(subnet, address)?.network()))
    }

    /// Checks that no other service publishes these ports.
    fn check_ports(&self, spec: &ServiceSpec) -> Result<(), Refused> {
        for (key, port) in ports(spec) {
            let entry = self.mirror.get(&key).map(|it| &it.record);
            if let Some(Record::Held(other)) = entry
                && *other != spec.name
            {
                return Err(Refused::conflict(format!(
                    "service {}: port {port} of the hosts is published by service {other}: choose another",
                    spec.name
                )));
            }
        }
        Ok(())
    }

    /// A service that a restored store has lost, of a network that it has.
    pub(super) fn service_revival(&self) -> Option<Txn> {
        self.restored?;
        let full = |key: &Key| self.mirror.full(key);
        self.mirror.ghostly().find_map(|(key, record)| {
            let (Key::Service(short, _), Record::Service(spec)) = (key, record) else { return None };
            let there = Key::Network(*short);
            let Record::Network(network) = &self.mirror.get(&there)?.record else { return None };
            let keys = keys(&network.id(), spec);
            if keys.keys().any(|key| self.mirror.get(key).is_some()) {
                return None;
            }
            let absent = keys.keys().map(|key| Compare::Absent(full(key)));
            let when = absent.chain([Compare::Present(full(&there))]).collect();
            Some(Txn { when, then: keys.iter().map(|(key, record)| self.put(key, record)).collect() })
        })
    }
}

/// All keys of a service.
fn keys(network: &Id, spec: &ServiceSpec) -> BTreeMap<Key, Record> {
    let short = Short::from(network);
    let held = || Record::Held(spec.name.clone());
    let mut keys = BTreeMap::from([
        (Key::Service(short, spec.name.clone()), Record::Service(spec.clone().into())),
        (Key::ServiceName(spec.name.clone()), Record::Taken(network.clone())),
    ]);
    keys.extend(spec.address.iter().map(|address| (Key::Vip(short, *address), held())));
    keys.extend(ports(spec).map(|(key, _)| (key, held())));
    keys
}

/// The keys of the ports that it publishes, and how they are written.
fn ports(spec: &ServiceSpec) -> impl Iterator<Item = (Key, String)> {
    spec.publish.iter().flat_map(|port| {
        let protocol = port.protocol;
        port.pairs().map(move |(at, _)| (Key::Port(protocol, at), format!("{at}/{protocol}")))
    })
}

fn no_service(name: &Name) -> Refused {
    Refused::missing(format!("there is no service {name}"))
}
