//! Frames built field by field, with a checksum of their own: what segmentation is compared with.

use proptest::prelude::*;

/// A TCP or UDP frame over IPv4 or IPv6.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) tags: Vec<[u8; 4]>,
    pub(crate) addresses: Addresses,
    /// Bytes of NOP options in the IPv4 header, a multiple of 4 up to 40.
    pub(crate) ip_options: usize,
    /// IPv6 extension headers: their number and how many units of 8 bytes follow the first.
    pub(crate) extensions: Vec<(u8, u8)>,
    pub(crate) id: u16,
    pub(crate) transport: Transport,
    /// TCP: CWR is a bit of AccECN's counter, for every segment.
    pub(crate) accurate: bool,
    pub(crate) payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Addresses {
    V4([u8; 8]),
    V6([u8; 32]),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Transport {
    /// With bytes of NOP options, a multiple of 4 up to 40.
    Tcp {
        sequence: u32,
        flags: u8,
        options: usize,
    },
    Udp,
}

pub(crate) const FIN: u8 = 0x01;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const CWR: u8 = 0x80;

impl Spec {
    /// The frame as on a wire: all checksums complete.
    pub(crate) fn wire(&self) -> Vec<u8> {
        self.build(|pseudo, segment| match !ones_sum(pseudo, segment) {
            0 if matches!(self.transport, Transport::Udp) => 0xffff,
            checksum => checksum,
        })
    }

    /// The frame as a sender with offload hands it over: the field holds the sum of the pseudo-header.
    pub(crate) fn offloaded(&self) -> Vec<u8> {
        self.build(|pseudo, _| ones_sum(pseudo, &[]))
    }

    /// The offload header for segments of `size` bytes.
    pub(crate) fn gso_header(&self, size: u16) -> [u8; 10] {
        let ecn = match self.transport {
            Transport::Tcp { flags, .. } if flags & CWR != 0 && !self.accurate => 0x80,
            _ => 0,
        };
        let gso_type = match (self.transport, self.addresses) {
            (Transport::Tcp { .. }, Addresses::V4(_)) => 1 | ecn,
            (Transport::Tcp { .. }, Addresses::V6(_)) => 4 | ecn,
            (Transport::Udp, _) => 5,
        };
        let [_, _, _, _, _, _, s0, s1, o0, o1] = self.csum_header();
        let [h0, h1] = bytes(self.transport_at() + self.transport_header().len());
        let [z0, z1] = size.to_le_bytes();
        [1, gso_type, h0, h1, z0, z1, s0, s1, o0, o1]
    }

    /// The offload header of a frame that lacks its checksum alone.
    pub(crate) fn csum_header(&self) -> [u8; 10] {
        let [s0, s1] = bytes(self.transport_at());
        let [o0, o1] = bytes(self.checksum_at());
        [1, 0, 0, 0, 0, 0, s0, s1, o0, o1]
    }

    /// The wire frames of a super-frame with segments of `size`.
    pub(crate) fn cut(&self, size: usize) -> Vec<Vec<u8>> {
        if self.payload.is_empty() {
            return vec![self.wire()];
        }
        let count = self.payload.len().div_ceil(size);
        let segment = |(index, payload): (usize, &[u8])| {
            let mut part = Self { payload: payload.to_vec(), ..self.clone() };
            part.id = self.id.wrapping_add(u16::try_from(index).expect("few"));
            if let Transport::Tcp { sequence, flags, .. } = &mut part.transport {
                *sequence = sequence.wrapping_add(u32::try_from(index * size).expect("small"));
                if index > 0 && !self.accurate {
                    *flags &= !CWR;
                }
                if index + 1 < count {
                    *flags &= !(FIN | PSH);
                }
            }
            part.wire()
        };
        self.payload.chunks(size).enumerate().map(segment).collect()
    }

    pub(crate) fn build(&self, checksum: impl Fn(&[u8], &[u8]) -> u16) -> Vec<u8> {
        let mut segment = self.transport_header();
        segment.extend(&self.payload);
        let length = u16::try_from(segment.len()).expect("fits IP");
        if matches!(self.transport, Transport::Udp) {
            segment[4..6].copy_from_slice(&length.to_be_bytes());
        }
        let pseudo = [self.addresses(), &[0, self.protocol()], &length.to_be_bytes()].concat();
        let at = self.checksum_at();
        let value = checksum(&pseudo, &segment);
        segment[at..at + 2].copy_from_slice(&value.to_be_bytes());

        let mut frame = vec![0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1];
        frame.extend(self.tags.concat());
        match self.addresses {
            Addresses::V4(_) => frame.extend([0x08, 0x00]),
            Addresses::V6(_) => frame.extend([0x86, 0xdd]),
        }
        frame.extend(self.network_header(segment.len()));
        frame.extend(segment);
        frame
    }

    fn network_header(&self, segment: usize) -> Vec<u8> {
        match self.addresses {
            Addresses::V4(addresses) => {
                let words = u8::try_from(5 + self.ip_options / 4).expect("small");
                let total = u16::try_from(20 + self.ip_options + segment).expect("fits IP").to_be_bytes();
                let [id0, id1] = self.id.to_be_bytes();
                let mut header =
                    vec![0x40 | words, 0, total[0], total[1], id0, id1, 0x40, 0, 64, self.protocol(), 0, 0];
                header.extend(addresses);
                header.resize(20 + self.ip_options, 1);
                let checksum = !ones_sum(&header, &[]);
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                header
            }
            Addresses::V6(addresses) => {
                let mut chain = Vec::new();
                let mut next = self.protocol();
                for &(kind, units) in self.extensions.iter().rev() {
                    // One PadN option over all; the same bytes are a routing header of type 1 without
                    // segments left.
                    let mut header = vec![next, units, 1, 4 + units * 8, 0, 0, 0, 0];
                    if kind == 43 {
                        header[3] = 0;
                    }
                    header.resize(8 + usize::from(units) * 8, 0);
                    chain.splice(0..0, header);
                    next = kind;
                }
                let length = u16::try_from(chain.len() + segment).expect("fits IP").to_be_bytes();
                let mut header = vec![0x60, 0, 0, 0, length[0], length[1], next, 64];
                header.extend(addresses);
                header.extend(chain);
                header
            }
        }
    }

    fn transport_header(&self) -> Vec<u8> {
        match self.transport {
            Transport::Tcp { sequence, flags, options } => {
                let mut header = vec![0x9c, 0x40, 0x13, 0x89];
                header.extend(sequence.to_be_bytes());
                let words = u8::try_from(5 + options / 4).expect("small");
                header.extend([0, 0, 0, 7, words << 4, flags, 0x20, 0x00, 0, 0, 0, 0]);
                header.resize(20 + options, 1);
                header
            }
            Transport::Udp => vec![0x9c, 0x40, 0x13, 0x89, 0, 0, 0, 0],
        }
    }

    pub(crate) fn transport_at(&self) -> usize {
        let extensions: usize = self.extensions.iter().map(|&(_, units)| 8 + 8 * usize::from(units)).sum();
        14 + 4 * self.tags.len()
            + match self.addresses {
                Addresses::V4(_) => 20 + self.ip_options,
                Addresses::V6(_) => 40 + extensions,
            }
    }

    pub(crate) fn checksum_at(&self) -> usize {
        match self.transport {
            Transport::Tcp { .. } => 16,
            Transport::Udp => 6,
        }
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => 6,
            Transport::Udp => 17,
        }
    }

    fn addresses(&self) -> &[u8] {
        match &self.addresses {
            Addresses::V4(addresses) => addresses,
            Addresses::V6(addresses) => addresses,
        }
    }
}

