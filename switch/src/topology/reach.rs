//! The index of a network's ports, used for each frame.

use std::num::NonZeroU16;

use super::{NO_MEMBER, NetworkEntry};
use crate::{
    addr::{PortId, VlanId},
    drops::DropReason,
};

/// A port as one network sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The port.
    pub port: PortId,
    /// The VLAN that carries the network; `None`: untagged.
    pub vlan: Option<VlanId>,
    pub(super) horizon: Option<NonZeroU16>,
    pub(super) isolated: bool,
    pub(super) flood: bool,
    pub(super) hairpin: bool,
}

/// The egress ports of a frame: an index, not a search. See [`Topology::reach`](super::Topology::reach).
#[derive(Clone, Copy, Debug)]
pub struct Reach<'a> {
    pub(super) entry: Option<&'a NetworkEntry>,
    pub(super) ingress: PortId,
    pub(super) horizon: Option<NonZeroU16>,
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
        let members = self.entry.map_or(&[][..], |entry| &entry.members);
        members.iter().filter(move |member| member.flood && self.check(member).is_ok())
    }

    fn check(&self, member: &Member) -> Result<(), DropReason> {
        if member.port == self.ingress && !member.hairpin {
            Err(DropReason::SamePort)
        } else if self.horizon.is_some() && self.horizon == member.horizon {
            Err(DropReason::SplitHorizon)
        } else if self.isolated && member.isolated {
            Err(DropReason::PortIsolated)
        } else {
            Ok(())
        }
    }
}
