//! The overhead of observation: the share of whole turns taken by counters and captures.
//!
//! Each round measures every kind of turn once, briefly, and starts with a different kind: a share is computed within a
//! round, because machines drift. Each round creates everything anew, so that no kind profits from its memory layout.
//! The figure is the median over the rounds, its spread their middle half; 100 ports, 1,000 addresses, as `turn`.
//!
//! What a share compares:
//! - counters of networks: [`Engine::turn`] with them, and with a plan that has none;
//! - counters of ports: a turn whose frames are counted twice, where they are received and where they are sent, and
//!   `Bare::turn`. This exceeds the cost of counting once, which has to find the port anyway;
//! - a capture facility that is idle: [`Engine::turn`], and `Bare::turn` with a device without a check after sending;
//! - guards: [`Engine::turn`] with a station behind each of 1,000 ports and its guard, and the same without; the frames are
//!   TCP segments;
//! - active captures: an engine with one, and the same without.

use std::{
    fmt,
    hint::black_box,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use vswitch::{
    addr::{PortId, Timestamp},
    batch::{BATCH, Batch},
    capture::{Filter, Instruction, Session, Wanted},
    device::{Device, Refuse},
    drops::DropReason,
    engine::Engine,
    fdb::Fdb,
    forward::Forwarder,
    offload::{Capabilities, Offload},
    plan::Plan,
    transmit::{Egress, Out, Scratch, Transmit},
};

use crate::{
    forward::{Pairs, Source, guarded, plan, table},
    memory::{Clock, Figures, pin},
};

const PORTS: u16 = 100;
const MACS: u32 = 1_000;

/// The number of rounds, among which the time of an ordinary figure is divided.
const ROUNDS: usize = 40;
const PARTS: u32 = 8;

/// Measures all figures of overhead.
pub fn run(figures: &mut Figures<'_>) {
    const SHARES: [(&str, Kind, Kind); 6] = [
        ("counters of networks", Kind::Ordinary, Kind::NoNetworks),
        ("counters of ports, a second time", Kind::Twice, Kind::Bare),
        ("capture facility, idle", Kind::Ordinary, Kind::Bare),
        ("guards", Kind::Guarded, Kind::Unguarded),
        ("capture, nothing matched", Kind::NothingPicked, Kind::Ordinary),
        ("capture, 64 bytes of each", Kind::AllPicked, Kind::Ordinary),
    ];
    let name = |what: &str| format!("overhead: {what}");
    let of_turns = name("whole turns");
    let asked = |figures: &Figures<'_>, name: &str| figures.asks_for(name);
    if !asked(figures, &of_turns) && !SHARES.iter().any(|(what, ..)| asked(figures, &name(what))) {
        return;
    }
    let clock = figures.clock().divided(PARTS);
    let rounds: Vec<_> = (0..ROUNDS).map(|round| Rates::measure(&clock, round)).collect();
    let ordinary = rounds.iter().map(|rates| rates.of(Kind::Ordinary) / 1e6).collect();
    figures.tell(of_turns, "Mframe/s", middle_half(ordinary));
    for (what, with, without) in SHARES {
        let shares = rounds.iter().map(|rates| 100.0 * (1.0 - rates.of(with) / rates.of(without))).collect();
        figures.tell(name(what), "%", middle_half(shares));
    }
}

/// A kind of turn.
#[derive(Clone, Copy)]
enum Kind {
    /// The switch's own turn.
    Ordinary,
    /// With a plan in which no network has counters.
    NoNetworks,
    /// Without captures and mirrors.
    Bare,
    /// The same, and each frame is counted twice at its ports.
    Twice,
    /// With a capture whose filter matches nothing.
    NothingPicked,
    /// With a capture of 64 bytes of each frame, where it is received and where it is sent.
    AllPicked,
    /// With one station behind each port.
    Unguarded,
    /// The same, and each port has a guard.
    Guarded,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Ordinary,
        Self::NoNetworks,
        Self::Bare,
        Self::Twice,
        Self::NothingPicked,
        Self::AllPicked,
        Self::Unguarded,
        Self::Guarded,
    ];

    /// Ports of the switch.
    fn ports(self) -> u16 {
        match self {
            Self::Unguarded | Self::Guarded => 1_000,
            _ => PORTS,
        }
    }
}

