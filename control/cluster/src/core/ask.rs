//! Requests of this host that need the agreement of the cluster.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use vswitch_model::{
    Driver, Error, ErrorKind, Family, Id, Ipam, Name, NetworkSpec, ServiceSpec, SubnetSpec, Vni,
    ipam::{self, Holder, IpamError, Subnet},
};

use super::{AskId, Cluster, Link, Output, PATIENCE, reconcile::Purpose};
use crate::{
    blocks,
    keys::{Key, Short},
    record::{Availability, Node, Record},
    store::{Compare, Op, Revision, Txn},
};

/// The first VNI that is assigned.
const FIRST_VNI: u32 = 4096;

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Create a network, and choose what is not given.
    CreateNetwork {
        /// The network, with its id.
        spec: Box<NetworkSpec>,
        /// Subnets of this host that it must not overlap, with their holders; those without are only avoided where a subnet is
        /// chosen.
        avoid: Vec<(IpNet, Option<Holder>)>,
        /// VNIs that it must not have: those of this host's own networks.
        taken: Vec<u32>,
    },
    /// Replace the record of a network by one of the same name, VNI and subnets.
    UpdateNetwork(Box<NetworkSpec>),
    /// Remove a network in which no host has endpoints.
    RemoveNetwork(Id),
    /// Create a service of a network, which has its addresses.
    CreateService(Box<ServiceSpec>),
    /// Replace the record of a service by one with the same addresses.
    UpdateService(Box<ServiceSpec>),
    /// Remove a service.
    RemoveService(Name),
    /// See to it that this host can assign an address of a network: that one, or any of the family.
    Reserve {
        /// The network.
        network: Id,
        /// The address.
        address: Option<IpAddr>,
    },
    /// Wait until the copy is at this revision.
    Reach(Revision),
    /// Let a new host in under a name that no host has.
    AdmitHost {
        /// Its name.
        name: Name,
        /// Its record.
        node: Box<Node>,
    },
    /// Take back the admission of a host that is not there after all.
    RetractHost {
        /// Its name.
        name: Name,
        /// The membership that it does not begin.
        id: Id,
    },
    /// Remove a host, and everything that it has in the store.
    RemoveHost(Name),
    /// Change a host's record: availability, labels to set or to remove.
    UpdateHost {
        /// The host.
        host: Name,
        /// Its availability.
        availability: Option<Availability>,
        /// Labels; those without a value are removed.
        labels: Vec<(String, Option<String>)>,
    },
}

/// Why a request is refused.
pub type Refused = Refusal;

/// A sentence, and its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct Refusal {
    /// Its kind.
    pub kind: ErrorKind,
    /// The sentence.
    pub sentence: String,
}

impl Refusal {
    pub(super) fn conflict(sentence: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Conflict, sentence: sentence.into() }
    }

    pub(super) fn missing(sentence: impl Into<String>) -> Self {
        Self { kind: ErrorKind::NotFound, sentence: sentence.into() }
    }

    pub(super) fn unavailable(sentence: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Unavailable, sentence: sentence.into() }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.kind, refusal.sentence)
    }
}

impl From<IpamError> for Refusal {
    fn from(error: IpamError) -> Self {
        Self::conflict(error.to_string())
    }
}

/// A request that waits.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) id: AskId,
    pub(super) ask: Ask,
    pub(super) until: Duration,
    /// Whether a transaction for it was begun, which may have been executed.
    pub(super) begun: bool,
}

impl Pending {
    pub(super) fn new(id: AskId, ask: Ask, now: Duration) -> Self {
        Self { id, ask, until: now + PATIENCE, begun: false }
    }
}

/// What a request comes to, as far as the copy tells.
pub(super) enum Verdict {
    /// It is done.
    Done,
    /// It needs this transaction.
    Needs(Txn),
    /// It needs events that are on their way.
    Waits,
}

