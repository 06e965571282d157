//! Crossing a tunnel allocates nothing, either way: counted by the allocator itself.
//!
//! One test, because the count is of the whole process.

#[path = "../../switch/tests/counting/mod.rs"]
mod counting;
#[path = "../../switch/tests/it/superframe.rs"]
#[expect(dead_code, reason = "only frames that can be cut are built here")]
mod superframe;

use std::sync::atomic::Ordering::Relaxed;

use counting::ALLOCATIONS;
use superframe::{ACK, Addresses, Spec, Transport};
use vswitch::{
    addr::{NetworkId, PortId},
    batch::{BATCH, Batch},
    counters::PortCounters,
    frame::Tag,
    offload::Offload,
    transmit::{Out, Scratch, TagOp, Transmit},
};
use vswitch_vxlan::{
    decap::{self, MESSAGE, Message, decapsulate},
    ecn::Ecn,
    encap::{self, Class, Dscp, MAX_DATAGRAMS, encapsulate},
    header::Vni,
    tables::Tables,
};

const NETWORK: NetworkId = NetworkId(2);
const PEER: PortId = PortId(7);
const TURNS: usize = 20;

/// What crosses the tunnel again and again.
struct Case {
    name: &'static str,
    spec: Spec,
    size: Option<u16>,
    tag: TagOp,
    overlay_mtu: u16,
    ecn: Ecn,
}

fn case(name: &'static str, transport: Transport, payload: usize, size: Option<u16>) -> Case {
    let spec = Spec {
        tags: vec![],
        addresses: Addresses::V4([10, 9, 0, 2, 10, 9, 0, 3]),
        ip_options: 0,
        extensions: vec![],
        id: 1,
        transport,
        accurate: false,
        payload: vec![0x55; payload],
    };
    Case { name, spec, size, tag: TagOp::Keep, overlay_mtu: 1450, ecn: Ecn::NotEct }
}

impl Case {
    /// Frames out, and what left in again, so often; the allocations of the second half, and the frames that came in.
    fn allocations(&self) -> (u64, usize) {
        let vni = Vni::try_from(4096).expect("valid");
        let tables = Tables::new([], [(vni, NETWORK)]);
        let out = encap::Settings {
            overlay_mtu: self.overlay_mtu,
            clamp: true,
            class: Class::marked(Dscp::Inherit),
            datagrams: MAX_DATAGRAMS,
            sources: 4,
            inherit_ttl: false,
            whole_headers: true,
        };
        let back = decap::Settings { strict: true, overlay_mtu: self.overlay_mtu, clamp: true };
        let (header, bytes) = match self.size {
            Some(size) => (self.spec.gso_header(size), self.spec.offloaded()),
            None => (self.spec.csum_header(), self.spec.offloaded()),
        };
        let offload = Offload::parse(&header, &bytes).expect("its own");
        let (mut sent, mut outs) = (Batch::new(), Vec::new());
        for slot in (0..).take(BATCH) {
            let mut bytes = bytes.clone();
            // A source port each; a partial checksum does not cover it.
            bytes[self.spec.transport_at() + 1] = u16::to_le_bytes(slot)[0];
            assert!(sent.push_copy(PortId(1), None, offload, &bytes));
            outs.push(Out::new(usize::from(slot), NETWORK, self.tag));
        }
        let counters = PortCounters::default();
        let frames = Transmit {
            port: PEER,
            batch: &sent,
            outs: &outs,
            max_frame: 70_000,
            counters: &counters,
            witness: None,
        };
        let (mut scratch, mut received, mut arrived) = (Scratch::new(), Batch::new(), 0);
        let mut turn = || {
            encapsulate(
                |network, from| tables.carriage(network, from),
                &out,
                &frames,
                &mut scratch,
                &mut |train| {
                    received.clear();
                    let Some(buffer) = received.spare().next() else { return Ok(()) };
                    let mut end = MESSAGE;
                    for part in train.parts {
                        buffer[end..end + part.len()].copy_from_slice(part);
                        end += part.len();
                    }
                    let message =
                        Message { peer: PEER, ecn: self.ecn, len: end - MESSAGE, stride: train.size };
                    decapsulate(&tables, &back, &message, &mut received, &mut |_, _, _| {});
                    arrived += received.len();
                    Ok(())
                },
            );
            scratch.answers.take(|_, _, _| {});
        };
        turn();
        let before = ALLOCATIONS.load(Relaxed);
        (0..TURNS).for_each(|_| turn());
        (ALLOCATIONS.load(Relaxed) - before, arrived)
    }
}

#[test]
fn a_tunnel_allocates_nothing() {
    let tcp = Transport::Tcp { sequence: 1, flags: ACK, options: 12 };
    let syn = Transport::Tcp { sequence: 1, flags: 2, options: 12 };
    let tagged = |case: Case| Case { spec: Spec { tags: vec![[0x81, 0, 0, 10]], ..case.spec }, ..case };
    let cases = [
        case("small frames", Transport::Udp, 18, None),
        case("frames of full length", tcp, 1300, None),
        case("super-frames of TCP", tcp, 60_000, Some(1398)),
        case("super-frames of UDP", Transport::Udp, 60_000, Some(1000)),
        Case { tag: TagOp::Pop, ..tagged(case("tags taken off", tcp, 60_000, Some(1000))) },
        Case { tag: TagOp::Push(Tag(10)), ..case("tags put on", tcp, 60_000, Some(1000)) },
        case("connections that begin", syn, 0, None),
        Case { ecn: Ecn::Ce, ..case("congestion", tcp, 1000, None) },
    ];
    for case in cases {
        let (allocations, arrived) = case.allocations();
        assert_eq!(allocations, 0, "{}", case.name);
        assert_eq!(arrived > 0, case.ecn == Ecn::NotEct, "{}", case.name);
    }
    let too_big = Case { overlay_mtu: 1000, ..case("too big", tcp, 1300, None) };
    assert_eq!(too_big.allocations(), (0, 0));
    assert!(ALLOCATIONS.load(Relaxed) > 0, "the counter works");
}
