//! Diagnoses of an address, in the API's terms.

use std::net::IpAddr;

use vswitch::addr::MacAddr;

use super::{Snapshot, trace::addresses};
use crate::state;
use vswitch_model::{
    Error, Name,
    api::{
        Direction, Drop, FdbEntry, FdbFilter, Origin,
        service::Backend,
        trace::{Declared, Why, WhyFilter},
    },
};

impl Snapshot {
    /// What is known about a MAC or an IP address.
    ///
    /// # Errors
    /// Both were given, or neither.
    pub(crate) fn why(&self, filter: &WhyFilter) -> Result<Why, Error> {
        if filter.mac.is_some() == filter.ip.is_some() {
            return Err(Error::invalid("give either a MAC address or an IP address"));
        }
        let has = |port: &state::Port| {
            let mac = port.spec.interface().and_then(|interface| interface.mac);
            filter.ip.is_some_and(|ip| addresses(port).any(|own| own == ip))
                || filter.mac.is_some() && mac == filter.mac
        };
        let ports: Vec<_> = self.state.ports().filter(has).collect();
        let neighbours: Vec<_> = filter.ip.into_iter().flat_map(|ip| self.neighbours(ip)).collect();
        let entries: Vec<FdbEntry> = match filter.mac {
            Some(mac) => self.entries(&FdbFilter { mac: Some(mac), ..FdbFilter::default() }),
            None => {
                let behind = |port: &state::Port| {
                    self.entries(&FdbFilter { port: Some(port.spec.name.clone()), ..FdbFilter::default() })
                };
                let of_neighbour = |(network, mac): &(Name, MacAddr)| {
                    let network = Some(network.clone());
                    self.entries(&FdbFilter { network, mac: Some(*mac), ..FdbFilter::default() })
                };
                let told = neighbours.iter().flat_map(of_neighbour);
                ports.iter().flat_map(behind).chain(told).collect()
            }
        };
        let declared: Vec<_> = ports.iter().map(|port| self.declaration(port)).collect();
        let concerned = self.state.ports().filter(|port| {
            ports.iter().any(|it| it.id == port.id)
                || entries.iter().any(|entry| entry.port == port.spec.name)
        });
        let drops: Vec<Drop> = concerned.flat_map(|port| self.drops_at(&port)).collect();
        let mut findings = findings(filter, &declared, &entries, &drops);
        findings.extend(ports.iter().filter_map(|port| self.way_of(port)));
        findings.extend(neighbours.iter().map(|(network, mac)| {
            format!("the directory of network {network} says that {mac} has it: questions for it are answered here")
        }));
        if let Some(service) = filter.ip.and_then(|ip| self.service_at(ip)) {
            // It has no station, and nothing is learned about it.
            findings.retain(|finding| !finding.starts_with("no frame was received"));
            findings.push(service);
        }
        Ok(Why { declared, entries, drops, findings })
    }

    /// What stands behind an address, if that is a service's.
    fn service_at(&self, ip: IpAddr) -> Option<String> {
        let service = self.services().into_iter().find(|it| it.spec.address.contains(&ip))?;
        let backend = |it: &Backend| format!("{} ({}, {} flows)", it.name, it.state, it.flows);
        let backends: Vec<_> = service.backends.iter().map(backend).collect();
        let (name, network) = (&service.spec.name, &service.spec.network);
        Some(if backends.is_empty() {
            format!(
                "it is service {name} of network {network}, which no endpoint serves: `vswitchctl network connect --service {name} {network} SANDBOX`"
            )
        } else {
            format!("it is service {name} of network {network}, served by {}", backends.join(", "))
        })
    }

    /// How frames of a port pass, if it has a part in the fast path.
    fn way_of(&self, port: &state::Port) -> Option<String> {
        let fast = self.live(port.id)?.fast_port()?;
        let name = &port.spec.name;
        Some(match fast.slow() {
            Some(slow) => format!("frames of {name} pass the switch: {slow}"),
            None => format!(
                "the kernel forwards frames between {name} and other veth ports, where it knows the stations"
            ),
        })
    }

    /// The stations that have an address according to the directories of their networks.
    pub(super) fn neighbours(&self, ip: IpAddr) -> Vec<(Name, MacAddr)> {
        let known = |network: state::Network| {
            Some((network.spec.name.clone(), self.live.neighbours.get(network.id, ip)?))
        };
        self.state.networks().filter_map(known).collect()
    }

    fn declaration(&self, port: &state::Port) -> Declared {
        let interface = port.spec.interface();
        Declared {
            port: port.spec.name.clone(),
            network: port.spec.carries.untagged().cloned(),
            mac: interface.and_then(|interface| interface.mac).map(|mac| mac.to_string()),
            addresses: addresses(port).map(|address| address.to_string()).collect(),
            up: self.is_up(port.id),
        }
    }
}

fn findings(filter: &WhyFilter, declared: &[Declared], entries: &[FdbEntry], drops: &[Drop]) -> Vec<String> {
    let mut findings = Vec::new();
    match filter.mac {
        Some(mac) if mac.is_group() => {
            findings.push(format!("{mac} is a multicast address: frames to it are flooded, and no station has it"));
        }
        _ if entries.is_empty() => findings.push(
            "no frame was received from it: frames to it are flooded, and its answer will teach its port. If it does not answer, its container is silent, or has another address"
                .into(),
        ),
        _ => {}
    }
    if declared.len() > 1 {
        let ports: Vec<_> = declared.iter().map(|port| port.port.as_str()).collect();
        findings.push(format!("ports {} are declared to have it: change one of them", ports.join(", ")));
    }
    for port in declared.iter().filter(|port| !port.up) {
        findings.push(format!("port {} is down: `vswitchctl port show {}` says why", port.port, port.port));
    }
    for entry in entries {
        let FdbEntry { network, mac, port, .. } = entry;
        if entry.held {
            findings.push(format!(
                "{mac} moves too often, is on {port} in network {network}, and is limited to one move a second: look for a second station with this address, or for a loop"
            ));
        }
        if entry.origin == Origin::Static {
            findings
                .push(format!("{mac} is pinned to {port} in network {network}: it is not learned elsewhere"));
        }
        if entry.origin == Origin::Pinned {
            findings.push(format!(
                "{mac} belongs to {port} in network {network}: frames from it are forwarded from there only"
            ));
        }
        if filter.mac.is_some()
            && declared.iter().any(|declared| declared.port != *port)
            && entry.origin == Origin::Learned
        {
            findings.push(format!(
                "{mac} was learned on {port} but is declared for another port: check whether it is used twice"
            ));
        }
    }
    for drop in drops {
        let way = match drop.direction {
            Direction::Rx => "from",
            Direction::Tx => "to",
        };
        findings.push(format!(
            "{} frames {way} {} were dropped, {}: {}",
            drop.frames, drop.port, drop.reason, drop.hint
        ));
    }
    findings
}
