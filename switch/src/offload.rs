//! What a frame's sender left for the device to do: checksum completion and segmentation.
//!
//! The metadata travels beside the bytes as a `virtio_net_hdr` (include/uapi/linux/virtio_net.h,
//! 10 octets, native = little endian). It comes from untrusted containers: [`Offload::parse`] checks it against
//! the frame, so that an `Offload` that exists is one the frame's bytes agree with.

use std::num::NonZeroU16;

/// Octets of the header before each frame on a device that carries offload metadata.
pub const VNET_HEADER: usize = 10;

/// What is known of the transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Csum {
    /// Nothing: the checksum in the frame is complete and must be verified by whoever cares.
    #[default]
    Unknown,
    /// The checksum in the frame is complete and was verified.
    Valid,
    /// The field at `start + offset` holds the folded pseudo-header sum; whoever leaves offload must add the
    /// sum of all octets from `start` and invert it. Both count from the first octet of the frame / of `start`.
    Partial {
        /// Where the summed part begins: the transport header, counted from the destination MAC.
        start: u16,
        /// Where the checksum field stands, counted from `start`.
        offset: u16,
    },
}

/// Which protocol a super-frame is cut along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv4 or IPv6, each segment a datagram (USO).
    Udp,
}

/// How a super-frame must be cut for a port that takes only wire-size frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// Along which protocol.
    pub kind: GsoKind,
    /// Octets of transport payload per segment; the last may be shorter.
    pub size: NonZeroU16,
    /// Octets before the payload: Ethernet, tags, IP and transport headers, as measured in the frame.
    pub header_len: u16,
    /// TCP: CWR is set and belongs to the first segment alone (RFC 3168 section 6.1.2).
    pub ecn: bool,
}

/// Offload metadata of one frame.
///
/// Invariant: `gso` is only present with [`Csum::Partial`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offload {
    /// The state of the transport checksum.
    pub csum: Csum,
    /// How to cut the frame, when it is a super-frame.
    pub gso: Option<Gso>,
}
