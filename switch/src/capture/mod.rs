//! Capture: seeing frames as the switch sees them, where they come in and where they leave, with what became of them.
//!
//! ```text
//! worker   engine.turn      decided about a frame, or sent it       Captures::decided, sent, refused
//!            wanted?        port, network, direction, fate, filter  Wanted, Filter
//!            ring           one for each worker and session         ring
//! reader   Reader::take     at its own pace, on another thread
//! ```
//! Forwarding never waits for a capture: a ring is bounded, what does not fit is lost and counted. All memory is taken when
//! a [`Session`] begins. While there is none, a turn asks once whether there is one, and no more. A frame is picked before it
//! is copied, so a capture of few frames loses none of them, however much else goes on.
//!
//! Left out: what is done with the records. The core writes no files and knows no names.

mod filter;
mod record;
mod ring;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

pub use filter::{Filter, FilterError, Instruction, MAX_INSTRUCTIONS};
pub use record::{Direction, Fate, Record};
pub use ring::Reader;

use crate::{
    addr::{NetworkId, PortId},
    batch::{Batch, CAPACITY},
    counters::Counter,
    drops::DropReason,
    forward::{Action, Decision},
    transmit::{Out, TagOp, Transmit},
    wire::frame::{ADDRESSES, TAG},
};

/// A frame that may lie in two parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Octets<'a> {
    /// The beginning.
    pub head: &'a [u8],
    /// The rest.
    pub rest: &'a [u8],
}

impl<'a> Octets<'a> {
    /// A frame in one part.
    pub fn new(frame: &'a [u8]) -> Self {
        Self { head: frame, rest: &[] }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.head.len() + self.rest.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first `count` of them, or all.
    fn first(self, count: usize) -> Self {
        let head = &self.head[..count.min(self.head.len())];
        Self { head, rest: &self.rest[..(count - head.len()).min(self.rest.len())] }
    }

    /// `N` octets at `at`, if there are as many.
    #[inline]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        if let Some(octets) = self.head.get(at..).and_then(<[u8]>::first_chunk) {
            return Some(*octets);
        }
        if let Some(behind) = at.checked_sub(self.head.len()) {
            return self.rest.get(behind..)?.first_chunk().copied();
        }
        if at.checked_add(N)? > self.len() {
            return None;
        }
        let from_head = self.head.len() - at;
        Some(std::array::from_fn(|index| match index.checked_sub(from_head) {
            None => self.head[at + index],
            Some(behind) => self.rest[behind],
        }))
    }
}

/// What a session is to see: frames that fit everything given here.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Of one of these ports; of any if it is empty.
    pub ports: BTreeSet<PortId>,
    /// In one of these networks; in any, or none, if it is empty.
    pub networks: BTreeSet<NetworkId>,
    /// Seen on this side of the decision, or on both.
    pub direction: Option<Direction>,
    /// Only those that were not delivered.
    pub drops: bool,
    /// What is given here is asked of a frame where it comes in; it is then seen wherever it leaves.
    pub follow: bool,
    /// Picked by this program; it reads a frame with the tag it has where it is seen.
    pub filter: Option<Filter>,
    /// Octets kept of each frame at most.
    pub snaplen: usize,
}

impl Wanted {
    fn fits(&self, record: &Record, octets: Octets<'_>) -> bool {
        let listed = self.ports.is_empty() || self.ports.contains(&record.port);
        let network =
            |wanted| record.network.is_some_and(|network| self.networks.contains(&network)) == wanted;
        listed
            && (self.networks.is_empty() || network(true))
            && self.direction.is_none_or(|direction| direction == record.direction)
            && (!self.drops || matches!(record.fate, Fate::Dropped(_)))
            && self.filter.as_ref().is_none_or(|filter| filter.matches(octets))
    }
}

/// What tells the time of records: nanoseconds since whatever the reader takes for the beginning.
pub type Clock = fn() -> u64;

/// A capture that goes on.
pub struct Session {
    wanted: Wanted,
    clock: Clock,
    /// By worker; each takes its own when it adopts a plan with this session.
    writers: Box<[Mutex<Option<ring::Writer>>]>,
    /// By worker.
    lost: Box<[Counter]>,
    ended: AtomicBool,
}

impl Session {
    /// A session for `workers` workers with a ring of `octets` octets each, and the ends of the rings to read from.
    pub fn new(wanted: Wanted, workers: usize, octets: usize, clock: Clock) -> (Self, Vec<Reader>) {
        let (writers, readers): (Vec<_>, _) = (0..workers).map(|_| ring::ring(octets)).unzip();
        let writers = writers.into_iter().map(|writer| Mutex::new(Some(writer))).collect();
        let lost = (0..workers).map(|_| Counter::default()).collect();
        (Self { wanted, clock, writers, lost, ended: AtomicBool::new(false) }, readers)
    }

    /// Frames that were wanted and found no room.
    pub fn lost(&self) -> u64 {
        self.lost.iter().map(Counter::read).sum()
    }

