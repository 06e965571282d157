//! Captures: what is asked for, and which go on.
//!
//! What a capture sees comes as a body of pcapng (draft-ietf-opsawg-pcapng): an interface for each port, for each frame the
//! direction, `epb_packetid` (the same wherever a frame is seen), `epb_dropcount` (frames lost before it for want of room),
//! and a comment that says what became of it, where there is something to say.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Direction;
use crate::Name;

/// What a capture is to see: frames that fit everything given here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CaptureRequest {
    /// At one of these ports; at any if there is none. A peer is a port.
    #[schema(value_type = Vec<String>)]
    pub ports: Vec<Name>,
    /// In one of these networks; in any if there is none.
    #[schema(value_type = Vec<String>)]
    pub networks: Vec<Name>,
    /// On their way in or out; both unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// Only those that were not delivered.
    pub drops: bool,
    /// What is given here is asked of a frame where it comes in, and it is seen wherever it leaves; every frame has a comment
    /// that says what was decided.
    pub follow: bool,
    /// Picked by this program of classic BPF (`code`, `jt`, `jf`, `k` of each instruction); every frame if it is empty.
    pub filter: Vec<(u16, u8, u8, u32)>,
    /// The expression that the program was made of, for who looks at the capture later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
    /// Octets kept of each frame at most.
    pub snaplen: u32,
    /// The capture ends after so many frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Mebioctets that each worker may be ahead of the reader; what does not fit is lost and counted.
    pub buffer: u16,
}

impl CaptureRequest {
    /// Octets of the longest frame, and some more: every frame is kept whole.
    pub const WHOLE: u32 = 262_144;
}

impl Default for CaptureRequest {
    fn default() -> Self {
        Self {
            ports: Vec::new(),
            networks: Vec::new(),
            direction: None,
            drops: false,
            follow: false,
            filter: Vec::new(),
            expression: None,
            snaplen: Self::WHOLE,
            count: None,
            buffer: 16,
        }
    }
}

/// A capture that goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Capture {
    /// Its number; no other capture of this daemon has it.
    pub id: u64,
    /// Seconds since it began.
    pub since_s: u64,
    /// Frames that were handed over so far.
    pub frames: u64,
    /// Frames that were wanted and lost, because the reader was slower than the switch.
    pub lost: u64,
    /// What was asked for.
    pub request: CaptureRequest,
}
