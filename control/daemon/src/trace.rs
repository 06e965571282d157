//! What would become of a frame, and what is known of an address, in the API's words.

use std::net::IpAddr;

use vswitch::{
    addr::{MacAddr, NetworkId, PortId},
    drops::DropReason,
    fdb::{Learned, Station},
    forward::{Action, Decision},
    offload::Offload,
    storm::{Flood, FloodMeters},
    topology::Classified,
    trace::{self as core, Hypothesis},
    transmit::TagOp,
};

use super::{capture::flooded_for, edge::Edge, view};
use crate::state::{self, State};
use vswitch_model::{
    Carries, DeviceSpec, Error, Name,
    api::{
        Direction, Drop, FdbEntry, FdbFilter, Origin,
        trace::{Declared, Exit, Step, Supposed, Trace, TraceRequest, Verdict, Why, WhyFilter},
    },
    text::{self, Book},
};

/// Octets of a frame that is told in hexadecimal digits at most.
const LONGEST: usize = vswitch::frame::MAX_FRAME;

pub(crate) fn trace(state: &State, edge: &Edge, request: &TraceRequest) -> Result<Trace, Error> {
    let missing = |what: &str, name: &Name| Error::not_found(format!("there is no {what} {name}"));
    let port = state.port(&request.port).ok_or_else(|| missing("port", &request.port))?;
    if let Some(why) = edge.port(port.id).and_then(|port| edge.why_down(port)) {
        return Err(Error::conflict(format!("port {} carries no frames: {why}", request.port)));
    }
    let network = match &request.network {
        Some(name) => Some(state.network(name).ok_or_else(|| missing("network", name))?.id),
        None => only_network(state, &port)?,
    };
    let bytes = match &request.frame {
        Supposed::Text(text) => text::parse(text, &Sender { state, edge, port: &port }),
        Supposed::Hex(text) => text::parse_hex(text),
    };
    let bytes = bytes.map_err(Error::invalid)?;
    let plan = edge.workers.plan();
    let storm = storm(edge, &port);
    let hypothesis = Hypothesis {
        ingress: port.id,
        network,
        offload: Offload::NONE,
        bytes: &bytes,
        storm: storm.unwrap_or_default(),
    };
    let now = edge.workers.now();
    let trace = core::trace(now, plan, &hypothesis)
        .ok_or_else(|| Error::invalid(format!("a frame has at most {LONGEST} octets")))?;
    let words = Words { names: view::Names::of(state), state };
    Ok(Trace {
        port: request.port.clone(),
        summary: text::describe(&bytes, bytes.len()),
        hex: text::to_hex(&bytes),
        steps: words.steps(&trace, &port, |flood| {
            let limits = plan.topology.storm(port.id);
            let limit = limits.of(flood)?;
            Some(match storm {
                Some(storm) => {
                    let left = storm.left(flood, limits, now).unwrap_or_default();
                    format!("{left} more may be flooded from here at this moment, {limit} a second")
                }
                None => format!("unless the worker that receives it has flooded the port's {limit} a second"),
            })
        }),
        verdict: match trace.decision.fate {
            Ok(Action::Send(_)) => Verdict::Unicast,
            Ok(Action::Flood(_)) => Verdict::Flooded,
            Err(reason) => Verdict::Dropped { reason: reason.name().into(), hint: reason.hint().into() },
        },
        exits: trace.exits.iter().map(|exit| words.exit(exit)).collect(),
        copies: trace.copies.iter().map(|exit| words.exit(exit)).collect(),
    })
}

/// How far the storm limits of a port are used up; `None`: each worker receives a part of its frames.
fn storm(edge: &Edge, port: &state::Port) -> Option<FloodMeters> {
    let is_tunnel = matches!(port.spec.carries, Carries::Tunnel { .. });
    edge.port(port.id).filter(|_| !is_tunnel).map(|real| edge.workers.storm(real.worker, port.id))
}

/// The network of frames from a peer, who would tell it.
fn only_network(state: &State, port: &state::Port) -> Result<Option<NetworkId>, Error> {
    if !matches!(port.spec.carries, Carries::Tunnel { .. }) {
        return Ok(None);
    }
    let carried: Vec<_> = state.networks().filter(|network| port.spec.holds(&network.spec)).collect();
    match &carried[..] {
        [network] => Ok(Some(network.id)),
        [] => Ok(None),
        _ => Err(Error::invalid(format!(
            "{} carries several networks: say which with --network",
            port.spec.name
        ))),
    }
}

/// Whether a frame is dropped because its port has flooded too much.
fn is_storm(decision: &Decision<'_>) -> bool {
    use DropReason::{StormBroadcast, StormMulticast, StormUnknown};
    matches!(decision.fate, Err(StormBroadcast | StormMulticast | StormUnknown))
}

/// What is told of a decision.
struct Words<'a> {
    names: view::Names,
    state: &'a State,
}