    /// Says that no worker writes any more: what is in the rings is all there will be. To be called when every worker has
    /// adopted a plan without the session.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether that was said.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// The ring of `worker`, once.
    fn writer(&self, worker: usize) -> Option<ring::Writer> {
        // Whoever panicked with it left it as it was.
        self.writers.get(worker)?.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

/// The sessions of one worker, as its engine keeps them.
#[derive(Debug)]
pub struct Captures {
    worker: usize,
    /// Numbers given to frames so far: those of this turn begin here.
    frames: Cell<u64>,
    recorders: RefCell<Vec<Recorder>>,
}

/// One session of one worker.
#[derive(Debug)]
struct Recorder {
    session: Arc<Session>,
    writer: ring::Writer,
    /// The time of this turn.
    now: u64,
    /// Slots of this turn that are followed.
    followed: [bool; CAPACITY],
}

impl Captures {
    /// No sessions, of `worker`.
    pub fn new(worker: usize) -> Self {
        Self { worker, frames: Cell::new(0), recorders: RefCell::default() }
    }

    /// Serves these sessions from now on.
    pub fn adopt(&mut self, sessions: &[Arc<Session>]) {
        let recorders = self.recorders.get_mut();
        recorders.retain(|recorder| sessions.iter().any(|session| Arc::ptr_eq(session, &recorder.session)));
        for session in sessions {
            // Those that are known have given their ring already.
            let Some(writer) = session.writer(self.worker) else { continue };
            recorders.push(Recorder {
                session: Arc::clone(session),
                writer,
                now: 0,
                followed: [false; CAPACITY],
            });
        }
    }

    /// These, if there are any.
    pub fn any(&self) -> Option<&Self> {
        (!self.recorders.borrow().is_empty()).then_some(self)
    }

    /// A turn begins: its frames have the numbers and the time of none before.
    pub fn begin(&self) {
        self.frames.set(self.frames.get() + CAPACITY as u64);
        for recorder in &mut *self.recorders.borrow_mut() {
            recorder.now = (recorder.session.clock)();
            recorder.followed = [false; CAPACITY];
        }
    }

    /// Something was decided about the frame at `slot`.
    pub fn decided(&self, batch: &Batch, slot: usize, decision: &Decision<'_>) {
        let rx = &batch.frames()[slot];
        let fate = match (decision.fate, decision.flood) {
            (Ok(Action::Send(member)), _) => Fate::Unicast(member.port),
            (Ok(Action::Flood(_)), Some(flood)) => Fate::Flooded(flood),
            (Ok(Action::Flood(_)), None) => return,
            (Err(reason), _) => Fate::Dropped(reason),
        };
        let octets = Octets::new(batch.bytes(slot));
        let record = Record {
            port: rx.ingress,
            direction: Direction::Rx,
            network: decision.network,
            learned: decision.learned,
            ..self.record(batch, slot, octets, fate)
        };
        self.write(&record, octets, |recorder| {
            let fits = recorder.session.wanted.fits(&record, octets);
            recorder.followed[slot] = fits;
            fits
        });
    }

    /// A frame came in by `port` and was not taken in.
    pub fn refused(&self, port: PortId, reason: DropReason, frame: &[u8]) {
        let fate = Fate::Dropped(reason);
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let record = Record { port, direction: Direction::Rx, fate, len, ..Record::default() };
        let octets = Octets::new(frame);
        self.write(&record, octets, |recorder| recorder.session.wanted.fits(&record, octets));
    }

    /// `out` was to leave by a port, and this is what it came to.
    pub fn sent(&self, frames: &Transmit<'_>, out: Out, result: Result<usize, DropReason>) {
        let (batch, slot) = (frames.batch, usize::from(out.slot));
        let mut head = [0; ADDRESSES + TAG];
        let octets = retagged(batch.bytes(slot), out.tag, &mut head);
        let fate = match result {
            Ok(pieces) => Fate::Sent(u16::try_from(pieces).unwrap_or(u16::MAX)),
            Err(reason) => Fate::Dropped(reason),
        };
        let record = Record {
            port: frames.port,
            direction: Direction::Tx,
            network: Some(out.network),
            ..self.record(batch, slot, octets, fate)
        };
        self.write(&record, octets, |recorder| match &recorder.session.wanted {
            wanted if wanted.follow => recorder.followed[slot],
            wanted => wanted.fits(&record, octets),
        });
    }

    fn record(&self, batch: &Batch, slot: usize, octets: Octets<'_>, fate: Fate) -> Record {
        Record {
            frame: (self.worker as u64) << 48 | (self.frames.get() + slot as u64),
            fate,
            len: u32::try_from(octets.len()).unwrap_or(u32::MAX),
            segment: batch.frames()[slot].offload.gso.map_or(0, |gso| gso.size.get()),
            ..Record::default()
        }
    }

    /// Writes the record for every session that wants it.
    fn write(&self, record: &Record, octets: Octets<'_>, mut wants: impl FnMut(&mut Recorder) -> bool) {
        for recorder in &mut *self.recorders.borrow_mut() {
            if !wants(recorder) {
                continue;
            }
            let record = Record { at: recorder.now, ..*record };
            let captured = octets.len().min(recorder.session.wanted.snaplen);
            if !recorder.writer.push(&record, octets, captured) {
                recorder.session.lost[self.worker].add(1);
            }
        }
    }
}

/// The frame with the tag it leaves by; `head` is where its beginning is put together if that is a new one.
fn retagged<'a>(bytes: &'a [u8], tag: TagOp, head: &'a mut [u8; ADDRESSES + TAG]) -> Octets<'a> {
    if tag == TagOp::Keep {
        return Octets::new(bytes);
    }
    let (addresses, rest) = bytes.split_at(ADDRESSES);
    head[..ADDRESSES].copy_from_slice(addresses);
    match tag {
        TagOp::Push(tag) | TagOp::Replace(tag) => head[ADDRESSES..].copy_from_slice(&tag.to_bytes()),
        TagOp::Keep | TagOp::Pop => return Octets { head: &head[..ADDRESSES], rest: &rest[TAG..] },
    }
    let rest = if matches!(tag, TagOp::Push(_)) { rest } else { &rest[TAG..] };
    Octets { head, rest }
}
