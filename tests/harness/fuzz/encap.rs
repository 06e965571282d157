//! Any frames with any offload headers into a tunnel: trains are acceptable to the kernel, and every frame is counted.

use std::io;

use arbitrary::Arbitrary;
use vswitch::{
    addr::{NetworkId, PortId},
    batch::{Batch, CAPACITY},
    counters::{PortCounters, PortTotals},
    frame::Tag,
    offload::{LONG_HEADER, Offload},
    transmit::{Out, Scratch, TagOp, Transmit},
};
use vswitch_vxlan::{
    encap::{Class, Dscp, MAX_DATAGRAMS, Settings, encapsulate},
    header::{HEADER, Vni},
    tables::Tables,
};

use super::structured;

#[derive(Arbitrary, Debug)]
struct Input {
    overlay_mtu: u16,
    clamp: bool,
    inherit: bool,
    datagrams: u8,
    sources: u8,
    /// Train n fails if bit n is set.
    failures: u64,
    frames: Vec<Frame>,
}

#[derive(Arbitrary, Debug)]
struct Frame {
    header: [u8; LONG_HEADER],
    bytes: Vec<u8>,
    /// Further length in units of 128 bytes, to get long super-frames.
    longer: u8,
    network: bool,
    tag: u8,
}

/// Encapsulates the frames decoded from `data`.
pub fn encap(data: &[u8]) {
    let Some(input) = structured::<Input>(data) else { return };
    let settings = Settings {
        overlay_mtu: input.overlay_mtu.min(65_485),
        clamp: input.clamp,
        class: Class::marked(if input.inherit { Dscp::Inherit } else { Dscp::Fixed(10) }),
        datagrams: usize::from(input.datagrams),
        sources: 1 << (input.sources % 8),
        inherit_ttl: false,
        whole_headers: true,
    };
    let (mut batch, mut outs) = (Batch::new(), Vec::new());
    for (slot, frame) in (0..).zip(input.frames.iter().take(CAPACITY)) {
        let mut bytes = frame.bytes.clone();
        bytes.resize(bytes.len().max(18) + 128 * usize::from(frame.longer), 0x42);
        let offload = Offload::parse_long(&frame.header, &bytes).unwrap_or_default();
        if !batch.push_copy(PortId(0), None, offload, &bytes) {
            break;
        }
        // The switch removes a tag only where there is one.
        let tagged = bytes[12..14] == [0x81, 0];
        let tag = match frame.tag % 4 {
            1 if tagged => TagOp::Pop,
            2 if tagged => TagOp::Replace(Tag(7)),
            3 => TagOp::Push(Tag(8)),
            _ => TagOp::Keep,
        };
        outs.push(Out::new(slot, NetworkId(u16::from(frame.network)), tag));
    }
    let counters = PortCounters::default();
    let frames = Transmit {
        port: PortId(1),
        batch: &batch,
        outs: &outs,
        max_frame: 70_000,
        counters: &counters,
        witness: None,
    };
    let tables = Tables::new([], [(Vni::try_from(5).expect("valid"), NetworkId(1))]);
    let (mut scratch, mut nth) = (Scratch::new(), 0);
    encapsulate(
        |network, from| tables.carriage(network, from),
        &settings,
        &frames,
        &mut scratch,
        &mut |train| {
            assert!((1..=settings.datagrams.clamp(1, MAX_DATAGRAMS)).contains(&train.datagrams));
            assert!(train.source < settings.sources);
            let bytes: usize = train.parts.iter().map(|part| part.len()).sum();
            assert!(bytes <= 65_507 && bytes.div_ceil(train.size) == train.datagrams);
            assert!(train.size <= HEADER + 14 + usize::from(settings.overlay_mtu));
            let mut count = 0;
            train.each(|parts| {
                let datagram: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
                assert!(datagram.starts_with(&[8, 0, 0, 0, 0, 0, 5, 0]));
                count += 1;
                Ok(())
            })?;
            assert_eq!(count, train.datagrams);
            nth += 1;
            if input.failures.rotate_right(nth) & 1 == 0 {
                Ok(())
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            }
        },
    );
    let totals = PortTotals::sum(&[counters]);
    let drops: u64 = totals.drops().map(|(_, count)| count).sum();
    assert_eq!((totals.offered, totals.tx_frames + drops), (outs.len() as u64, outs.len() as u64));
    scratch.answers.take(|_, _, answer| assert!(answer.len() >= 14 && answer[..12] != [0; 12]));
}
