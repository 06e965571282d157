//! Traces of frames, in the API's terms.

use std::net::IpAddr;

use vswitch::{
    addr::{MacAddr, NetworkId, PortId},
    balance::{STATION, Served, Why},
    drops::DropReason,
    fdb::{Learned, Station},
    forward::{Action, Decision},
    offload::Offload,
    plan::Plan,
    storm::{Flood, FloodMeters},
    topology::Classified,
    trace::{self as core, Hypothesis},
    transmit::TagOp,
};

use vswitch_fastpath::odd;

use super::{Names, Snapshot};
use crate::{
    capture::flooded_for,
    state::{self, State},
};
use vswitch_model::{
    Carries, DeviceSpec, Error, Family, Name, ServiceSpec,
    api::trace::{Leaving, Step, Supposed, Trace, TraceRequest, Verdict},
    text::{self, Book},
};

/// Maximum length of a frame given in hexadecimal digits, in bytes.
const LONGEST: usize = vswitch::frame::MAX_FRAME;

impl Snapshot {
    /// Traces a frame by `plan`, that of this snapshot. Nothing is learned, counted or sent.
    ///
    /// # Errors
    /// There is no such port or network, the port carries no frames, or the text is not a frame.
    pub(crate) fn trace(&self, plan: &Plan, request: &TraceRequest) -> Result<Trace, Error> {
        let port = self.find_port(&request.port)?;
        if let Some(why) = self.why_down(port.id) {
            return Err(Error::conflict(format!("port {} carries no frames: {why}", request.port)));
        }
        let network = match &request.network {
            Some(name) => Some(self.find_network(name)?.id),
            None => self.only_network(&port)?,
        };
        let bytes = match &request.frame {
            Supposed::Text(text) => text::parse(text, &Sender { snapshot: self, port: &port }),
            Supposed::Hex(text) => text::parse_hex(text),
        };
        let bytes = bytes.map_err(Error::invalid)?;
        let storm = self.storm(&port);
        let hypothesis = Hypothesis {
            ingress: port.id,
            network,
            offload: Offload::NONE,
            bytes: &bytes,
            storm: storm.unwrap_or_default(),
        };
        let now = self.now();
        let trace = core::trace(now, plan, &hypothesis)
            .ok_or_else(|| Error::invalid(format!("a frame has at most {LONGEST} bytes")))?;
        let words = Words { names: self.names(), state: &self.state };
        let mut steps = words.steps(&trace, &port, |flood| {
            let limits = plan.topology.storm(port.id);
            let limit = limits.of(flood)?;
            Some(match storm {
                Some(storm) => {
                    let left = storm.left(flood, limits, now).unwrap_or_default();
                    format!("{left} more may be flooded from here at this moment, {limit} a second")
                }
                None => format!("unless the worker that receives it has flooded the port's {limit} a second"),
            })
        });
        steps.extend(self.way(&trace, port.id, &bytes).map(|outcome| Step { step: "way".into(), outcome }));
        Ok(Trace {
            port: request.port.clone(),
            summary: text::describe(&bytes, bytes.len()),
            hex: text::to_hex(&bytes),
            steps,
            verdict: match trace.decision.fate {
                Ok(Action::Send(_)) => Verdict::Unicast,
                Ok(Action::Flood(_)) => Verdict::Flooded,
                Ok(Action::Answer(mac)) => Verdict::Answered { mac: mac.to_string() },
                Err(reason) => Verdict::Dropped { reason: reason.name().into(), hint: reason.hint().into() },
            },
            exits: trace.exits.iter().map(|exit| words.exit(exit)).collect(),
            copies: trace.copies.iter().map(|exit| words.exit(exit)).collect(),
        })
    }

    /// Who forwards a frame that is delivered, the kernel or the switch, and why. `None` where ports have no fast path at all.
    fn way(&self, trace: &core::Trace<'_>, ingress: PortId, bytes: &[u8]) -> Option<String> {
        let from = self.live(ingress)?.fast_port()?;
        let Action::Send(member) = trace.decision.fate.ok()? else {
            return Some("through the switch, which alone floods".into());
        };
        let why = if let Some(slow) = from.slow() {
            slow.to_string()
        } else if trace.decision.learned != Some(Learned::Known) {
            "it learns the source".into()
        } else {
            let to = self.live(member.port)?.fast_port();
            let slow =
                to.map_or_else(|| Some("no port of kind veth".to_owned()), |to| Some(to.slow()?.to_string()));
            let rules = |port: PortId| self.state.layout().ports.iter().find(|rules| rules.id == port);
            let (from, to) = (rules(ingress)?, rules(member.port)?);
            match (slow, odd(from.guard.as_deref(), to.mtu, bytes)) {
                (Some(slow), _) => format!("{}: {slow}", self.names().port(member.port)),
                (None, Some(odd)) => odd.into(),
                (None, None) => return Some("the kernel forwards it without the switch".into()),
            }
        };
        Some(format!("through the switch: {why}"))
    }

