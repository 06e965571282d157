//! Frames as the switch sees them: the link layer and nothing above.
//!
//! The payload may be malformed and must be forwarded nevertheless, so only the Ethernet header and the outer
//! 802.1Q tag are read (IEEE 802.3 clause 3, IEEE 802.1Q-2018 clause 9).

use etherparse::EtherType;

use crate::{
    addr::{MacAddr, VlanId},
    drops::DropReason,
    wire::bytes::{put_u16, try_u64_at},
};

/// Length of an Ethernet header: destination, source and ethertype.
pub const ETHERNET_HEADER: usize = 14;
/// Length of the two addresses, which a tag follows.
pub const ADDRESSES: usize = 12;
/// Length of an 802.1Q tag, including its ethertype.
pub const TAG: usize = 4;
/// [`TAG`] as a signed offset: the shift of the payload when a tag is pushed.
pub(crate) const TAG_SHIFT: i16 = 4;
/// Maximum frame length on any device: a 64 KB IP packet after an Ethernet header and two tags.
pub const MAX_FRAME: usize = ETHERNET_HEADER + 2 * TAG + 65_535;

/// The tag control information of an 802.1Q tag: priority (3 bits), drop eligible (1), VLAN (12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(pub u16);

impl Tag {
    /// The VLAN, or `None` for a priority tag (VID 0) and the reserved 4095.
    pub fn vlan(self) -> Option<VlanId> {
        VlanId::try_from(self.0 & 0x0fff).ok()
    }

    /// Whether the tag carries priority only (VID 0).
    pub(crate) fn is_priority(self) -> bool {
        self.0 & 0x0fff == 0
    }

    /// The same priority and drop eligibility in another VLAN.
    pub(crate) fn with_vlan(self, vlan: VlanId) -> Self {
        Self(self.0 & 0xf000 | vlan.as_u16())
    }

    /// The tag of `vlan` with priority 0.
    pub fn new(vlan: VlanId) -> Self {
        Self(vlan.as_u16())
    }

    /// The tag in wire format, as inserted between the source address and the ethertype.
    pub fn to_bytes(self) -> [u8; TAG] {
        let mut bytes = [0; TAG];
        put_u16(&mut bytes, 0, EtherType::VLAN_TAGGED_FRAME.0);
        put_u16(&mut bytes, 2, self.0);
        bytes
    }
}

/// The link layer of one frame, read once and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address: always a station's.
    pub src: MacAddr,
    /// The outer tag, if it is an 802.1Q tag. All other types are treated as payload.
    pub tag: Option<Tag>,
    /// Whether the network's payload, behind `tag` or without it, begins with a tag of any type.
    pub tagged_payload: bool,
}

impl Frame {
    /// Reads the link layer of `bytes` (with Ethernet header, without FCS).
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        // Two words hold everything: destination and the start of the source; source and ethertype.
        let (Some(front), Some(back)) = (try_u64_at(bytes, 0), try_u64_at(bytes, 6)) else {
            return Err(DropReason::PktTooSmall);
        };
        let (dst, src) = (MacAddr::from_bits(front >> 16), MacAddr::from_bits(back >> 16));
        if !src.is_station() {
            return Err(DropReason::MacInvalidSource);
        }
        #[expect(clippy::cast_possible_truncation, reason = "the lower 16 bits are the type")]
        let ethertype = back as u16;
        // Most are less: IPv4, ARP, lengths.
        if ethertype < EtherType::VLAN_TAGGED_FRAME.0 {
            return Ok(Self { dst, src, tag: None, tagged_payload: false });
        }
        if ethertype != EtherType::VLAN_TAGGED_FRAME.0 {
            return Ok(Self { dst, src, tag: None, tagged_payload: is_tag(ethertype) });
        }
        // Tag control information and the next ethertype: the last four bytes of the word at 10.
        let [.., high, low, next_high, next_low] =
            try_u64_at(bytes, 10).ok_or(DropReason::PktTooSmall)?.to_be_bytes();
        let tag = Some(Tag(u16::from_be_bytes([high, low])));
        Ok(Self { dst, src, tag, tagged_payload: is_tag(u16::from_be_bytes([next_high, next_low])) })
    }
}

/// Whether some switch takes a frame of this type for tagged: 802.1Q, 802.1ad, and what was in use before that was agreed on
/// (`ETH_P_8021Q`, `ETH_P_8021AD`, `ETH_P_QINQ1` to 3; include/uapi/linux/if_ether.h).
#[inline]
pub(crate) fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, 0x8100 | 0x88a8 | 0x9100 | 0x9200 | 0x9300)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARP: &[u8] = b"\xff\xff\xff\xff\xff\xff\x02\x42\x0a\x09\x00\x02\x08\x06\x00\x01";

    #[test]
    fn reads_addresses_and_tag() {
        let frame = Frame::parse(ARP).unwrap();
        assert!(frame.dst.is_broadcast());
        assert_eq!(frame.src.to_string(), "02:42:0a:09:00:02");
        assert_eq!(frame.tag, None);

        let mut tagged = ARP[..ADDRESSES].to_vec();
        tagged.extend(Tag(0x600a).to_bytes());
        tagged.extend(&ARP[ADDRESSES..]);
        let tag = Frame::parse(&tagged).unwrap().tag.unwrap();
        assert_eq!(tag.vlan().unwrap().as_u16(), 10);
        assert_eq!(tag.with_vlan(VlanId::try_from(20).unwrap()), Tag(0x6014));
    }

    #[test]
    fn a_tag_of_any_type_is_seen() {
        let tagged = |types: &[u16]| {
            let mut bytes = ARP[..ADDRESSES].to_vec();
            for ethertype in types {
                bytes.extend(ethertype.to_be_bytes());
                bytes.extend([0, 10]);
            }
            bytes.extend(&ARP[ADDRESSES..]);
            let frame = Frame::parse(&bytes).unwrap();
            (frame.tag.is_some(), frame.tagged_payload)
        };
        assert_eq!([tagged(&[]), tagged(&[0x8100])], [(false, false), (true, false)]);
        for other in [0x88a8, 0x9100, 0x9200, 0x9300] {
            assert_eq!(tagged(&[other]), (false, true), "{other:x}");
            assert_eq!(tagged(&[0x8100, other]), (true, true), "{other:x}");
            assert_eq!(tagged(&[other, 0x8100]), (false, true), "{other:x}");
        }
        assert_eq!(tagged(&[0x8100, 0x8100]), (true, true));
        assert_eq!([tagged(&[0x86dd]), tagged(&[0x9000])], [(false, false); 2]);
    }

    #[test]
    fn what_is_no_frame_has_a_reason() {
        for len in 0..ETHERNET_HEADER {
            assert_eq!(Frame::parse(&ARP[..len]), Err(DropReason::PktTooSmall), "{len}");
        }
        let mut group = ARP.to_vec();
        group[6] = 1;
        assert_eq!(Frame::parse(&group), Err(DropReason::MacInvalidSource));
        group[6..12].fill(0);
        assert_eq!(Frame::parse(&group), Err(DropReason::MacInvalidSource));
        let mut cut = ARP[..ADDRESSES].to_vec();
        cut.extend([0x81, 0x00, 0x00]);
        assert_eq!(Frame::parse(&cut), Err(DropReason::PktTooSmall));
    }

    #[test]
    fn priority_and_reserved_tags_name_no_vlan() {
        assert!(Tag(0xe000).is_priority());
        assert_eq!(Tag(0xe000).vlan(), None);
        assert!(!Tag(0x0fff).is_priority());
        assert_eq!(Tag(0x0fff).vlan(), None);
    }
}
