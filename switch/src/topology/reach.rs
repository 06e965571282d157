//! The index of a network's ports that frames use.

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
    /// The VLAN by which it carries the network; `None`: untagged.
    pub vlan: Option<VlanId>,
    pub(super) horizon: Option<NonZeroU16>,
    pub(super) isolated: bool,
    pub(super) flood: bool,
    pub(super) hairpin: bool,
}

/// The ports a frame may leave by: an index, not a search. See [`Topology::reach`].
#[derive(Clone, Copy, Debug)]
pub struct Reach<'a> {
    pub(super) entry: Option<&'a NetworkEntry>,
    pub(super) ingress: PortId,
    pub(super) horizon: Option<NonZeroU16>,
    pub(super) isolated: bool,
}

impl<'a> Reach<'a> {
    /// `port` as the network sees it, or why the frame may not leave by it.
    pub fn member(&self, port: PortId) -> Result<&'a Member, DropReason> {
        let entry = self.entry.ok_or(DropReason::PortGone)?;
        let place = entry.place.get(port.index()).copied().unwrap_or(NO_MEMBER);
        let member = entry.members.get(usize::from(place)).ok_or(DropReason::PortGone)?;
        self.check(member).map(|()| member)
    }

    /// All of them, for flooding.
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
