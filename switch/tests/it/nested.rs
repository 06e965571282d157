//! Frames inside a container's own UDP tunnel.

use proptest::prelude::*;

use super::superframe::{Addresses, Spec, Transport, bytes, specs};

/// A frame inside a UDP tunnel.
#[derive(Clone, Debug)]
pub(crate) struct Nested {
    /// A datagram without payload.
    pub(crate) outer: Spec,
    /// The tunnel's header, of even length.
    pub(crate) shim: Vec<u8>,
    pub(crate) inner: Spec,
    /// Whether the outer datagrams have a checksum.
    pub(crate) csum: bool,
}

impl Nested {
    /// The frame as a sender with offload hands it over.
    pub(crate) fn offloaded(&self) -> Vec<u8> {
        let outer = self.around(&self.inner.offloaded(), 0);
        if self.csum { outer.offloaded() } else { outer.build(|_, _| 0) }
    }

    /// The offload header for segments of `size` bytes.
    pub(crate) fn header(&self, size: u16) -> [u8; 24] {
        let before = self.outer.transport_at() + 8 + self.shim.len();
        let moved = |low, high| bytes(usize::from(u16::from_le_bytes([low, high])) + before);
        let [flags, gso_type, h0, h1, z0, z1, s0, s1, o0, o1] = self.inner.gso_header(size);
        let ([h0, h1], [s0, s1]) = (moved(h0, h1), moved(s0, s1));
        let tunnel = if matches!(self.outer.addresses, Addresses::V4(_)) { 0x20 } else { 0x40 };
        let short =
            [flags | if self.csum { 8 } else { 0 }, gso_type | tunnel, h0, h1, z0, z1, s0, s1, o0, o1];
        let mut header = [0; 24];
        header[..10].copy_from_slice(&short);
        header[20..22].copy_from_slice(&bytes(self.outer.transport_at()));
        header[22..].copy_from_slice(&bytes(before + 14 + 4 * self.inner.tags.len()));
        header
    }

    /// The wire frames of a super-frame with segments of `size`.
    pub(crate) fn cut(&self, size: usize) -> Vec<Vec<u8>> {
        let wire = |(index, inner): (usize, Vec<u8>)| {
            let outer = self.around(&inner, index);
            if self.csum { outer.wire() } else { outer.build(|_, _| 0) }
        };
        self.inner.cut(size).into_iter().enumerate().map(wire).collect()
    }

    /// The outer datagram number `index` with the frame `inner`.
    fn around(&self, inner: &[u8], index: usize) -> Spec {
        let id = self.outer.id.wrapping_add(u16::try_from(index).expect("few"));
        Spec { id, payload: [&self.shim, inner].concat(), ..self.outer.clone() }
    }
}

/// Encapsulated frames of every shape that may be cut.
pub(crate) fn nested() -> impl Strategy<Value = Nested> {
    let shim = prop::collection::vec(any::<[u8; 2]>(), 0..40).prop_map(|words| words.concat());
    (specs(), shim, specs(), any::<bool>()).prop_map(|(outer, shim, inner, csum)| {
        let outer = Spec { transport: Transport::Udp, payload: vec![], ..outer };
        Nested { outer, shim, inner, csum }
    })
}
