//! Addresses, identifiers and time.
//!
//! Each is a newtype without illegal values, so later code need not check again.

use std::{fmt, str::FromStr, time::Duration};

/// A 48-bit Ethernet address, as in a frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// 00:00:00:00:00:00, which no station may use as its source.
    pub const ZERO: Self = Self([0; 6]);

    /// Whether this is the broadcast address.
    #[inline]
    pub(crate) fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }

    /// Whether this is a group address (broadcast included): IEEE 802 I/G bit.
    #[inline]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether this is a valid source address: neither a group nor zero.
    #[inline]
    pub fn is_station(self) -> bool {
        !self.is_group() && self != Self::ZERO
    }

    /// The last nibble of 01:80:C2:00:00:0X, the addresses that a bridge does not forward (IEEE 802.1Q-2018,
    /// table 8-1), or `None` for any other address.
    #[inline]
    pub(crate) fn reserved_group(self) -> Option<u8> {
        match self.0 {
            [0x01, 0x80, 0xc2, 0x00, 0x00, last @ 0..=0x0f] => Some(last),
            _ => None,
        }
    }

    /// The address as the low 48 bits of an integer, first byte highest.
    #[inline]
    pub fn to_bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The inverse of [`MacAddr::to_bits`]; the upper 16 bits are ignored.
    #[inline]
    pub fn from_bits(bits: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = bits.to_be_bytes();
        Self([a, b, c, d, e, f])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not six colon-separated bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseMacError;

impl fmt::Display for ParseMacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a MAC address: write six bytes like 02:42:0a:09:00:02")
    }
}

impl std::error::Error for ParseMacError {}

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(ParseMacError)?;
            if part.len() != 2 || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(ParseMacError);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| ParseMacError)?;
        }
        if parts.next().is_some() { Err(ParseMacError) } else { Ok(Self(bytes)) }
    }
}

/// A VLAN identifier: 1 to 4094 (IEEE 802.1Q-2018, table 9-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VlanId(u16);

impl VlanId {
    /// The identifier as a number, 1 to 4094.
    pub fn as_u16(self) -> u16 {
        self.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A number that is not a VLAN identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidVlan(pub u16);

impl fmt::Display for InvalidVlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0 means \"priority tag, no VLAN\": use 1 to 4094"),
            4095 => f.write_str("4095 is reserved: use 1 to 4094"),
            other => write!(f, "{other} is not a VLAN id: use 1 to 4094"),
        }
    }
}

impl std::error::Error for InvalidVlan {}

impl TryFrom<u16> for VlanId {
    type Error = InvalidVlan;

    fn try_from(id: u16) -> Result<Self, InvalidVlan> {
        if (1..=4094).contains(&id) { Ok(Self(id)) } else { Err(InvalidVlan(id)) }
    }
}

/// Text that is not a VLAN identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseVlanError(pub String);

impl fmt::Display for ParseVlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.parse() {
            Ok(number) => InvalidVlan(number).fmt(f),
            Err(_) => write!(f, "{:?} is not a VLAN id: use 1 to 4094", self.0),
        }
    }
}

impl std::error::Error for ParseVlanError {}

impl FromStr for VlanId {
    type Err = ParseVlanError;

    fn from_str(text: &str) -> Result<Self, ParseVlanError> {
        let number = text.parse().ok().and_then(|number: u16| Self::try_from(number).ok());
        number.ok_or_else(|| ParseVlanError(text.to_owned()))
    }
}

/// Dense index of a port. The number of a removed port is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

impl PortId {
    /// The place of all [services](crate::balance) in the table; no port has this number.
    pub const SERVICES: Self = Self(u16::MAX);

    /// The identifier as an array index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Dense index of a broadcast domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkId(pub u16);

impl NetworkId {
    /// The identifier as an array index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Milliseconds since a start chosen by the caller. The core never reads a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// `millis` milliseconds after the caller's start.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the caller's start.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this one; zero if that is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_text_both_ways() {
        let mac: MacAddr = "02:42:0a:09:00:02".parse().unwrap();
        assert_eq!(mac.0, [0x02, 0x42, 0x0a, 0x09, 0x00, 0x02]);
        assert_eq!(mac.to_string(), "02:42:0a:09:00:02");
        assert_eq!(MacAddr::from_bits(mac.to_bits()), mac);
        for bad in [
            "",
            "02:42",
            "02:42:0a:09:00:02:03",
            "2:42:0a:09:00:02",
            "02:42:0a:09:00:0g",
            "+2:42:0a:09:00:02",
        ] {
            assert_eq!(bad.parse::<MacAddr>(), Err(ParseMacError), "{bad}");
        }
    }

    #[test]
    fn stations_and_groups() {
        assert!(MacAddr([2, 0, 0, 0, 0, 1]).is_station());
        assert!(!MacAddr::ZERO.is_station());
        assert!(!MacAddr::BROADCAST.is_station());
        assert!(!MacAddr([1, 0, 0x5e, 0, 0, 1]).is_station());
        assert_eq!(MacAddr([1, 0x80, 0xc2, 0, 0, 0x0e]).reserved_group(), Some(0x0e));
        assert_eq!(MacAddr([1, 0x80, 0xc2, 0, 0, 0x10]).reserved_group(), None);
    }

    #[test]
    fn vlan_ids_that_exist_are_valid() {
        for bad in [0, 4095, 4096, u16::MAX] {
            assert_eq!(VlanId::try_from(bad), Err(InvalidVlan(bad)));
        }
        assert_eq!(VlanId::try_from(4094).unwrap().as_u16(), 4094);
        assert_eq!("10".parse(), VlanId::try_from(10).map_err(|_| ParseVlanError(String::new())));
        for (text, sentence) in [
            ("0", "0 means \"priority tag, no VLAN\": use 1 to 4094"),
            ("70000", "\"70000\" is not a VLAN id: use 1 to 4094"),
            ("blue", "\"blue\" is not a VLAN id: use 1 to 4094"),
        ] {
            assert_eq!(text.parse::<VlanId>().unwrap_err().to_string(), sentence);
        }
    }
}
