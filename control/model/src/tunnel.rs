//! The tunnel in words: this host's endpoint (`[vxlan]`), its peers (`[[vxlan.peer]]`), and collectors of copies.
//!
//! All are ports of the switch. The endpoint is a port that carries nothing and counts what belongs to no peer; a peer carries
//! every network that has a VNI, or those that are listed; a collector carries the copies of a mirror.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Dscp, Mtu, Name, UnderlayAddr, Vni};

/// The UDP port that was assigned to VXLAN (RFC 7348 section 5).
pub const VXLAN_PORT: u16 = 4789;

/// This host's end of all tunnels: `[vxlan]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VxlanSpec {
    /// The address that datagrams are received at and sent from.
    pub local: UnderlayAddr,
    /// The UDP port they are received at.
    pub port: u16,
    /// Longest packet that the underlay carries, in bytes; by default what the ways to the peers carry at this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub underlay_mtu: Option<u16>,
    /// What these were found to carry, where `underlay_mtu` does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured_mtu: Option<u16>,
    /// Whether datagrams are sent with UDP checksums. Without them segmentation cannot be left to the kernel (UDP_SEGMENT).
    pub checksum: bool,
    /// The outer time to live, or hop limit.
    pub ttl: Ttl,
    /// The outer differentiated services code point: a number below 64, or `"inherit"`.
    pub dscp: Dscp,
    /// Whether headers with reserved bits are refused, as Linux does.
    pub strict: bool,
    /// Whether unknown senders become peers.
    pub learn_peers: bool,
    /// Whether TCP connections across the tunnel are made to ask for segments that fit it.
    pub clamp_mss: bool,
    /// A multicast group of the underlay to which flooded frames are sent, instead of a copy to each peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<UnderlayAddr>,
    /// The policy group by which frames of isolated ports are marked for the peers, which must use the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolated_group: Option<u16>,
}

impl VxlanSpec {
    /// The name of the endpoint's port.
    pub const NAME: &str = "vxlan";
    /// The name of the group's port.
    pub const GROUP_NAME: &str = "vxlan-group";
    /// Assumed MTU of the underlay while it is unknown.
    pub const DEFAULT_UNDERLAY_MTU: u16 = 1500;

    /// An endpoint at `local` with default settings.
    pub fn new(local: UnderlayAddr) -> Self {
        Self {
            local,
            port: VXLAN_PORT,
            underlay_mtu: None,
            measured_mtu: None,
            checksum: true,
            ttl: Ttl::default(),
            dscp: Dscp::Fixed(0),
            strict: false,
            learn_peers: false,
            clamp_mss: false,
            group: None,
            isolated_group: None,
        }
    }

    /// Longest packet that the underlay carries, in bytes.
    pub fn underlay_mtu(&self) -> u16 {
        self.underlay_mtu.or(self.measured_mtu).unwrap_or(Self::DEFAULT_UNDERLAY_MTU)
    }

    /// Longest inner packet that the tunnel carries, in bytes.
    pub fn overlay_mtu(&self) -> Mtu {
        Mtu::nearest(self.underlay_mtu().saturating_sub(vswitch_vxlan::header::overhead(self.local.ip())))
    }
}

/// Another host's end of a tunnel: `[[vxlan.peer]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerSpec {
    /// Where its datagrams come from and go to.
    pub remote: UnderlayAddr,
    /// The UDP port it receives at; by default this host's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_port: Option<u16>,
    /// Whether flooded frames are sent to it; by default they are, except where there is a multicast group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flood: Option<bool>,
}

impl PeerSpec {
    /// Default name of a peer: its address, with `-` instead of `:` and other signs that names do not allow.
    pub fn default_name(remote: UnderlayAddr) -> Name {
        let sign = |it: char| if it.is_ascii_alphanumeric() || it == '.' { it } else { '-' };
        let text: String = remote.to_string().chars().map(sign).collect();
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
    pub remote: UnderlayAddr,
    /// The UDP port it receives at; by default this host's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_port: Option<u16>,
    /// VNI of the copies: 0 to 16777215, not used by a network of this host.
    pub vni: Vni,
}

/// How outer headers get their time to live, or hop limit: a number from 1 to 255, or `"inherit"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// A fixed value; not zero.
    Fixed(u8),
    /// Copied from the inner packet. Frames that are not IP get the default.
    Inherit,
}

impl Default for Ttl {
    fn default() -> Self {
        Self::Fixed(Self::OF_OTHERS)
    }
}

impl Ttl {
    /// That of frames without one (RFC 1700: the default of the Internet).
    const OF_OTHERS: u8 = 64;

    /// The value for frames that have none to inherit, or none that is inherited.
    pub fn fixed(self) -> u8 {
        match self {
            Self::Fixed(ttl) => ttl,
            Self::Inherit => Self::OF_OTHERS,
        }
    }
}

impl Serialize for Ttl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fixed(ttl) => serializer.serialize_u8(*ttl),
            Self::Inherit => serializer.serialize_str("inherit"),
        }
    }
}

impl<'de> Deserialize<'de> for Ttl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a number from 1 to 255, or \"inherit\"")]
        enum Written {
            Number(std::num::NonZeroU8),
            Word(Word),
        }

        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Word {
            Inherit,
        }

        Ok(match Written::deserialize(deserializer)? {
            Written::Number(ttl) => Self::Fixed(ttl.get()),
            Written::Word(Word::Inherit) => Self::Inherit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_makes_a_name() {
        for (address, name) in [
            ("10.8.0.2", "10.8.0.2"),
            ("fd00::2", "fd00--2"),
            ("::1", "0--1"),
            ("fe80::2%eth1", "fe80--2-eth1"),
        ] {
            let made = PeerSpec::default_name(address.parse().unwrap());
            assert_eq!(made.as_str(), name);
            assert_eq!(name.parse(), Ok(made));
        }
    }

    #[test]
    fn a_ttl_is_a_number_or_a_word() {
        for (ttl, text, fixed) in [(Ttl::Fixed(255), "255", 255), (Ttl::Inherit, "\"inherit\"", 64)] {
            assert_eq!(serde_json::to_string(&ttl).unwrap(), text);
            assert_eq!(serde_json::from_str::<Ttl>(text).unwrap(), ttl);
            assert_eq!(ttl.fixed(), fixed);
        }
        for wrong in ["0", "256", "-1", "\"keep\"", "null"] {
            let why = serde_json::from_str::<Ttl>(wrong).unwrap_err().to_string();
            assert!(why.contains("from 1 to 255"), "{wrong}: {why}");
        }
    }

    #[test]
    fn the_overlay_carries_less_than_the_underlay() {
        let of = |local: &str, mtu| {
            VxlanSpec { underlay_mtu: mtu, ..VxlanSpec::new(local.parse().unwrap()) }.overlay_mtu().get()
        };
        assert_eq!([of("10.8.0.1", None), of("10.8.0.1", Some(9000))], [1450, 8950]);
        let measured = VxlanSpec { measured_mtu: Some(1400), ..VxlanSpec::new("10.8.0.1".parse().unwrap()) };
        assert_eq!(measured.overlay_mtu().get(), 1350);
        assert_eq!(
            VxlanSpec { underlay_mtu: Some(9000), ..measured }.overlay_mtu().get(),
            8950,
            "as configured"
        );
        assert_eq!([of("fd00::1", None), of("fd00::1", Some(1280))], [1430, 1210]);
        assert_eq!(of("127.0.0.1", Some(u16::MAX)), 9198, "no more than a frame buffer holds");
    }
}
