//! Captures: frames as the switch sees them, at ingress and at egress, with their fate.
//!
//! ```text
//! worker   engine.turn      a frame was decided, sent or refused    Captures::decided, sent, refused
//!            wanted?        port, network, direction, fate, filter  Wanted, Filter
//!            ring           one for each worker and session         ring
//! reader   Reader::take     at its own pace, on another thread
//! ```
//! Forwarding never waits for a capture: rings are bounded, and records that do not fit are lost and counted.
//! All memory is allocated when a [`Session`] begins. Without sessions, the cost is one check per turn.
//! Frames are filtered before they are copied, so a selective capture loses no frames under any load.
//!
//! Left out: processing the records. The core writes no files and knows no names.

mod bytes;
mod filter;
mod record;
mod recorder;
mod ring;
mod session;

pub use bytes::FrameBytes;
pub use filter::{Filter, FilterError, Instruction};
pub use record::{Direction, Fate, ParseDirectionError, Record};
pub(crate) use recorder::Captures;
pub use ring::Reader;
pub use session::{Clock, Session, Wanted};
