//! Storm control: how many frames per second a port may flood.

use std::num::NonZeroU64;

use crate::{
    addr::Timestamp,
    drops::DropReason,
    limit::{Bucket, Limit},
};

/// The reason for flooding a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// Broadcast.
    Broadcast,
    /// Multicast.
    Multicast,
    /// Unicast to a station that is not in the table.
    Unknown,
}

/// Frames per second that may be flooded; `None` means unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct FloodLimits {
    /// Frames to ff:ff:ff:ff:ff:ff.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub broadcast: Option<u32>,
    /// Frames to other groups.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub multicast: Option<u32>,
    /// Frames to stations that are not in the table.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub unknown: Option<u32>,
}

impl FloodLimits {
    /// The limit for `flood`, in frames per second.
    pub fn of(self, flood: Flood) -> Option<u32> {
        match flood {
            Flood::Broadcast => self.broadcast,
            Flood::Multicast => self.multicast,
            Flood::Unknown => self.unknown,
        }
    }
}

/// The token buckets of one ingress port's limits. One worker receives on a port, so they are not shared.
#[derive(Clone, Copy, Debug, Default)]
pub struct FloodMeters {
    broadcast: Bucket,
    multicast: Bucket,
    unknown: Bucket,
}

impl FloodMeters {
    /// Whether another frame may be flooded at `now`; takes it out of the bucket.
    pub fn allow(&mut self, flood: Flood, limits: FloodLimits, now: Timestamp) -> Result<(), DropReason> {
        let (bucket, limit, reason) = match flood {
            Flood::Broadcast => (&mut self.broadcast, limits.broadcast, DropReason::StormBroadcast),
            Flood::Multicast => (&mut self.multicast, limits.multicast, DropReason::StormMulticast),
            Flood::Unknown => (&mut self.unknown, limits.unknown, DropReason::StormUnknown),
        };
        let allowed =
            limit.is_none_or(|frames| limited(frames).is_some_and(|limit| bucket.take(&limit, 1, now)));
        if allowed { Ok(()) } else { Err(reason) }
    }

    /// Number of frames that may be flooded at `now`; `None` without a limit.
    pub fn left(&self, flood: Flood, limits: FloodLimits, now: Timestamp) -> Option<u64> {
        let bucket = match flood {
            Flood::Broadcast => self.broadcast,
            Flood::Multicast => self.multicast,
            Flood::Unknown => self.unknown,
        };
        limits.of(flood).map(|frames| limited(frames).map_or(0, |limit| bucket.left(&limit, now)))
    }
}

/// `frames` per second with a burst of 100 ms (at least one frame). `None` allows none.
fn limited(frames: u32) -> Option<Limit> {
    let rate = NonZeroU64::new(frames.into())?;
    Some(Limit::new(rate, (rate.get() / 10).max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(limit: u32, frames_per_ms: usize, millis: u64) -> usize {
        let limits = FloodLimits { broadcast: Some(limit), ..FloodLimits::default() };
        let mut storm = FloodMeters::default();
        let times = (1..=millis).flat_map(|at| std::iter::repeat_n(1_000_000 + at, frames_per_ms));
        times.filter(|at| storm.allow(Flood::Broadcast, limits, Timestamp::from_millis(*at)).is_ok()).count()
    }

    #[test]
    fn passes_the_limit_and_a_tenth_of_a_second_at_once() {
        assert_eq!(passed(1000, 1000, 1), 100);
        assert_eq!(passed(1000, 10, 1000), 1099);
        assert_eq!(passed(1, 10, 10_000), 10);
        assert_eq!(passed(0, 10, 10_000), 0);
        assert_eq!(passed(u32::MAX, 10, 1000), 10_000);
    }

    #[test]
    fn what_is_left_is_what_then_passes() {
        let limits = FloodLimits { multicast: Some(100), ..FloodLimits::default() };
        let mut storm = FloodMeters::default();
        for (at, left) in [(1, 10), (1, 9), (1, 8), (21, 9), (500, 10)] {
            let now = Timestamp::from_millis(at);
            assert_eq!(storm.left(Flood::Multicast, limits, now), Some(left), "{at}");
            assert_eq!(storm.left(Flood::Unknown, limits, now), None);
            assert_eq!(storm.allow(Flood::Multicast, limits, now), Ok(()));
        }
    }

    #[test]
    fn the_first_frame_passes_even_as_the_clock_starts() {
        let limits = FloodLimits { broadcast: Some(1), ..FloodLimits::default() };
        let mut storm = FloodMeters::default();
        assert_eq!(storm.allow(Flood::Broadcast, limits, Timestamp::default()), Ok(()));
        assert!(storm.allow(Flood::Broadcast, limits, Timestamp::default()).is_err());
    }

    #[test]
    fn kinds_have_limits_of_their_own() {
        let limits = FloodLimits { broadcast: Some(0), multicast: None, unknown: Some(0) };
        let mut storm = FloodMeters::default();
        let mut allow = |flood| storm.allow(flood, limits, Timestamp::from_millis(5));
        assert_eq!(allow(Flood::Broadcast), Err(DropReason::StormBroadcast));
        assert_eq!(allow(Flood::Multicast), Ok(()));
        assert_eq!(allow(Flood::Unknown), Err(DropReason::StormUnknown));
    }
}