    /// The storm meters of a port; `None` if several workers receive parts of its frames.
    fn storm(&self, port: &state::Port) -> Option<FloodMeters> {
        let is_tunnel = matches!(port.spec.carries, Carries::Tunnel { .. });
        let real = self.live(port.id).filter(|_| !is_tunnel)?;
        Some(self.live.workers.storm(real.worker, port.id))
    }

    /// The network of frames from a peer, which carries several.
    fn only_network(&self, port: &state::Port) -> Result<Option<NetworkId>, Error> {
        if !matches!(port.spec.carries, Carries::Tunnel { .. }) {
            return Ok(None);
        }
        let carried: Vec<_> =
            self.state.networks().filter(|network| port.spec.holds(&network.spec)).collect();
        match &carried[..] {
            [network] => Ok(Some(network.id)),
            [] => Ok(None),
            _ => Err(Error::invalid(format!(
                "{} carries several networks: say which with --network",
                port.spec.name
            ))),
        }
    }

    /// The MAC address that a port is declared to have, or the only one learned there.
    fn mac_of(&self, port: &state::Port) -> Option<MacAddr> {
        let declared = port.spec.interface().and_then(|interface| interface.mac);
        let mut learned = self.live.fdb.entries(self.now()).filter(|entry| entry.port == port.id);
        declared.or_else(|| learned.next().map(|entry| entry.mac))
    }
}

/// Whether a frame is dropped by a storm limit.
fn is_storm(decision: &Decision<'_>) -> bool {
    use DropReason::{StormBroadcast, StormMulticast, StormUnknown};
    matches!(decision.fate, Err(StormBroadcast | StormMulticast | StormUnknown))
}

