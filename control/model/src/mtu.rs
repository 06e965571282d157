//! Maximum transmission units.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use vswitch::topology::DEFAULT_MTU;

/// Longest IP packet that a port or a network carries, in bytes: at least what IPv4 must carry (RFC 791), at most what a
/// frame buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mtu(u16);

/// A number or a text that is not an MTU.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not an MTU: use {least} to {most}", least = Mtu::MIN, most = Mtu::MAX)]
pub struct InvalidMtu(String);

impl Mtu {
    /// Minimum.
    pub const MIN: Self = Self(68);
    /// Maximum.
    pub(crate) const MAX: Self = Self(DEFAULT_MTU);
    /// Default of a network that is not carried by a tunnel.
    pub const DEFAULT: Self = Self(1500);
    /// Minimum of a link that carries IPv6 (RFC 8200 section 5).
    pub const IPV6: Self = Self(1280);
    /// Valid values.
    pub const RANGE: RangeInclusive<u16> = Self::MIN.0..=Self::MAX.0;

    /// The MTU as a number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The valid MTU nearest to `bytes`.
    pub(crate) fn nearest(bytes: u16) -> Self {
        Self(bytes.clamp(Self::MIN.0, Self::MAX.0))
    }
}

impl TryFrom<u16> for Mtu {
    type Error = InvalidMtu;

    fn try_from(bytes: u16) -> Result<Self, InvalidMtu> {
        if Self::RANGE.contains(&bytes) { Ok(Self(bytes)) } else { Err(InvalidMtu(bytes.to_string())) }
    }
}

impl From<Mtu> for u16 {
    fn from(mtu: Mtu) -> Self {
        mtu.0
    }
}

impl FromStr for Mtu {
    type Err = InvalidMtu;

    fn from_str(text: &str) -> Result<Self, InvalidMtu> {
        let bytes = text.parse::<u16>().ok();
        bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| InvalidMtu(format!("{text:?}")))
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Mtu {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.0)
    }
}

impl<'de> Deserialize<'de> for Mtu {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = i64::deserialize(deserializer)?;
        let mtu = u16::try_from(bytes).ok().and_then(|bytes| bytes.try_into().ok());
        mtu.ok_or_else(|| de::Error::custom(InvalidMtu(bytes.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mtus_are_in_range_however_they_are_written() {
        for good in [68, 1500, 9198_u16] {
            let mtu = Mtu::try_from(good).unwrap();
            assert_eq!((mtu.get(), good.to_string().parse()), (good, Ok(mtu)));
            assert_eq!(serde_json::to_value(mtu).unwrap(), good);
            assert_eq!(serde_json::from_value::<Mtu>(good.into()).unwrap(), mtu);
        }
        assert_eq!(Mtu::try_from(67).unwrap_err().to_string(), "67 is not an MTU: use 68 to 9198");
        assert_eq!("9k".parse::<Mtu>().unwrap_err().to_string(), "\"9k\" is not an MTU: use 68 to 9198");
        for bad in [-1, 0, 67, 9199, 65536] {
            let error = serde_json::from_value::<Mtu>(bad.into()).unwrap_err().to_string();
            assert_eq!(error, format!("{bad} is not an MTU: use 68 to 9198"));
        }
        assert_eq!(
            [Mtu::nearest(0), Mtu::nearest(1450), Mtu::nearest(u16::MAX)].map(Mtu::get),
            [68, 1450, 9198]
        );
    }
}
