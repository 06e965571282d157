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
mod octets;
mod record;
mod recorder;
mod ring;
mod session;

pub use filter::{Filter, FilterError, Instruction, MAX_INSTRUCTIONS};
pub use octets::Octets;
pub use record::{Direction, Fate, ParseDirectionError, Record};
pub(crate) use recorder::Captures;
pub use ring::Reader;
pub use session::{Clock, Session, Wanted};
