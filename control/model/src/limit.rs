//! Rate limits of a port: `limit = { … }`.

use std::{fmt, num::NonZeroU64, ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Serialize};
use vswitch::limit::{Limit, Limits};

/// A rate in bits per second, of wire frames with their Ethernet headers: 1 bit/s to 1000 Gbit/s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate(NonZeroU64);

/// Text or a number that is not a [`Rate`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a rate: use a whole number and bit/s, kbit/s, Mbit/s or Gbit/s, up to 1000 Gbit/s, like \"100 Mbit/s\""
)]
pub struct InvalidRate(pub String);

/// In descending order; a rate is written in the first unit that divides it.
const UNITS: [(&str, u64); 4] =
    [("Gbit/s", 1_000_000_000), ("Mbit/s", 1_000_000), ("kbit/s", 1000), ("bit/s", 1)];

const FASTEST: u64 = 1_000_000_000_000;

impl Rate {
    /// Bits per second.
    pub(crate) fn bits(self) -> u64 {
        self.0.get()
    }
}

impl TryFrom<u64> for Rate {
    type Error = InvalidRate;

    fn try_from(bits: u64) -> Result<Self, InvalidRate> {
        let rate = NonZeroU64::new(bits).filter(|bits| bits.get() <= FASTEST);
        rate.map(Self).ok_or_else(|| InvalidRate(format!("{bits} bit/s")))
    }
}

impl FromStr for Rate {
    type Err = InvalidRate;

    /// With or without a blank and `/s`, in capitals or not: `100mbit` is what `tc` calls it.
    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let invalid = || InvalidRate(text.to_owned());
        let (digits, unit) = text.split_at(text.find(|it: char| !it.is_ascii_digit()).ok_or_else(invalid)?);
        let unit = unit.trim_start().to_ascii_lowercase();
        let unit = unit.strip_suffix("/s").unwrap_or(&unit);
        let is_it = |known: &&(&str, u64)| known.0.to_ascii_lowercase().strip_suffix("/s") == Some(unit);
        let (_, factor) = UNITS.iter().find(is_it).ok_or_else(invalid)?;
        let bits = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor));
        bits.and_then(|bits| bits.try_into().ok()).ok_or_else(invalid)
    }
}

written_as_text!(Rate);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, factor)| self.bits().is_multiple_of(*factor));
        let (name, factor) = unit.expect("every number is a multiple of one");
        write!(f, "{} {name}", self.bits() / factor)
    }
}

/// Valid bursts, in bytes.
pub const BURST: RangeInclusive<u32> = 1..=u32::MAX;

/// Default burst of a rate: what passes in this many milliseconds.
///
/// The shortest time after which TCP repeats what was lost at the end of a flight is 200 ms (TCP_RTO_MIN,
/// include/net/tcp.h). What could have passed meanwhile is made up for afterwards, so a single connection reaches the rate.
const BURST_MILLIS: u64 = 200;

/// Minimum of the default burst, in bytes: two super-frames.
const LEAST_BURST: u64 = 128 << 10;

/// Limits on what a port receives and sends; by default none. As written: the data plane's [`Limits`] have every default filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSpec {
    /// Rate of reception: what its container sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx: Option<Rate>,
    /// Burst of reception in bytes; by default 200 ms of the rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_burst: Option<u32>,
    /// Rate of transmission: what its container receives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx: Option<Rate>,
    /// Burst of transmission in bytes; by default 200 ms of the rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_burst: Option<u32>,
}

impl LimitSpec {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The key of a burst without a rate, and what to do about it.
    pub fn misfit(&self) -> Option<(&'static str, String)> {
        let stray =
            |key, rate| Some((key, format!("there is no {rate} that it belongs to: add it, or remove this")));
        match self {
            Self { rx: None, rx_burst: Some(_), .. } => stray("limit.rx_burst", "limit.rx"),
            Self { tx: None, tx_burst: Some(_), .. } => stray("limit.tx_burst", "limit.tx"),
            _ => None,
        }
    }

    /// These limits, completed by those of `others`.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        let (rx, rx_burst) =
            if self.rx.is_some() { (self.rx, self.rx_burst) } else { (others.rx, others.rx_burst) };
        let (tx, tx_burst) =
            if self.tx.is_some() { (self.tx, self.tx_burst) } else { (others.tx, others.tx_burst) };
        Self { rx, rx_burst, tx, tx_burst }
    }

    /// Converts to the types of the data plane.
    pub fn limits(&self) -> Limits {
        let limit = |rate: Option<Rate>, burst: Option<u32>| {
            let rate = rate?;
            let default = (rate.bits() / 8 * BURST_MILLIS / 1000).max(LEAST_BURST);
            Some(Limit::new(rate.0, burst.map_or(default, u64::from) * 8))
        };
        Limits { rx: limit(self.rx, self.rx_burst), tx: limit(self.tx, self.tx_burst) }
    }
}

impl fmt::Display for LimitSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = |way: &str, rate: Option<Rate>, burst: Option<u32>| {
            let burst = burst.map(|burst| format!(" (burst {burst})")).unwrap_or_default();
            rate.map(|rate| format!("{way} {rate}{burst}"))
        };
        let ways = [written("rx", self.rx, self.rx_burst), written("tx", self.tx, self.tx_burst)];
        f.write_str(&ways.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_written_with_its_unit() {
        for (text, bits, written) in [
            ("100 Mbit/s", 100_000_000, "100 Mbit/s"),
            ("100mbit", 100_000_000, "100 Mbit/s"),
            ("2500Mbit/s", 2_500_000_000, "2500 Mbit/s"),
            ("1000 Gbit/s", FASTEST, "1000 Gbit/s"),
            ("64 KBIT/S", 64_000, "64 kbit/s"),
            ("1bit/s", 1, "1 bit/s"),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.bits(), rate.to_string().as_str()), (bits, written), "{text}");
            assert_eq!(rate.to_string().parse(), Ok(rate));
        }
        for text in [
            "",
            "100",
            "fast",
            "0 bit/s",
            "1001 Gbit/s",
            "1.5 Gbit/s",
            "-1 bit/s",
            "100 MB/s",
            "99999999999999999999 bit/s",
        ] {
            assert_eq!(text.parse::<Rate>(), Err(InvalidRate(text.into())));
        }
    }

    #[test]
    fn each_direction_is_a_limit_of_its_own() {
        let rate = |text: &str| Some(text.parse().unwrap());
        let narrow = LimitSpec { rx: rate("1 Mbit/s"), ..LimitSpec::default() };
        let wide =
            LimitSpec { rx: rate("1 Gbit/s"), rx_burst: Some(5), tx: rate("2 Gbit/s"), tx_burst: Some(7) };
        assert_eq!(narrow.or(wide), LimitSpec { rx_burst: None, ..LimitSpec { rx: narrow.rx, ..wide } });
        assert_eq!(wide.to_string(), "rx 1 Gbit/s (burst 5), tx 2 Gbit/s (burst 7)");
        assert_eq!(narrow.to_string(), "rx 1 Mbit/s");
        let narrow_burst = LimitSpec { rx_burst: Some(128 << 10), ..narrow };
        assert_eq!(narrow_burst.limits(), narrow.limits(), "the minimum burst by default");
        let wide_burst =
            LimitSpec { rx_burst: Some(25_000_000), ..LimitSpec { tx: None, tx_burst: None, ..wide } };
        assert_eq!(
            wide_burst.limits(),
            LimitSpec { rx_burst: None, ..wide_burst }.limits(),
            "those of 200 ms"
        );
    }
}