/// The steps of a decision.
struct Words<'a> {
    names: &'a Names,
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
        let is_refused = decision.fate.is_err_and(DropReason::is_guard);
        let is_classified = decision.learned.is_some() || is_storm(decision) || is_refused;
        let Some(Classified { network, tag }) = trace.classified.filter(|_| is_classified) else {
            step("classify", dropped(decision));
            return steps;
        };
        let network = self.names.network(network);
        let how = if tag.is_some() { "by its tag" } else { "by its port" };
        step("classify", format!("network {network}, {how}"));
        if is_refused {
            step("guard", dropped(decision));
            return steps;
        }
        if ingress.spec.guard.is_some() {
            step("guard", "it speaks for the port's own station".into());
        }
        if let Some(rate) = ingress.spec.limit.rx {
            step("limit", format!("unless the port's {rate} are used up"));
        }
        // A group frame above its port's limit is dropped before its sender is learned.
        let Some(learned) = decision.learned else {
            step("storm", dropped(decision));
            return steps;
        };
        step("learn", self.learned(learned, ingress.id));
        for (network, mac) in trace.evicted.iter().map(Station::parts) {
            let network = self.names.network(network);
            step("learn", format!("the table is full: {mac} of network {network} would be forgotten"));
        }
        let is_answered = matches!(decision.fate, Ok(Action::Answer(_)));
        let is_to_service = frame.dst == STATION;
        if is_to_service {
            step("look up", format!("{} is the address of all services", frame.dst));
            step("serve", decision.served.map_or_else(|| dropped(decision), |served| self.served(&served)));
        }
        match (decision.found.filter(|port| *port != PortId::SERVICES), decision.flood) {
            (None, _) if is_to_service && decision.flood.is_none() => {}
            (Some(port), _) if is_to_service => step(
                "reach",
                match decision.fate {
                    Ok(_) => format!("{} may be reached from here", self.names.port(port)),
                    Err(_) => dropped(decision),
                },
            ),
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
                let to_flood = format!("to be flooded: {}", flooded_for(flood));
                step(
                    "look up",
                    if is_answered { to_flood } else { format!("flooded: {}", flooded_for(flood)) },
                );
                let storm = storm(flood);
                match decision.fate {
                    Ok(Action::Answer(mac)) => {
                        let known = if mac == STATION {
                            format!("a service of network {network} has it, at {mac}")
                        } else {
                            format!("the directory of network {network} knows who has it: {mac}")
                        };
                        step("answer", format!("{known}, so the switch answers, and floods nothing"));
                    }
                    Ok(_) => {
                        let ports = trace.exits.len();
                        let many = if ports == 1 { "" } else { "s" };
                        step("reach", format!("{ports} port{many} of network {network}"));
                    }
                    Err(_) => step(if is_storm(decision) { "storm" } else { "reach" }, dropped(decision)),
                }
                if let Some(left) = storm.filter(|_| decision.fate.is_ok() && !is_answered) {
                    step("storm", left);
                }
            }
            (None, None) => step("look up", dropped(decision)),
        }
        steps
    }

    /// `service web (10.9.0.100): endpoint web-1 (10.9.0.3), which its hash falls to`
    fn served(&self, served: &Served) -> String {
        let Served { service, backend, why } = served;
        let has_it = |spec: &ServiceSpec| spec.address.contains(service);
        let spec = self.state.services().map(|it| it.spec).find(|spec| has_it(spec));
        let (name, endpoint) = match &spec {
            Some(spec) => {
                let is_it = |it: &state::Backend<'_>| it.address_like(*backend) == Some(*backend);
                let endpoint = self.state.backends(spec).into_iter().find(is_it);
                let called = |it: state::Backend<'_>| match it.host() {
                    Some(host) => format!("{} ({backend}) on {host}", it.name()),
                    None => format!("{} ({backend})", it.name()),
                };
                (format!("service {} ({service})", spec.name), endpoint.map(called))
            }
            None => (service.to_string(), None),
        };
        let endpoint = endpoint.unwrap_or_else(|| backend.to_string());
        match why {
            Why::Echo => format!("{name}: the switch answers pings itself"),
            Why::Flow => format!("{name}: endpoint {endpoint}, which has the connection"),
            Why::Hash => format!("{name}: endpoint {endpoint}, which the connection's hash falls to"),
            Why::Affinity => format!("{name}: endpoint {endpoint}, which its client had before"),
            Why::Fragment => format!("{name}: endpoint {endpoint}, as the first fragment of the packet"),
            Why::Error => format!("{name}: endpoint {endpoint}, whose packet the error is about"),
        }
    }

    fn learned(&self, learned: Learned, ingress: PortId) -> String {
        let here = self.names.port(ingress);
        match learned {
            Learned::Known => format!("its source is known on {here}"),
            Learned::New => format!("its source would be learned on {here}"),
            Learned::Moved { from } => format!("its source would move here from {}", self.names.port(from)),
            Learned::Pinned(_) => "its source is pinned to another port and stays there".into(),
            Learned::Held => "its source moves too often and stays on another port for now".into(),
            Learned::Full => format!(
                "nothing: {here} has as many addresses as it may, or the table is full of pinned ones"
            ),
            Learned::Busy => "its source would be learned with a later frame".into(),
            Learned::Off => format!("{here} does not learn"),
        }
    }

    fn exit(&self, exit: &core::Leaving) -> Leaving {
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
        let device = spec.as_ref().map(|spec| &spec.device);
        parts.extend(device.and_then(DeviceSpec::remote).map(|remote| format!("by VXLAN to {remote}")));
        parts.extend(device.and_then(DeviceSpec::collector).map(|it| format!("vni {}", it.vni)));
        if let Some(rate) = spec.as_ref().and_then(|spec| spec.limit.tx) {
            parts.push(format!("unless its {rate} are used up"));
        }
        let mut dropped = None;
        match exit.result {
            Ok(pieces) if pieces > 1 => parts.push(format!("cut into {pieces} wire frames")),
            Ok(_) => {}
            Err(reason) => {
                parts.push(format!("but at most {} bytes leave there", exit.longest));
                dropped = Some(format!("{reason}: {}", reason.hint()));
            }
        }
        let outcome = if parts.is_empty() { "as it is".into() } else { parts.join(", ") };
        Leaving { port, outcome, dropped }
    }
}

/// The sender of a trace's frame.
struct Sender<'a> {
    snapshot: &'a Snapshot,
    port: &'a state::Port,
}

impl Book for Sender<'_> {
    fn own_mac(&self) -> Option<MacAddr> {
        self.snapshot.mac_of(self.port)
    }

    fn own_ip(&self, of: IpAddr) -> Option<IpAddr> {
        addresses(self.port).find(|own| Family::of(*own) == Family::of(of))
    }

    fn mac_of(&self, ip: IpAddr) -> Option<MacAddr> {
        if self.snapshot.state.services().any(|it| it.spec.address.contains(&ip)) {
            return Some(STATION);
        }
        let port = self.snapshot.state.ports().find(|port| addresses(port).any(|own| own == ip));
        let told = || self.snapshot.neighbours(ip).first().map(|(_, mac)| *mac);
        port.and_then(|port| self.snapshot.mac_of(&port)).or_else(told)
    }
}

/// The IP addresses that a port is declared to have.
pub(super) fn addresses(port: &state::Port) -> impl Iterator<Item = IpAddr> + '_ {
    port.spec.interface().into_iter().flat_map(|interface| interface.address.iter().map(|net| net.addr()))
}
