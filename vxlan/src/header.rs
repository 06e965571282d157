//! The VXLAN header (RFC 7348 section 5): eight bytes, of which one flag and 24 bits are used.

use std::{fmt, net::IpAddr, str::FromStr};

use vswitch::{
    bytes::length,
    frame::ETHERNET_HEADER,
    headers::{IPV4_HEADER, IPV6_HEADER, UDP_HEADER},
};

/// Length of the header.
pub const HEADER: usize = 8;

/// The flag that must be set: the VNI is valid.
const VNI_VALID: u8 = 0x08;

/// G of the group policy (draft-smith-vxlan-group-policy section 2.1): the header's last 16 reserved bits are a policy group.
const POLICY: u8 = 0x80;

/// VXLAN-GPE's P (the header's fourth byte is a protocol) and O (operations and maintenance).
const NOT_ETHERNET: u8 = 0x04 | 0x01;

/// A VXLAN network identifier: 0 to 16777215.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vni(u32);

impl Vni {
    /// The least identifier.
    pub const MIN: Self = Self(0);
    /// The greatest identifier: 24 bits.
    pub const MAX: Self = Self(0xff_ffff);

    /// The identifier as a number.
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// The header of a frame in this network. All reserved bits are zero.
    pub fn header(self) -> [u8; HEADER] {
        let [_, high, middle, low] = self.0.to_be_bytes();
        [VNI_VALID, 0, 0, 0, high, middle, low, 0]
    }

    /// The header of a frame in this network whose sender belongs to the policy group `group`.
    pub fn header_of(self, group: u16) -> [u8; HEADER] {
        let [_, _, _, _, rest @ ..] = self.header();
        let ([high, low], [v0, v1, v2, reserved]) = (group.to_be_bytes(), rest);
        [VNI_VALID | POLICY, 0, high, low, v0, v1, v2, reserved]
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number that is not a VNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidVni(pub u32);

impl fmt::Display for InvalidVni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not a VNI: use 0 to 16777215", self.0)
    }
}

impl std::error::Error for InvalidVni {}

/// Text that is not a VNI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseVniError(pub String);

impl fmt::Display for ParseVniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.parse() {
            Ok(number) => InvalidVni(number).fmt(f),
            Err(_) => write!(f, "{:?} is not a VNI: use 0 to 16777215", self.0),
        }
    }
}

impl std::error::Error for ParseVniError {}

impl FromStr for Vni {
    type Err = ParseVniError;

    fn from_str(text: &str) -> Result<Self, ParseVniError> {
        let number = text.parse().ok().and_then(|number: u32| Self::try_from(number).ok());
        number.ok_or_else(|| ParseVniError(text.to_owned()))
    }
}

impl TryFrom<u32> for Vni {
    type Error = InvalidVni;

    fn try_from(number: u32) -> Result<Self, InvalidVni> {
        let range = Self::MIN.0..=Self::MAX.0;
        if range.contains(&number) { Ok(Self(number)) } else { Err(InvalidVni(number)) }
    }
}

/// Why a header is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidHeader {
    /// It is too short, it has no VNI, or `strict` rejects its reserved bits.
    Invalid,
    /// According to VXLAN-GPE, it is followed by something other than Ethernet, or by a message of operations and
    /// maintenance.
    NotEthernet,
}

/// Parses the header at the front of `datagram`.
///
/// RFC 7348 requires that reserved bits are ignored. With `strict` they must be zero, as in Linux (`vxlan_rcv`,
/// drivers/net/vxlan/vxlan_core.c). Two are always rejected, because no frame of a station follows them
/// (draft-ietf-nvo3-vxlan-gpe section 3): P, another protocol, and O, operations and maintenance. The group policy
/// (draft-smith-vxlan-group-policy) is ignored; [`parse_with_policy`] reads it.
///
/// # Errors
/// The reason to reject it.
#[inline]
pub fn parse(datagram: &[u8], strict: bool) -> Result<Vni, InvalidHeader> {
    let header: [u8; HEADER] = *datagram.first_chunk().ok_or(InvalidHeader::Invalid)?;
    check(header, strict)
}

/// The same where group policies are in use, with the policy group of the frame's sender. With `strict` the policy's bits are not
/// reserved, as with `gbp` of Linux' device.
///
/// # Errors
/// The reason to reject it.
#[inline]
pub fn parse_with_policy(datagram: &[u8], strict: bool) -> Result<(Vni, Option<u16>), InvalidHeader> {
    /// D, "do not learn", and A, "policy applied": bits beside the group that change nothing here.
    const DONT_LEARN_AND_APPLIED: u8 = 0x40 | 0x08;
    let mut header: [u8; HEADER] = *datagram.first_chunk().ok_or(InvalidHeader::Invalid)?;
    if header[0] & POLICY == 0 {
        return check(header, strict).map(|vni| (vni, None));
    }
    let group = u16::from_be_bytes([header[2], header[3]]);
    header[0] &= !POLICY;
    header[1] &= !DONT_LEARN_AND_APPLIED;
    (header[2], header[3]) = (0, 0);
    check(header, strict).map(|vni| (vni, Some(group)))
}