impl Cluster {
    /// Answers what the copy answers, and begins a transaction for the first request that needs one.
    pub(super) fn serve_asks(&mut self, now: Duration, out: &mut Vec<Output>) {
        let mut waiting = std::mem::take(&mut self.asks);
        while let Some(mut pending) = waiting.pop_front() {
            // Without the store only what this host can answer alone is answered.
            let offline = self.link != Link::Following;
            let settled = self.mirror.revision() >= self.settle.0 || now >= self.settle.1;
            let is_free = !offline && settled && self.flight.is_none();
            let verdict = if self.mirror.revision() == 0 { None } else { Some(self.judge(&pending)) };
            match verdict {
                Some(Ok(Verdict::Done)) => out.push(Output::Answer(pending.id, Ok(()))),
                Some(Err(refusal)) if is_free => out.push(Output::Answer(pending.id, Err(refusal))),
                Some(Ok(Verdict::Needs(txn))) if is_free => {
                    self.begin(Purpose::Ask, txn, out);
                    pending.begun = true;
                    self.asks.push_back(pending);
                }
                _ => {
                    // A store that is slow is back in a moment; one that is lost for long is not waited for.
                    let until = match &self.lost {
                        Some((_, since)) if offline && !pending.begun => *since + PATIENCE,
                        _ => pending.until,
                    };
                    if now < until.min(pending.until) {
                        self.asks.push_back(pending);
                        continue;
                    }
                    let why = match &self.lost {
                        Some((why, _)) => why.clone(),
                        None => "the store does not answer in time".into(),
                    };
                    let rest = if pending.begun {
                        "whether it was done shows when the store is back"
                    } else {
                        "try again when it is back; running containers are not affected"
                    };
                    out.push(Output::Answer(pending.id, Err(Refusal::unavailable(format!("{why}: {rest}")))));
                }
            }
        }
    }

    fn judge(&self, pending: &Pending) -> Result<Verdict, Refusal> {
        match &pending.ask {
            Ask::CreateNetwork { spec, avoid, taken } => self.judge_creation(spec, avoid, taken),
            Ask::UpdateNetwork(spec) => {
                let key = Key::Network((&spec.id()).into());
                let entry = self.mirror.get(&key).ok_or_else(|| no_network(spec.name.as_str()))?;
                let record = Record::Network(spec.clone().into());
                if entry.record == record {
                    return Ok(Verdict::Done);
                }
                let when = vec![Compare::Modified(self.mirror.full(&key), entry.modified)];
                Ok(Verdict::Needs(Txn { when, then: vec![self.put(&key, &record)] }))
            }
            Ask::RemoveNetwork(id) => self.judge_removal(id, pending.begun),
            Ask::CreateService(spec) => self.judge_service(spec),
            Ask::UpdateService(spec) => self.judge_service_update(spec),
            Ask::RemoveService(name) => self.judge_service_removal(name, pending.begun),
            Ask::Reserve { network, address } => self.judge_reservation(network, *address),
            Ask::Reach(revision) if self.mirror.revision() >= *revision => Ok(Verdict::Done),
            Ask::Reach(_) => Ok(Verdict::Waits),
            Ask::AdmitHost { name, node } => self.judge_admission(name, node),
            Ask::RetractHost { name, id } => Ok(self.judge_retreat(name, id)),
            Ask::RemoveHost(name) => self.judge_host_removal(name, pending.begun),
            Ask::UpdateHost { host, availability, labels } => {
                let key = Key::Node(host.clone());
                let entry = self.mirror.get(&key).ok_or_else(|| no_host(host))?;
                let Record::Node(before) = &entry.record else { return Err(no_host(host)) };
                let mut node = Node::clone(before);
                node.availability = availability.unwrap_or(node.availability);
                for (label, value) in labels.iter().cloned() {
                    match value {
                        Some(value) => drop(node.labels.insert(label, value)),
                        None => drop(node.labels.remove(&label)),
                    }
                }
                if node == **before {
                    return Ok(Verdict::Done);
                }
                let when = vec![Compare::Modified(self.mirror.full(&key), entry.modified)];
                let then = vec![self.put(&key, &Record::Node(node.into()))];
                Ok(Verdict::Needs(Txn { when, then }))
            }
        }
    }

