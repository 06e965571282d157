//! What does not fit the tunnel, and what is done about it.

use vswitch::{checksum::Sum, drops::DropReason, offload::Csum, transmit::TagOp};
use vswitch_vxlan::encap::longest_super_frame;

use crate::{
    lab::{BLUE, INGRESS, Item, Outcome, RED, Tunnel, assert_sealed, seal},
    packets::{TCP, blue, spec},
    superframe::{ACK, Spec, Transport},
};

/// The one answer to a frame that was too big.
fn answer(outcome: &Outcome) -> &[u8] {
    assert_eq!(outcome.drops(), [(DropReason::PktTooBig, 1)]);
    assert_eq!((outcome.totals.offered, outcome.totals.tx_frames, outcome.trains.len()), (1, 0, 0));
    let [(to, frame)] = &outcome.answers[..] else { panic!("{outcome:?}") };
    assert_eq!(*to, INGRESS);
    frame
}

#[test]
fn the_longest_frame_fits_and_one_byte_more_does_not() {
    for (v6, headers) in [(false, 28), (true, 48)] {
        let frame = |len: usize| spec(v6, Transport::Udp, &vec![1; len - headers]).wire();
        for mtu in [68, 576, 1280, 1450, 8950] {
            let mut tunnel = Tunnel::new();
            tunnel.out.overlay_mtu = mtu;
            let mtu = usize::from(mtu);
            assert_eq!(tunnel.send(&[Item::plain(frame(mtu))]).totals.tx_frames, 1);
            answer(&tunnel.send(&[Item::plain(frame(mtu + 1))]));
        }
    }
}

#[test]
fn the_longest_super_frame_leaves_at_once_and_one_packet_more_does_not() {
    for (v6, mtu) in [(false, 576), (false, 1280), (false, 1450), (true, 1280), (true, 1450)] {
        let mut tunnel = Tunnel::new();
        tunnel.out.overlay_mtu = mtu;
        // A sender fills packets, headers and time stamps apart.
        let packet = usize::from(mtu) - if v6 { 72 } else { 52 };
        let packets = longest_super_frame(mtu) / packet;
        for (packets, trains) in [(packets, 1), (packets + 1, 2)] {
            let spec = spec(v6, TCP, &vec![1; packets * packet]);
            let header = spec.gso_header(packet.try_into().expect("below the MTU"));
            let outcome = tunnel.send(&[Item::offloaded(&header, spec.offloaded())]);
            assert_eq!(outcome.trains.len(), trains, "{packets} packets of {mtu} bytes");
        }
    }
}

#[test]
fn fragmentation_needed() {
    let frame = spec(false, Transport::Udp, &[0x77; 1500]).wire();
    let outcome = Tunnel::new().send(&[Item::plain(frame.clone())]);
    let answer = answer(&outcome);
    assert_eq!(
        &answer[..14],
        b"\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x08\x00",
        "back to who sent it"
    );
    let packet = &answer[14..];
    // 156 bytes, TTL 64, ICMP, as if from the destination.
    assert_eq!(packet[..10], [0x45, 0, 0, 156, 0, 0, 0, 0, 64, 1]);
    assert_eq!(packet[12..20], [10, 9, 0, 3, 10, 9, 0, 2]);
    assert_eq!(packet[20..22], [3, 4]);
    assert_eq!(packet[24..28], [0, 0, 0x05, 0xaa], "1450");
    assert_eq!(packet[28..], frame[14..14 + 128], "the packet it is about");
    assert_eq!(Sum::of(&packet[..20]).checksum(), 0);
    assert_eq!(Sum::of(&packet[20..]).checksum(), 0);
}

#[test]
fn packet_too_big() {
    let frame = spec(true, TCP, &[0x77; 1500]).wire();
    let outcome = Tunnel::new().send(&[Item::plain(frame.clone())]);
    let packet = &answer(&outcome)[14..];
    assert_eq!(packet[..8], [0x60, 0, 0, 0, 0, 136, 58, 64]);
    assert_eq!(packet[8..40], [0xfd; 32]);
    assert_eq!(packet[40..42], [2, 0]);
    assert_eq!(packet[44..48], [0, 0, 0x05, 0xaa], "1450");
    assert_eq!(packet[48..], frame[14..14 + 128]);
    assert_eq!((Sum::pseudo(&packet[8..40], 58, 136) + Sum::of(&packet[40..])).checksum(), 0);
}