impl Words<'_> {
    fn steps(
        &self,
        trace: &core::Trace<'_>,
        ingress: &state::Port,
        storm: impl Fn(Flood) -> Option<String>,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut step = |step: &str, outcome: String| steps.push(Step { step: step.into(), outcome });
        let frame = match trace.frame {
            Ok(frame) => frame,
            Err(reason) => {
                step("parse", format!("dropped: {reason}: {}", reason.hint()));
                return steps;
            }
        };
        let tag = frame.tag.map_or_else(
            || "untagged".into(),
            |tag| match tag.vlan() {
                Some(vlan) => format!("tagged with VLAN {vlan}"),
                None => "tagged with a priority".into(),
            },
        );
        step("parse", format!("from {} to {}, {tag}", frame.src, frame.dst));
        let decision = &trace.decision;
        let dropped = |decision: &Decision<'_>| match decision.fate {
            Err(reason) => format!("dropped: {reason}: {}", reason.hint()),
            Ok(_) => String::new(),
        };
        let (Some(Classified { network, tag }), Some(learned)) = (trace.classified, decision.learned) else {
            step("classify", dropped(decision));
            return steps;
        };
        let network = self.names.network(network);
        let how = if tag.is_some() { "by its tag" } else { "by its port" };
        step("classify", format!("network {network}, {how}"));
        if let Some(rate) = ingress.spec.limit.rx {
            step("limit", format!("unless the port's {rate} are used up"));
        }
        step("learn", self.learned(learned, ingress.id));
        for (network, mac) in trace.evicted.iter().map(Station::parts) {
            let network = self.names.network(network);
            step("learn", format!("the table is full: {mac} of network {network} would be forgotten"));
        }
        match (decision.found, decision.flood) {
            (Some(port), _) => {
                step("look up", format!("{} is behind {}", frame.dst, self.names.port(port)));
                step(
                    "reach",
                    match decision.fate {
                        Ok(_) => format!("{} may be reached from here", self.names.port(port)),
                        Err(_) => dropped(decision),
                    },
                );
            }
            (None, Some(flood)) => {
                step("look up", format!("flooded: {}", flooded_for(flood)));
                let storm = storm(flood);
                match decision.fate {
                    Ok(_) => {
                        let ports = trace.exits.len();
                        let many = if ports == 1 { "" } else { "s" };
                        step("reach", format!("{ports} port{many} of network {network}"));
                    }
                    Err(_) => step(if is_storm(decision) { "storm" } else { "reach" }, dropped(decision)),
                }
                if let Some(left) = storm.filter(|_| decision.fate.is_ok()) {
                    step("storm", left);
                }
            }
            (None, None) => step("look up", dropped(decision)),
        }
        steps
    }

    fn learned(&self, learned: Learned, ingress: PortId) -> String {
        let here = self.names.port(ingress);
        match learned {
            Learned::Known => format!("its source is known on {here}"),
            Learned::New => format!("its source would be learned on {here}"),
            Learned::Moved { from } => format!("its source would move here from {}", self.names.port(from)),
            Learned::Pinned => "its source is pinned to another port and stays there".into(),
            Learned::Held => "its source moves too often and stays on another port for now".into(),
            Learned::Full => format!(
                "nothing: {here} has as many addresses as it may, or the table is full of pinned ones"
            ),
            Learned::Busy => "its source would be learned with a later frame".into(),
            Learned::Off => format!("{here} does not learn"),
        }
    }

    fn exit(&self, exit: &core::Leaving) -> Exit {
        let name = self.names.port(exit.port);
        let port = name.parse().unwrap_or_else(|_| Name::unnamed());
        let mut parts = Vec::new();
        match exit.tag {
            TagOp::Keep => {}
            TagOp::Pop => parts.push("without its tag".to_owned()),
            TagOp::Push(tag) => parts.extend(tag.vlan().map(|vlan| format!("tagged with VLAN {vlan}"))),
            TagOp::Replace(tag) => {
                parts.extend(tag.vlan().map(|vlan| format!("with VLAN {vlan} for its tag")))
            }
        }
        let spec = self.state.port(&port).map(|port| port.spec);
        match spec.as_ref().map(|spec| &spec.device) {
            Some(DeviceSpec::Peer(peer)) => parts.push(format!("by VXLAN to {}", peer.remote)),
            Some(DeviceSpec::Collector(collector)) => {
                parts.push(format!("by VXLAN to {}, vni {}", collector.remote, collector.vni));
            }
            _ => {}
        }
        if let Some(rate) = spec.as_ref().and_then(|spec| spec.limit.tx) {
            parts.push(format!("unless its {rate} are used up"));
        }
        let mut dropped = None;
        match exit.result {
            Ok(pieces) if pieces > 1 => parts.push(format!("cut into {pieces} wire frames")),
            Ok(_) => {}
            Err(reason) => {
                parts.push(format!("but at most {} octets leave there", exit.longest));
                dropped = Some(format!("{reason}: {}", reason.hint()));
            }
        }
        let outcome = if parts.is_empty() { "as it is".into() } else { parts.join(", ") };
        Exit { port, outcome, dropped }
    }
}

/// Who sends the frame of a trace.
struct Sender<'a> {
    state: &'a State,
    edge: &'a Edge,
    port: &'a state::Port,
}

