//! The decision about one frame: learn, look up, reach.
//!
//! Forwarding, captures and traces all use [`decide`]. They differ in how its [`Questions`] are answered, and
//! in whether the answers are recorded ([`Observe`]).

use super::read::{Destination, Header};
use crate::{
    addr::{MacAddr, NetworkId, PortId},
    batch::Received,
    drops::DropReason,
    fdb::{Learned, Origin, Station},
    plan::Pass,
    storm::{Flood, FloodMeters},
    topology::{Member, Reach},
};

/// The fate of a frame.
#[derive(Clone, Copy, Debug)]
pub enum Action<'a> {
    /// Send to the port of the destination.
    Send(&'a Member),
    /// Send to every port that the frame may reach.
    Flood(Reach<'a>),
    /// Answer it: it asks for the address of this station.
    Answer(MacAddr),
}

/// The decision about a frame, step by step: steps that were not reached are `None`.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'a> {
    /// The network of the frame.
    pub network: Option<NetworkId>,
    /// The outcome of learning its source.
    pub learned: Option<Learned>,
    /// The port of its destination, according to the table.
    pub found: Option<PortId>,
    /// The reason for flooding it, if the table has no port.
    pub flood: Option<Flood>,
    /// Its fate.
    pub fate: Result<Action<'a>, DropReason>,
}

/// The questions of [`decide`], answered with side effects (forwarding) or without (traces).
pub(super) trait Questions {
    /// The outcome of learning that `from` is on `port`.
    fn learn(&mut self, pass: Pass<'_>, from: Station, port: PortId) -> Learned;
    /// The port of the station `to`, according to the table.
    fn look_up(&mut self, pass: Pass<'_>, to: Station) -> Option<PortId>;
    /// Whether `port` may flood another frame.
    ///
    /// # Errors
    /// The exceeded limit.
    fn allow(&mut self, pass: Pass<'_>, flood: Flood, port: PortId) -> Result<(), DropReason>;
}

/// Records the answers; `()` records nothing.
///
/// Measured: building an unused [`Decision`] for each frame cost a quarter of the throughput.
pub(super) trait Observe {
    /// The outcome of learning the source.
    fn learned(&mut self, _: Learned) {}
    /// The port of the destination, according to the table.
    fn found(&mut self, _: PortId) {}
    /// The frame will be flooded, if allowed and if there is a port to flood to.
    fn flood(&mut self, _: Flood) {}
    /// Whether a flood may be sent after the turn.
    fn may_spread(&self) -> bool {
        true
    }
    /// The fate of the frame at `slot`; its network is known if its header was accepted.
    fn decided(&mut self, _slot: usize, _: Option<NetworkId>, _fate: Result<Action<'_>, DropReason>) {}
}

impl Observe for () {}

/// The answers about one frame.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Notes {
    learned: Option<Learned>,
    found: Option<PortId>,
    flood: Option<Flood>,
}

impl Notes {
    /// The complete decision about the frame.
    pub(super) fn decision<'a>(
        self,
        network: Option<NetworkId>,
        fate: Result<Action<'a>, DropReason>,
    ) -> Decision<'a> {
        let Self { learned, found, flood } = self;
        Decision { network, learned, found, flood, fate }
    }
}

impl Observe for Notes {
    fn learned(&mut self, learned: Learned) {
        self.learned = Some(learned);
    }

    fn found(&mut self, port: PortId) {
        self.found = Some(port);
    }

    fn flood(&mut self, flood: Flood) {
        self.flood = Some(flood);
    }
}

/// Forwarding: stations are learned, and flooded frames count towards the ingress port's limits.
pub(super) struct Learn<'s>(pub(super) &'s mut FloodMeters);

impl Questions for Learn<'_> {
    #[inline(always)]
    fn learn(&mut self, pass: Pass<'_>, from: Station, port: PortId) -> Learned {
        pass.plan.fdb.learn(from, port, pass.plan.topology.mac_limit(port), pass.now)
    }

    #[inline(always)]
    fn look_up(&mut self, pass: Pass<'_>, to: Station) -> Option<PortId> {
        pass.plan.fdb.lookup(to, pass.now)
    }

    #[inline(always)]
    fn allow(&mut self, pass: Pass<'_>, flood: Flood, port: PortId) -> Result<(), DropReason> {
        self.0.allow(flood, pass.plan.topology.storm(port), pass.now)
    }
}

/// Decides the fate of the frame `rx` with this `header`.
// Measured (2026-11-25, `vswitch-bench memory turn`): with calls from here to the table whole turns are 2 % slower.
#[inline(always)]
pub(super) fn decide<'p>(
    pass: Pass<'p>,
    &Received { ingress, isolated, .. }: &Received,
    &Header { network, from, to, .. }: &Header,
    questions: &mut impl Questions,
    observe: &mut impl Observe,
) -> Result<Action<'p>, DropReason> {
    let reach = pass.plan.topology.reach(network, ingress, isolated);
    match to {
        Destination::Station(to) => {
            learn(pass, from, ingress, questions, observe)?;
            if let Some(port) = questions.look_up(pass, to) {
                observe.found(port);
                return reach.member(port).map(Action::Send);
            }
            observe.flood(Flood::Unknown);
            reach.members().next().ok_or(DropReason::NoReceiver)?;
            questions.allow(pass, Flood::Unknown, ingress)?;
        }
        Destination::Group(flood) => {
            let received = reach.members().next().ok_or(DropReason::NoReceiver);
            if received.is_ok() {
                // Frames above the limit are not learned from: in a storm they come in anywhere but where their source is.
                questions.allow(pass, flood, ingress).inspect_err(|_| observe.flood(flood))?;
            }
            learn(pass, from, ingress, questions, observe)?;
            observe.flood(flood);
            received?;
        }
    }
    Ok(Action::Flood(reach))
}

/// Learns that the source `from` is on `ingress`.
///
/// # Errors
/// The address is pinned to another port by the control plane, which knows whose it is; or, by whomever, and it came from a
/// tunnel.
#[inline(always)]
fn learn(
    pass: Pass<'_>,
    from: Station,
    ingress: PortId,
    questions: &mut impl Questions,
    observe: &mut impl Observe,
) -> Result<(), DropReason> {
    let learned = questions.learn(pass, from, ingress);
    observe.learned(learned);
    if let Learned::Pinned(by) = learned
        && (by == Origin::Control || pass.plan.topology.is_tunnel(ingress))
    {
        return Err(DropReason::LocalMac);
    }
    Ok(())
}
