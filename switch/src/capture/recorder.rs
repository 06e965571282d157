//! The worker's end: what it has decided, sent and refused is written for the sessions that want it.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};

use super::{Direction, Fate, Octets, Record, Session, ring};
use crate::{
    addr::PortId,
    batch::{Batch, CAPACITY},
    drops::DropReason,
    forward::{Action, Decision},
    transmit::{Out, TagOp, Transmit, Witness},
    wire::frame::{ADDRESSES, TAG},
};

/// The sessions of one worker, as its engine keeps them.
#[derive(Debug)]
pub(crate) struct Captures {
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
    pub(crate) fn new(worker: usize) -> Self {
        Self { worker, frames: Cell::new(0), recorders: RefCell::default() }
    }

    /// Serves these sessions from now on.
    pub(crate) fn adopt(&mut self, sessions: &[Arc<Session>]) {
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
    pub(crate) fn any(&self) -> Option<&Self> {
        (!self.recorders.borrow().is_empty()).then_some(self)
    }

    /// A turn begins: its frames have the numbers and the time of none before.
    pub(crate) fn begin(&self) {
        self.frames.set(self.frames.get() + CAPACITY as u64);
        for recorder in &mut *self.recorders.borrow_mut() {
            recorder.now = (recorder.session.clock)();
            recorder.followed = [false; CAPACITY];
        }
    }

    /// Something was decided about the frame at `slot`.
    pub(crate) fn decided(&self, batch: &Batch, slot: usize, decision: &Decision<'_>) {
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
    pub(crate) fn refused(&self, port: PortId, reason: DropReason, frame: &[u8]) {
        let fate = Fate::Dropped(reason);
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let record = Record { port, direction: Direction::Rx, fate, len, ..Record::default() };
        let octets = Octets::new(frame);
        self.write(&record, octets, |recorder| recorder.session.wanted.fits(&record, octets));
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

impl Witness for Captures {
    fn sent(&self, frames: &Transmit<'_>, out: Out, result: Result<usize, DropReason>) {
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