/// Frames per second of each kind in one round.
struct Rates([f64; Kind::ALL.len()]);

impl Rates {
    fn measure(clock: &Clock, round: usize) -> Self {
        let mut rates = [0.0; Kind::ALL.len()];
        let fdb = [PORTS, Kind::Guarded.ports()].map(|ports| Arc::new(table(65_536, MACS, ports)));
        for index in 0..rates.len() {
            let kind = Kind::ALL[(index + round) % rates.len()];
            rates[kind as usize] = rate(clock, kind, &fdb[usize::from(kind.ports() != PORTS)]);
        }
        Self(rates)
    }

    fn of(&self, kind: Kind) -> f64 {
        self.0[kind as usize]
    }
}

fn rate(clock: &Clock, kind: Kind, fdb: &Arc<Fdb>) -> f64 {
    let source = || Source::<false>::new(Pairs::new(MACS), PORTS);
    let asking = || plan(PORTS, Arc::clone(fdb), Arc::new(Sink::<true, false>(source())));
    match kind {
        Kind::Ordinary => of_engine(clock, asking()),
        Kind::NoNetworks => of_engine(clock, Plan { networks: Vec::new(), ..asking() }),
        Kind::Bare | Kind::Twice => {
            let plan = plan(PORTS, Arc::clone(fdb), Arc::new(Sink::<false, false>(source())));
            let mut bare = Bare::new();
            if matches!(kind, Kind::Twice) {
                of_turns(clock, || bare.turn::<true>(&plan))
            } else {
                of_turns(clock, || bare.turn::<false>(&plan))
            }
        }
        Kind::Unguarded | Kind::Guarded => {
            let sink = Arc::new(Sink::<true, true>(Source::new(Pairs::new(MACS), kind.ports())));
            let plan = if matches!(kind, Kind::Guarded) { guarded } else { plan };
            of_engine(clock, plan(kind.ports(), Arc::clone(fdb), sink))
        }
        Kind::NothingPicked => of_capture(clock, asking(), Some(arp())),
        Kind::AllPicked => of_capture(clock, asking(), None),
    }
}

fn of_engine(clock: &Clock, plan: Plan) -> f64 {
    let plan = Arc::new(plan);
    let mut engine = Engine::new(0, Arc::clone(&plan));
    of_turns(clock, || {
        engine.turn(&plan.receivers[0], BATCH, Timestamp::default()).map_or(0, |turn| turn.frames)
    })
}

/// A capture whose reader discards everything, on another core if there is one.
fn of_capture(clock: &Clock, plan: Plan, filter: Option<Filter>) -> f64 {
    let wanted = Wanted { filter, snaplen: 64, ..Wanted::default() };
    let (session, mut readers) = Session::new(wanted, 1, 16 << 20, || 0);
    let session = Arc::new(session);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            let mut bytes = Vec::new();
            while !session.has_ended() {
                while readers.iter_mut().any(|reader| reader.take(&mut bytes).is_some()) {}
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let rate = of_engine(clock, Plan { captures: vec![Arc::clone(&session)], ..plan });
        session.end();
        rate
    })
}

/// The program of libpcap for `arp`; the frames are IPv4.
fn arp() -> Filter {
    let program = [(0x28, 0, 0, 12), (0x15, 0, 1, 0x806), (0x06, 0, 0, 1), (0x06, 0, 0, 0)];
    Filter::new(&program.map(|(code, jt, jf, k)| Instruction { code, jt, jf, k })).expect("libpcap made it")
}

fn of_turns(clock: &Clock, mut turn: impl FnMut() -> usize) -> f64 {
    let mut turns = || (0..4).map(|_| turn()).sum();
    // Touch new memory first.
    (0..64).for_each(|_| {
        black_box(turns());
    });
    clock.rate(|| {
        let begin = Instant::now();
        (turns(), begin.elapsed())
    })
}

/// A turn assembled from the switch's public parts: receive, forward, send.
struct Bare {
    worker: usize,
    batch: Batch,
    forwarder: Forwarder,
    egress: Egress,
    scratch: Scratch,
}

