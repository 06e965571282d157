//! What the sender of a frame is told that no backend takes: a reset, or "port unreachable".

use arrayvec::ArrayVec;
use etherparse::IpNumber;

use super::packet::{ACK, Content, FIN, Packet, Ports, RST, SYN};
use crate::{
    icmp,
    transmit::MAX_ANSWER,
    wire::{
        bytes::{length, put_u16, put_u32, try_u32_at},
        checksum::Sum,
        frame::ADDRESSES,
        headers::{IPV4_HEADER, IPV6_HEADER, IpVersion, TCP_HEADER, link},
        offload::Offload,
    },
};

/// The answer to `frame`, if its sender gets one: not to a reset, nor to anything but TCP and UDP.
#[cold]
pub(crate) fn answer(frame: &[u8], offload: &Offload) -> Option<ArrayVec<u8, MAX_ANSWER>> {
    let packet = Packet::read(frame)?;
    match packet.content {
        Content::Ports(ports) if IpNumber(packet.ip.protocol) == IpNumber::TCP => {
            reset(frame, offload, &packet, ports)
        }
        Content::Ports(_) => icmp::error(frame, icmp::Cause::NoPort),
        _ => None,
    }
}

/// A reset as from a closed port (RFC 9293 section 3.10.7.1).
fn reset(frame: &[u8], offload: &Offload, packet: &Packet, ports: Ports) -> Option<ArrayVec<u8, MAX_ANSWER>> {
    let Packet { ip, .. } = packet;
    if ports.flags & RST != 0 {
        return None;
    }
    let (network, _) = link(frame)?;
    let mut answer = ArrayVec::<u8, MAX_ANSWER>::new();
    answer.try_extend_from_slice(&frame[6..ADDRESSES]).ok()?;
    answer.try_extend_from_slice(&frame[..6]).ok()?;
    answer.try_extend_from_slice(&frame[ADDRESSES..network]).ok()?;
    let [source, destination] = ip.addresses();
    let addresses = match ip.version {
        IpVersion::V4 => {
            let mut header = [0; IPV4_HEADER];
            header[0] = 0x45;
            put_u16(&mut header, 2, length(IPV4_HEADER + TCP_HEADER));
            header[6] = 0x40;
            header[8] = 64;
            header[9] = ip.protocol;
            header[12..16].copy_from_slice(frame.get(destination..destination + 4)?);
            header[16..].copy_from_slice(frame.get(source..source + 4)?);
            let checksum = Sum::of(&header).checksum();
            put_u16(&mut header, 10, checksum);
            answer.try_extend_from_slice(&header).ok()?;
            8
        }
        IpVersion::V6 => {
            let mut header = [0; IPV6_HEADER];
            header[0] = 0x60;
            put_u16(&mut header, 4, length(TCP_HEADER));
            header[6] = ip.protocol;
            header[7] = 64;
            header[8..24].copy_from_slice(frame.get(destination..destination + 16)?);
            header[24..].copy_from_slice(frame.get(source..source + 16)?);
            answer.try_extend_from_slice(&header).ok()?;
            32
        }
    };
    let transport = answer.len();
    let (sequence, acknowledged) =
        (try_u32_at(frame, ip.transport + 4)?, try_u32_at(frame, ip.transport + 8)?);
    let mut header = [0; TCP_HEADER];
    put_u16(&mut header, 0, ports.destination);
    put_u16(&mut header, 2, ports.source);
    header[12] = 0x50;
    if ports.flags & ACK != 0 {
        put_u32(&mut header, 4, acknowledged);
        header[13] = RST;
    } else {
        let data = ip.transport + usize::from(frame.get(ip.transport + 12)? >> 4) * 4;
        let end = offload.gso.map_or_else(|| end_of(frame, packet), |_| frame.len());
        let counted = u32::try_from(end.saturating_sub(data)).ok()?
            + u32::from(ports.flags & SYN != 0)
            + u32::from(ports.flags & FIN != 0);
        put_u32(&mut header, 8, sequence.wrapping_add(counted));
        header[13] = RST | ACK;
    }
    let sum = Sum::pseudo(&answer[transport - addresses..], ip.protocol, TCP_HEADER) + Sum::of(&header);
    put_u16(&mut header, 16, sum.checksum());
    answer.try_extend_from_slice(&header).ok()?;
    Some(answer)
}

/// Where the packet ends, without padding.
fn end_of(frame: &[u8], packet: &Packet) -> usize {
    let length =
        |at: usize| frame.get(at..at + 2).map_or(0, |it| usize::from(u16::from_be_bytes([it[0], it[1]])));
    let network = packet.ip.network;
    let end = match packet.ip.version {
        IpVersion::V4 => network + length(network + 2),
        IpVersion::V6 => network + IPV6_HEADER + length(network + 4),
    };
    end.min(frame.len())
}
