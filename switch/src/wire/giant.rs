//! Super-frames longer than 64 KB ("BIG TCP"), split into ordinary ones.
//!
//! With `gso_max_size` or `gro_max_size` above 65,536 the kernel makes TCP super-frames of up to 512 KB (`GSO_MAX_SIZE`,
//! include/linux/netdevice.h), whose IP length field is zero because it cannot hold the length; on IPv6 some kernels insert a
//! jumbogram option (RFC 2675) as well. Neither goes onto a wire, a TAP or into a tunnel. [`Giant`] describes the ordinary
//! super-frames that the same segments make. A container may allow itself such frames at any time, so a device that reads its
//! interface takes them whatever was set up.

use std::{num::NonZeroU16, ops::Range};

use etherparse::{EtherType, IpNumber};

use crate::{
    drops::DropReason,
    wire::{
        bytes::{length, put_u16, put_u32, u16_at, u32_at},
        checksum::Sum,
        headers::{IPV4_HEADER, IPV6_HEADER, IpVersion, MAX_HEADER, TCP_HEADER, link},
        offload::{MAX_SEGMENTS, Offload, VNET_HEADER},
    },
};

/// Maximum number of super-frames that one is split into: 512 KB in parts of more than 58 KB.
pub const MAX_PIECES: usize = 9;

/// Length of a hop-by-hop header with nothing but a jumbo payload option.
const JUMBO: usize = 8;
/// Its second to fourth byte: eight bytes, option 0xc2, of four bytes (RFC 2675 section 2).
const JUMBO_OPTION: [u8; 3] = [0, 0xc2, 4];

/// A super-frame longer than an IP packet, and how it is split.
#[derive(Clone, Debug)]
pub struct Giant {
    /// The headers of its segments, without jumbogram option.
    header: [u8; MAX_HEADER],
    header_len: usize,
    network: usize,
    transport: usize,
    version: IpVersion,
    gso_type: u8,
    size: NonZeroU16,
    /// Position of the payload in the frame.
    payload: Range<usize>,
    /// Payload bytes of each piece; the last may have fewer. A multiple of `size`.
    per_piece: usize,
}

impl Giant {
    /// Measures `frame`, which `vnet` preceded.
    ///
    /// # Errors
    /// [`DropReason::DevHdr`]: it is no TCP super-frame whose IP length is zero, or would make more than [`MAX_PIECES`].
    pub fn measure(vnet: &[u8; VNET_HEADER], frame: &[u8]) -> Result<Self, DropReason> {
        Self::check(vnet, frame).ok_or(DropReason::DevHdr)
    }

    fn check(vnet: &[u8; VNET_HEADER], frame: &[u8]) -> Option<Self> {
        let [flags, gso_type, _, _, z0, z1, ..] = *vnet;
        if flags & NEEDS_CSUM == 0 {
            return None;
        }
        let size = NonZeroU16::new(u16::from_le_bytes([z0, z1]))?;
        let (network, ethertype) = link(frame)?;
        let head = &frame[..frame.len().min(MAX_HEADER)];
        let packet = head.get(network..)?;
        let mut header = [0; MAX_HEADER];
        let (version, transport, jumbo) = match ethertype {
            EtherType::IPV4 => {
                let first: &[u8; IPV4_HEADER] = packet.first_chunk()?;
                let len = usize::from(first[0] & 0x0f) * 4;
                let is_whole = u16_at(first, 6) & 0x3fff == 0;
                let is_tcp = first[9] == IpNumber::TCP.0 && first[0] >> 4 == 4;
                if u16_at(first, 2) != 0 || !is_whole || !is_tcp || len < IPV4_HEADER {
                    return None;
                }
                (IpVersion::V4, network + len, 0)
            }
            EtherType::IPV6 => {
                let first: &[u8; IPV6_HEADER] = packet.first_chunk()?;
                if u16_at(first, 4) != 0 || first[0] >> 4 != 6 {
                    return None;
                }
                let jumbo = match IpNumber(first[6]) {
                    IpNumber::TCP => 0,
                    IpNumber::IPV6_HEADER_HOP_BY_HOP => {
                        let option = packet.get(IPV6_HEADER..IPV6_HEADER + JUMBO)?;
                        if option[0] != IpNumber::TCP.0 || option[1..4] != JUMBO_OPTION {
                            return None;
                        }
                        JUMBO
                    }
                    _ => return None,
                };
                (IpVersion::V6, network + IPV6_HEADER, jumbo)
            }
            _ => return None,
        };
        let tcp = head.get(transport + jumbo..)?;
        let tcp_len = usize::from(tcp.first_chunk::<TCP_HEADER>()?[12] >> 4) * 4;
        let tcp = tcp.get(..tcp_len).filter(|_| tcp_len >= TCP_HEADER)?;
        let header_len = transport + tcp_len;
        header.get_mut(..transport)?.copy_from_slice(&head[..transport]);
        header.get_mut(transport..header_len)?.copy_from_slice(tcp);
        if version == IpVersion::V6 {
            header[network + 6] = IpNumber::TCP.0;
        }
        let payload = header_len + jumbo..frame.len();
        let segment = usize::from(size.get());
        let most = usize::from(u16::MAX).checked_sub(header_len - network)?;
        let per_piece = (most / segment).min(MAX_SEGMENTS) * segment;
        if per_piece == 0 || payload.is_empty() || payload.len().div_ceil(per_piece) > MAX_PIECES {
            return None;
        }
        let giant =
            Self { header, header_len, network, transport, version, gso_type, size, payload, per_piece };
        Some(giant)
    }