#[inline]
fn check(header: [u8; HEADER], strict: bool) -> Result<Vni, InvalidHeader> {
    let [flags, r0, r1, r2, high, middle, low, r3] = header;
    if flags & NOT_ETHERNET != 0 {
        return Err(InvalidHeader::NotEthernet);
    }
    let reserved = flags & !VNI_VALID | r0 | r1 | r2 | r3;
    if flags & VNI_VALID == 0 || strict && reserved != 0 {
        return Err(InvalidHeader::Invalid);
    }
    Ok(Vni(u32::from_be_bytes([0, high, middle, low])))
}

/// Bytes of outer headers before an inner packet, including its Ethernet header.
pub fn overhead(local: IpAddr) -> u16 {
    let outer = match local {
        IpAddr::V4(_) => IPV4_HEADER,
        IpAddr::V6(_) => IPV6_HEADER,
    };
    length(outer + UDP_HEADER + HEADER + ETHERNET_HEADER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let vni = Vni::try_from(0x12_3456).unwrap();
        assert_eq!(vni.header(), [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
        assert_eq!(parse(&vni.header(), true), Ok(vni));
        // "id 0" of the kernel's device, and Open vSwitch without a key.
        let zero = Vni::try_from(0).unwrap();
        assert_eq!((zero.header(), parse(&zero.header(), true)), ([8, 0, 0, 0, 0, 0, 0, 0], Ok(zero)));
        assert_eq!(Vni::try_from(1 << 24), Err(InvalidVni(1 << 24)));
        assert_eq!("1193046".parse(), Ok(vni));
        for (text, sentence) in [
            ("16777216", "16777216 is not a VNI: use 0 to 16777215"),
            ("-1", "\"-1\" is not a VNI: use 0 to 16777215"),
        ] {
            assert_eq!(text.parse::<Vni>().unwrap_err().to_string(), sentence);
        }
    }

    #[test]
    fn reserved_bits_are_ignored_unless_strict() {
        let good = Vni::try_from(7).unwrap().header();
        for (byte, bit) in [(0, 0x80), (0, 0x02), (1, 1), (2, 1), (3, 0x80), (7, 1)] {
            let mut header = good;
            header[byte] |= bit;
            assert!(parse(&header, false).is_ok(), "{header:?}");
            assert_eq!(parse(&header, true), Err(InvalidHeader::Invalid), "{header:?}");
        }
    }

    #[test]
    fn a_policy_group_is_read_where_it_is_in_use() {
        let vni = Vni::try_from(0x12_3456).unwrap();
        let header = vni.header_of(0x0102);
        assert_eq!(header, [0x88, 0, 1, 2, 0x12, 0x34, 0x56, 0]);
        assert_eq!(parse(&header, false), Ok(vni), "ignored");
        assert_eq!(parse(&header, true), Err(InvalidHeader::Invalid));
        for strict in [false, true] {
            assert_eq!(parse_with_policy(&header, strict), Ok((vni, Some(0x0102))));
            assert_eq!(parse_with_policy(&vni.header(), strict), Ok((vni, None)));
            let applied = [0x88, 0x48, 1, 2, 0x12, 0x34, 0x56, 0];
            assert_eq!(parse_with_policy(&applied, strict), Ok((vni, Some(0x0102))));
            // Without G the field means nothing.
            let no_policy = [0x08, 0, 1, 2, 0x12, 0x34, 0x56, 0];
            let expected = if strict { Err(InvalidHeader::Invalid) } else { Ok((vni, None)) };
            assert_eq!(parse_with_policy(&no_policy, strict), expected);
            let other_bits = [0x8c, 0, 1, 2, 0x12, 0x34, 0x56, 0];
            assert_eq!(parse_with_policy(&other_bits, strict), Err(InvalidHeader::NotEthernet));
            assert_eq!(parse_with_policy(&header[..7], strict), Err(InvalidHeader::Invalid));
        }
    }

    #[test]
    fn what_is_no_header() {
        let good = Vni::try_from(7).unwrap().header();
        for len in 0..HEADER {
            assert_eq!(parse(&good[..len], false), Err(InvalidHeader::Invalid), "{len}");
        }
        assert_eq!(
            parse(&[0, 0, 0, 0, 0, 0, 7, 0], false),
            Err(InvalidHeader::Invalid),
            "the flag is missing"
        );
        // IPv4 by VXLAN-GPE, Ethernet by VXLAN-GPE, and its operations and maintenance.
        for header in [[0x0c, 0, 0, 1, 0, 0, 7, 0], [0x0c, 0, 0, 3, 0, 0, 7, 0], [0x09, 0, 0, 0, 0, 0, 7, 0]]
        {
            for strict in [false, true] {
                assert_eq!(parse(&header, strict), Err(InvalidHeader::NotEthernet), "{header:?}");
            }
        }
    }
}