impl Book for Sender<'_> {
    fn own_mac(&self) -> Option<MacAddr> {
        mac_of(self.edge, self.port)
    }

    fn own_ip(&self, of: IpAddr) -> Option<IpAddr> {
        addresses(self.port).find(|own| own.is_ipv4() == of.is_ipv4())
    }

    fn mac_of(&self, ip: IpAddr) -> Option<MacAddr> {
        let port = self.state.ports().find(|port| addresses(port).any(|own| own == ip))?;
        mac_of(self.edge, &port)
    }
}

/// The IP addresses that a port is declared to have.
fn addresses(port: &state::Port) -> impl Iterator<Item = IpAddr> + '_ {
    port.spec.interface().into_iter().flat_map(|interface| interface.address.iter().map(|net| net.addr()))
}

/// The MAC address that a port is declared to have, or the only one that was learned there.
fn mac_of(edge: &Edge, port: &state::Port) -> Option<MacAddr> {
    let declared = port.spec.interface().and_then(|interface| interface.mac);
    let mut learned = edge.fdb.entries(edge.workers.now()).filter(|entry| entry.port == port.id);
    declared.or_else(|| learned.next().map(|entry| entry.mac))
}

pub(crate) fn why(state: &State, edge: &Edge, filter: &WhyFilter) -> Result<Why, Error> {
    if filter.mac.is_some() == filter.ip.is_some() {
        return Err(Error::invalid("ask for a MAC address or for an IP address"));
    }
    let has = |port: &state::Port| {
        let mac = port.spec.interface().and_then(|interface| interface.mac);
        filter.ip.is_some_and(|ip| addresses(port).any(|own| own == ip))
            || filter.mac.is_some() && mac == filter.mac
    };
    let ports: Vec<_> = state.ports().filter(has).collect();
    let entries: Vec<FdbEntry> = match filter.mac {
        Some(mac) => view::fdb(state, edge, &FdbFilter { mac: Some(mac), ..FdbFilter::default() }),
        None => {
            let behind = |port: &state::Port| {
                let filter = FdbFilter { port: Some(port.spec.name.clone()), ..FdbFilter::default() };
                view::fdb(state, edge, &filter)
            };
            ports.iter().flat_map(behind).collect()
        }
    };
    let declared: Vec<_> = ports.iter().map(|port| declaration(edge, port)).collect();
    let concerned = state.ports().filter(|port| {
        ports.iter().any(|it| it.id == port.id) || entries.iter().any(|entry| entry.port == port.spec.name)
    });
    let drops: Vec<Drop> = concerned.flat_map(|port| view::drops(state, edge, &port)).collect();
    let findings = findings(filter, &declared, &entries, &drops);
    Ok(Why { declared, entries, drops, findings })
}

fn declaration(edge: &Edge, port: &state::Port) -> Declared {
    let interface = port.spec.interface();
    Declared {
        port: port.spec.name.clone(),
        network: port.spec.carries.untagged().cloned(),
        mac: interface.and_then(|interface| interface.mac).map(|mac| mac.to_string()),
        addresses: addresses(port).map(|address| address.to_string()).collect(),
        up: edge.port(port.id).is_some_and(|port| edge.why_down(port).is_none()),
    }
}

fn findings(filter: &WhyFilter, declared: &[Declared], entries: &[FdbEntry], drops: &[Drop]) -> Vec<String> {
    let mut findings = Vec::new();
    match filter.mac {
        Some(mac) if mac.is_group() => {
            findings.push(format!("{mac} is the address of a group: frames to it are flooded, and nobody has it"));
        }
        _ if entries.is_empty() => findings.push(
            "nobody was heard with it: frames to it are flooded, and answers teach where it is. If it does not answer, its container is silent, or has another address"
                .into(),
        ),
        _ => {}
    }
    if declared.len() > 1 {
        let ports: Vec<_> = declared.iter().map(|port| port.port.as_str()).collect();
        findings.push(format!("ports {} are declared to have it: one of them must change", ports.join(", ")));
    }
    for port in declared.iter().filter(|port| !port.up) {
        findings.push(format!("port {} is down: `vswitchctl port show {}` says why", port.port, port.port));
    }
    for entry in entries {
        let FdbEntry { network, mac, port, .. } = entry;
        if entry.held {
            findings.push(format!(
                "{mac} moves too often, is on {port} in network {network}, and moves once a second at most: are there two stations with it, or a loop?"
            ));
        }
        if entry.origin == Origin::Static {
            findings
                .push(format!("{mac} is pinned to {port} in network {network}: it is not learned elsewhere"));
        }
        if filter.mac.is_some()
            && declared.iter().any(|declared| declared.port != *port)
            && entry.origin == Origin::Learned
        {
            findings.push(format!(
                "{mac} is declared for another port than {port}, where it was heard: is it used twice?"
            ));
        }
    }
    for drop in drops {
        let way = match drop.direction {
            Direction::Rx => "from",
            Direction::Tx => "to",
        };
        findings
            .push(format!("{} frames {way} {} died, {}: {}", drop.frames, drop.port, drop.reason, drop.hint));
    }
    findings
}
