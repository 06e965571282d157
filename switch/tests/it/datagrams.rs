//! Datagrams merged for a port that asks: what the kernel cuts out of the super-frame is what was merged.

use super::superframe::{Addresses, Spec, Transport};
use vswitch::{
    addr::{NetworkId, PortId},
    batch::Batch,
    counters::PortCounters,
    datagrams::MAX_MERGED,
    offload::{LONG_HEADER, Offload},
    segment::Segmenter,
    transmit::{Out, TagOp, Transmit},
};

fn spec(v6: bool, id: u16, payload: &[u8]) -> Spec {
    Spec {
        tags: Vec::new(),
        addresses: if v6 { Addresses::V6([0xfd; 32]) } else { Addresses::V4([10, 9, 0, 2, 10, 9, 0, 3]) },
        ip_options: 0,
        extensions: Vec::new(),
        id,
        transport: Transport::Udp,
        accurate: false,
        payload: payload.to_vec(),
    }
}

/// How `frames` are merged: the number of frames of each super-frame, and its wire frames; 1 and nothing where there is none.
fn merge(frames: &[(Offload, Vec<u8>)], tag: TagOp) -> Vec<(usize, Vec<Vec<u8>>)> {
    let (mut batch, mut outs) = (Batch::new(), Vec::new());
    for (slot, (offload, bytes)) in (0..).zip(frames) {
        assert!(batch.push_copy(PortId(0), None, *offload, bytes));
        outs.push(Out::new(slot, NetworkId(0), tag));
    }
    let counters = PortCounters::default();
    let port = PortId(1);
    let all =
        Transmit { port, batch: &batch, outs: &outs, max_frame: 1518, counters: &counters, witness: None };
    let (mut at, mut found) = (0, Vec::new());
    while at < outs.len() {
        let Some(merged) = all.merged(at) else {
            found.push((1, Vec::new()));
            at += 1;
            continue;
        };
        let bytes: Vec<u8> = merged.parts().flatten().copied().collect();
        let (header, frame) = bytes.split_first_chunk::<LONG_HEADER>().expect("a header");
        let offload = Offload::parse_long(header, frame).expect("a super-frame");
        assert_eq!(offload.segments(frame.len()), merged.count());
        let wire = |segment: vswitch::segment::Segment<'_>| {
            let mut wire = vec![0; segment.wire_len()];
            segment.copy_into(&mut wire).expect("as long as it says");
            wire
        };
        found.push((merged.count(), Segmenter::new(frame, &offload).expect("its own").map(wire).collect()));
        at += merged.count();
    }
    found
}

fn plain(frames: impl IntoIterator<Item = Spec>) -> Vec<(Offload, Vec<u8>)> {
    frames.into_iter().map(|spec| (Offload::NONE, spec.wire())).collect()
}

#[test]
fn a_flow_is_merged_and_cut_again_into_the_same() {
    for v6 in [false, true] {
        // The last is shorter; numbers go up as the kernel's do.
        let specs: Vec<_> = (0..10)
            .map(|id| spec(v6, id, &[id.to_le_bytes()[0]; 1200][..if id == 9 { 7 } else { 1200 }]))
            .collect();
        let expected: Vec<_> = specs.iter().map(Spec::wire).collect();
        assert_eq!(merge(&plain(specs.clone()), TagOp::Keep), [(10, expected.clone())]);
        // Of a container: checksums are left to us.
        let offloaded = specs.iter().map(|spec| {
            let bytes = spec.offloaded();
            (Offload::parse(&spec.csum_header(), &bytes).expect("its own"), bytes)
        });
        assert_eq!(merge(&offloaded.collect::<Vec<_>>(), TagOp::Keep), [(10, expected)]);
    }
}

#[test]
fn super_frames_have_bounds() {
    let many = |count: u16, len| plain((0..count).map(|id| spec(false, id, &vec![7; len])));
    let counts = |frames: &[(Offload, Vec<u8>)]| -> Vec<usize> {
        merge(frames, TagOp::Keep).into_iter().map(|(count, _)| count).collect()
    };
    assert_eq!(counts(&many(130, 10)), [MAX_MERGED, MAX_MERGED, 2]);
    assert_eq!(counts(&many(100, 1400)), [46, 46, 8], "64 KB");
    // A shorter one ends it, a longer one does not belong to it.
    let lens = |lens: &[usize]| plain((0..).zip(lens).map(|(id, len)| spec(false, id, &vec![7; *len])));
    assert_eq!(counts(&lens(&[100, 100, 50, 50, 100])), [3, 1, 1]);
    assert_eq!(counts(&lens(&[0, 0])), [1, 1]);
}

#[test]
fn what_is_none_of_the_flow_stays_alone() {
    let base = spec(false, 1, &[7; 100]).wire();
    type Edit = fn(&mut Vec<u8>);
    let edits: [(&str, Edit); 9] = [
        ("another station", |frame| frame[5] ^= 1),
        ("another class", |frame| frame[15] = 4),
        ("another time to live", |frame| frame[22] = 9),
        ("a fragment", |frame| frame[20] = 0x20),
        ("another host", |frame| frame[29] ^= 1),
        ("another port", |frame| frame[35] ^= 1),
        ("a wrong checksum", |frame| frame[50] ^= 1),
        ("no checksum", |frame| frame[40..42].fill(0)),
        ("padding", |frame| frame.push(0)),
    ];
    for (what, edit) in edits {
        let mut other = base.clone();
        edit(&mut other);
        let frames = [base.clone(), other].map(|bytes| (Offload::NONE, bytes));
        assert_eq!(merge(&frames, TagOp::Keep), [(1, vec![]), (1, vec![])], "{what}");
    }
    let twice = [base.clone(), base].map(|bytes| (Offload::NONE, bytes));
    assert_eq!(merge(&twice, TagOp::Keep)[0].0, 2);
    assert_eq!(merge(&twice, TagOp::Push(vswitch::frame::Tag(10))).len(), 2, "a tag is new");
    let tcp = Spec {
        transport: Transport::Tcp { sequence: 1, flags: 16, options: 0 },
        ..spec(false, 1, &[7; 100])
    };
    assert_eq!(merge(&plain([tcp.clone(), tcp]), TagOp::Keep).len(), 2);
}
