//! Metadata of a captured frame.

use std::{fmt, str::FromStr};

use crate::{
    addr::{NetworkId, PortId},
    drops::DropReason,
    fdb::{Learned, Origin},
    storm::Flood,
};

/// The direction of a frame, seen from the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Direction {
    /// Ingress: as received.
    #[default]
    Rx,
    /// Egress: with its outgoing tag, before segmentation.
    Tx,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rx => "rx",
            Self::Tx => "tx",
        })
    }
}

/// Text that is not a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseDirectionError;

impl fmt::Display for ParseDirectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a direction: use rx or tx")
    }
}

impl std::error::Error for ParseDirectionError {}

impl FromStr for Direction {
    type Err = ParseDirectionError;

    fn from_str(text: &str) -> Result<Self, ParseDirectionError> {
        match text {
            "rx" => Ok(Self::Rx),
            "tx" => Ok(Self::Tx),
            _ => Err(ParseDirectionError),
        }
    }
}

/// The fate of a frame at the point of capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Received, and sent to the one port of its destination.
    Unicast(PortId),
    /// Received, and sent to every port that it may reach.
    Flooded(Flood),
    /// Received, and answered by the switch instead of flooded: it asks for a neighbour's address.
    Answered,
    /// Taken by the egress device, in this many wire frames; 1: whole.
    Sent(u16),
    /// Not delivered.
    Dropped(DropReason),
}

/// One frame at one point of capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Time in nanoseconds of the capture's clock, which is read once per turn.
    pub at: u64,
    /// Unique number of the frame, the same at ingress and at every egress.
    pub frame: u64,
    /// The port.
    pub port: PortId,
    /// The direction.
    pub direction: Direction,
    /// Its network, if known.
    pub network: Option<NetworkId>,
    /// The outcome of learning its source; at ingress only.
    pub learned: Option<Learned>,
    /// Its fate.
    pub fate: Fate,
    /// Length of the frame in bytes, including those not captured.
    pub len: u32,
    /// Payload bytes per segment of a super-frame; 0: not a super-frame.
    pub segment: u16,
    /// Number of records lost before this one because the ring was full.
    pub lost: u32,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            at: 0,
            frame: 0,
            port: PortId(0),
            direction: Direction::Rx,
            network: None,
            learned: None,
            fate: Fate::Sent(1),
            len: 0,
            segment: 0,
            lost: 0,
        }
    }
}

/// Size of a record in a ring, in bytes.
pub(super) const HEADER: usize = 42;

impl Record {
    /// The record in the format of the ring, to be followed by `captured` bytes of its frame.
    pub(super) fn to_bytes(self, captured: usize) -> [u8; HEADER] {
        let (network, known) = self.network.map_or((0, 0), |network| (network.0, 1));
        let (learned, from) = learned_to_code(self.learned);
        let (fate, detail) = fate_to_code(self.fate);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a frame is not longer than 64 KB and some bytes"
        )]
        let captured = captured as u32;
        let direction = u8::from(self.direction == Direction::Tx);
        let mut bytes = [0; HEADER];
        let mut rest = &mut bytes[..];
        let mut put = |part: &[u8]| {
            let (front, back) = std::mem::take(&mut rest).split_at_mut(part.len());
            front.copy_from_slice(part);
            rest = back;
        };
        put(&self.at.to_le_bytes());
        put(&self.frame.to_le_bytes());
        for word in [self.len, captured, self.lost] {
            put(&word.to_le_bytes());
        }
        for half in [self.port.0, network, from, detail, self.segment] {
            put(&half.to_le_bytes());
        }
        put(&[direction, known, learned, fate]);
        bytes
    }

    /// The record, and the number of bytes of its frame that follow it.
    pub(super) fn from_bytes(bytes: &[u8; HEADER]) -> (Self, usize) {
        let mut rest = &bytes[..];
        let at = u64::from_le_bytes(take(&mut rest));
        let frame = u64::from_le_bytes(take(&mut rest));
        let [len, captured, lost] = std::array::from_fn(|_| u32::from_le_bytes(take(&mut rest)));
        let [port, network, from, detail, segment] =
            std::array::from_fn(|_| u16::from_le_bytes(take(&mut rest)));
        let [direction, known, learned, fate] = take(&mut rest);
        let record = Self {
            at,
            frame,
            port: PortId(port),
            direction: if direction == 0 { Direction::Rx } else { Direction::Tx },
            network: (known != 0).then_some(NetworkId(network)),
            learned: learned_of_code(learned, from),
            fate: fate_of_code(fate, detail),
            len,
            segment,
            lost,
        };
        (record, captured as usize)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (front, back) = rest.split_first_chunk().expect("the parts add up to HEADER");
    *rest = back;
    *front
}

