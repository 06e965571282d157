//! The decision about one frame: learn, look up, reach.
//!
//! Forwarding, captures and traces all decide by [`decide`]. They differ in how its [`Questions`] are asked, and in whether
//! the answers are noted ([`Observe`]).

use super::read::{Destination, Header};
use crate::{
    addr::{NetworkId, PortId},
    drops::DropReason,
    fdb::{Learned, Station},
    plan::Pass,
    storm::{Flood, FloodMeters},
    topology::{Member, Reach},
};

/// The fate of a frame.
#[derive(Clone, Copy, Debug)]
pub enum Action<'a> {
    /// Leaves by the port its destination is behind.
    Send(&'a Member),
    /// Leaves by every port it may reach.
    Flood(Reach<'a>),
}

/// What was decided about a frame, step by step: what lies behind the step that ended it is `None`.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'a> {
    /// The network it is in.
    pub network: Option<NetworkId>,
    /// What its source taught.
    pub learned: Option<Learned>,
    /// Behind which port the table knows its destination.
    pub found: Option<PortId>,
    /// What it is flooded for, if the table does not say where it goes.
    pub flood: Option<Flood>,
    /// What becomes of it.
    pub fate: Result<Action<'a>, DropReason>,
}

/// The questions of [`decide`]: asked with all that follows from asking, or for the answer alone.
pub(super) trait Questions {
    /// What the source at `from` teaches when it is heard on `port`.
    fn learn(&mut self, pass: Pass<'_>, from: Station, port: PortId) -> Learned;
    /// Behind which port the table knows the station at `to`.
    fn look_up(&mut self, pass: Pass<'_>, to: Station) -> Option<PortId>;
    /// Whether `port` may flood one more frame.
    ///
    /// # Errors
    /// The limit that it is above.
    fn allow(&mut self, pass: Pass<'_>, flood: Flood, port: PortId) -> Result<(), DropReason>;
}

/// Takes note of the answers; `()` takes none.
///
/// Measured: deciding by a [`Decision`] that nobody reads took a quarter of what forwarding can do.
pub(super) trait Observe {
    /// What the source taught.
    fn learned(&mut self, _: Learned) {}
    /// Behind which port the destination is known.
    fn found(&mut self, _: PortId) {}
    /// The frame is to be flooded, if that is allowed and there is a port to flood to.
    fn flood(&mut self, _: Flood) {}
    /// What becomes of the frame at `slot`; its network is known if its header was accepted.
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
    /// All that was decided about the frame.
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

/// Forwarding: stations are learned, and what is flooded counts towards the ingress port's limits.
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

/// The fate of the frame that came in by `ingress` with this `header`, and what it teaches.
// Measured (2026-11-25, `vswitch-bench memory turn`): with calls from here to the table whole turns are 2 % slower.
#[inline(always)]
pub(super) fn decide<'p>(
    pass: Pass<'p>,
    ingress: PortId,
    &Header { network, from, to, .. }: &Header,
    questions: &mut impl Questions,
    observe: &mut impl Observe,
) -> Result<Action<'p>, DropReason> {
    let topology = &pass.plan.topology;
    let reach = topology.reach(network, ingress);
    if let Destination::Group(flood) = to
        && reach.members().next().is_some()
    {
        // Above the limit a frame teaches nothing: in a storm its source is anywhere but where it came in.
        questions.allow(pass, flood, ingress).inspect_err(|_| observe.flood(flood))?;
    }
    let learned = questions.learn(pass, from, ingress);
    observe.learned(learned);
    if learned == Learned::Pinned && topology.is_tunnel(ingress) {
        return Err(DropReason::LocalMac);
    }
    let flood = match to {
        Destination::Group(flood) => flood,
        Destination::Station(station) => match questions.look_up(pass, station) {
            Some(port) => {
                observe.found(port);
                return reach.member(port).map(Action::Send);
            }
            None => Flood::Unknown,
        },
    };
    observe.flood(flood);
    reach.members().next().ok_or(DropReason::NoReceiver)?;
    if let Destination::Station(_) = to {
        questions.allow(pass, flood, ingress)?;
    }
    Ok(Action::Flood(reach))
}
