use std::net::{IpAddr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::wire::{
    bytes::{put_u16, u16_at},
    checksum::Sum,
    headers::IPV6_HEADER,
};

const ASKER: MacAddr = MacAddr([2, 0x42, 10, 9, 0, 2]);
const STATION: MacAddr = MacAddr([2, 0x42, 10, 9, 0, 7]);
const NOW: usize = 14;

/// "Who has 10.9.0.7? Tell 10.9.0.2."
fn request() -> Vec<u8> {
    let mut frame = [[0xff; 6], ASKER.0].concat();
    frame.extend(b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01");
    frame.extend(ASKER.0);
    frame.extend([10, 9, 0, 2]);
    frame.extend([0; 6]);
    frame.extend([10, 9, 0, 7]);
    frame
}

/// "Who has fd00:9::7? Tell fd00:9::2."
fn solicitation() -> Vec<u8> {
    let (asker, target) =
        ("fd00:9::2".parse::<Ipv6Addr>().unwrap(), "fd00:9::7".parse::<Ipv6Addr>().unwrap());
    let mut frame = [[0x33, 0x33, 0xff, 0, 0, 7], ASKER.0].concat();
    frame.extend(b"\x86\xdd\x60\x00\x00\x00\x00\x20\x3a\xff");
    frame.extend(asker.octets());
    frame.extend("ff02::1:ff00:7".parse::<Ipv6Addr>().unwrap().octets());
    frame.extend([135, 0, 0, 0, 0, 0, 0, 0]);
    frame.extend(target.octets());
    frame.extend([1, 1]);
    frame.extend(ASKER.0);
    let sum = Sum::pseudo(&frame[NOW + 8..NOW + 40], 58, 32) + Sum::of(&frame[NOW + IPV6_HEADER..]);
    put_u16(&mut frame, NOW + IPV6_HEADER + 2, sum.checksum());
    frame
}

#[test]
fn an_arp_request_gets_the_answer_that_the_station_would_give() {
    let question = Question::read(&request(), false).unwrap();
    assert_eq!(question.target, IpAddr::from([10, 9, 0, 7]));
    let answer = answer(&request(), false, STATION).unwrap();
    let expected = [
        &ASKER.0[..],
        &STATION.0,
        b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x02",
        &STATION.0,
        &[10, 9, 0, 7],
        &ASKER.0,
        &[10, 9, 0, 2],
    ];
    assert_eq!(answer.as_slice(), expected.concat());
}

#[test]
fn a_solicitation_gets_an_advertisement_with_a_right_checksum() {
    let answer = answer(&solicitation(), false, STATION).unwrap();
    assert_eq!(answer[..14], [&ASKER.0[..], &STATION.0, b"\x86\xdd"].concat());
    let packet = &answer[14..];
    let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap()).to_string();
    assert_eq!([address(8), address(24), address(48)], ["fd00:9::7", "fd00:9::2", "fd00:9::7"]);
    assert_eq!((packet[7], u16_at(packet, 4) as usize), (255, packet.len() - IPV6_HEADER));
    assert_eq!(packet[40..48][..2], [136, 0]);
    assert_eq!(packet[44], 0x60, "solicited, and newer than what is known");
    assert_eq!(packet[64..], [&[2, 1][..], &STATION.0].concat());
    let sum = Sum::pseudo(&packet[8..40], 58, packet.len() - IPV6_HEADER) + Sum::of(&packet[IPV6_HEADER..]);
    assert_eq!(sum.checksum(), 0, "the sum over a message with its checksum is zero");
}

#[test]
fn the_tag_of_the_switch_stays_and_a_tag_of_the_payload_hides_the_question() {
    for frame in [request(), solicitation()] {
        let mut tagged = frame.clone();
        tagged.splice(12..12, [0x81, 0x00, 0x60, 10]);
        let bytes = answer(&tagged, true, STATION).unwrap();
        assert_eq!(bytes[12..16], [0x81, 0x00, 0x60, 10]);
        let plain = answer(&frame, false, STATION).unwrap();
        assert_eq!(bytes[16..], plain[12..]);
        assert_eq!(Question::read(&tagged, false), None);
        assert_eq!(Question::read(&frame, true), None);
    }
}

/// Everything that is for the station itself, or for everybody.
#[test]
fn what_only_the_station_may_answer_is_no_question() {
    let arp = |change: fn(&mut [u8])| {
        let mut frame = request();
        change(&mut frame);
        Question::read(&frame, false)
    };
    assert!(arp(|_| {}).is_some());
    assert_eq!(arp(|it| it[NOW + 14..NOW + 18].fill(0)), None, "a probe");
    assert_eq!(arp(|it| it.copy_within(NOW + 14..NOW + 18, NOW + 24)), None, "gratuitous");
    assert_eq!(arp(|it| it[NOW + 7] = 2), None, "a reply");
    assert_eq!(arp(|it| it[NOW + 13] ^= 1), None, "asked for another");
    assert_eq!(arp(|it| it[NOW + 3] = 6), None, "another protocol");
    let nd = |change: fn(&mut [u8])| {
        let mut frame = solicitation();
        change(&mut frame);
        Question::read(&frame, false)
    };
    assert!(nd(|_| {}).is_some());
    assert_eq!(nd(|it| it[NOW + 8..NOW + 24].fill(0)), None, "duplicate address detection");
    assert_eq!(nd(|it| it[NOW + 7] = 254), None, "passed on by a router");
    assert_eq!(nd(|it| it[NOW + 40] = 136), None, "an advertisement");
    assert_eq!(nd(|it| it[NOW + 64] = 14), None, "without link-layer address");
    assert_eq!(nd(|it| it[NOW + 48] = 0xff), None, "for a group");
    assert_eq!(nd(|it| it.copy_within(NOW + 8..NOW + 24, NOW + 48)), None, "for itself");
}

#[test]
fn changes_are_seen_all_at_once() {
    let (blue, red) = (NetworkId(0), NetworkId(1));
    let neighbours = Neighbours::default();
    let address = IpAddr::from([10, 9, 0, 7]);
    neighbours.change([((blue, address), Some(ASKER)), ((red, address), Some(STATION))]);
    assert_eq!(neighbours.get(blue, address), Some(ASKER));
    neighbours.change([((blue, address), Some(STATION)), ((red, address), None)]);
    assert_eq!((neighbours.try_get(blue, address), neighbours.get(red, address)), (Some(STATION), None));
    assert_eq!(neighbours.addresses(), [(blue, address)]);
}

proptest! {
    /// Bytes from the wire, as they come or near to a question: no panic, and what is answered is answered to its asker.
    #[test]
    fn any_bytes_are_read_without_harm(
        noise in prop::collection::vec(any::<u8>(), 0..120),
        flips in prop::collection::vec((0..90_usize, any::<u8>()), 0..4),
        cut in 0..90_usize,
        which in 0..3,
        is_tagged in any::<bool>(),
    ) {
        let mut frame = match which { 0 => request(), 1 => solicitation(), _ => noise };
        for (at, byte) in flips {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        if cut < 45 {
            frame.truncate(cut * 2);
        }
        let question = Question::read(&frame, is_tagged);
        let bytes = answer(&frame, is_tagged, STATION);
        prop_assert_eq!(question.is_some(), bytes.is_some());
        if let Some(bytes) = bytes {
            prop_assert_eq!(&bytes[..6], &frame[6..12]);
            prop_assert_eq!(&bytes[6..12], &STATION.0);
        }
    }
}
