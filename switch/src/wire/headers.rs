//! Where the headers of a TCP or UDP frame stand.
//!
//! Offload needs three offsets and nothing else, so this walks only the path that leads to a transport
//! header: Ethernet, up to two VLAN tags, IPv4 or IPv6, TCP or UDP. Everything else (fragments, tunnels,
//! authentication headers, other protocols) has no `Headers`. The views of `etherparse` check the lengths;
//! its whole-packet slicing is not used, for it refuses frames whose end we do not care about.

use etherparse::{
    IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice, TcpHeaderSlice, UdpHeaderSlice,
};

/// The most octets that all headers of one frame may take, Ethernet to transport.
///
/// The longest ordinary stack is 142 (two tags, IPv4 with 40 octets of options, TCP with 40); the rest is
/// room for IPv6 extension headers. It bounds the walk and the scratch space of whoever writes headers.
pub const MAX_HEADER: usize = 512;

/// Octets of an Ethernet header without tags.
pub const ETHERNET: usize = 14;
/// Octets of one VLAN tag (IEEE 802.1Q-2018, 9.3).
pub const VLAN_TAG: usize = 4;

const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const MAX_TAGS: usize = 2;

/// The network protocol of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
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
/// Invariant of what [`Headers::measure`] returns: `ETHERNET <= network < transport < payload <= MAX_HEADER`
/// and `payload <= end <= frame length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Which network header it is.
    pub network_kind: Network,
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
        let (network_kind, length, protocol, transport) = match ethertype {
            ETHERTYPE_IPV4 => {
                let ip = Ipv4HeaderSlice::from_slice(packet).ok()?;
                if ip.is_fragmenting_payload() {
                    return None;
                }
                (Network::V4, usize::from(ip.total_len()), ip.protocol(), network + ip.slice().len())
            }
            ETHERTYPE_IPV6 => {
                let ip = Ipv6HeaderSlice::from_slice(packet).ok()?;
                let length = ip.slice().len() + usize::from(ip.payload_length());
                let (protocol, transport) =
                    skip_extensions(head, ip.next_header(), network + ip.slice().len())?;
                (Network::V6, length, protocol, transport)
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
            network_kind,
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
                word(frame, self.transport + 4).map(usize::from)
                    == Some(frame.len().wrapping_sub(self.transport))
            }
        };
        datagram && self.end == frame.len()
    }

    /// Whether this is a TCP segment with the CWR flag (RFC 3168 section 6.1.2).
    pub fn cwr(&self, frame: &[u8]) -> bool {
        self.transport_kind == Transport::Tcp
            && frame.get(self.transport + 13).is_some_and(|flags| flags & 0x80 != 0)
    }
}

/// The big-endian word of `frame` at `at`, if there is one.
#[inline]
fn word(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

/// Where the network header of `frame` begins and the EtherType that says what it is, after at most two VLAN
/// tags; `None` if the frame ends before that. A third tag is reported as the EtherType.
#[inline]
pub fn link(frame: &[u8]) -> Option<(usize, u16)> {
    let mut end = ETHERNET;
    for _ in 0..MAX_TAGS {
        match ethertype_before(frame, end)? {
            ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN => end += VLAN_TAG,
            ethertype => return Some((end, ethertype)),
        }
    }
    Some((end, ethertype_before(frame, end)?))
}

#[inline]
fn ethertype_before(frame: &[u8], end: usize) -> Option<u16> {
    word(frame, end - 2)
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