    fn judge_creation(
        &self,
        spec: &NetworkSpec,
        avoid: &[(IpNet, Option<Holder>)],
        taken: &[u32],
    ) -> Result<Verdict, Refusal> {
        let id = spec.id();
        let key = Key::Network((&id).into());
        if self.mirror.get(&key).is_some() {
            return Ok(Verdict::Done);
        }
        let name = Key::NetworkName(spec.name.clone());
        if self.mirror.holds(&name) {
            return Err(Refusal::conflict(format!("network with name {} already exists", spec.name)));
        }
        let mut spec = spec.clone();
        let networks = self.mirror.networks().flat_map(|network| {
            network
                .subnets
                .iter()
                .map(|it| (it.subnet, Some(Holder::Network(network.name.clone(), it.subnet))))
        });
        let held: Vec<_> = networks.chain(avoid.iter().cloned()).collect();
        for subnet in spec.subnets.iter().map(|it| it.subnet) {
            let holder = held.iter().find_map(|(net, holder)| match holder {
                // A narrower subnet has precedence over a route of the host.
                Some(Holder::Route(..)) if !subnet.contains(net) => None,
                holder => holder.clone().filter(|_| ipam::overlap(*net, subnet)),
            });
            if let Some(holder) = holder {
                return Err(IpamError::Overlap(subnet, holder).into());
            }
        }
        let used: Vec<IpNet> = held.iter().map(|(net, _)| *net).collect();
        let pools = match self.mirror.get(&Key::Pools).map(|it| (&it.record, it.modified)) {
            Some((Record::Pools(pools), modified)) => (pools.clone(), modified),
            _ => return Err(Refusal::unavailable("the cluster has no pools: was the key deleted by hand?")),
        };
        if spec.ipam == Ipam::Default {
            for family in Family::ALL {
                if spec.subnet(family).is_none() && (family == Family::V4 || spec.ipv6) {
                    let from = if family == Family::V4 { &pools.0.overlay } else { &pools.0.ipv6 };
                    spec.subnets.push(ipam::free_subnet(from, used.iter().copied())?.into());
                }
            }
        }
        spec.ipam = Ipam::Null;
        spec.ipv6 |= spec.subnet(Family::V6).is_some();
        spec.subnets.sort_by_key(SubnetSpec::family);
        for subnet in &mut spec.subnets {
            let mut usage = Subnet::new(subnet)?;
            if subnet.gateway.is_none() {
                subnet.gateway = Some(usage.allocate()?);
            }
        }
        let is_taken = |vni: u32| taken.contains(&vni) || self.mirror.holds(&Key::Vni(vni));
        let vni = match spec.vni {
            Some(vni) if is_taken(vni.as_u32()) => {
                return Err(Refusal::conflict(format!(
                    "vni {vni} is in use: choose another, or leave it out"
                )));
            }
            Some(vni) => vni,
            None => (FIRST_VNI..=Vni::MAX.as_u32())
                .find(|vni| !is_taken(*vni))
                .and_then(|vni| Vni::try_from(vni).ok())
                .ok_or_else(|| Refusal::conflict("all VNIs are in use: remove networks"))?,
        };
        spec.vni = Some(vni);
        spec.driver = Some(Driver::Overlay);
        let vni = Key::Vni(vni.as_u32());
        let full = |key: &Key| self.mirror.full(key);
        let when = vec![
            Compare::Absent(full(&key)),
            Compare::Absent(full(&name)),
            Compare::Absent(full(&vni)),
            // Overlapping subnets cannot be seen by key: two creations at once touch the same one.
            Compare::Modified(full(&Key::Pools), pools.1),
        ];
        let then = vec![
            self.put(&key, &Record::Network(spec.into())),
            self.put(&name, &Record::Taken(id.clone())),
            self.put(&vni, &Record::Taken(id)),
            self.put(&Key::Pools, &Record::Pools(pools.0)),
        ];
        Ok(Verdict::Needs(Txn { when, then }))
    }

    fn judge_removal(&self, id: &Id, begun: bool) -> Result<Verdict, Refusal> {
        let short = Short::from(id);
        let key = Key::Network(short);
        let Some(entry) = self.mirror.get(&key) else {
            return if begun { Ok(Verdict::Done) } else { Err(no_network(id.short())) };
        };
        let Record::Network(spec) = &entry.record else { return Err(no_network(id.short())) };
        let names: Vec<String> =
            self.mirror.endpoints(short).map(|(it, _)| format!("{} on {}", it.name, it.host)).collect();
        if !names.is_empty() {
            let list = names.join(", ");
            return Err(Refusal::conflict(format!(
                "error while removing network: network {} has active endpoints ({list})",
                spec.name
            )));
        }
        let services: Vec<&str> = self.services_of(&spec.name).map(|it| it.name.as_str()).collect();
        if !services.is_empty() {
            let list = services.join(", ");
            return Err(Refusal::conflict(format!(
                "network {} has services ({list}): remove them first",
                spec.name
            )));
        }
        let full = |key: &Key| self.mirror.full(key);
        let prefix = self.mirror.prefix();
        let when = vec![
            Compare::Modified(full(&key), entry.modified),
            Compare::NoneBelow(format!("{prefix}ep/{short}/")),
            Compare::NoneBelow(format!("{prefix}svc/{short}/")),
        ];
        let mut then = vec![
            Op::Delete(full(&key)),
            Op::Delete(full(&Key::NetworkName(spec.name.clone()))),
            Op::DeleteBelow(format!("{prefix}block/{short}/")),
        ];
        then.extend(spec.vni.map(|vni| Op::Delete(full(&Key::Vni(vni.as_u32())))));
        Ok(Verdict::Needs(Txn { when, then }))
    }

