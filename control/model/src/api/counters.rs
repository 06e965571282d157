//! Counters of networks, the MAC table and the workers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Name;

/// The counters of a network. Its frames are `unicast`, `flooded`, `answered`, `waiting` and `dropped`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkStats {
    /// Its name.
    #[schema(value_type = String)]
    pub network: Name,
    /// Frames received that belong to it, a super-frame being one.
    pub frames: u64,
    /// Bytes of them, from the destination MAC on, without frame check sequence.
    pub bytes: u64,
    /// Super-frames among them.
    pub super_frames: u64,
    /// Those that were sent to the one port their destination is behind.
    pub unicast: u64,
    /// Those that were sent to every other port of the network.
    pub flooded: u64,
    /// Those that asked for a neighbour's address, and were answered instead of flooded.
    #[serde(default)]
    pub answered: u64,
    /// Those that wait to be sent to hundreds of ports, at this moment.
    #[serde(default)]
    pub waiting: u64,
    /// Those that left by no port, for a reason counted at the port they came in by.
    pub dropped: u64,
    /// Addresses that were new in it.
    pub learned: u64,
    /// Addresses that changed port.
    pub moved: u64,
    /// Frames whose sender was not learned, because a limit of the port or the network, or of the table, was reached.
    #[serde(default)]
    pub unlearned: u64,
}

/// The counters of the MAC table. Not the data plane's type: these fields are part of the API, and stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TableStats {
    /// Entries in use: addresses, and expired ones not yet swept.
    pub entries: u64,
    /// Addresses it holds at most.
    pub limit: u32,
    /// Addresses that were new.
    pub learned: u64,
    /// Addresses that changed port.
    pub moved: u64,
    /// Times an address was held for moving too often.
    pub held: u64,
    /// Addresses that expired.
    pub expired: u64,
    /// Addresses that were evicted.
    pub evicted: u64,
    /// Frames whose sender was not learned, because a limit of the port or the network, or of the table, was reached.
    pub refused: u64,
    /// Loops that were found.
    #[serde(default)]
    pub loops: u64,
    /// Events of the table that were lost, because too many came at once.
    pub events_lost: u64,
}

/// Two ports that are connected to each other outside of the switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Loop {
    /// The network.
    #[schema(value_type = String)]
    pub network: Name,
    /// The two ports.
    #[schema(value_type = Vec<String>)]
    pub ports: [Name; 2],
    /// An address that keeps arriving at both.
    pub mac: String,
    /// How long it has been there, in seconds.
    pub since_s: u64,
}

/// Load of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Load {
    /// The worker's number.
    pub worker: u16,
    /// Wake-ups, and turns started without sleeping.
    pub wakeups: u64,
    /// Frames received per turn.
    pub batches: Histogram,
    /// Duration of each turn in nanoseconds, idle turns included. The sum is the worker's busy time.
    pub busy_ns: Histogram,
}

/// Histogram of values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Histogram {
    /// In ascending order; the last has no bound.
    #[serde(rename = "places")]
    pub buckets: Vec<Bucket>,
    /// Sum of all values.
    pub sum: u64,
}

/// Values above the bound of the bucket before, up to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Bucket {
    /// The largest; absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<u64>,
    /// How many.
    pub count: u64,
}