/// The folded sum of two even pieces, word by word (RFC 1071 section 4.1).
fn ones_sum(first: &[u8], second: &[u8]) -> u16 {
    let words = |bytes: &[u8]| {
        let word = |pair: &[u8]| u64::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u64::from);
        bytes.chunks(2).map(word).sum::<u64>()
    };
    let mut sum = words(first) + words(second);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}

pub(crate) fn bytes(offset: usize) -> [u8; 2] {
    u16::try_from(offset).expect("small").to_le_bytes()
}

/// Frames of every shape that may be cut.
pub(crate) fn specs() -> impl Strategy<Value = Spec> {
    let tag = prop_oneof![Just([0x81, 0, 0x20, 5]), Just([0x88, 0xa8, 0x0f, 0xfe])];
    let addresses =
        prop_oneof![any::<[u8; 8]>().prop_map(Addresses::V4), any::<[u8; 32]>().prop_map(Addresses::V6)];
    // Hop-by-hop only comes first (RFC 8200 section 4.1), the others are taken once each.
    let extensions = prop::sample::subsequence(vec![0u8, 60, 43], 0..=3)
        .prop_flat_map(|kinds| (Just(kinds), prop::collection::vec(0..4u8, 3)))
        .prop_map(|(kinds, units)| kinds.into_iter().zip(units).collect());
    let transport = prop_oneof![
        (any::<u32>(), any::<u8>(), 0..=10usize).prop_map(|(sequence, flags, words)| Transport::Tcp {
            sequence,
            flags,
            options: 4 * words
        }),
        Just(Transport::Udp),
    ];
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64),
        (any::<u8>(), 64..60_000usize).prop_map(|(seed, len)| {
            (0..len).map(|at| seed.wrapping_add((at * at / 7).to_le_bytes()[0])).collect()
        }),
    ];
    (prop::collection::vec(tag, 0..=2), addresses, 0..=10usize, extensions, any::<u16>(), transport, payload)
        .prop_map(|(tags, addresses, ip_words, extensions, id, transport, payload)| {
            let v4 = matches!(addresses, Addresses::V4(_));
            Spec {
                tags,
                addresses,
                ip_options: if v4 { 4 * ip_words } else { 0 },
                extensions: if v4 { vec![] } else { extensions },
                id,
                transport,
                accurate: false,
                payload,
            }
        })
}