    fn judge_reservation(&self, network: &Id, address: Option<IpAddr>) -> Result<Verdict, Refusal> {
        let short = Short::from(network);
        let spec =
            self.networks().find(|it| it.id() == *network).ok_or_else(|| no_network(network.short()))?;
        // What this host has itself is known in a moment.
        let is_back = self.is_back(&self.me.name);
        let wanted = match address {
            Some(address) => {
                let subnet = spec.subnets.iter().find(|it| it.subnet.contains(&address));
                let subnet = subnet.ok_or(IpamError::OutOfRange(address))?.subnet;
                let block = blocks::of(subnet, address).ok_or(IpamError::OutOfRange(address))?;
                if self.held.contains_key(&Key::Block(short, block.network())) {
                    return Ok(Verdict::Done);
                }
                if !is_back {
                    return Ok(Verdict::Waits);
                }
                if let Some(other) = self.mirror.blocks(short).find(|it| it.range.contains(&address)) {
                    return Err(Refusal::conflict(format!(
                        "address {address} is one of those that host {} assigns: connect the container there, or choose another",
                        other.host
                    )));
                }
                block
            }
            None => {
                let lacking = spec.subnets.iter().find(|it| self.free(spec, it.subnet) == 0);
                let Some(lacking) = lacking else { return Ok(Verdict::Done) };
                if !is_back {
                    return Ok(Verdict::Waits);
                }
                self.free_block(spec, lacking).ok_or(IpamError::NoAddress)?
            }
        };
        if let Some(why) = self.caution() {
            return Err(Refusal::unavailable(why));
        }
        Ok(Verdict::Needs(self.claim(short, wanted)))
    }

    fn judge_admission(&self, name: &Name, node: &Node) -> Result<Verdict, Refusal> {
        let key = Key::Node(name.clone());
        match self.mirror.get(&key).map(|it| &it.record) {
            Some(Record::Node(there)) if there.id == node.id => return Ok(Verdict::Done),
            Some(_) => {
                return Err(Refusal::conflict(format!(
                    "there is a host {name} in the cluster already: give this one another name (switch.name, or --name), or remove that one with `vswitchctl cluster rm {name}`"
                )));
            }
            None => {}
        }
        if let Some((other, _)) = self.mirror.nodes().find(|(_, it)| it.address == node.address) {
            return Err(Refusal::conflict(format!(
                "host {other} of the cluster has the address {} already: join with another --advertise",
                node.address
            )));
        }
        if self.mirror.owned(name).next().is_some() {
            return Err(Refusal::unavailable(format!(
                "the records of a host {name} that was removed are being cleared: try again in some seconds"
            )));
        }
        if let Some(why) = self.caution() {
            return Err(Refusal::unavailable(why));
        }
        let full = |key: &Key| self.mirror.full(key);
        // It has nothing that it would have to put again.
        let node = Node { restored: self.mirror.history(), ..node.clone() };
        let then =
            vec![self.put(&key, &Record::Node(node.into())), Op::Delete(full(&Key::Gone(name.clone())))];
        Ok(Verdict::Needs(Txn { when: vec![Compare::Absent(full(&key))], then }))
    }

    fn judge_retreat(&self, name: &Name, id: &Id) -> Verdict {
        let key = Key::Node(name.clone());
        match self.mirror.get(&key).map(|it| (&it.record, it.modified)) {
            Some((Record::Node(there), modified)) if there.id == *id => {
                let full = self.mirror.full(&key);
                let when = vec![Compare::Modified(full.clone(), modified)];
                let lease = Op::Delete(self.mirror.full(&Key::Alive(name.clone())));
                Verdict::Needs(Txn { when, then: vec![Op::Delete(full), lease] })
            }
            _ => Verdict::Done,
        }
    }

    fn judge_host_removal(&self, name: &Name, begun: bool) -> Result<Verdict, Refusal> {
        if *name == self.me.name {
            return Err(Refusal::conflict("a host does not remove itself: use `vswitchctl cluster leave`"));
        }
        let key = Key::Node(name.clone());
        let Some(entry) = self.mirror.get(&key) else {
            return if begun { Ok(Verdict::Done) } else { Err(no_host(name)) };
        };
        let Record::Node(node) = &entry.record else { return Err(no_host(name)) };
        Ok(Verdict::Needs(self.expulsion(name, Some(node.id.clone()), entry.modified)))
    }
}

pub(super) fn no_network(name: &str) -> Refusal {
    Refusal::missing(format!("network {name} not found"))
}

fn no_host(name: &Name) -> Refusal {
    Refusal::missing(format!("there is no host {name} in the cluster: see `vswitchctl cluster ls`"))
}
