//! Underlays of tunnels.

use crate::Netns;

/// Address family of the link between two hosts, with addresses for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underlay {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Underlay {
    /// The address of host number `host`.
    pub fn address(self, host: u8) -> String {
        match self {
            Self::V4 => format!("10.8.0.{host}"),
            Self::V6 => format!("fd08::{host}"),
        }
    }

    /// Longest inner packet in bytes, for an underlay MTU of 1500.
    pub fn overlay_mtu(self) -> usize {
        match self {
            Self::V4 => 1450,
            Self::V6 => 1430,
        }
    }

    /// Gives `device` of `host` the address of host number `number`, and brings it up.
    pub fn up(self, host: &Netns, device: &str, number: u8) {
        let (length, nodad) = if self == Self::V4 { (24, "") } else { (64, " nodad") };
        host.ip(&format!("addr add {}/{length} dev {device}{nodad}", self.address(number)));
        host.ip(&format!("link set {device} up"));
    }
}