impl Bare {
    fn new() -> Self {
        let mut bare = Self {
            worker: black_box(0),
            batch: Batch::new(),
            forwarder: Forwarder::new(0),
            egress: Egress::default(),
            scratch: Scratch::new(),
        };
        bare.forwarder.reserve(usize::from(PORTS));
        bare.egress.reserve(usize::from(PORTS));
        bare
    }

    /// Frames received.
    fn turn<const TWICE: bool>(&mut self, plan: &Plan) -> usize {
        let Self { worker, batch, forwarder, egress, scratch } = self;
        let receiver = &plan.receivers[0];
        batch.clear();
        let received = receiver.device.recv(receiver.port, batch, BATCH, &mut |_, _, _| {});
        assert!(received.is_ok(), "the source never fails");
        forwarder.forward(Timestamp::default(), plan, batch, egress);
        if TWICE {
            count_received(plan, batch, *worker);
        }
        egress.drain(|id, outs| {
            let Some(port) = plan.port(id) else { return };
            let (max_frame, counters) = (plan.topology.max_frame(id), port.counters(*worker));
            let frames = Transmit { port: id, batch, outs, max_frame, counters, witness: None };
            port.device.send(&frames, scratch);
            if TWICE {
                outs.iter().for_each(|out| count_sent(&frames, *out, Ok(1)));
            }
        });
        let frames = batch.len();
        batch.clear();
        scratch.answers.take(|to, _, frame| {
            batch.push_copy(to, None, Offload::NONE, frame);
        });
        frames
    }
}

/// The counting of forwarding at the ports, for frames sent to one port each.
fn count_received(plan: &Plan, batch: &Batch, worker: usize) {
    for (rx, bytes) in batch.iter() {
        let Some(port) = plan.port(rx.ingress) else { continue };
        let counters = port.counters(worker);
        counters.rx_frames.add(1);
        counters.rx_bytes.add(bytes.len() as u64);
        if rx.offload.gso.is_some() {
            counters.rx_super.add(1);
        }
        counters.unicast.add(1);
    }
}

/// The work of [`Transmit::count`] without the check for active captures.
#[inline(always)]
fn count_sent(frames: &Transmit<'_>, out: Out, result: Result<usize, DropReason>) {
    let slot = out.slot();
    frames.counters.offered.add(1);
    match result {
        Ok(pieces) => {
            frames.counters.tx_frames.add(1);
            frames.counters.tx_bytes.add(frames.batch.bytes(slot).len() as u64);
            if pieces > 1 {
                frames.counters.tx_segments.add(pieces as u64);
            } else if frames.batch.frames()[slot].offload.gso.is_some() {
                frames.counters.tx_super.add(1);
            }
        }
        Err(reason) => frames.counters.drop(reason),
    }
}

/// Receives from a [`Source`]; sent frames are formed and discarded, and counted with or without the check for
/// captures.
struct Sink<const ASKS: bool, const TCP: bool>(Source<TCP>);

impl<const ASKS: bool, const TCP: bool> fmt::Debug for Sink<ASKS, TCP> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

impl<const ASKS: bool, const TCP: bool> Device for Sink<ASKS, TCP> {
    fn recv(&self, port: PortId, batch: &mut Batch, max: usize, refuse: &mut Refuse<'_>) -> io::Result<bool> {
        self.0.recv(port, batch, max, refuse)
    }

    fn send(&self, frames: &Transmit<'_>, _: &mut Scratch) {
        for out in frames.outs {
            let result = frames.form(*out, Capabilities::ALL).map(|form| {
                black_box(&form);
                1
            });
            if ASKS {
                frames.count(*out, result);
            } else {
                count_sent(frames, *out, result);
            }
        }
    }
}

/// Without the lowest and the highest quarter.
fn middle_half(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    let quarter = values.len() / 4;
    values[quarter..values.len() - quarter].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_turn_forwards_the_same_frames() {
        let clock = Clock { time: Duration::ZERO };
        let counts = Kind::ALL.map(|kind| {
            let fdb = Arc::new(table(65_536, MACS, kind.ports()));
            assert!(
                rate(&clock, kind, &fdb).is_nan(),
                "no time, no rate: the turns before it are what counts"
            );
            fdb.len()
        });
        assert_eq!(counts, [MACS as usize; 8]);
    }
}
