//! The worker's end: writes decided, sent and refused frames for the sessions that match them.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};

use super::{Direction, Fate, FrameBytes, Record, Session, ring};
use crate::{
    addr::PortId,
    batch::{Batch, CAPACITY},
    drops::DropReason,
    forward::{Action, Decision},
    transmit::{Out, TagOp, Transmit, Witness},
    wire::frame::{ADDRESSES, TAG},
};

/// The sessions of one worker.
#[derive(Debug)]
pub(crate) struct Captures {
    worker: usize,
    /// Numbers assigned to frames so far: those of this turn begin here.
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
    /// Slots of this turn whose frames are followed.
    followed: [bool; CAPACITY],
}

impl Captures {
    /// An empty list for `worker`.
    pub(crate) fn new(worker: usize) -> Self {
        Self { worker, frames: Cell::new(0), recorders: RefCell::default() }
    }

    /// Switches to these sessions.
    pub(crate) fn adopt(&mut self, sessions: &[Arc<Session>]) {
        let recorders = self.recorders.get_mut();
        recorders.retain(|recorder| sessions.iter().any(|session| Arc::ptr_eq(session, &recorder.session)));
        for session in sessions {
            // Known sessions have handed out their ring already.
            let Some(writer) = session.writer(self.worker) else { continue };
            recorders.push(Recorder {
                session: Arc::clone(session),
                writer,
                now: 0,
                followed: [false; CAPACITY],
            });
        }
    }

    /// `Some(self)` unless empty.
    pub(crate) fn any(&self) -> Option<&Self> {
        (!self.recorders.borrow().is_empty()).then_some(self)
    }

    /// Starts a turn, with new frame numbers and a new time.
    pub(crate) fn begin(&self) {
        self.frames.set(self.frames.get() + CAPACITY as u64);
        for recorder in &mut *self.recorders.borrow_mut() {
            recorder.now = (recorder.session.clock)();
            recorder.followed = [false; CAPACITY];
        }
    }

    /// Records the decision about the frame at `slot`.
    pub(crate) fn decided(&self, batch: &Batch, slot: usize, decision: &Decision<'_>) {
        let rx = &batch.frames()[slot];
        let fate = match (decision.fate, decision.flood) {
            (Ok(Action::Send(member)), _) => Fate::Unicast(member.port),
            (Ok(Action::Flood(_)), Some(flood)) => Fate::Flooded(flood),
            (Ok(Action::Answer(_)), _) => Fate::Answered,
            (Ok(Action::Flood(_)), None) => return,
            (Err(reason), _) => Fate::Dropped(reason),
        };
        let bytes = FrameBytes::new(batch.bytes(slot));
        let record = Record {
            port: rx.ingress,
            direction: Direction::Rx,
            network: decision.network,
            learned: decision.learned,
            ..self.record(batch, slot, bytes, fate)
        };
        self.write(&record, bytes, |recorder| {
            let fits = recorder.session.wanted.fits(&record, bytes);
            recorder.followed[slot] = fits;
            fits
        });
    }

    /// Records a frame that was received on `port` and refused.
    pub(crate) fn refused(&self, port: PortId, reason: DropReason, frame: &[u8]) {
        let fate = Fate::Dropped(reason);
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let record = Record { port, direction: Direction::Rx, fate, len, ..Record::default() };
        let bytes = FrameBytes::new(frame);
        self.write(&record, bytes, |recorder| recorder.session.wanted.fits(&record, bytes));
    }

    fn record(&self, batch: &Batch, slot: usize, bytes: FrameBytes<'_>, fate: Fate) -> Record {
        Record {
            frame: (self.worker as u64) << 48 | (self.frames.get() + slot as u64),
            fate,
            len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            segment: batch.frames()[slot].offload.gso.map_or(0, |gso| gso.size.get()),
            ..Record::default()
        }
    }

    /// Writes the record for every session that matches it.
    fn write(&self, record: &Record, bytes: FrameBytes<'_>, mut wants: impl FnMut(&mut Recorder) -> bool) {
        for recorder in &mut *self.recorders.borrow_mut() {
            if !wants(recorder) {
                continue;
            }
            let record = Record { at: recorder.now, ..*record };
            let captured = bytes.len().min(recorder.session.wanted.snaplen);
            if !recorder.writer.push(&record, bytes, captured) {
                recorder.session.lost[self.worker].add(1);
            }
        }
    }
}

impl Witness for Captures {
    fn sent(&self, frames: &Transmit<'_>, out: Out, result: Result<usize, DropReason>) {
        let (batch, slot) = (frames.batch, out.slot());
        let mut head = [0; ADDRESSES + TAG];
        let bytes = retagged(batch.bytes(slot), out.tag, &mut head);
        let fate = match result {
            Ok(pieces) => Fate::Sent(u16::try_from(pieces).unwrap_or(u16::MAX)),
            Err(reason) => Fate::Dropped(reason),
        };
        let record = Record {
            port: frames.port,
            direction: Direction::Tx,
            network: Some(out.network),
            ..self.record(batch, slot, bytes, fate)
        };
        self.write(&record, bytes, |recorder| match &recorder.session.wanted {
            wanted if wanted.follow => recorder.followed[slot],
            wanted => wanted.fits(&record, bytes),
        });
    }
}

/// The frame with its outgoing tag; `head` is scratch space for a new head.
fn retagged<'a>(bytes: &'a [u8], tag: TagOp, head: &'a mut [u8; ADDRESSES + TAG]) -> FrameBytes<'a> {
    if tag == TagOp::Keep {
        return FrameBytes::new(bytes);
    }
    let (addresses, tag, rest) = tag.apply(bytes);
    head[..ADDRESSES].copy_from_slice(addresses);
    let Some(tag) = tag else { return FrameBytes { head: &head[..ADDRESSES], rest } };
    head[ADDRESSES..].copy_from_slice(&tag.to_bytes());
    FrameBytes { head, rest }
}
