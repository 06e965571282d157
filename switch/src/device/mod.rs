//! Where frames come from and go to: the boundary to what we do not own.
//!
//! [`Device`] is all the switch asks of it. Devices in memory ([`mem`]) are pure and serve tests; TAP and AF_PACKET need
//! Linux (feature `os`).

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

/// Counts a frame that came in by a port and is not taken in: why not, and its octets as they were received.
pub type Refuse<'a> = dyn FnMut(PortId, DropReason, &[u8]) + 'a;

/// A source and sink of frames that never blocks.
///
/// One worker receives; any worker may send, also at the same time. Neither allocates.
pub trait Device: Send + Sync + fmt::Debug {
    /// Appends received frames to `batch` until `max` are there or more, and returns whether more may be waiting. There is
    /// room for `max` and a [train](crate::batch::TRAIN). Frames came in by `port` unless the device knows better.
    ///
    /// What is no frame of a known network, or contradicts its offload header, is told to `refuse` and not appended.
    ///
    /// # Errors
    /// The device is gone or down and will give no frames until something is done about it. Frames received
    /// before are in the batch.
    fn recv(&self, port: PortId, batch: &mut Batch, max: usize, refuse: &mut Refuse<'_>) -> io::Result<bool>;

    /// Sends what leaves by a port, and counts what became of each frame.
    fn send(&self, frames: &Transmit<'_>, scratch: &mut Scratch);

    /// Which offloaded frames it takes as they are; it makes wire frames of the others.
    fn capabilities(&self) -> Capabilities {
        Capabilities::NONE
    }

    /// Octets of the longest wire frame that it carries, if it knows better than the topology.
    fn longest(&self) -> Option<usize> {
        None
    }

    /// What to wait on for frames to receive; `None`: it is never waited for (tests call it in turn).
    #[cfg(feature = "os")]
    fn readiness(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }

    /// Frames that the kernel dropped before we could receive them, since the device was opened.
    fn overflow(&self) -> u64 {
        0
    }
}
