//! Both ends of a tunnel, and the trains between them.

use std::io;

use vswitch::{
    addr::{NetworkId, PortId},
    batch::{Batch, CAPACITY},
    checksum::{Sum, verify},
    counters::{PortCounters, PortTotals},
    drops::DropReason,
    headers::{Headers, IpVersion},
    offload::Offload,
    segment::Segmenter,
    transmit::{Out, Scratch, TagOp, Transmit},
};
use vswitch_vxlan::{
    decap::{self, MESSAGE, Message},
    ecn::Ecn,
    encap::{self, Class, Dscp, MAX_DATAGRAMS, Train},
    header::{HEADER, Vni},
    tables::{Isolation, Tables},
};

pub(crate) const BLUE: NetworkId = NetworkId(0);
pub(crate) const RED: NetworkId = NetworkId(3);
/// A network that no tunnel carries.
pub(crate) const LOCAL: NetworkId = NetworkId(1);
/// The headers of blue's frames (VNI 4096), and of red's (VNI 5).
pub(crate) const BLUE_HEADER: [u8; HEADER] = [8, 0, 0, 0, 0, 0x10, 0, 0];
pub(crate) const RED_HEADER: [u8; HEADER] = [8, 0, 0, 0, 0, 0, 5, 0];
/// Where frames come from at the sending end, and which peer they come from at the receiving one.
pub(crate) const INGRESS: PortId = PortId(4);
pub(crate) const PEER: PortId = PortId(9);

/// Length of the longest train: the payload of the longest UDP datagram over IPv4.
const LONGEST_TRAIN: usize = 65_507;

/// A tunnel with these manners.
#[derive(Debug)]
pub(crate) struct Tunnel {
    tables: Tables,
    pub(crate) out: encap::Settings,
    pub(crate) back: decap::Settings,
}

/// A frame that is to cross the tunnel.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) network: NetworkId,
    pub(crate) tag: TagOp,
    pub(crate) offload: Offload,
    pub(crate) bytes: Vec<u8>,
}

/// What left by one send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) source: u8,
    pub(crate) traffic_class: u8,
    pub(crate) ttl: u8,
    pub(crate) fragment: bool,
    pub(crate) datagrams: Vec<Vec<u8>>,
}

/// What became of the frames of one turn.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The trains that left.
    pub(crate) trains: Vec<Sent>,
    pub(crate) totals: PortTotals,
    pub(crate) answers: Vec<(PortId, Vec<u8>)>,
}

/// A frame that came out of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) network: NetworkId,
    pub(crate) isolated: bool,
    pub(crate) offload: Offload,
    pub(crate) bytes: Vec<u8>,
}

impl Tunnel {
    /// An underlay of 1500 bytes with IPv4, and default settings.
    pub(crate) fn new() -> Self {
        let vni = |number| Vni::try_from(number).expect("a valid number");
        let tables = Tables::new([([10, 8, 0, 2].into(), PEER)], [(vni(4096), BLUE), (vni(5), RED)]);
        Self {
            tables,
            out: encap::Settings {
                overlay_mtu: 1450,
                clamp: false,
                class: Class::marked(Dscp::Fixed(0)),
                datagrams: MAX_DATAGRAMS,
                sources: 16,
                inherit_ttl: false,
                whole_headers: true,
            },
            back: decap::Settings { strict: false, overlay_mtu: 1450, clamp: false },
        }
    }

    /// Gives `network` a port that takes packets of `mtu` bytes.
    pub(crate) fn limit(&mut self, network: NetworkId, mtu: u16) {
        self.tables = std::mem::take(&mut self.tables).with_mtus([(network, mtu)]);
    }

    /// Marks frames by `group`; those of the lab are from an isolated port if `isolated`.
    pub(crate) fn mark(&mut self, group: u16, isolated: bool) {
        let isolation = Isolation { group, ports: if isolated { vec![INGRESS] } else { vec![] } };
        self.tables = std::mem::take(&mut self.tables).with_isolation(Some(isolation));
    }

    /// Lets long datagrams of `network` leave in fragments.
    pub(crate) fn fragment(&mut self, network: NetworkId) {
        self.tables = std::mem::take(&mut self.tables).with_fragments([network]);
    }

