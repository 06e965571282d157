//! The index of a network's ports, used for each frame.

use std::num::NonZeroU16;

use super::{Ingress, NO_MEMBER, NetworkEntry, PortEntry};
use crate::{
    addr::{PortId, VlanId},
    drops::DropReason,
    spread::MANY,
};

/// A port as one network sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The port.
    pub port: PortId,
    /// The VLAN that carries the network; `None`: untagged.
    pub vlan: Option<VlanId>,
    pub(super) horizon: Option<NonZeroU16>,
    pub(super) flood_horizon: Option<NonZeroU16>,
    pub(super) isolated: bool,
    pub(super) hairpin: bool,
}

/// The egress ports of a frame: an index, not a search. See [`Topology::reach`](super::Topology::reach).
#[derive(Clone, Copy, Debug)]
pub struct Reach<'a> {
    pub(super) entry: Option<&'a NetworkEntry>,
    pub(super) from: Option<&'a PortEntry>,
    pub(super) ingress: PortId,
    /// An isolated port of another host sent the frame.
    pub(super) isolated: bool,
}

impl<'a> Reach<'a> {
    /// The member `port`, or the reason why the frame must not leave by it.
    pub fn member(&self, port: PortId) -> Result<&'a Member, DropReason> {
        let entry = self.entry.ok_or(DropReason::PortGone)?;
        let place = entry.place.get(port.index()).copied().unwrap_or(NO_MEMBER);
        let member = entry.members.get(usize::from(place)).ok_or(DropReason::PortGone)?;
        self.check(member).map(|()| member)
    }

    /// All egress ports, for flooding.
    pub fn members(self) -> impl Iterator<Item = &'a Member> {
        let is_kept_apart = self.is_kept_apart();
        self.all_flooded().iter().filter(move |member| self.floods_to(member, is_kept_apart))
    }

    /// [All egress ports](Self::members) of a sender that is not kept apart from any. `None`: this one may be.
    pub(crate) fn members_at_large(self) -> Option<impl Iterator<Item = &'a Member>> {
        let is_elsewhere = move |member: &&Member| self.is_elsewhere(member);
        (!self.is_kept_apart()).then(|| self.all_flooded().iter().filter(is_elsewhere))
    }

    /// Whether these are more than a turn serves; see [`spread`](crate::spread).
    #[inline]
    pub(crate) fn is_many(&self) -> bool {
        self.entry.is_some_and(|entry| entry.flooded > MANY)
    }

    /// The member `port`, if the frame is flooded to it.
    pub(crate) fn flooded(&self, port: PortId) -> Option<&'a Member> {
        let place = usize::from(*self.entry?.place.get(port.index())?);
        let member = self.all_flooded().get(place)?;
        self.floods_to(member, self.is_kept_apart()).then_some(member)
    }

    /// The members that are flooded to, the sender among them.
    fn all_flooded(&self) -> &'a [Member] {
        self.entry.map_or(&[], |entry| &entry.members[..entry.flooded])
    }

    #[inline(always)]
    fn floods_to(&self, member: &Member, is_kept_apart: bool) -> bool {
        if is_kept_apart {
            !self.is_beyond_flood_horizon(member) && self.check(member).is_ok()
        } else {
            self.is_elsewhere(member)
        }
    }

    fn is_elsewhere(&self, member: &Member) -> bool {
        member.port != self.ingress || member.hairpin
    }

    /// Whether the sender may be kept apart from some members: none is from a port in no group and not isolated, as most are.
    fn is_kept_apart(&self) -> bool {
        self.is_from_isolated()
            || self.from.is_some_and(|from| from.horizon.is_some() || from.flood_horizon.is_some())
    }

    fn is_beyond_flood_horizon(&self, member: &Member) -> bool {
        member.flood_horizon.is_some()
            && member.flood_horizon == self.from.and_then(|from| from.flood_horizon)
    }

    fn check(&self, member: &Member) -> Result<(), DropReason> {
        if !self.is_elsewhere(member) {
            Err(DropReason::SamePort)
        } else if member.horizon.is_some() && member.horizon == self.from.and_then(|from| from.horizon) {
            Err(DropReason::SplitHorizon)
        } else if member.isolated && self.is_from_isolated() {
            Err(DropReason::PortIsolated)
        } else {
            Ok(())
        }
    }

    /// Whether the sender counts as isolated. Asked for isolated members only: most networks have none.
    fn is_from_isolated(&self) -> bool {
        let counts = |from: &PortEntry| {
            from.isolated
                || matches!(from.ingress, Ingress::Tunnel)
                    && self.entry.is_some_and(|entry| entry.isolates_tunnels)
        };
        self.isolated || self.from.is_some_and(counts)
    }
}
