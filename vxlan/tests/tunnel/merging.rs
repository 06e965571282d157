//! What was cut and is merged again is what it was, and what must not be merged is not.

use proptest::prelude::*;
use vswitch::offload::{MAX_DATAGRAMS, MAX_SEGMENTS, Offload};
use vswitch_vxlan::ecn::Ecn;

use crate::{
    lab::{BLUE_HEADER, Item, RED_HEADER, Tunnel, seal, wire_frames},
    packets::{TCP, blue, spec},
    superframe::{ACK, PSH, Spec, Transport, specs},
};

/// Frames as they come in turns: of few flows, which go on from where their last frame ended or begin anew.
#[derive(Clone, Debug)]
struct Step {
    flow: usize,
    /// Begins another packet of any kind.
    fresh: Option<Spec>,
    payload: Vec<u8>,
    /// Bytes of each segment; 0: it is sent as one packet, if it fits.
    size: u16,
    push: bool,
    gap: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let payload = prop_oneof![
        4 => (any::<u8>(), 1..1398usize).prop_map(|(seed, len)| vec![seed; len]),
        2 => (any::<u8>(), Just(1000)).prop_map(|(seed, len)| vec![seed; len]),
        1 => (any::<u8>(), 1..40_000usize)
            .prop_map(|(seed, len)| (0..len).map(|at| seed ^ (at % 251).to_le_bytes()[0]).collect()),
    ];
    let size = prop_oneof![Just(1000u16), 600..1300u16];
    let rare = |of: u32| (0..of).prop_map(|chance| chance == 0);
    let fresh = prop::option::weighted(0.1, specs());
    let step = (0..4usize, fresh, payload, size, rare(6), rare(10));
    let step = step.prop_map(|(flow, fresh, payload, size, push, gap)| Step {
        flow,
        fresh,
        payload,
        size,
        push,
        gap,
    });
    prop::collection::vec(step, 1..24)
}

/// The frames of these steps: streams of TCP and UDP over both families, of which all but those that `fresh` names go on.
fn items(steps: &[Step]) -> Vec<Item> {
    let streams = [(false, TCP), (true, TCP), (false, Transport::Udp), (true, Transport::Udp)];
    let mut streams = streams.map(|(v6, transport)| spec(v6, transport, b""));
    let mut items = Vec::new();
    for Step { flow, fresh, payload, size, push, gap } in steps {
        let stream = &mut streams[*flow];
        let mut packet = Spec { payload: payload.clone(), ..stream.clone() };
        if let Transport::Tcp { flags, .. } = &mut packet.transport
            && *push
        {
            *flags |= PSH;
        }
        if let Some(fresh) = fresh {
            packet = Spec { payload: fresh.payload.iter().copied().take(1000).collect(), ..fresh.clone() };
        }
        // UDP super-frames are bounded in datagrams.
        let cut =
            packet.payload.len() > 1200 && packet.payload.len().div_ceil(usize::from(*size)) <= MAX_DATAGRAMS;
        items.push(match cut {
            true => Item::offloaded(&packet.gso_header(*size), packet.offloaded()),
            false if packet.payload.len().is_multiple_of(2) => {
                Item::offloaded(&packet.csum_header(), packet.offloaded())
            }
            false => Item::plain(packet.wire()),
        });
        if fresh.is_none() {
            let segments = if cut { payload.len().div_ceil(usize::from(*size)) } else { 1 };
            stream.id = stream.id.wrapping_add(u16::try_from(segments).expect("few"));
            if let Transport::Tcp { sequence, .. } = &mut stream.transport {
                let ahead = u32::try_from(payload.len() + usize::from(*gap)).expect("small");
                *sequence = sequence.wrapping_add(ahead);
            }
        }
    }
    items
}

