//! The tunnel in words: this host's endpoint (`[vxlan]`), its peers (`[[vxlan.peer]]`), and collectors of copies.
//!
//! All are ports of the switch. The endpoint is a port that carries nothing and counts what is of no peer; a peer carries every
//! network that has a VNI, or those it is told; a collector carries a mirror's copies.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Mtu, Name, Vni, text_option};

/// The UDP port that was assigned to VXLAN (RFC 7348 section 5).
pub const VXLAN_PORT: u16 = 4789;

/// This host's end of all tunnels: `[vxlan]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VxlanSpec {
    /// The address that datagrams are received at and sent from.
    pub local: IpAddr,
    /// The UDP port they are received at.
    pub port: u16,
    /// Octets of the longest packet that the underlay carries; that of the interface with the local address unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub underlay_mtu: Option<u16>,
    /// Whether datagrams are sent with UDP checksums. Without, none can leave together (UDP_SEGMENT).
    pub checksum: bool,
    /// The outer time to live, or hop limit.
    pub ttl: u8,
    /// The outer differentiated services code point.
    pub dscp: Dscp,
    /// Whether headers with reserved bits are refused, as Linux does.
    pub strict: bool,
    /// Whether whoever sends becomes a peer.
    pub learn_peers: bool,
    /// Whether TCP connections across the tunnel are made to ask for segments that fit it.
    pub clamp_mss: bool,
    /// A multicast group of the underlay to which flooded frames are sent, instead of a copy to each peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<IpAddr>,
}

impl VxlanSpec {
    /// The name of the endpoint's port.
    pub const NAME: &str = "vxlan";
    /// The name of the group's port.
    pub const GROUP_NAME: &str = "vxlan-group";
    /// What the underlay is taken to carry while nobody knows.
    pub const DEFAULT_UNDERLAY_MTU: u16 = 1500;

    /// An endpoint at `local` with every other key left out.
    pub fn new(local: IpAddr) -> Self {
        Self {
            local,
            port: VXLAN_PORT,
            underlay_mtu: None,
            checksum: true,
            ttl: 64,
            dscp: Dscp::Fixed(0),
            strict: false,
            learn_peers: false,
            clamp_mss: false,
            group: None,
        }
    }

    /// Octets of the longest packet that the underlay carries.
    pub fn underlay_mtu(&self) -> u16 {
        self.underlay_mtu.unwrap_or(Self::DEFAULT_UNDERLAY_MTU)
    }

    /// Octets of the longest inner packet that the tunnel carries.
    pub fn overlay_mtu(&self) -> Mtu {
        Mtu::nearest(self.underlay_mtu().saturating_sub(vswitch_vxlan::header::overhead(self.local)))
    }
}

/// Another host's end of a tunnel: `[[vxlan.peer]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerSpec {
    /// Where its datagrams come from and go to.
    pub remote: IpAddr,
    /// The UDP port it receives at; this host's own unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_port: Option<u16>,
    /// Whether it is sent flooded frames; unless told it is, but for where there is a multicast group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flood: Option<bool>,
}

impl PeerSpec {
    /// The name of a peer that was not given one: its address, with `-` for `:`, which no name has.
    pub fn default_name(remote: IpAddr) -> Name {
        let text = remote.to_string().replace(':', "-");
        // `::1` would begin with a dash.
        let text = if text.starts_with('-') { format!("0{text}") } else { text };
        text.parse()
            .expect("an address has digits, letters, dots and dashes, and begins with one of the first two")
    }
}

/// A host elsewhere that gets a mirror's copies: a port of kind `collector`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectorSpec {
    /// Where copies are sent. It may be a peer's address.
    pub remote: IpAddr,
    /// The UDP port it receives at; this host's own unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_port: Option<u16>,
    /// How it knows them: 0 to 16777215; no network here has it.
    #[serde(with = "text_option::required")]
    pub vni: Vni,
}

/// How outer headers get their differentiated services code point: a number below 64, or `"inherit"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dscp {
    /// This one.
    Fixed(u8),
    /// The inner packet's.
    Inherit,
}

impl Serialize for Dscp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fixed(dscp) => serializer.serialize_u8(*dscp),
            Self::Inherit => serializer.serialize_str("inherit"),
        }
    }
}

impl<'de> Deserialize<'de> for Dscp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Dscp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number below 64, or \"inherit\"")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Dscp, E> {
                let dscp = u8::try_from(number).ok().filter(|dscp| *dscp < 64);
                dscp.map(Dscp::Fixed).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Dscp, E> {
                match text {
                    "inherit" => Ok(Dscp::Inherit),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_makes_a_name() {
        for (address, name) in [("10.8.0.2", "10.8.0.2"), ("fd00::2", "fd00--2"), ("::1", "0--1")] {
            let made = PeerSpec::default_name(address.parse().unwrap());
            assert_eq!(made.as_str(), name);
            assert_eq!(name.parse(), Ok(made));
        }
    }

    #[test]
    fn the_overlay_carries_less_than_the_underlay() {
        let of = |local: &str, mtu| {
            VxlanSpec { underlay_mtu: mtu, ..VxlanSpec::new(local.parse().unwrap()) }.overlay_mtu().get()
        };
        assert_eq!([of("10.8.0.1", None), of("10.8.0.1", Some(9000))], [1450, 8950]);
        assert_eq!([of("fd00::1", None), of("fd00::1", Some(1280))], [1430, 1210]);
        assert_eq!(of("127.0.0.1", Some(u16::MAX)), 9198, "no more than a frame buffer holds");
    }
}