fn learned_to_code(learned: Option<Learned>) -> (u8, u16) {
    match learned {
        None => (0, 0),
        Some(Learned::Known) => (1, 0),
        Some(Learned::New) => (2, 0),
        Some(Learned::Moved { from }) => (3, from.0),
        Some(Learned::Pinned(by)) => (4, u16::from(by == Origin::Control)),
        Some(Learned::Held) => (5, 0),
        Some(Learned::Full) => (6, 0),
        Some(Learned::Busy) => (7, 0),
        Some(Learned::Off) => (8, 0),
    }
}

fn learned_of_code(code: u8, from: u16) -> Option<Learned> {
    Some(match code {
        1 => Learned::Known,
        2 => Learned::New,
        3 => Learned::Moved { from: PortId(from) },
        4 => Learned::Pinned(if from == 1 { Origin::Control } else { Origin::Static }),
        5 => Learned::Held,
        6 => Learned::Full,
        7 => Learned::Busy,
        8 => Learned::Off,
        _ => return None,
    })
}

/// Codes from here on are drops.
const DROPPED: u8 = 16;

fn fate_to_code(fate: Fate) -> (u8, u16) {
    match fate {
        Fate::Unicast(port) => (0, port.0),
        Fate::Flooded(Flood::Broadcast) => (1, 0),
        Fate::Flooded(Flood::Multicast) => (2, 0),
        Fate::Flooded(Flood::Unknown) => (3, 0),
        Fate::Sent(pieces) => (4, pieces),
        Fate::Answered => (5, 0),
        Fate::Dropped(reason) => (DROPPED + reason as u8, 0),
    }
}

fn fate_of_code(code: u8, detail: u16) -> Fate {
    match code {
        0 => Fate::Unicast(PortId(detail)),
        1 => Fate::Flooded(Flood::Broadcast),
        2 => Fate::Flooded(Flood::Multicast),
        3 => Fate::Flooded(Flood::Unknown),
        4 => Fate::Sent(detail),
        5..DROPPED => Fate::Answered,
        _ => {
            let reason = DropReason::ALL.get(usize::from(code - DROPPED));
            Fate::Dropped(*reason.expect("only codes that were made of a reason are read"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_survives_the_ring() {
        let learned = [
            None,
            Some(Learned::Known),
            Some(Learned::New),
            Some(Learned::Moved { from: PortId(0x1234) }),
            Some(Learned::Pinned(Origin::Static)),
            Some(Learned::Pinned(Origin::Control)),
            Some(Learned::Held),
            Some(Learned::Full),
            Some(Learned::Busy),
            Some(Learned::Off),
        ];
        let mut fates: Vec<_> = DropReason::ALL.iter().map(|reason| Fate::Dropped(*reason)).collect();
        fates.extend([Flood::Broadcast, Flood::Multicast, Flood::Unknown].map(Fate::Flooded));
        fates.extend([Fate::Unicast(PortId(u16::MAX)), Fate::Sent(1), Fate::Sent(45), Fate::Answered]);
        for learned in learned {
            for &fate in &fates {
                for network in [None, Some(NetworkId(7))] {
                    let record = Record {
                        at: u64::MAX - 1,
                        frame: 1 << 40 | 3,
                        port: PortId(999),
                        direction: Direction::Tx,
                        network,
                        learned,
                        fate,
                        len: 65_549,
                        segment: 1448,
                        lost: 17,
                    };
                    assert_eq!(Record::from_bytes(&record.to_bytes(96)), (record, 96));
                }
            }
        }
    }
}
