//! Captures: requests, and those in progress.
//!
//! What a capture sees comes as a body of pcapng (draft-ietf-opsawg-pcapng): an interface for each port, for each frame the
//! direction, `epb_packetid` (the same wherever a frame is seen), `epb_dropcount` (frames lost before it for want of room),
//! and a comment that says what became of it, where there is something to say.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Direction, direction};
use crate::Name;

/// What to capture: frames that match everything given here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CaptureRequest {
    /// Seen at one of these ports; any port if empty. A peer is a port.
    #[schema(value_type = Vec<String>)]
    pub ports: Vec<Name>,
    /// Of one of these networks; any network if empty.
    #[schema(value_type = Vec<String>)]
    pub networks: Vec<Name>,
    /// Received or sent; by default both.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = direction)]
    pub direction: Option<Direction>,
    /// Only frames that were not delivered.
    pub drops: bool,
    /// Filters apply where a frame is received, and it is captured again wherever it is sent; every frame has a comment that
    /// says what was decided.
    pub follow: bool,
    /// Matched by this program of classic BPF (`code`, `jt`, `jf`, `k` of each instruction); every frame if empty.
    pub filter: Vec<(u16, u8, u8, u32)>,
    /// The expression that the program was compiled from; shown by `capture --ls`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
    /// Maximum bytes kept of each frame.
    pub snaplen: u32,
    /// The capture ends after this many frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Buffer of each worker in MiB; frames that do not fit are lost and counted.
    pub buffer: u16,
}

impl CaptureRequest {
    /// More bytes than the longest frame has: every frame is kept whole.
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

/// A capture in progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Capture {
    /// Its number, unique in this daemon.
    pub id: u64,
    /// Seconds since it began.
    pub since_s: u64,
    /// Frames delivered so far.
    pub frames: u64,
    /// Matching frames that were lost because the reader was slower than the switch.
    pub lost: u64,
    /// The request.
    pub request: CaptureRequest,
}
