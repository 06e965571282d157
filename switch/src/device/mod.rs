//! Devices: the boundary to what the switch does not own.
//!
//! [`Device`] is the whole interface. Devices in memory ([`mem`]) are pure and serve tests; TAP and AF_PACKET
//! need Linux (feature `os`).

use std::{fmt, io};

use crate::{
    addr::PortId,
    batch::Batch,
    drops::DropReason,
    transmit::{Scratch, Transmit},
    wire::offload::Capabilities,
};

mod error;
pub mod mem;

#[cfg(feature = "os")]
pub mod packet;
#[cfg(feature = "os")]
pub mod tap;

pub use error::DeviceError;

/// Counts a frame that was received by a port and rejected, with the reason and the received bytes.
pub type Refuse<'a> = dyn FnMut(PortId, DropReason, &[u8]) + 'a;

/// A non-blocking source and sink of frames.
///
/// One worker receives; all workers may send concurrently. Neither allocates.
pub trait Device: Send + Sync + fmt::Debug {
    /// Appends received frames to `batch` until it holds `max` or more, and returns whether more may be
    /// pending. There is room for `max` frames and a [train](crate::batch::TRAIN). Their ingress port is
    /// `port` unless the device sets another.
    ///
    /// Frames that belong to no known network or contradict their offload header are passed to `refuse` and
    /// not appended.
    ///
    /// # Errors
    /// The device is gone or down and yields no frames until that is fixed. Frames received before are in the
    /// batch.
    fn recv(&self, port: PortId, batch: &mut Batch, max: usize, refuse: &mut Refuse<'_>) -> io::Result<bool>;

    /// The frames of the last [`recv`](Self::recv) are forwarded. Called by the worker that receives, at the end of its turn.
    fn turned(&self) {}

    /// Sends the frames of a port, and counts the outcome of each.
    fn send(&self, frames: &Transmit<'_>, scratch: &mut Scratch);

    /// The offloads it supports; it segments and completes other frames itself.
    fn capabilities(&self) -> Capabilities {
        Capabilities::NONE
    }

    /// Maximum wire frame length in bytes, if it may be lower than the topology's.
    fn longest(&self) -> Option<usize> {
        None
    }

    /// The descriptor to poll for received frames; `None` if it is never polled (in tests).
    #[cfg(feature = "os")]
    fn readiness(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }

    /// Frames that the kernel dropped before they could be received, since the device was opened.
    fn overflow(&self) -> u64 {
        0
    }
}
