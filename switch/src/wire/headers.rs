//! Positions of the headers of a TCP or UDP frame.
//!
//! Offload needs three offsets and nothing else, so this parses only the path to a transport header:
//! Ethernet, up to two VLAN tags, IPv4 or IPv6, TCP or UDP. Everything else (fragments, tunnels,
//! authentication headers, other protocols) has no `Headers`. The slices of `etherparse` check the lengths;
//! its whole-packet slicer is not used, because it rejects frames for the length of their payload.

use std::ops::Range;

use etherparse::{
    EtherType, IpNumber, Ipv4Header, Ipv4HeaderSlice, Ipv6Header, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice,
    TcpHeader, TcpHeaderSlice, UdpHeader, UdpHeaderSlice,
};

use crate::wire::{
    bytes::try_u16_at,
    frame::{ETHERNET_HEADER, TAG},
};

/// Upper bound on the header stack, Ethernet to transport, in bytes.
///
/// The longest ordinary stack is 142 (two tags, IPv4 with 40 bytes of options, TCP with 40); the rest is room
/// for IPv6 extension headers. It bounds the parsing and the scratch space for headers.
pub const MAX_HEADER: usize = 512;

/// Length of an IPv4 header without options.
pub const IPV4_HEADER: usize = Ipv4Header::MIN_LEN;
/// Length of an IPv6 header without extensions.
pub const IPV6_HEADER: usize = Ipv6Header::LEN;
/// Length of a TCP header without options.
pub const TCP_HEADER: usize = TcpHeader::MIN_LEN;
/// Length of a UDP header.
pub const UDP_HEADER: usize = UdpHeader::LEN;

const MAX_TAGS: usize = 2;

/// The IP version of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4, not a fragment.
    V4,
    /// IPv6, with any hop-by-hop, routing, destination, mobility, HIP or shim6 headers before the transport.
    V6,
}

/// The transport protocol of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP (RFC 9293).
    Tcp,
    /// UDP (RFC 768).
    Udp,
}

impl Transport {
    /// Offset of the checksum field in the transport header.
    pub fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }

    /// Its protocol number in an IP header.
    pub fn protocol(self) -> u8 {
        match self {
            Self::Tcp => IpNumber::TCP.0,
            Self::Udp => IpNumber::UDP.0,
        }
    }
}

/// The headers of one frame; offsets count from the destination MAC.
///
/// Invariant of what [`Headers::measure`] returns: `ETHERNET_HEADER <= network < transport < payload <= MAX_HEADER`
/// and `payload <= end <= frame length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// The IP version.
    pub version: IpVersion,
    /// The transport protocol.
    pub transport_kind: Transport,
    /// Start of the network header.
    pub network: usize,
    /// Start of the transport header.
    pub transport: usize,
    /// Start of the transport payload.
    pub payload: usize,
    /// End of the IP packet according to its length field; bytes after it are Ethernet padding.
    pub end: usize,
}

impl Headers {
    /// Parses `frame`; `None` if it is not a whole TCP segment or UDP datagram after at most [`MAX_HEADER`]
    /// bytes of headers.
    #[inline]
    pub fn measure(frame: &[u8]) -> Option<Self> {
        match link(frame)? {
            (network, EtherType::IPV4) => Self::of_packet(frame, network, IpVersion::V4),
            (network, EtherType::IPV6) => Self::of_packet(frame, network, IpVersion::V6),
            _ => None,
        }
    }

    /// The same for the packet that begins at `network`, not necessarily behind the frame's link header.
    #[inline]
    pub(crate) fn of_packet(frame: &[u8], network: usize, version: IpVersion) -> Option<Self> {
        let head = &frame[..frame.len().min(MAX_HEADER)];
        let packet = head.get(network..)?;
        let (length, protocol, transport) = match version {
            IpVersion::V4 => {
                let ip = Ipv4HeaderSlice::from_slice(packet).ok()?;
                if ip.is_fragmenting_payload() {
                    return None;
                }
                (usize::from(ip.total_len()), ip.protocol(), network + ip.slice().len())
            }
            IpVersion::V6 => {
                let ip = Ipv6HeaderSlice::from_slice(packet).ok()?;
                let length = ip.slice().len() + usize::from(ip.payload_length());
                let (protocol, transport) =
                    skip_extensions(head, ip.next_header(), network + ip.slice().len())?;
                (length, protocol, transport)
            }
        };
        let (transport_kind, header) = match protocol {
            IpNumber::TCP => {
                (Transport::Tcp, TcpHeaderSlice::from_slice(head.get(transport..)?).ok()?.slice().len())
            }
            IpNumber::UDP => {
                (Transport::Udp, UdpHeaderSlice::from_slice(head.get(transport..)?).ok()?.slice().len())
            }
            _ => return None,
        };
        let (payload, end) = (transport + header, network + length);
        (payload <= end && end <= frame.len()).then_some(Self {
            version,
            transport_kind,
            network,
            transport,
            payload,
            end,
        })
    }