/// What tells flows apart, for the order that must be kept: everything up to the ports, with the protocol, but for what counts
/// up.
fn flow(frame: &[u8]) -> Vec<u8> {
    let link = vswitch::headers::link(frame).map_or(0, |(network, _)| network);
    match frame[link] >> 4 {
        4 => [&frame[..link], &frame[link + 9..=link + 9], &frame[link + 12..link + 24]].concat(),
        _ => [&frame[..link], &frame[link + 6..=link + 6], &frame[link + 8..link + 44]].concat(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Any frames through a tunnel, each train received as one message: the same frames on the wire, each flow in its order,
    /// nothing lost and nothing new.
    #[test]
    fn what_is_cut_and_merged_is_what_it_was(steps in steps(), sources in 0..3u32) {
        let mut tunnel = Tunnel::new();
        tunnel.out.sources = 1 << (2 * sources);
        let items = items(&steps);
        let outcome = tunnel.send(&items);
        let fits = |item: &&Item| item.offload.wire_len(item.bytes.len()) <= 1464;
        let sent: Vec<_> = items.iter().filter(fits).flat_map(|item| wire_frames(&item.offload, &item.bytes)).collect();
        let mut arrived = Vec::new();
        for train in &outcome.trains {
            for frame in tunnel.take(&train.datagrams) {
                prop_assert_eq!(Offload::parse(&frame.offload.emit(), &frame.bytes), Ok(frame.offload));
                arrived.extend(frame.wire_frames());
            }
        }
        let by_flow = |frames: &[Vec<u8>]| {
            let mut frames = frames.to_vec();
            frames.sort_by_key(|frame| flow(frame));
            frames
        };
        prop_assert_eq!(by_flow(&arrived), by_flow(&sent));
        if tunnel.out.sources == 1 {
            prop_assert_eq!(arrived, sent, "by one port all of them keep their order");
        }
    }

    /// Whatever a train holds, the output contains the input frames byte by byte, in their order.
    #[test]
    fn frames_of_a_train_stand_for_themselves(
        count in 1..20usize,
        edits in prop::collection::vec((0..20usize, 8..90usize, any::<u8>(), any::<bool>()), 0..4),
        v6: bool,
        udp: bool,
        ecn in prop::sample::select(vec![Ecn::NotEct, Ecn::Ect0]),
    ) {
        let tunnel = Tunnel::new();
        let stream = spec(v6, if udp { Transport::Udp } else { TCP }, &vec![3; 16 * count]);
        let mut frames = stream.cut(16);
        for (which, at, value, sealed) in edits {
            let frame = &mut frames[which % count];
            let at = at % frame.len();
            frame[at] = value;
            if sealed {
                seal(frame);
            }
        }
        let message: Vec<_> = frames.iter().flat_map(|frame| blue(frame)).collect();
        let (arrived, refused) = tunnel.receive(&message, frames[0].len() + 8, ecn);
        prop_assert_eq!(refused, []);
        // What happens to look as if its checksum were yet to be completed leaves with it completed.
        let arrived: Vec<_> = arrived.iter().flat_map(|frame| frame.wire_frames()).collect();
        prop_assert_eq!(arrived, frames);
    }
}

/// How a packet may differ from one that follows the packet before it.
type Edit = fn(&mut Vec<u8>);

fn merges(first: &[u8], second: &[u8]) -> bool {
    let tunnel = Tunnel::new();
    let message = [blue(first), blue(second)].concat();
    let (frames, refused) = tunnel.receive(&message, 8 + first.len(), Ecn::NotEct);
    assert_eq!(refused, []);
    if frames.len() == 2 {
        assert_eq!([&frames[0].bytes, &frames[1].bytes], [first, second], "what is not merged is as it was");
        assert!(frames.iter().all(|frame| frame.offload == Offload::NONE));
        return false;
    }
    assert_eq!(frames[0].wire_frames(), [first, second], "what is merged can be told apart again");
    true
}

/// The two packets of a stream, of which the second was edited and then, if so asked, given right checksums.
fn pair(v6: bool, transport: Transport, edit: Edit, sealed: bool) -> [Vec<u8>; 2] {
    let frames = spec(v6, transport, &[0x42; 200]).cut(100);
    let [first, mut second] = <[_; 2]>::try_from(frames).expect("two");
    edit(&mut second);
    if sealed {
        seal(&mut second);
    }
    [first, second]
}

/// Adds to a big-endian word.
fn add(frame: &mut [u8], at: usize, number: u16) {
    let word = u16::from_be_bytes([frame[at], frame[at + 1]]).wrapping_add(number);
    frame[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

#[test]
fn what_must_not_merge_does_not() {
    let all: &[(&str, Edit)] =
        &[("another destination", |frame| frame[5] ^= 1), ("another source", |frame| frame[11] ^= 1)];
    for v6 in [false, true] {
        let [first, second] = pair(v6, TCP, |_| {}, true);
        assert!(merges(&first, &second), "the example itself");
        for (what, edit) in all {
            let [first, second] = pair(v6, TCP, *edit, true);
            assert!(!merges(&first, &second), "{what}");
        }
        let [first, second] = pair(v6, Transport::Udp, |_| {}, true);
        assert!(!merges(&first, &second), "UDP, whose datagrams mean something one by one");
    }

    // Of both families; offsets are those of IPv4 behind Ethernet.
    let ipv4: &[(&str, Edit)] = &[
        ("DSCP", |frame| frame[15] ^= 0x04),
        ("ECN", |frame| frame[15] ^= 0x02),
        ("time to live", |frame| frame[22] -= 1),
        ("may be fragmented", |frame| frame[20] ^= 0x40),
        ("reserved flag", |frame| frame[20] ^= 0x80),
        ("identification behind", |frame| add(frame, 18, u16::MAX - 1)),
        ("identification ahead", |frame| add(frame, 18, 1)),
        ("source", |frame| frame[29] ^= 1),
        ("destination", |frame| frame[33] ^= 1),
        ("source port", |frame| frame[35] ^= 1),
        ("destination port", |frame| frame[37] ^= 1),
    ];
    let ipv6: &[(&str, Edit)] = &[
        ("traffic class", |frame| frame[15] ^= 0x40),
        ("flow label", |frame| frame[17] ^= 1),
        ("hop limit", |frame| frame[21] -= 1),
        ("source", |frame| frame[37] ^= 1),
        ("destination", |frame| frame[53] ^= 1),
        ("source port", |frame| frame[55] ^= 1),
        ("destination port", |frame| frame[57] ^= 1),
    ];
    for (v6, table) in [(false, ipv4), (true, ipv6)] {
        for (what, edit) in table {
            let [first, second] = pair(v6, TCP, *edit, true);
            assert!(!merges(&first, &second), "{what}, IPv6: {v6}");
        }
    }

    let tcp: &[(&str, Edit)] = &[
        ("a byte is missing", |frame| add(frame, 40, 1)),
        ("a byte came before", |frame| add(frame, 40, u16::MAX)),
        ("sequence in its upper half", |frame| add(frame, 38, 1)),
        ("acknowledgement", |frame| frame[45] ^= 1),
        ("reserved flag (NS)", |frame| frame[46] ^= 1),
        ("SYN", |frame| frame[47] |= 0x02),
        ("RST", |frame| frame[47] |= 0x04),
        ("URG", |frame| frame[47] |= 0x20),
        ("ECE", |frame| frame[47] |= 0x40),
        ("CWR", |frame| frame[47] |= 0x80),
        ("no ACK", |frame| frame[47] &= !ACK),
        ("window", |frame| frame[49] ^= 1),
        ("urgent pointer", |frame| frame[53] ^= 1),
        ("options", |frame| frame[60] ^= 1),
        ("fewer options", |frame| frame[46] -= 0x10),
    ];
    for (what, edit) in tcp {
        let [first, second] = pair(false, TCP, *edit, true);
        assert!(!merges(&first, &second), "{what}");
    }

    let unsealed: &[(&str, Edit)] = &[
        ("payload damaged", |frame| *frame.last_mut().expect("not empty") ^= 1),
        ("checksum damaged", |frame| frame[51] ^= 1),
    ];
    for (what, edit) in unsealed {
        let [first, second] = pair(false, TCP, *edit, false);
        assert!(!merges(&first, &second), "{what}");
        // The same of the first, and the other way round.
        let [first, mut second] = pair(false, TCP, |_| {}, true);
        edit(&mut second);
        assert!(!merges(&first, &second), "{what}");
        let [mut first, second] = pair(false, TCP, |_| {}, true);
        edit(&mut first);
        assert!(!merges(&first, &second), "{what}, of the first");
    }
    let [first, mut second] = pair(false, TCP, |_| {}, true);
    second[24] ^= 1;
    assert!(!merges(&first, &second), "header checksum damaged");
}

/// The frames are of one length, but the packet in the second is shorter.
#[test]
fn what_is_around_a_packet_is_not_payload() {
    for (v6, transport) in [(false, TCP), (true, TCP)] {
        let second = |payload: usize| {
            let mut cut = spec(v6, transport, &vec![0x42; 100 + payload]).cut(100);
            cut.remove(1)
        };
        let [first, _] = pair(v6, transport, |_| {}, true);
        let padded = [second(92), vec![0; 8]].concat();
        assert!(!merges(&first, &padded), "padding");
        let mut tagged = second(96);
        tagged.splice(12..12, [0x81, 0, 0, 10]);
        assert!(!merges(&first, &tagged), "a tag");
        assert!(merges(&first, &second(92)));
    }
}

#[test]
fn the_first_decides_whether_anything_follows() {
    for flags in [0x02, 0x04, ACK | 0x01, ACK | PSH, ACK | 0x20, ACK | 0x80, 0] {
        let transport = Transport::Tcp { sequence: 1, flags, options: 0 };
        let first = spec(false, transport, &[1; 100]).wire();
        let second = spec(false, Transport::Tcp { sequence: 101, flags, options: 0 }, &[2; 100]);
        let second = Spec { id: 8, ..second }.wire();
        assert!(!merges(&first, &second), "{flags:#x}");
    }
    let frames = spec(false, TCP, &[1; 250]).cut(100);
    let tunnel = Tunnel::new();
    // The short one ends the train by itself.
    assert_eq!(tunnel.take(&frames.iter().map(|frame| blue(frame)).collect::<Vec<_>>()).len(), 1);
    let options = Spec { ip_options: 4, ..spec(false, TCP, &[1; 200]) }.cut(100);
    assert!(!merges(&options[0], &options[1]), "IPv4 options");
    let extension = Spec { extensions: vec![(60, 0)], ..spec(true, TCP, &[1; 200]) }.cut(100);
    assert!(!merges(&extension[0], &extension[1]), "IPv6 extension headers");
    let tagged = Spec { tags: vec![[0x81, 0, 0, 1]], ..spec(false, TCP, &[1; 200]) }.cut(100);
    assert!(!merges(&tagged[0], &tagged[1]), "tags");
}

/// Fragments have no ports, and the first of them no whole packet.
#[test]
fn fragments_are_left_alone() {
    let [first, mut second] = pair(false, TCP, |_| {}, true);
    for (flags, offset) in [(0x20, 0), (0x20, 1), (0x00, 1)] {
        second[20..22].copy_from_slice(&[flags, offset]);
        second[24..26].fill(0);
        let checksum = vswitch::checksum::Sum::of(&second[14..34]).checksum();
        second[24..26].copy_from_slice(&checksum.to_be_bytes());
        assert!(!merges(&first, &second));
        assert!(!merges(&second, &second));
    }
}

#[test]
fn another_network_or_flow_between_ends_a_run() {
    let tunnel = Tunnel::new();
    let frames = spec(false, TCP, &[0x42; 300]).cut(100);
    let message = [blue(&frames[0]), [&RED_HEADER[..], &frames[1]].concat(), blue(&frames[2])].concat();
    let (arrived, _) = tunnel.receive(&message, 8 + frames[0].len(), Ecn::NotEct);
    assert_eq!(arrived.len(), 3);
    let mut other = frames[0].clone();
    other[33] ^= 1;
    seal(&mut other);
    let message = [&BLUE_HEADER[..], &frames[0], &BLUE_HEADER, &other, &BLUE_HEADER, &frames[1]].concat();
    let (arrived, _) = tunnel.receive(&message, 8 + frames[0].len(), Ecn::NotEct);
    let bytes: Vec<_> = arrived.into_iter().map(|frame| frame.bytes).collect();
    assert_eq!(bytes, [frames[0].clone(), other, frames[1].clone()]);
}

/// The identification of an atomic datagram is meaningless (RFC 6864 section 4.1), and some senders keep it
/// constant.
#[test]
fn constant_identification_merges_where_fragments_are_forbidden() {
    let frames = spec(false, TCP, &[0x42; 300]).cut(100);
    let constant = |flags: u8| -> Vec<Vec<u8>> {
        let edit = |frame: &Vec<u8>| {
            let mut frame = frame.clone();
            frame[18..21].copy_from_slice(&[0, 0, flags]);
            seal(&mut frame);
            blue(&frame)
        };
        frames.iter().map(edit).collect()
    };
    assert_eq!(Tunnel::new().take(&constant(0x40)).len(), 1);
    assert_eq!(Tunnel::new().take(&constant(0x00)).len(), 3);
}

#[test]
fn the_end_of_a_burst_ends_the_frame_and_is_told() {
    let burst = |sequence, id, len| {
        let transport = Transport::Tcp { sequence, flags: ACK | PSH, options: 12 };
        Spec { id, ..spec(false, transport, &vec![5; len]) }
    };
    let bursts = [burst(1, 1, 300), burst(301, 4, 250)];
    let datagrams: Vec<_> =
        bursts.iter().flat_map(|burst| burst.cut(100)).map(|frame| blue(&frame)).collect();
    let frames = Tunnel::new().take(&datagrams);
    let bytes: Vec<_> = frames.iter().map(|frame| frame.bytes.clone()).collect();
    assert_eq!(bytes, bursts.map(|burst| burst.offloaded()));
}

/// More segments than a super-frame may have become two super-frames.
#[test]
fn a_merged_frame_keeps_the_bounds_of_an_offload() {
    let tunnel = Tunnel::new();
    let transport = Transport::Tcp { sequence: 1, flags: ACK, options: 0 };
    let datagrams: Vec<_> =
        spec(false, transport, &[9; 1040]).cut(1).iter().map(|frame| blue(frame)).collect();
    assert!(datagrams.concat().len() < 65_536 && datagrams.len() > MAX_SEGMENTS);
    let frames = tunnel.take(&datagrams);
    assert_eq!(frames.len(), 2);
    assert!(
        frames.iter().all(|frame| Offload::parse(&frame.offload.emit(), &frame.bytes) == Ok(frame.offload))
    );
}
