//! Any bytes as a message of datagrams of any length: what comes out represents exactly the frames that are inside.

use vswitch::{
    addr::{NetworkId, PortId},
    batch::Batch,
    checksum::Sum,
    headers::{Headers, IPV4_HEADER, IPV6_HEADER, IpVersion, link},
    offload::Offload,
    segment::Segmenter,
};
use vswitch_vxlan::{
    decap::{MESSAGE, Message, Settings, decapsulate},
    ecn::Ecn,
    header::{self, HEADER, Vni},
    run::Checksum,
    tables::Tables,
};

/// Bytes of a frame that may change on its way: IPv4 identification, and the checksums of IPv4 and of the transport.
const REWRITTEN: usize = 6;

/// Decapsulates a message that follows three bytes: options, and the datagram length.
pub fn decap(data: &[u8]) {
    let Some((&[how, stride_high, stride_low], message)) = data.split_first_chunk() else { return };
    let stride = usize::from(u16::from_be_bytes([stride_high, stride_low]));
    let mut message = message.to_vec();
    // Corrects checksums, which the fuzzer could not guess.
    if how & 0x80 != 0 && stride > HEADER {
        message.chunks_mut(stride).filter_map(|datagram| datagram.get_mut(HEADER..)).for_each(seal);
    }
    let settings = Settings { strict: how & 1 != 0, overlay_mtu: 1450, clamp: how & 2 != 0 };
    let ecn = Ecn::of(how >> 2);
    let vni = Vni::try_from(4096).expect("valid");
    let tables = Tables::new([], [(vni, NetworkId(1))]);

    let mut batch = Batch::new();
    batch.spare().next().expect("there is room")[MESSAGE..][..message.len()].copy_from_slice(&message);
    let received = Message { peer: PortId(3), ecn, len: message.len(), stride };
    let mut refused = 0;
    decapsulate(&tables, &settings, &received, &mut batch, &mut |_, _, _| refused += 1);

    let mut arrived = Vec::new();
    for (slot, frame) in batch.frames().iter().enumerate() {
        let bytes = batch.bytes(slot);
        assert_eq!((frame.ingress, frame.network), (PortId(3), Some(NetworkId(1))));
        assert_eq!(Offload::parse(&frame.offload.emit(), bytes), Ok(frame.offload));
        arrived.extend(Segmenter::new(bytes, &frame.offload).expect("it is of this frame").map(|segment| {
            let mut wire = vec![0; segment.wire_len()];
            segment.copy_into(&mut wire).expect("there is room");
            wire
        }));
    }
    // A super-datagram that was never cut follows its own rules.
    let whole = message.get(HEADER..).unwrap_or_default();
    let uncut = |headers: &Headers| headers.ends_with(whole) && Checksum::is_partial(whole, headers);
    if Headers::measure(whole).is_some_and(|headers| uncut(&headers)) {
        return;
    }
    let datagrams: Vec<_> = message.chunks(stride.max(1)).collect();
    let known = datagrams.iter().filter(|datagram| header::parse(datagram, settings.strict) == Ok(vni));
    let known = known.map(|datagram| &datagram[HEADER..]).filter(|frame| has_whole_ip_header(frame));
    let known: Vec<_> = known.collect();
    if ecn == Ecn::Ce || known.len() > vswitch::batch::TRAIN {
        assert!(arrived.len() + refused <= datagrams.len().max(1));
        return;
    }
    assert_eq!(refused, (datagrams.len() - known.len()).max(usize::from(datagrams.is_empty())));
    assert_eq!(arrived.len(), known.len());
    for (arrived, known) in arrived.iter().zip(known) {
        let marked = usize::from(ecn == Ecn::Ect1);
        let clamped = if settings.clamp { 2 } else { 0 };
        let differing = arrived.iter().zip(known).filter(|(a, b)| a != b).count();
        assert!(
            arrived.len() == known.len() && differing <= REWRITTEN + marked + clamped,
            "{differing} bytes"
        );
    }
}

/// Whether `frame` holds the fixed IP header that its EtherType announces, if it announces one.
fn has_whole_ip_header(frame: &[u8]) -> bool {
    link(frame).is_none_or(|(network, ethertype)| match ethertype.0 {
        0x0800 => frame.len() >= network + IPV4_HEADER,
        0x86dd => frame.len() >= network + IPV6_HEADER,
        _ => true,
    })
}

/// Corrects the checksums of `frame`.
fn seal(frame: &mut [u8]) {
    let Some(headers) = Headers::measure(frame) else { return };
    let Headers { network, transport, end, transport_kind, version, .. } = headers;
    let addresses = match version {
        IpVersion::V4 => {
            put(frame, network + 10, 0);
            let checksum = Sum::of(&frame[network..transport]).checksum();
            put(frame, network + 10, checksum);
            network + 12..network + 20
        }
        IpVersion::V6 => network + 8..network + 40,
    };
    let field = transport + transport_kind.checksum_offset();
    put(frame, field, 0);
    let sum = Sum::pseudo(&frame[addresses], transport_kind.protocol(), end - transport);
    put(frame, field, (sum + Sum::of(&frame[transport..end])).nonzero_checksum());
}

fn put(frame: &mut [u8], at: usize, word: u16) {
    frame[at..at + 2].copy_from_slice(&word.to_be_bytes());
}