    /// Sends frames, all of which leave in one turn.
    pub(crate) fn send(&self, items: &[Item]) -> Outcome {
        self.send_by(items, |_| Ok(()))
    }

    /// The same by a network that may refuse the nth train. Refused trains are not in the outcome.
    pub(crate) fn send_by(&self, items: &[Item], mut refuse: impl FnMut(usize) -> io::Result<()>) -> Outcome {
        turn(items, 70_000, |frames, scratch, trains| {
            let (header, mut nth) = (|network, from| self.tables.carriage(network, from), 0);
            encap::encapsulate(header, &self.out, frames, scratch, &mut |train| {
                nth += 1;
                self.check(train);
                refuse(nth - 1)?;
                trains.push(Sent::of(train));
                Ok(())
            });
        })
    }

    /// What the kernel asks of a train.
    fn check(&self, train: &Train<'_>) {
        let sizes: Vec<_> = Sent::of(train).datagrams.iter().map(Vec::len).collect();
        assert_eq!(sizes.len(), train.datagrams);
        assert!((1..=self.out.datagrams.min(MAX_DATAGRAMS)).contains(&train.datagrams));
        assert!(sizes.iter().sum::<usize>() <= LONGEST_TRAIN, "{sizes:?}");
        assert_eq!(sizes.iter().sum::<usize>(), train.parts.iter().map(|part| part.len()).sum::<usize>());
        assert!(sizes.iter().rev().skip(1).all(|size| *size == train.size), "{sizes:?}");
        assert!(sizes.iter().all(|size| *size <= train.size && *size > HEADER), "{sizes:?}");
        assert!(train.fragment || train.size <= HEADER + 14 + usize::from(self.out.overlay_mtu));
        assert!(train.source < self.out.sources);
    }

    /// Receives a message of datagrams of `stride` bytes, the last of which may be shorter.
    pub(crate) fn receive(
        &self,
        bytes: &[u8],
        stride: usize,
        ecn: Ecn,
    ) -> (Vec<Arrived>, Vec<(DropReason, usize)>) {
        let mut batch = Batch::new();
        let buffer = batch.spare().next().expect("an empty batch has room");
        buffer[MESSAGE..MESSAGE + bytes.len()].copy_from_slice(bytes);
        let message = Message { peer: PEER, ecn, len: bytes.len(), stride };
        let mut refused = Vec::new();
        decap::decapsulate(&self.tables, &self.back, &message, &mut batch, &mut |port, reason, bytes| {
            assert_eq!(port, PEER);
            refused.push((reason, bytes.len()));
        });
        let frames = batch.frames().iter().enumerate().map(|(slot, frame)| {
            assert_eq!(frame.ingress, PEER);
            let (network, bytes) = (frame.network.expect("a tunnel knows"), batch.bytes(slot).to_vec());
            Arrived { network, isolated: frame.isolated, offload: frame.offload, bytes }
        });
        (frames.collect(), refused)
    }

    /// Receives datagrams as one message, of which nothing is refused.
    pub(crate) fn take(&self, datagrams: &[Vec<u8>]) -> Vec<Arrived> {
        let stride = datagrams.first().map_or(0, Vec::len);
        let (frames, refused) = self.receive(&datagrams.concat(), stride, Ecn::NotEct);
        assert_eq!(refused, []);
        frames
    }
}