    /// Position in the frame of the payload of each piece, in order.
    pub fn pieces(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let Range { start, end } = self.payload;
        let per_piece = self.per_piece;
        (start..end).step_by(per_piece).map(move |from| from..end.min(from + per_piece))
    }

    /// Length of the headers of each piece, in bytes.
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Writes the headers of the piece that has this `payload` to the front of `piece`, which holds the payload behind them.
    ///
    /// # Errors
    /// [`DropReason::DevHdr`]: what preceded the frame does not fit it (see [`Offload::parse`]).
    pub fn finish(&self, payload: &Range<usize>, piece: &mut [u8]) -> Result<Offload, DropReason> {
        let Self { header_len, network, transport, version, gso_type, size, .. } = *self;
        let before = payload.start - self.payload.start;
        let is_last = payload.end == self.payload.end;
        let header = piece.get_mut(..header_len).ok_or(DropReason::DevHdr)?;
        header.copy_from_slice(&self.header[..header_len]);
        let packet = header_len - network + payload.len();
        let addresses = match version {
            IpVersion::V4 => {
                let ip = &mut header[network..transport];
                put_u16(ip, 2, length(packet));
                let segments = before / usize::from(size.get());
                // Segments are numbered on; 16 bits of the number are kept (RFC 791).
                let [.., high, low] = segments.to_be_bytes();
                put_u16(ip, 4, u16_at(ip, 4).wrapping_add(u16::from_be_bytes([high, low])));
                put_u16(ip, 10, 0);
                put_u16(ip, 10, Sum::of(ip).checksum());
                network + 12..network + IPV4_HEADER
            }
            IpVersion::V6 => {
                put_u16(header, network + 4, length(packet - IPV6_HEADER));
                network + 8..network + IPV6_HEADER
            }
        };
        let len = header_len - transport + payload.len();
        let pseudo = Sum::pseudo(&header[addresses], IpNumber::TCP.0, len).folded();
        let tcp = &mut header[transport..];
        #[expect(clippy::cast_possible_truncation, reason = "sequence numbers are modulo 2^32")]
        let sequence = u32_at(tcp, 4).wrapping_add(before as u32);
        put_u32(tcp, 4, sequence);
        if !is_last {
            tcp[13] &= !(FIN | PSH);
        }
        if before > 0 && gso_type & GSO_ECN != 0 {
            tcp[13] &= !CWR;
        }
        put_u16(tcp, CHECKSUM, pseudo);
        let [z0, z1] = size.get().to_le_bytes();
        let [s0, s1] = length(transport).to_le_bytes();
        let [o0, o1] = length(CHECKSUM).to_le_bytes();
        Offload::parse(&[NEEDS_CSUM, gso_type, 0, 0, z0, z1, s0, s1, o0, o1], piece)
    }
}