    /// Whether the IP length, and for UDP the datagram length, end exactly with `frame`.
    #[inline]
    pub fn ends_with(&self, frame: &[u8]) -> bool {
        let datagram = match self.transport_kind {
            Transport::Tcp => true,
            Transport::Udp => {
                try_u16_at(frame, self.transport + 4).map(usize::from)
                    == Some(frame.len().wrapping_sub(self.transport))
            }
        };
        datagram && self.end == frame.len()
    }

    /// Position of the source and destination address, which are adjacent.
    #[inline]
    pub fn addresses(&self) -> Range<usize> {
        match self.version {
            IpVersion::V4 => self.network + 12..self.network + IPV4_HEADER,
            IpVersion::V6 => self.network + 8..self.network + IPV6_HEADER,
        }
    }

    /// Whether this is a TCP segment with the CWR flag (RFC 3168 section 6.1.2).
    pub(crate) fn cwr(&self, frame: &[u8]) -> bool {
        self.transport_kind == Transport::Tcp
            && frame.get(self.transport + 13).is_some_and(|flags| flags & 0x80 != 0)
    }
}

/// Start of the network header of `frame` and its EtherType, after at most two VLAN tags; `None` if the frame
/// is too short. A third tag is reported as the EtherType.
#[inline]
pub fn link(frame: &[u8]) -> Option<(usize, EtherType)> {
    let mut end = ETHERNET_HEADER;
    for _ in 0..MAX_TAGS {
        match ethertype_before(frame, end)? {
            EtherType::VLAN_TAGGED_FRAME | EtherType::PROVIDER_BRIDGING => end += TAG,
            ethertype => return Some((end, ethertype)),
        }
    }
    Some((end, ethertype_before(frame, end)?))
}

/// Whether `frame` announces an IP packet but ends within its fixed header.
///
/// The kernel's VXLAN device carries none such, in either direction (`skb_vlan_inet_prepare`, include/net/ip_tunnels.h;
/// `pskb_inet_may_pull`, drivers/net/vxlan/vxlan_core.c); its bridge does not look.
#[inline]
pub fn is_cut_short(frame: &[u8]) -> bool {
    match ethertype_before(frame, ETHERNET_HEADER) {
        Some(EtherType::IPV4) => frame.len() < ETHERNET_HEADER + IPV4_HEADER,
        Some(EtherType::IPV6) => frame.len() < ETHERNET_HEADER + IPV6_HEADER,
        Some(EtherType::VLAN_TAGGED_FRAME | EtherType::PROVIDER_BRIDGING) => ends_within_ip(frame),
        _ => false,
    }
}

/// Number of tags behind which the kernel looks for an IP header (`VLAN_MAX_DEPTH`, include/linux/if_vlan.h).
const KERNEL_TAGS: usize = 8;

#[cold]
fn ends_within_ip(frame: &[u8]) -> bool {
    let mut network = ETHERNET_HEADER;
    while network <= ETHERNET_HEADER + KERNEL_TAGS * TAG {
        let header = match ethertype_before(frame, network) {
            Some(EtherType::VLAN_TAGGED_FRAME | EtherType::PROVIDER_BRIDGING) => {
                network += TAG;
                continue;
            }
            Some(EtherType::IPV4) => IPV4_HEADER,
            Some(EtherType::IPV6) => IPV6_HEADER,
            // It ends within a tag.
            None => return network > ETHERNET_HEADER,
            Some(_) => 0,
        };
        return frame.len() < network + header;
    }
    false
}

#[inline]
fn ethertype_before(frame: &[u8], end: usize) -> Option<EtherType> {
    try_u16_at(frame, end - 2).map(EtherType)
}

/// Skips IPv6 extension headers (RFC 8200 section 4) that every segment may carry unchanged. Fragment and
/// authentication headers apply to a single packet; they are returned as the protocol, which is then unknown.
fn skip_extensions(head: &[u8], mut protocol: IpNumber, mut at: usize) -> Option<(IpNumber, usize)> {
    while Ipv6RawExtHeaderSlice::header_type_supported(protocol) {
        let extension = Ipv6RawExtHeaderSlice::from_slice(head.get(at..)?).ok()?;
        protocol = extension.next_header();
        at += extension.slice().len();
    }
    Some((protocol, at))
}
