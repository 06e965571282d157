//! Where the headers of a TCP or UDP frame stand.
//!
//! Offload needs three offsets and nothing else, so this walks only the path that leads to a transport
//! header: Ethernet, up to two VLAN tags, IPv4 or IPv6, TCP or UDP. Everything else (fragments, tunnels,
//! authentication headers, other protocols) has no `Headers`. The views of `etherparse` check the lengths;
//! its whole-packet slicing is not used, for it refuses frames whose end we do not care about.

use std::ops::Range;

use etherparse::{
    EtherType, IpNumber, Ipv4Header, Ipv4HeaderSlice, Ipv6Header, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice,
    TcpHeader, TcpHeaderSlice, UdpHeader, UdpHeaderSlice,
};

use crate::wire::{
    bytes::try_u16_at,
    frame::{ETHERNET_HEADER, TAG},
};

/// The most octets that all headers of one frame may take, Ethernet to transport.
///
/// The longest ordinary stack is 142 (two tags, IPv4 with 40 octets of options, TCP with 40); the rest is
/// room for IPv6 extension headers. It bounds the walk and the scratch space of whoever writes headers.
pub const MAX_HEADER: usize = 512;

/// Bytes of an IPv4 header without options.
pub const IPV4_HEADER: usize = Ipv4Header::MIN_LEN;
/// Bytes of an IPv6 header without extensions.
pub const IPV6_HEADER: usize = Ipv6Header::LEN;
/// Bytes of a TCP header without options.
pub const TCP_HEADER: usize = TcpHeader::MIN_LEN;
/// Bytes of a UDP header.
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
    /// Where the checksum field stands, counted from the transport header.
    pub fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }

    /// The number that names it in an IP header.
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
    /// Which network header it is.
    pub version: IpVersion,
    /// Which transport header it is.
    pub transport_kind: Transport,
    /// Where the network header begins.
    pub network: usize,
    /// Where the transport header begins.
    pub transport: usize,
    /// Where the transport payload begins.
    pub payload: usize,
    /// Where the IP packet ends by its own length field; octets behind it are Ethernet padding.
    pub end: usize,
}

impl Headers {
    /// Measures `frame`, or `None` if it is not a whole TCP segment or UDP datagram behind at most
    /// [`MAX_HEADER`] octets of headers.
    #[inline]
    pub fn measure(frame: &[u8]) -> Option<Self> {
        let (network, ethertype) = link(frame)?;
        let head = &frame[..frame.len().min(MAX_HEADER)];
        let packet = head.get(network..)?;
        let (version, length, protocol, transport) = match ethertype {
            EtherType::IPV4 => {
                let ip = Ipv4HeaderSlice::from_slice(packet).ok()?;
                if ip.is_fragmenting_payload() {
                    return None;
                }
                (IpVersion::V4, usize::from(ip.total_len()), ip.protocol(), network + ip.slice().len())
            }
            EtherType::IPV6 => {
                let ip = Ipv6HeaderSlice::from_slice(packet).ok()?;
                let length = ip.slice().len() + usize::from(ip.payload_length());
                let (protocol, transport) =
                    skip_extensions(head, ip.next_header(), network + ip.slice().len())?;
                (IpVersion::V6, length, protocol, transport)
            }
            _ => return None,
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

    /// Whether the IP length, and for UDP the datagram's own, ends exactly where `frame` does.
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

    /// Where source and destination address stand in the network header, one after the other.
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

/// Where the network header of `frame` begins and the EtherType that says what it is, after at most two VLAN
/// tags; `None` if the frame ends before that. A third tag is reported as the EtherType.
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

#[inline]
fn ethertype_before(frame: &[u8], end: usize) -> Option<EtherType> {
    try_u16_at(frame, end - 2).map(EtherType)
}

/// Follows IPv6 extension headers (RFC 8200 section 4) that every segment may carry unchanged. Fragments and
/// authentication headers speak of one packet alone; they are left as the protocol, which nobody here knows.
fn skip_extensions(head: &[u8], mut protocol: IpNumber, mut at: usize) -> Option<(IpNumber, usize)> {
    while Ipv6RawExtHeaderSlice::header_type_supported(protocol) {
        let extension = Ipv6RawExtHeaderSlice::from_slice(head.get(at..)?).ok()?;
        protocol = extension.next_header();
        at += extension.slice().len();
    }
    Some((protocol, at))
}