// include/uapi/linux/virtio_net.h
const NEEDS_CSUM: u8 = 1;
const GSO_ECN: u8 = 0x80;
// RFC 9293 section 3.1, RFC 3168 section 6.1.
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;
const CHECKSUM: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{checksum::verify, headers::Headers, segment::Segmenter};

    const SIZE: usize = 1448;

    /// A frame of `payload` counted bytes, in the form that the kernel's `tcp_gso` leaves it in, and what precedes it.
    fn giant(version: IpVersion, option: bool, tags: &[u8], payload: usize) -> ([u8; VNET_HEADER], Vec<u8>) {
        let mut frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], tags].concat();
        match version {
            IpVersion::V4 => {
                frame.extend([
                    8, 0, 0x45, 2, 0, 0, 0xff, 0xf0, 0x40, 0, 64, 6, 0, 0, 10, 9, 0, 2, 10, 9, 0, 3,
                ]);
            }
            IpVersion::V6 => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, if option { 0 } else { 6 }, 64]);
                frame.extend([0xfd; 32]);
                if option {
                    let len = u32::try_from(payload + 32 + JUMBO).unwrap().to_be_bytes();
                    frame.extend([&[6, 0, 0xc2, 4], &len[..]].concat());
                }
            }
        }
        let start = u16::try_from(frame.len()).unwrap().to_le_bytes();
        let sequence = 0xffff_0000_u32.to_be_bytes();
        frame.extend(
            [&[3, 232, 0, 80], &sequence[..], &[0, 0, 0, 1, 0x80, CWR | 0x18 | FIN, 1, 0, 0, 0, 0, 0]]
                .concat(),
        );
        // Timestamps (RFC 7323).
        frame.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        frame.extend((0..payload).map(|at| (at / 7).to_le_bytes()[0]));
        let [z0, z1] = u16::try_from(SIZE).unwrap().to_le_bytes();
        let kind = if version == IpVersion::V4 { 1 } else { 4 };
        ([NEEDS_CSUM, kind | GSO_ECN, 0, 0, z0, z1, start[0], start[1], 16, 0], frame)
    }

    /// The super-frames that it is split into.
    fn split(vnet: [u8; VNET_HEADER], frame: &[u8]) -> Vec<(Offload, Vec<u8>)> {
        let giant = Giant::measure(&vnet, frame).expect("a giant");
        let piece = |payload: Range<usize>| {
            let mut piece = vec![0; giant.header_len()];
            piece.extend(&frame[payload.clone()]);
            (giant.finish(&payload, &mut piece).expect("its header fits"), piece)
        };
        giant.pieces().map(piece).collect()
    }

    #[test]
    fn its_segments_are_those_of_the_pieces() {
        let tag: &[u8] = &[0x81, 0, 0, 10];
        for (version, option, tags) in [
            (IpVersion::V4, false, &[][..]),
            (IpVersion::V4, false, tag),
            (IpVersion::V6, true, &[]),
            (IpVersion::V6, true, tag),
            (IpVersion::V6, false, &[]),
        ] {
            for payload in [65_600, 185_000, 44 * SIZE * 3, 44 * SIZE * 3 + 1, 524_000] {
                let (vnet, frame) = giant(version, option, tags, payload);
                let whole = &frame[frame.len() - payload..];
                let (mut at, mut count) = (0, 0);
                let pieces = split(vnet, &frame);
                assert!(pieces.len() <= MAX_PIECES);
                for (offload, piece) in pieces {
                    assert!(piece.len() <= crate::wire::frame::MAX_FRAME);
                    for segment in Segmenter::new(&piece, &offload).unwrap() {
                        let mut wire = vec![0; segment.wire_len()];
                        segment.copy_into(&mut wire).unwrap();
                        let headers = Headers::measure(&wire).expect("a TCP segment");
                        assert!(headers.ends_with(&wire) && verify(&wire, &headers));
                        let carried = &wire[headers.payload..];
                        assert_eq!(carried, &whole[at..at + carried.len()]);
                        let tcp = &wire[headers.transport..];
                        assert_eq!(u32_at(tcp, 4), 0xffff_0000_u32.wrapping_add(u32::try_from(at).unwrap()));
                        at += carried.len();
                        let (is_first, is_last) = (count == 0, at == payload);
                        let flags =
                            0x10 | if is_first { CWR } else { 0 } | if is_last { FIN | PSH } else { 0 };
                        assert_eq!(tcp[13], flags, "{count}");
                        if version == IpVersion::V4 {
                            assert_eq!(u16_at(&wire, headers.network + 4), 0xfff0_u16.wrapping_add(count));
                            assert_eq!(Sum::of(&wire[headers.network..headers.transport]).checksum(), 0);
                        }
                        assert_eq!(carried.len(), SIZE.min(payload - (at - carried.len())));
                        count += 1;
                    }
                }
                assert_eq!(at, payload);
            }
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        let (vnet, frame) = giant(IpVersion::V6, true, &[], 100_000);
        let edits: [(usize, u8); 7] = [
            (14, 0x40), // version
            (18, 1),    // a length
            (20, 17),   // UDP
            (54, 17),   // UDP behind the option
            (56, 1),    // another option
            (74, 0x40), // a TCP header that is too short
            (12, 0),    // not IP
        ];
        for (at, value) in edits {
            let mut frame = frame.clone();
            frame[at] = value;
            assert!(Giant::measure(&vnet, &frame).is_err(), "{at}");
        }
        for (at, value) in [(0, 0), (4, 0), (4, 1)] {
            let mut vnet = vnet;
            vnet[at] = value;
            vnet[5] = 0;
            assert!(Giant::measure(&vnet, &frame).is_err(), "{at} {value}");
        }
        for len in 0..95 {
            assert!(Giant::measure(&vnet, &frame[..len]).is_err(), "{len}");
        }
        let (_, first) = giant(IpVersion::V4, false, &[], 100_000);
        for (at, value) in [(14, 0x44), (17, 40), (20, 0x20), (21, 1), (23, 17)] {
            let mut frame = first.clone();
            frame[at] = value;
            assert!(Giant::measure(&vnet, &frame).is_err(), "{at}");
        }
    }
}