/// Sends frames in one turn by `encapsulate`, and collects the trains; frames may have up to `max_frame`
/// bytes.
pub(crate) fn turn(
    items: &[Item],
    max_frame: usize,
    encapsulate: impl FnOnce(&Transmit<'_>, &mut Scratch, &mut Vec<Sent>),
) -> Outcome {
    assert!(items.len() <= CAPACITY);
    let (mut batch, mut outs) = (Batch::new(), Vec::new());
    for (slot, item) in (0..).zip(items) {
        assert!(batch.push_copy(INGRESS, None, item.offload, &item.bytes), "there is room");
        outs.push(Out::new(slot, item.network, item.tag));
    }
    let counters = PortCounters::default();
    let frames =
        Transmit { port: PEER, batch: &batch, outs: &outs, max_frame, counters: &counters, witness: None };
    let (mut scratch, mut trains) = (Scratch::new(), Vec::new());
    encapsulate(&frames, &mut scratch, &mut trains);
    let mut answers = Vec::new();
    scratch.answers.take(|to, _, frame| answers.push((to, frame.to_vec())));
    Outcome { trains, totals: PortTotals::sum(&[counters]), answers }
}

impl Item {
    /// A frame of blue, complete and without tag.
    pub(crate) fn plain(bytes: impl Into<Vec<u8>>) -> Self {
        Self { network: BLUE, tag: TagOp::Keep, offload: Offload::NONE, bytes: bytes.into() }
    }

    /// A frame of blue with the offload header that came before it.
    pub(crate) fn offloaded(header: &[u8; 10], bytes: Vec<u8>) -> Self {
        let offload = Offload::parse(header, &bytes).expect("the header is of this frame");
        Self { offload, ..Self::plain(bytes) }
    }
}

impl Sent {
    pub(crate) fn of(train: &Train<'_>) -> Self {
        let mut datagrams = Vec::new();
        let all = train.each(|parts| {
            datagrams.push(parts.iter().flat_map(|part| part.to_vec()).collect::<Vec<_>>());
            Ok(())
        });
        all.expect("nothing is refused");
        let together: Vec<_> = train.parts.iter().flat_map(|part| part.to_vec()).collect();
        assert_eq!(together, datagrams.concat(), "one by one they are the same bytes");
        let &Train { source, traffic_class, ttl, fragment, .. } = train;
        Self { source, traffic_class, ttl, fragment, datagrams }
    }
}

impl Outcome {
    /// All datagrams that left, in order.
    pub(crate) fn datagrams(&self) -> Vec<Vec<u8>> {
        self.trains.iter().flat_map(|train| train.datagrams.clone()).collect()
    }

    /// What was dropped, and how often.
    pub(crate) fn drops(&self) -> Vec<(DropReason, u64)> {
        self.totals.drops().collect()
    }
}

impl Arrived {
    /// The wire frames of this one.
    pub(crate) fn wire_frames(&self) -> Vec<Vec<u8>> {
        wire_frames(&self.offload, &self.bytes)
    }
}

/// The wire frames of `frame`.
pub(crate) fn wire_frames(offload: &Offload, frame: &[u8]) -> Vec<Vec<u8>> {
    let segments = Segmenter::new(frame, offload).expect("the offload is of this frame");
    let wire = |segment: vswitch::segment::Segment<'_>| {
        let mut wire = vec![0; segment.wire_len()];
        segment.copy_into(&mut wire);
        wire
    };
    segments.map(wire).collect()
}

/// Makes the checksums of `frame` right again after it was edited. Its lengths are as they should be.
pub(crate) fn seal(frame: &mut [u8]) {
    let Some(Headers { network, version, transport, transport_kind, end, .. }) = Headers::measure(frame)
    else {
        return;
    };
    let addresses = match version {
        IpVersion::V4 => {
            frame[network + 10..network + 12].fill(0);
            let checksum = Sum::of(&frame[network..transport]).checksum();
            frame[network + 10..network + 12].copy_from_slice(&checksum.to_be_bytes());
            network + 12..network + 20
        }
        IpVersion::V6 => network + 8..network + 40,
    };
    let field = transport + transport_kind.checksum_offset();
    frame[field..field + 2].fill(0);
    let sum = Sum::pseudo(&frame[addresses], transport_kind.protocol(), end - transport)
        + Sum::of(&frame[transport..end]);
    frame[field..field + 2].copy_from_slice(&sum.nonzero_checksum().to_be_bytes());
}

/// Panics unless both the checksum of an IPv4 header and that of TCP or UDP are right.
pub(crate) fn assert_sealed(frame: &[u8]) {
    let headers = Headers::measure(frame).expect("a TCP segment or UDP datagram");
    if headers.version == IpVersion::V4 {
        assert_eq!(Sum::of(&frame[headers.network..headers.transport]).checksum(), 0, "{frame:02x?}");
    }
    assert!(verify(frame, &headers), "{frame:02x?}");
}