#[test]
fn who_is_not_told() {
    let long = spec(false, Transport::Udp, &[0x77; 1500]).wire();
    let edited = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = long.clone();
        edit(&mut frame);
        frame
    };
    let mut from_nobody = spec(true, TCP, &[0; 1500]).wire();
    from_nobody[22..38].fill(0);
    let table = [
        ("may be fragmented", edited(&|frame| frame[20] = 0)),
        ("a later fragment", edited(&|frame| frame[21] = 1)),
        ("to a group of stations", edited(&|frame| frame[0] = 3)),
        ("to a group of hosts", edited(&|frame| frame[30] = 239)),
        ("from no host", edited(&|frame| frame[26] = 0)),
        ("from a group", edited(&|frame| frame[26] = 224)),
        ("an error itself", edited(&|frame| (frame[23], frame[34]) = (1, 3))),
        ("not IP", edited(&|frame| frame[13] = 6)),
        ("from no host, IPv6", from_nobody),
    ];
    for (what, frame) in table {
        let outcome = Tunnel::new().send(&[Item::plain(frame)]);
        assert_eq!((outcome.drops(), outcome.answers.len()), (vec![(DropReason::PktTooBig, 1)], 0), "{what}");
    }
    let echo = edited(&|frame| (frame[23], frame[34]) = (1, 8));
    assert_eq!(Tunnel::new().send(&[Item::plain(echo)]).answers.len(), 1, "a ping is told");
}

#[test]
fn a_super_frame_fits_if_its_segments_do() {
    let tunnel = Tunnel::new();
    let spec = spec(false, TCP, &[0x33; 60_000]);
    let fits = tunnel.send(&[Item::offloaded(&spec.gso_header(1398), spec.offloaded())]);
    assert_eq!((fits.totals.tx_frames, fits.datagrams().len()), (1, 43));
    let too_big = tunnel.send(&[Item::offloaded(&spec.gso_header(1399), spec.offloaded())]);
    let packet = &answer(&too_big)[14..];
    assert_eq!(packet[28..], spec.offloaded()[14..14 + 128]);
}

/// A tag that stays on the frame reduces the packet's MTU by four bytes; one that is removed does not.
#[test]
fn a_tag_counts_if_it_stays() {
    let tunnel = Tunnel::new();
    let tagged = |len: usize| {
        Spec { tags: vec![[0x81, 0, 0, 10]], ..spec(false, Transport::Udp, &vec![1; len - 28]) }.wire()
    };
    let send = |len, tag| tunnel.send(&[Item { tag, ..Item::plain(tagged(len)) }]);
    assert_eq!(send(1446, TagOp::Keep).totals.tx_frames, 1);
    let outcome = send(1447, TagOp::Keep);
    let told = answer(&outcome);
    assert_eq!(told[12..18], [0x81, 0, 0, 10, 8, 0], "it goes back with the tag it came with");
    assert_eq!(told[18 + 26..18 + 28], 1446_u16.to_be_bytes());
    assert_eq!(send(1450, TagOp::Pop).totals.tx_frames, 1);
    let outcome = send(1451, TagOp::Pop);
    assert_eq!(answer(&outcome)[18 + 26..18 + 28], 1450_u16.to_be_bytes());
}

const SYN: u8 = 0x02;

/// A SYN that tells 1460 as its maximum segment size, with so much data (TCP Fast Open).
fn syn(v6: bool, data: usize) -> Spec {
    spec(v6, Transport::Tcp { sequence: 9, flags: SYN, options: 4 }, &vec![0x11; data])
}

/// Writes the option, whose place `Spec` fills with padding.
fn with_size(mut frame: Vec<u8>, spec: &Spec, size: u16) -> Vec<u8> {
    let at = spec.transport_at() + 20;
    frame[at..at + 2].copy_from_slice(&[2, 4]);
    frame[at + 2..at + 4].copy_from_slice(&size.to_be_bytes());
    frame
}

#[test]
fn connections_are_made_to_ask_for_what_fits() {
    let mut tunnel = Tunnel::new();
    for (v6, limit) in [(false, 1410), (true, 1390)] {
        for data in [0, 100, 600] {
            let spec = syn(v6, data);
            let mut asked = with_size(spec.wire(), &spec, 1460);
            seal(&mut asked);
            let mut clamped = with_size(spec.wire(), &spec, limit);
            seal(&mut clamped);
            let partial = with_size(spec.offloaded(), &spec, 1460);

            tunnel.out.clamp = true;
            let out = tunnel.send(&[Item::plain(asked.clone())]);
            assert_eq!(out.datagrams(), [blue(&clamped)], "out, {data} bytes of data");
            let out = tunnel.send(&[Item::offloaded(&spec.csum_header(), partial.clone())]);
            assert_eq!(out.datagrams(), [blue(&clamped)], "out with a partial checksum");
            tunnel.out.clamp = false;
            let out = tunnel.send(&[Item::plain(asked.clone())]);
            assert_eq!(out.datagrams(), [blue(&asked)], "not asked for");

            tunnel.back.clamp = true;
            assert_eq!(tunnel.take(&[blue(&asked)])[0].bytes, clamped, "in");
            // As a kernel's VXLAN device hands it over on the same host.
            let frames = tunnel.take(&[blue(&partial)]);
            assert!(matches!(frames[0].offload.csum, Csum::Partial { .. }));
            assert_eq!(frames[0].wire_frames(), [clamped], "in with a partial checksum");
            tunnel.back.clamp = false;
            assert_eq!(tunnel.take(&[blue(&asked)])[0].bytes, asked);
        }
    }
}

