//! A device in memory, for tests and for frames of our own: it receives what is put in, and what it sends can be taken out.

use std::{
    collections::VecDeque,
    io,
    sync::{Mutex, MutexGuard},
};

use super::{Device, Refuse};
use crate::{
    addr::PortId,
    batch::Batch,
    drops::DropReason,
    transmit::{Scratch, Transmit},
    wire::offload::{Capabilities, Offload},
};

/// A frame with its metadata, in its own memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedFrame {
    /// Offload work that the sender left to the device.
    pub offload: Offload,
    /// The frame, from its destination address on.
    pub bytes: Vec<u8>,
}

impl OwnedFrame {
    /// A wire frame.
    pub fn plain(bytes: impl Into<Vec<u8>>) -> Self {
        Self { offload: Offload::NONE, bytes: bytes.into() }
    }
}

/// Two bounded queues: frames to receive, and frames sent.
#[derive(Debug)]
pub struct MemDevice {
    capabilities: Capabilities,
    bound: usize,
    queues: Mutex<Queues>,
}

#[derive(Debug, Default)]
struct Queues {
    inbound: VecDeque<OwnedFrame>,
    outbound: VecDeque<OwnedFrame>,
    overflow: u64,
    fault: Option<i32>,
}

impl MemDevice {
    /// A device whose queues hold up to `bound` frames each.
    pub fn new(capabilities: Capabilities, bound: usize) -> Self {
        Self { capabilities, bound, queues: Mutex::default() }
    }

    /// Queues `packet` for reception; false (and counted) if the queue is full.
    pub fn put(&self, packet: OwnedFrame) -> bool {
        let mut queues = self.queues();
        let fits = queues.inbound.len() < self.bound;
        if fits {
            queues.inbound.push_back(packet);
        } else {
            queues.overflow += 1;
        }
        fits
    }

    /// Takes the oldest frame that was sent.
    pub fn take(&self) -> Option<OwnedFrame> {
        self.queues().outbound.pop_front()
    }

    /// Makes the device fail with this `errno` from now on, or work again.
    pub fn fail(&self, errno: Option<i32>) {
        self.queues().fault = errno;
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Device for MemDevice {
    fn recv(&self, port: PortId, batch: &mut Batch, max: usize, refuse: &mut Refuse<'_>) -> io::Result<bool> {
        let mut queues = self.queues();
        if let Some(errno) = queues.fault {
            return Err(io::Error::from_raw_os_error(errno));
        }
        for _ in 0..max {
            let Some(packet) = queues.inbound.pop_front() else { return Ok(false) };
            // Through the header, as from a kernel, so that it is checked against the frame.
            let offload = Offload::parse_long(&packet.offload.emit_long(), &packet.bytes);
            if !offload.is_ok_and(|offload| batch.push_copy(port, None, offload, &packet.bytes)) {
                refuse(port, DropReason::DevHdr, &packet.bytes);
            }
        }
        Ok(!queues.inbound.is_empty())
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn send(&self, frames: &Transmit<'_>, scratch: &mut Scratch) {
        let mut queues = self.queues();
        frames.each(self.capabilities, scratch, |form| {
            if queues.fault.is_some() {
                return Err(DropReason::DevReady);
            }
            if queues.outbound.len() >= self.bound {
                return Err(DropReason::FullRing);
            }
            let (offload, bytes) = form.copied();
            queues.outbound.push_back(OwnedFrame { offload, bytes });
            Ok(())
        });
    }

    fn overflow(&self) -> u64 {
        self.queues().overflow
    }
}