#[test]
fn what_opens_nothing_is_not_clamped() {
    let mut tunnel = Tunnel::new();
    (tunnel.out.clamp, tunnel.back.clamp) = (true, true);
    let spec = spec(false, Transport::Tcp { sequence: 9, flags: ACK, options: 4 }, b"hello");
    let mut frame = with_size(spec.wire(), &spec, 1460);
    seal(&mut frame);
    let out = tunnel.send(&[Item::plain(frame.clone())]);
    assert_eq!(out.datagrams(), [blue(&frame)]);
    let arrived = tunnel.take(&out.datagrams());
    assert_eq!(arrived[0].bytes, frame);
    assert_sealed(&frame);
}

/// Where the network says so, what its sender is not told leaves in fragments, apart from other packets of its flow.
#[test]
fn long_packets_leave_in_fragments_where_that_is_wanted() {
    let short = spec(false, Transport::Udp, &[0x11; 100]).wire();
    let long = spec(false, Transport::Udp, &[0x22; 1500]).wire();
    // It may be fragmented: for a flow, that makes no difference.
    let may = |frame: &[u8]| {
        let mut frame = frame.to_vec();
        frame[20] = 0;
        Item::plain(frame)
    };
    let mut tunnel = Tunnel::new();
    tunnel.fragment(BLUE);
    let items = [may(&short), may(&long), may(&short)];
    let outcome = tunnel.send(&items);
    let sent: Vec<_> = outcome.trains.iter().map(|train| (train.fragment, train.source)).collect();
    let source = sent[0].1;
    assert_eq!(sent, [(false, source), (true, source), (false, source)], "in order, from one port");
    assert_eq!((outcome.totals.tx_frames, outcome.answers.len()), (3, 0));
    // A sender that can be told is told.
    answer(&tunnel.send(&[Item::plain(long.clone())]));
    // Other networks are not affected.
    let other = Item { network: RED, ..may(&long) };
    assert_eq!(tunnel.send(&[other]).drops(), [(DropReason::PktTooBig, 1)]);
    // One that is refused leaves nothing behind.
    let outcome = tunnel
        .send_by(&items, |nth| if nth == 1 { Err(std::io::ErrorKind::WouldBlock.into()) } else { Ok(()) });
    assert_eq!(outcome.drops(), [(DropReason::FullRing, 1)]);
    assert!(outcome.trains.iter().all(|train| !train.fragment));
}

#[test]
fn outer_packets_inherit_the_time_to_live_where_that_is_wanted() {
    let frame = |v6: bool, ttl: u8| {
        let mut frame = spec(v6, Transport::Udp, &[0x11; 100]).wire();
        frame[if v6 { 21 } else { 22 }] = ttl;
        Item::plain(frame)
    };
    let mut tunnel = Tunnel::new();
    let mut arp = spec(false, Transport::Udp, &[]).wire();
    arp[13] = 6;
    let items = [frame(false, 17), frame(false, 17), frame(false, 3), frame(true, 9), Item::plain(arp)];
    for (inherit, expected) in [(false, vec![0; 5]), (true, vec![17, 17, 3, 9, 0])] {
        tunnel.out.inherit_ttl = inherit;
        let mut ttls: Vec<_> = tunnel
            .send(&items)
            .trains
            .iter()
            .flat_map(|train| vec![train.ttl; train.datagrams.len()])
            .collect();
        let mut expected = expected;
        ttls.sort_unstable();
        expected.sort_unstable();
        assert_eq!(ttls, expected);
    }
}

#[test]
fn a_packet_that_ends_within_its_ip_header_is_not_sent() {
    let tag: &[u8] = &[0x81, 0, 0, 10];
    for (v6, header) in [(false, 20), (true, 40)] {
        let whole = spec(v6, Transport::Udp, &[7; 100]).wire();
        for tags in 0..4 {
            let tagged = [&whole[..12], &tag.repeat(tags), &whole[12..]].concat();
            let end = 14 + 4 * tags + header;
            for (len, expected) in [(end, vec![]), (end - 1, vec![(DropReason::IpInHdr, 1)])] {
                let outcome = Tunnel::new().send(&[Item::plain(tagged[..len].to_vec())]);
                assert_eq!(outcome.drops(), expected, "{tags} tags, {len} bytes");
            }
        }
    }
}
